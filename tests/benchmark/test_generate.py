# SPDX-License-Identifier: Apache-2.0
"""The decoding benchmark measures what it says, on a model small enough for a test; no bound on time is set here."""

import json
import math
import statistics
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hafm_hf import HAFMForVocalAccompaniment
from hafm_hf.benchmark.generate import (
    DecodingBenchmark,
    benchmark_decoding,
    benchmark_precision,
    benchmark_song,
    glide,
    musicgen_run,
    step_milliseconds,
    take_turns,
)
from hafm_hf.benchmark.musicgen import musicgen_decoder
from hafm_hf.cli import app
from hafm_hf.cli.benchmark import show_decoding

VARIANT_KEYS = {
    "milliseconds_per_step",
    "median_milliseconds_per_step",
    "tokens_per_second",
    "window_start_milliseconds",
}


def test_every_loop_is_timed_behind_the_same_context(tiny_model: Path) -> None:
    result = benchmark_decoding(DecodingBenchmark("coarse", str(tiny_model), rows=4, context=30, steps=24, repeats=3))
    names = {"fast", "fast_int8", "fast_bfloat16", "fast_stored_in_bfloat16", "reference", "musicgen"}
    assert set(result["variants"]) == names and set(result["ratios"]) == names - {"musicgen"}
    for name, variant in result["variants"].items():
        assert variant["milliseconds_per_step"] > 0
        assert variant["tokens_per_second"] == pytest.approx(2e3 / variant["milliseconds_per_step"])
        if name != "musicgen":
            ratio = result["variants"]["musicgen"]["milliseconds_per_step"] / variant["milliseconds_per_step"]
            assert result["ratios"][name] == pytest.approx(ratio)
    assert result["bound_milliseconds"] > 0


@torch.no_grad()
def test_musicgen_hears_the_whole_context_in_every_run(tiny_model: Path) -> None:
    stage = HAFMForVocalAccompaniment.from_pretrained(str(tiny_model)).coarse
    decoder = musicgen_decoder(stage, 50).eval()
    context = torch.randint(stage.config.codebook_size, (2, 30), generator=torch.Generator().manual_seed(0))
    # of positions alone, attention to the context would not be told from none
    wanted = decoder(input_ids=context.repeat(2, 1)).logits[:, -1]
    assert not torch.allclose(wanted, decoder(input_ids=context[:, -1:].repeat(2, 1)).logits[:, -1], atol=1e-3)
    run = musicgen_run(decoder, context)
    steps: list[tuple[int, torch.Tensor]] = []
    decoder.register_forward_hook(
        lambda module, inputs, out: steps.append((out.past_key_values.get_seq_length(), out.logits[:, -1]))
    )
    for _ in range(2):
        steps.clear()
        run(5)
        assert [slots for slots, _ in steps] == [30, 31, 32, 33, 34]
        assert torch.allclose(steps[0][1], wanted, atol=1e-5)


def test_a_hiccup_in_one_run_makes_no_step_shorter_and_what_says_nothing_is_none() -> None:
    # in the second turn something else has held up the short run
    short, long = [1.0, 2.9, 1.0], [1.4, 3.0, 1.2]
    assert step_milliseconds(short, long, 11, min) == pytest.approx(20.0)
    assert step_milliseconds(short, long, 11, statistics.median) == pytest.approx(40.0)
    assert step_milliseconds([1.0], [1.0], 11, min) is None


def test_every_loop_is_warmed_up_once_and_then_taken_by_turns() -> None:
    asked: list[tuple[str, int]] = []

    def loop(name: str) -> Callable[[int], None]:
        return lambda steps: asked.append((name, steps))

    turns = take_turns({name: loop(name) for name in ("fast", "musicgen")}, steps=9, repeats=2)
    assert asked == [("fast", 9), ("musicgen", 9)] + 2 * [(n, s) for n in ("fast", "musicgen") for s in (1, 9)]
    assert all(len(taken) == 2 for variant in turns.values() for taken in variant.values())


def test_what_no_turn_could_tell_is_shown_as_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    untold = dict.fromkeys(VARIANT_KEYS, None)
    told = {**untold, "milliseconds_per_step": 2.5, "median_milliseconds_per_step": 3.0, "tokens_per_second": 400.0}
    result = {
        "options": {"stage": "fine", "pattern": "flat", "rows": 2},
        "threads": 1,
        "bound_milliseconds": 0.5,
        "bandwidth_gb_s": 9.0,
    }
    show_decoding({**result, "variants": {"reference": untold, "fast": told}, "ratios": {"reference": None}})
    fast, reference = (line for line in capsys.readouterr().out.splitlines() if "│" in line)
    assert "2.50" in fast and "400" in fast and "–" not in fast
    assert reference.count("–") == 4


@pytest.mark.parametrize(
    ("wrong", "said"), [({"rows": 3}, "rows is 3"), ({"steps": 10}, "steps is 10"), ({"stage": "bass"}, "'bass'")]
)
def test_settings_that_measure_nothing_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DecodingBenchmark(**wrong)
    ((name, value),) = wrong.items()
    done = CliRunner().invoke(app, ["benchmark", "generate", f"--{name}", str(value)])
    assert done.exit_code == 2 and f"{value}" in done.output


def test_a_song_is_timed_stage_by_stage(tiny_model: Path) -> None:
    result = benchmark_song(str(tiny_model), 2.0, num_samples=3)
    assert set(result["stages"]) == {"semantic", "coarse", "fine"}
    parts = sum(result["stages"].values()) + result["tokenizer_and_codec"]
    assert parts == pytest.approx(3 * result["real_time_factor"]) and result["load_seconds"] > 0
    assert result["tokens_per_second"] == pytest.approx(3 * 2.0 * (50 + 300 + 300) / result["elapsed_seconds"])
    assert set(result["parts"]) == {"listening", "semantic", "coarse", "fine", "codec", "other"}
    assert all(value > 0 for value in result["parts"].values()) and 0 < result["outside_kernels"] < 1
    assert sum(result["parts"].values()) == pytest.approx(result["elapsed_seconds"], rel=0.05)


def test_a_song_is_timed_in_another_pattern(tiny_model: Path) -> None:
    command = f"benchmark generate --model {tiny_model} --song 1 --pattern delay --steps 16 --repeats 1 --threads 1"
    found = CliRunner().invoke(app, command.split(), catch_exceptions=False).stdout
    assert "1 s of singing, 1 at once, delay, 1 threads" in found and "listening" in found


def test_the_delay_pattern_is_timed_by_slots_and_against_musicgens_codebooks(tiny_model: Path) -> None:
    options = DecodingBenchmark("coarse", str(tiny_model), "delay", 2, 30, 16, 2, bfloat16=False)
    result = benchmark_decoding(options)
    assert result["options"]["pattern"] == "delay"
    for variant in result["variants"].values():
        assert variant["tokens_per_second"] == pytest.approx(4e3 / variant["milliseconds_per_step"])


def test_patterns_are_compared_in_decoding_the_whole_path_and_training(tiny_model: Path) -> None:
    command = f"benchmark patterns --model {tiny_model} --seconds 1 --window-seconds 2"
    command += " --crops 1 --repeats 1 --threads 1 --json"
    result = json.loads(CliRunner().invoke(app, command.split(), catch_exceptions=False).stdout)
    assert list(result["work"]) == [
        "decode coarse", "decode fine", "decode coarse + fine", "whole path", "train coarse", "train fine",
    ]  # fmt: skip
    for entry in result["work"].values():
        assert entry["ratio"] == pytest.approx(entry["delay"] / entry["flat"])
        assert entry["sum_ratio"] == pytest.approx(entry["sum"] / entry["flat"])
    # a quarter of the steps: even beside other work this is told
    both = result["work"]["decode coarse + fine"]
    assert both["ratio"] > 1.5 and both["sum_ratio"] > 1.5


@pytest.mark.processor
def test_json_holds_every_size_and_number_of_threads(tiny_model: Path) -> None:
    command = (
        f"benchmark generate --model {tiny_model} --context 20 --steps 60 --repeats 3 --rows 2 --rows 6 --threads 1"
    )
    command += " --song 0.4 --samples 1 --samples 2 --json"
    result = json.loads(CliRunner().invoke(app, command.split(), catch_exceptions=False).stdout)
    assert set(result) == {"decoding", "songs", "precision"}
    assert [(entry["options"]["rows"], entry["threads"]) for entry in result["decoding"]] == [(2, 1), (6, 1)]
    for entry in result["decoding"]:
        for variant in entry["variants"].values():
            assert set(variant) == VARIANT_KEYS and all(map(math.isfinite, variant.values()))
    assert [(song["samples"], song["threads"]) for song in result["songs"]] == [(1, 1), (2, 1)]
    assert all(0 < song["loaded_gib"] <= song["peak_gib"] < 16 for song in result["songs"])
    assert all(song["load_seconds"] > 0 for song in result["songs"])


def test_the_vocal_of_the_benchmark_has_sound_and_pauses() -> None:
    levels = np.abs(glide(6.0, 24_000)).reshape(60, -1).max(1)
    assert (levels > 0.1).sum() > 30 and (levels == 0).sum() > 5


@pytest.mark.processor
def test_lower_precision_is_near_and_not_the_same(tiny_model: Path) -> None:
    for kinds in benchmark_precision(str(tiny_model), 1.0).values():
        for error in kinds.values():
            assert 0 < error["mean_kl"] < 0.5 and error["max_logit_error"] > 0


def test_a_long_glide_repeats_itself_and_takes_no_memory_beside_its_own() -> None:
    """The peak that a song's benchmark tells is the generation's, not that of making up its vocal."""
    tracemalloc.start()
    sound = glide(600.0, 24_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sound.dtype == np.float32 and sound.shape == (600 * 24_000,)
    assert peak < 1.2 * sound.nbytes + 60 * 24 * 24_000
    assert np.array_equal(glide(10.0, 24_000), sound[: 10 * 24_000])
