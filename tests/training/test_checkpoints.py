# SPDX-License-Identifier: Apache-2.0
"""A run's folder holds one run: checkpoints and metrics of later steps or an earlier run are removed."""

from pathlib import Path
from typing import Any

import pytest

from integration.training_runs import train_here


def test_restarting_a_run_removes_later_checkpoints_and_metrics(corpus: Path, tmp_path: Path) -> None:
    quick: dict[str, Any] = {"max_steps": 3, "save_steps": 1, "keep_checkpoints": 9, "validation_split": "none"}

    def run(**changes: Any) -> tuple[list[int], list[int]]:
        """Trains, and returns the steps of the metrics and of the checkpoints."""
        lines = train_here(corpus, tmp_path, **{**quick, **changes})
        return [line["step"] for line in lines], [int(path.name[-7:]) for path in sorted(tmp_path.glob("checkpoint*"))]

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
