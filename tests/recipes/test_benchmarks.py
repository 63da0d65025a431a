# SPDX-License-Identifier: Apache-2.0
"""The benchmarks report consistent figures on tiny models; bounds are on ratios, not on times."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from benchmarks import decoding, song, start

# beyond what transformers' classes import themselves, generating a song needs none of these
NOT_NEEDED = {
    "accelerate", "datasets", "evaluate", "gradio", "librosa", "matplotlib", "numba", "pandas", "peft", "pyarrow",
    "sklearn", "tensorboard", "torchaudio", "torchvision",
}  # fmt: skip


def run(script: ModuleType, words: str) -> Any:
    """What a script prints with --json."""
    app = typer.Typer()
    app.command()(script.main)
    return json.loads(CliRunner().invoke(app, [*words.split(), "--json"], catch_exceptions=False).stdout)


def test_every_loop_is_timed(tiny_model: Path) -> None:
    words = f"--model {tiny_model} --pattern delay --rows 4 --context 30 --steps 24 --repeats 3"
    (result,) = run(decoding, words)
    names = {"fast", "fast_bfloat16", "fast_stored_in_bfloat16", "reference", "musicgen"}
    assert set(result["variants"]) == names and set(result["ratios"]) == names - {"musicgen"}
    for variant in result["variants"].values():
        # each step decodes one frame of eight codes
        assert variant["tokens_per_second"] == pytest.approx(8e3 / variant["milliseconds_per_step"])


def test_the_times_of_a_songs_parts_add_up(tiny_model: Path) -> None:
    (result,) = run(song, f"--model {tiny_model} --seconds 2 --num-samples 3 --pattern delay --threads 1")
    assert set(result["parts"]) == {"listening", "semantic", "coarse", "fine", "codec and mix"}
    assert all(value > 0 for value in result["parts"].values()) and result["load_seconds"] > 0
    assert sum(result["parts"].values()) == pytest.approx(result["elapsed_seconds"])
    assert result["tokens_per_second"] == pytest.approx(3 * 2.0 * (50 + 300 + 300) / result["elapsed_seconds"])
    assert 0 < result["loaded_gib"] <= result["peak_gib"] < 16


def test_our_share_of_start_up_time_is_small_and_needs_few_packages(bundled_model: Path) -> None:
    result = run(start, f"--model {bundled_model} --repeats 2")
    assert set(result["parts"]) == set(start.PARTS) and all(value > 0 for value in result["parts"].values())
    assert result["ours"] == pytest.approx(sum(result["parts"][name] for name in start.OURS))
    assert not NOT_NEEDED & set(result["packages"])
    assert result["ratio"] <= 0.5, result
