# SPDX-License-Identifier: Apache-2.0
"""recipes/plot_training.py: a run's curves, as a picture beside its metrics."""

import json
from pathlib import Path

import numpy as np
import pytest

from hafm_hf import plots
from plot_training import main, plot_training

pytest.importorskip("matplotlib")


def training_lines() -> list[dict]:
    """Metrics of a short run of a stage with two codebooks."""
    lines: list[dict] = []
    for step in (1, 50, 100):
        lines.append(
            {"step": step, "loss": 6.0 - step / 50, "codebook_losses": [5.0, 6.0], "codebook_accuracy": [0.2, 0.1]}
            | {"gradient_norm": 1.0, "tokens_per_second": 900.0}
        )
    lines.append(
        {"step": 100, "validation_matched": 4.5, "validation_shuffled": 4.9}
        | {"validation_paired_difference": 0.4, "validation_paired_difference_error": 0.05}
    )
    return lines


def test_a_training_run_is_drawn_with_its_losses_codebooks_and_the_gain_from_the_voice() -> None:
    figure = plot_training(training_lines(), title="runs/coarse")
    captions = [axis.get_title(loc="left") for axis in figure.axes]
    assert captions[0] == "loss, nats a token" and captions[4] == "training loss by codebook"
    loss, validation, other = figure.axes[0].lines
    assert np.asarray(loss.get_xdata()).tolist() == [1, 50, 100] and np.asarray(loss.get_ydata()).tolist() == [
        5.98,
        5,
        4,
    ]
    assert [line.get_label() for line in (loss, validation, other)] == ["training", "validation", "another voice"]
    assert len(figure.axes[4].lines) == len(figure.axes[1].lines) == 2, "one curve a codebook"


def test_a_run_without_a_loss_cannot_be_drawn() -> None:
    with pytest.raises(plots.HAFMPlotError, match="no loss yet"):
        plot_training([{"step": 0, "validation_matched": 6.0}])


def test_the_picture_lies_beside_the_metrics(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in training_lines()) + '{"step": 1'
    )
    main(tmp_path)
    assert (tmp_path / "training.png").read_bytes()[:4] == b"\x89PNG"
