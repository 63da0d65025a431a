"""The decoding benchmark measures what it says, on a model small enough for a test; no bound on time is set here."""

import json
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hafm_hf.benchmark.generate import (
    DecodingBenchmark,
    benchmark_decoding,
    benchmark_precision,
    benchmark_song,
    glide,
)
from hafm_hf.cli import app

VARIANT_KEYS = {
    "milliseconds_per_step",
    "median_milliseconds_per_step",
    "tokens_per_second",
    "window_start_milliseconds",
}


def test_every_loop_is_timed_behind_the_same_context(tiny_model: Path) -> None:
    result = benchmark_decoding(DecodingBenchmark("coarse", str(tiny_model), rows=4, context=30, steps=6, repeats=1))
    names = {"fast", "fast_int8", "fast_bfloat16", "fast_stored_in_bfloat16", "reference", "musicgen"}
    assert set(result["variants"]) == names and set(result["ratios"]) == names - {"musicgen"}
    for name, variant in result["variants"].items():
        assert variant["tokens_per_second"] == pytest.approx(2e3 / variant["milliseconds_per_step"])
        if name != "musicgen":
            ratio = result["variants"]["musicgen"]["milliseconds_per_step"] / variant["milliseconds_per_step"]
            assert result["ratios"][name] == pytest.approx(ratio)
    assert result["bound_milliseconds"] > 0


def test_rows_that_guidance_cannot_halve_are_refused() -> None:
    with pytest.raises(ValueError, match="rows is 3"):
        benchmark_decoding(DecodingBenchmark(rows=3))


def test_a_song_is_timed_stage_by_stage(tiny_model: Path) -> None:
    result = benchmark_song(str(tiny_model), 2.0, num_samples=3)
    assert set(result["stages"]) == {"semantic", "coarse", "fine"}
    parts = sum(result["stages"].values()) + result["tokenizer_and_codec"]
    assert parts == pytest.approx(3 * result["real_time_factor"]) and result["load_seconds"] > 0
    assert result["tokens_per_second"] == pytest.approx(3 * 2.0 * (50 + 300 + 300) / result["elapsed_seconds"])


def test_json_holds_every_size_and_number_of_threads(tiny_model: Path) -> None:
    command = (
        f"benchmark generate --model {tiny_model} --context 20 --steps 3 --repeats 2 --rows 2 --rows 6 --threads 1"
    )
    command += " --song 0.4 --samples 1 --samples 2 --json"
    result = json.loads(CliRunner().invoke(app, command.split(), catch_exceptions=False).stdout)
    assert set(result) == {"decoding", "songs", "precision"}
    assert [(entry["options"]["rows"], entry["threads"]) for entry in result["decoding"]] == [(2, 1), (6, 1)]
    for entry in result["decoding"]:
        for variant in entry["variants"].values():
            assert set(variant) == VARIANT_KEYS and all(map(math.isfinite, variant.values()))
    assert [(song["samples"], song["threads"]) for song in result["songs"]] == [(1, 1), (2, 1)]
    assert all(0 < song["peak_gib"] < 16 and song["load_seconds"] > 0 for song in result["songs"])


def test_the_vocal_of_the_benchmark_has_sound_and_pauses() -> None:
    levels = np.abs(glide(6.0, 24_000)).reshape(60, -1).max(1)
    assert (levels > 0.1).sum() > 30 and (levels == 0).sum() > 5


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
