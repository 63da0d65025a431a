"""`hafm benchmark evaluate`."""

import json

import pytest

from hafm_hf.benchmark.evaluate import STEPS_OF_A_CLIP
from hafm_hf.cli import main


def test_scoring_benchmark_tells_each_step_and_the_whole_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--clips", "4", "--seconds", "5", "--workers", "1", "--json"]
    monkeypatch.setattr("sys.argv", ["hafm", "benchmark", "evaluate", *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    result = json.loads(capsys.readouterr().out)
    assert set(STEPS_OF_A_CLIP) < set(result["steps"])
    assert 0 < result["cores"]["1"] < min(result["steps"].values())
    assert result["run"]["real_time_factor"] > 1
