# SPDX-License-Identifier: Apache-2.0
"""Draws a training run's metrics.jsonl: losses, the paired difference, codebooks, gradient and speed.

python recipes/plot_training.py runs/coarse      # writes runs/coarse/training.png
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from hafm_hf import plots
from hafm_hf.cli.training import run_recipe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_training(lines: Sequence[Mapping[str, Any]], title: str = "") -> Figure:
    """Curves of a training run: what it has learnt on the left, how it went on the right.

    Args:
        lines: of metrics.jsonl, oldest first.
        title: stands above the picture.

    Raises:
        HAFMPlotError: without matplotlib, or if the run has logged no loss yet.
    """
    if not any("loss" in line for line in lines):
        raise plots.HAFMPlotError("The run has logged no loss yet; there is nothing to draw.")
    figure = plots.new_figure(height=7.5, title=title)
    axes = figure.subplots(3, 2, sharex=True)
    losses = {"training": "loss", "validation": "validation_matched", "another voice": "validation_shuffled"}
    _draw_curves(axes[0, 0], lines, losses, "loss, nats a token")
    _draw_difference(axes[1, 0], lines)
    last = next(line for line in reversed(lines) if "loss" in line)
    books = range(len(last.get("codebook_losses", [])))
    _draw_curves(
        axes[2, 0], lines, {f"codebook {n + 1}": ("codebook_losses", n) for n in books}, "training loss by codebook"
    )
    accuracy = {f"codebook {n + 1}": ("codebook_accuracy", n) for n in books}
    _draw_curves(axes[0, 1], lines, accuracy, "share of tokens predicted right")
    _draw_curves(axes[1, 1], lines, {"gradient norm": "gradient_norm"}, "gradient norm before clipping", log=True)
    _draw_curves(axes[2, 1], lines, {"tokens": "tokens_per_second"}, "target tokens a second")
    axes[2, 1].set_ylim(bottom=0.0)
    for axis in axes[2]:
        axis.set_xlabel("optimiser steps")
    plots.use_ink(axes.flat)
    return figure


def _curve(lines: Sequence[Mapping[str, Any]], key: str | tuple[str, int]) -> NDArray[np.float64]:
    """Steps and values of one number, or of one entry of a list: [n, 2]."""
    name, place = key if isinstance(key, tuple) else (key, None)
    points = [(line["step"], line[name] if place is None else line[name][place]) for line in lines if name in line]
    return np.array(points, dtype=np.float64).reshape(-1, 2)


def _draw_curves(
    axis: Axes,
    lines: Sequence[Mapping[str, Any]],
    keys: Mapping[str, str | tuple[str, int]],
    caption: str,
    log: bool = False,
) -> None:
    colours = (plots.VOICE, plots.BAND, "#2e8b57", "#8a5fc0")
    drawn = 0
    for (label, key), colour in zip(keys.items(), colours, strict=False):
        points = _curve(lines, key)
        if len(points):
            axis.plot(points[:, 0], points[:, 1], color=colour, linewidth=1.4, label=label)
            drawn += 1
    if log and drawn:
        axis.set_yscale("log")
    if drawn > 1:
        axis.legend(fontsize="small", frameon=False, labelcolor=plots.INK)
    plots.write_caption(axis, caption)


def _draw_difference(axis: Axes, lines: Sequence[Mapping[str, Any]]) -> None:
    """How much worse another clip's voice is, with its standard error: whether the stage reads the voice at all."""
    points, errors = _curve(lines, "validation_paired_difference"), _curve(lines, "validation_paired_difference_error")
    if len(points):
        axis.errorbar(
            points[:, 0], points[:, 1], errors[:, 1], color=plots.BAND, linewidth=1.4, elinewidth=0.8, capsize=2
        )
    axis.axhline(0.0, color=plots.INK, linewidth=0.8, linestyle=":")
    plots.write_caption(axis, "gain from the right voice over another's, nats a token (± standard error)")


def main(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of a training run.", file_okay=False)],
    out: Annotated[Path | None, typer.Option(help="The picture; RUN/training.png if not given.")] = None,
) -> None:
    """Draws RUN/metrics.jsonl."""
    # a killed process may have left the last line half written
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if line.endswith("}")]
    figure = plot_training(lines, title=run.resolve().name)
    typer.echo(f"wrote {plots.write_plot(out or run / 'training.png', figure)}")


if __name__ == "__main__":
    run_recipe(lambda: typer.run(main))
