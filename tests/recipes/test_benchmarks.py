# SPDX-License-Identifier: Apache-2.0
"""Benchmarks and gpu_check.py report consistent figures on tiny models; bounds are on ratios, not on times."""

import json
import math
import os
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from benchmarks import decoding, song, start
from programs import RECIPES, run_program

# beyond what transformers' classes import themselves, generating a song needs none of these
NOT_NEEDED = {
    "accelerate", "datasets", "evaluate", "gradio", "librosa", "matplotlib", "numba", "pandas", "peft", "pyarrow",
    "sklearn", "tensorboard", "torchaudio", "torchvision",
}  # fmt: skip


def run(script: ModuleType, words: str) -> Any:
    """Runs a benchmark in this process with these words and --json, and returns what it prints."""
    app = typer.Typer()
    app.command()(script.main)
    return json.loads(CliRunner().invoke(app, [*words.split(), "--json"], catch_exceptions=False).stdout)


def test_every_decoding_loop_is_timed_and_its_throughput_is_that_of_its_steps(tiny_model: Path) -> None:
    words = f"--model {tiny_model} --pattern delay --rows 4 --context 30 --steps 24 --repeats 3"
    (result,) = run(decoding, words)
    names = {"fast", "fast_bfloat16", "fast_stored_in_bfloat16", "reference", "musicgen"}
    assert set(result["variants"]) == names
    assert set(result["ratios"]) == names - {"musicgen"}
    for variant in result["variants"].values():
        # each step decodes one frame of eight codes, and 1000 ms are a second
        assert variant["tokens_per_second"] == pytest.approx(8 * 1000 / variant["milliseconds_per_step"])


def test_the_times_of_a_songs_parts_add_up(tiny_model: Path) -> None:
    (result,) = run(song, f"--model {tiny_model} --seconds 2 --num-samples 3 --pattern delay --threads 1")
    assert set(result["parts"]) == {"listening", "semantic", "coarse", "fine", "codec and mix"}
    assert all(value > 0 for value in result["parts"].values())
    assert result["load_seconds"] > 0
    assert sum(result["parts"].values()) == pytest.approx(result["elapsed_seconds"])
    # three songs of 2 s; tokens a second of the semantic, the coarse and the fine stage
    assert result["tokens_per_second"] == pytest.approx(3 * 2.0 * (50 + 300 + 300) / result["elapsed_seconds"])
    assert 0 < result["loaded_gib"] <= result["peak_gib"] < 16


def test_our_share_of_start_up_time_is_small_and_needs_few_packages(bundled_model: Path) -> None:
    result = run(start, f"--model {bundled_model} --repeats 2")
    assert set(result["parts"]) == set(start.PARTS)
    assert all(value > 0 for value in result["parts"].values())
    assert result["ours"] == pytest.approx(sum(result["parts"][name] for name in start.OURS))
    assert not NOT_NEEDED & set(result["packages"])
    assert result["ratio"] <= 0.5, result


def check_gpu(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs gpu_check.py to its end, with more environment variables if given."""
    return run_program([RECIPES / "gpu_check.py", *words], {**os.environ, **environment})


def test_every_part_that_a_cpu_can_run_runs(tmp_path: Path) -> None:
    done = check_gpu("--device", "cpu", "--tiny", "--out", tmp_path / "check.json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "check.json").read_text())
    assert report["cuda_graph_tokens"].startswith("not measured")
    assert len(report["logits"]) == 7
    assert report["logits"]["coarse, delay"] == 0.0
    lines = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("|")]
    # two lines are the table's head, and four entries of the report describe the machine
    assert [line[0] for line in lines[2:]] == [f"| {name}" for name in list(report)[4:]]
    assert lines[2][1] == "ok"
    assert lines[3][1].startswith("not measured")
    assert "real_time_factor" in lines[-1][2]
    steps = {name: entry for name, entry in report["steps"].items() if name != "took_seconds"}
    assert len(steps) == 4
    assert all(set(entry) == {"eager"} for entry in steps.values())
    training = report["training"]
    assert (training["backend"], training["distributed"]) == ("gloo", "DistributedDataParallel")
    assert training["steps_per_second"] > 0
    assert training["losses"]
    assert all(map(math.isfinite, training["losses"]))
    for pattern in ("flat", "delay"):
        song_report = report[f"song, {pattern}"]
        assert not song_report["failed"]
        assert song_report["real_time_factor"] == song_report["wall_seconds"] / song_report["seconds"] > 0


def test_without_a_gpu_the_check_fails_with_one_sentence(tmp_path: Path) -> None:
    done = check_gpu("--out", tmp_path / "check.json", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 3
    assert "no GPU" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "check.json").exists()
