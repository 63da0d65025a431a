# SPDX-License-Identifier: Apache-2.0
"""A run's folder holds one run: what is of later steps than it begins at, or of an earlier run, goes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from integration.training_runs import train_here

Run = Callable[..., tuple[list[int], list[int]]]


@pytest.fixture
def run(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Trains in one folder; gives the steps of its metrics and of its checkpoints."""

    def trained(**changes: Any) -> tuple[list[int], list[int]]:
        quick = {"max_steps": 3, "save_steps": 1, "keep_checkpoints": 9, "validation_split": "none"}
        lines = train_here(monkeypatch, corpus, tmp_path, **{**quick, **changes})
        return [line["step"] for line in lines], [int(path.name[-7:]) for path in sorted(tmp_path.glob("checkpoint*"))]

    return trained


def test_a_session_killed_before_its_first_checkpoint_leaves_no_metrics(run: Run, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 3.1}\n{"step": 2, "loss": 2.')
    assert run() == ([1, 2, 3], [1, 2, 3])
    assert run(max_steps=4) == ([1, 2, 3, 4], [1, 2, 3, 4])


def test_a_run_that_begins_anew_or_earlier_drops_what_came_later(run: Run, tmp_path: Path) -> None:
    run()
    assert run(max_steps=2, resume="none", seed=5, keep_checkpoints=2) == ([1, 2], [1, 2])
    run(max_steps=4)
    assert run(save_steps=3, resume=str(tmp_path / "checkpoint-0000001")) == ([1, 2, 3], [1, 3])
    with pytest.raises(ValueError, match=r"checkpoint-0000003 is not a checkpoint of this stage .* --resume none"):
        run(head_dim=4)
