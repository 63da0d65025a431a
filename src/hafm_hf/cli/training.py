# SPDX-License-Identifier: Apache-2.0
"""Commands around training: `plot-training`, `assemble`; and how a recipe's script ends."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from .console import HAFMCommandError, first_line, missing_package, plotting, report_error, stdout

# what they log at INFO is about themselves
NOISY = ("httpx", "datasets", "filelock", "fsspec", "torch", "accelerate")


def run_recipe(recipe: Callable[[], object]) -> None:
    """Runs a recipe with its log on stderr; a failure becomes one sentence there and exit code 1.

    `HAFM_DEBUG=1` shows the traceback instead.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        recipe()
    except Exception as error:
        if os.environ.get("HAFM_DEBUG"):
            raise
        expected = isinstance(error, (ValueError, OSError, FloatingPointError, ImportError))
        kind = "" if expected else f" ({type(error).__name__}; HAFM_DEBUG=1 shows more)"
        report_error(missing_package(error) or HAFMCommandError(f"{first_line(error)}{kind}."))
        sys.exit(1)


def plot_training(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of a training run.", file_okay=False)],
    out: Annotated[Path | None, typer.Option(help="The picture; RUN/training.png if not given.")] = None,
) -> None:
    """Draws a run's metrics.jsonl: losses, the paired difference, codebooks, gradient, rate and speed."""
    import json

    log = run / "metrics.jsonl"
    if not log.is_file():
        raise HAFMCommandError(f"{run} holds no metrics.jsonl; name the output_dir of a training run.")
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    with plotting() as plots:
        figure = plots.plot_training(lines, title=run.resolve().name)
        path = plots.write_plot(out or run / "training.png", figure)
    stdout.print(f"wrote {path}", markup=False)


def assemble(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the composite.", file_okay=False)],
    semantic_tokenizer: Annotated[str, typer.Option(help="Folder or hub id.")],
    semantic: Annotated[str, typer.Option(help="Folder or hub id.")],
    coarse: Annotated[str, typer.Option(help="Folder or hub id.")],
    codec: Annotated[str, typer.Option(help="Folder or hub id.")],
    fine: Annotated[
        str | None, typer.Option(help="Folder or hub id; without it the coarse codebooks are all.")
    ] = None,
    harmony: Annotated[str | None, typer.Option(help="Folder or hub id; estimates chords, optional.")] = None,
    separator: Annotated[str | None, typer.Option(help="Folder or hub id; takes bands apart, optional.")] = None,
    stage_dtype: Annotated[
        str, typer.Option(help="How the stages are stored: float32, bfloat16 or float16.")
    ] = "bfloat16",
    limit_mb: Annotated[float | None, typer.Option(help="Refuse a composite larger than this.")] = None,
) -> None:
    """Joins a semantic tokenizer, three stages and a codec into one model that `--model` takes."""
    from ..accompaniment.assemble import assemble_composite

    parts = {
        "semantic_tokenizer": semantic_tokenizer,
        "semantic": semantic,
        "coarse": coarse,
        "fine": fine,
        "codec": codec,
        "harmony": harmony,
        "separator": separator,
    }
    size = assemble_composite(parts, out, stage_dtype, limit_mb)
    stdout.print(f"wrote {out} ({size:.1f} MB)", markup=False)
