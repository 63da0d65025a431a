# SPDX-License-Identifier: Apache-2.0
"""`recipes/benchmark_evaluate.py`."""

import json

import pytest

from benchmark_evaluate import STEPS_OF_A_CLIP, main


def test_scoring_benchmark_tells_each_step_and_the_whole_run(capsys: pytest.CaptureFixture[str]) -> None:
    main(clips=4, seconds=5, workers=1, as_json=True)
    result = json.loads(capsys.readouterr().out)
    assert set(STEPS_OF_A_CLIP) < set(result["steps"])
    assert 0 < result["cores"]["1"] < min(result["steps"].values())
    assert result["run"]["real_time_factor"] > 1
