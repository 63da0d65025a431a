# SPDX-License-Identifier: Apache-2.0
"""Options that change how a run computes, but not what it learns; and that its folder holds one run."""

from pathlib import Path
from typing import Any

import pytest

from integration.training_runs import losses, read_metrics, train_here

# 8 steps, with validation and checkpoint after the last
QUICK: dict[str, Any] = {"stage": "coarse", "coarse_codebooks": 3, "warmup_steps": 2}
QUICK |= dict.fromkeys(("max_steps", "validation_steps", "save_steps"), 8)


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run without the options below, tracked by TensorBoard."""
    folder = tmp_path_factory.mktemp("plain")
    train_here(corpus, folder, **QUICK, report_to="tensorboard")
    return folder


def test_losses_are_logged_to_tensorboard_and_a_missing_tracker_is_refused(
    run: Path, corpus: Path, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # the largest file has the scalars
    largest = max(run.rglob("events.out.tfevents.*"), key=lambda path: path.stat().st_size)
    log = EventAccumulator(str(largest))
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
def test_options_keep_the_losses_within_a_tolerance(
    options: dict[str, Any], tolerance: float, run: Path, corpus: Path, tmp_path: Path
) -> None:
    lines = train_here(corpus, tmp_path / "run", **QUICK, **options)
    assert losses(lines) == pytest.approx(losses(read_metrics(run)), abs=tolerance, rel=0)


def test_a_restart_removes_later_checkpoints_and_metrics_and_refuses_another_model(
    corpus: Path, tmp_path: Path
) -> None:
    quick: dict[str, Any] = {"max_steps": 3, "save_steps": 1, "keep_checkpoints": 9, "validation_split": "none"}

    def run(**changes: Any) -> tuple[list[int], list[int]]:
        """Trains in the same folder as before, and returns the steps of the metrics and of the checkpoints."""
        lines = train_here(corpus, tmp_path, **{**quick, **changes})
        checkpoints = sorted(tmp_path.glob("checkpoint*"))
        return [line["step"] for line in lines], [int(path.name.split("-")[1]) for path in checkpoints]

    # a run that was killed before its first checkpoint
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 3.1}\n{"step": 2, "loss": 2.')
    assert run() == ([1, 2, 3], [1, 2, 3])
    assert run(max_steps=4) == ([1, 2, 3, 4], [1, 2, 3, 4])
    (tmp_path / "best").mkdir()
    assert run(max_steps=2, resume="none", seed=5, keep_checkpoints=2) == ([1, 2], [1, 2])
    assert not (tmp_path / "best").exists()
    run(max_steps=4)
    assert run(save_steps=3, resume=str(tmp_path / "checkpoint-0000001")) == ([1, 2, 3], [1, 3])
    with pytest.raises(ValueError, match=r"checkpoint-0000003 is not a checkpoint of this stage .* --resume none"):
        run(head_dim=4)
    facts = (tmp_path / "run.json").read_text()
    (tmp_path / "run.json").write_text(facts.replace('"tokenizers": {}', '"tokenizers": {"former": "x"}'))
    with pytest.raises(ValueError, match="checkpoint-0000003 has other tokenizers"):
        run()
