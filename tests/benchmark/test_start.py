# SPDX-License-Identifier: Apache-2.0
"""What the command takes until its first step, beside what torch and transformers take by themselves."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hafm_hf.benchmark.start import OURS, PARTS
from hafm_hf.cli import app

# what transformers' classes import by themselves is not ours to choose; beyond them a song needs nothing of these
NOT_NEEDED = {
    "accelerate", "datasets", "evaluate", "gradio", "librosa", "matplotlib", "numba", "pandas", "peft", "pyarrow",
    "sklearn", "tensorboard", "torchaudio", "torchvision",
}  # fmt: skip


def test_the_command_prints_a_start_that_is_short_beside_the_imports_of_torch_and_transformers(
    bundled_model: Path,
) -> None:
    words = ["benchmark", "start", "--model", str(bundled_model), "--repeats", "2", "--json"]
    run = CliRunner().invoke(app, words)
    assert run.exit_code == 0, run.output
    result = json.loads(run.stdout)
    assert set(result["parts"]) == set(PARTS) and all(value > 0 for value in result["parts"].values())
    assert result["ours"] == pytest.approx(sum(result["parts"][name] for name in OURS))
    assert not NOT_NEEDED & set(result["packages"])
    assert result["ratio"] <= 0.5, result
