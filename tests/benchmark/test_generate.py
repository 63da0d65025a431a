"""The decoding benchmark measures what it says, on a model small enough for a test; no bound on time is set here."""

from pathlib import Path

import numpy as np
import pytest

from hafm_hf.benchmark.generate import (
    DecodingBenchmark,
    benchmark_decoding,
    benchmark_precision,
    benchmark_song,
    glide,
)


def test_every_loop_is_timed_behind_the_same_context(tiny_model: Path) -> None:
    result = benchmark_decoding(DecodingBenchmark("coarse", str(tiny_model), rows=4, context=30, steps=6, repeats=1))
    names = {"fast", "fast_int8", "fast_bfloat16", "reference", "musicgen"}
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
    result = benchmark_song(str(tiny_model), 2.0)
    assert set(result["stages"]) == {"semantic", "coarse", "fine"}
    parts = sum(result["stages"].values()) + result["tokenizer_and_codec"]
    assert parts == pytest.approx(result["real_time_factor"]) and result["load_seconds"] > 0


def test_the_vocal_of_the_benchmark_has_sound_and_pauses() -> None:
    levels = np.abs(glide(6.0, 24_000)).reshape(60, -1).max(1)
    assert (levels > 0.1).sum() > 30 and (levels == 0).sum() > 5


def test_lower_precision_is_near_and_not_the_same(tiny_model: Path) -> None:
    for kinds in benchmark_precision(str(tiny_model), 1.0).values():
        for error in kinds.values():
            assert 0 < error["mean_kl"] < 0.5 and error["max_logit_error"] > 0
