# SPDX-License-Identifier: Apache-2.0
"""Options that change how a run computes, but not what it learns."""

from pathlib import Path
from typing import Any

import pytest

from integration.training_runs import losses, read_metrics, train_here

QUICK: dict[str, Any] = {
    "stage": "coarse",
    "coarse_codebooks": 3,
    "max_steps": 8,
    "warmup_steps": 2,
    "validation_steps": 8,
    "save_steps": 8,
}


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without these options, tracked by TensorBoard."""
    folder = tmp_path_factory.mktemp("plain")
    train_here(corpus, folder, **QUICK, report_to="tensorboard")
    return folder


def test_losses_and_validation_are_logged_to_tensorboard(run: Path, corpus: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(max(run.rglob("events.out.tfevents.*"), key=lambda path: path.stat().st_size)))
    log.Reload()
    assert {"loss", "validation_paired_difference", "validation_codebooks/3"} <= set(log.Tags()["scalars"])
    with pytest.raises(ValueError, match="mlflow is not installed"):
        train_here(corpus, tmp_path, **QUICK, report_to="mlflow")


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"activation_checkpointing": True}, 1e-5),
        ({"mixed_precision": "bf16"}, 0.02),
        ({"dataloader_workers": 2}, 0.0),
        ({"accumulation": 3}, 1e-4),  # 8 crops in parts of 2, 3 and 3
    ],
)
def test_options_do_not_change_the_losses(
    options: dict[str, Any], tolerance: float, run: Path, corpus: Path, tmp_path: Path
) -> None:
    lines = train_here(corpus, tmp_path / "run", **QUICK, **options)
    assert losses(lines) == pytest.approx(losses(read_metrics(run)), abs=tolerance, rel=0)
