"""What the command takes until its first step, beside what torch and transformers take by themselves."""

import json

import pytest
from typer.testing import CliRunner

from hafm_hf.benchmark.start import OURS, PARTS, benchmark_start
from hafm_hf.cli import app

# what transformers' classes import by themselves is not ours to choose; beyond them a song needs nothing of these
NOT_NEEDED = {
    "accelerate", "datasets", "evaluate", "gradio", "librosa", "matplotlib", "numba", "pandas", "peft", "pyarrow",
    "sklearn", "tensorboard", "torchaudio", "torchvision",
}  # fmt: skip


def test_a_start_is_short_beside_the_imports_of_torch_and_transformers() -> None:
    result = benchmark_start(repeats=2)
    assert set(result["parts"]) == set(PARTS) and all(value > 0 for value in result["parts"].values())
    assert result["ours"] == pytest.approx(sum(result["parts"][name] for name in OURS))
    assert not NOT_NEEDED & set(result["packages"])
    assert result["ratio"] <= 0.5, result


def test_the_command_prints_the_parts(tiny_model: object) -> None:
    run = CliRunner().invoke(app, ["benchmark", "start", "--model", str(tiny_model), "--repeats", "1", "--json"])
    assert run.exit_code == 0, run.output
    assert set(json.loads(run.stdout)["parts"]) == set(PARTS)
