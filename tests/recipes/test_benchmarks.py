# SPDX-License-Identifier: Apache-2.0
"""The benchmarks measure what they say, on models small enough for a test; bounds are on ratios, not on times."""

import json
import statistics
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from benchmarks import decoding, patterns, song, start, training
from benchmarks.decoding import DecodingBenchmark, benchmark_decoding, musicgen_decoder, musicgen_run
from hafm_hf import HAFMForVocalAccompaniment

# what transformers' classes import by themselves is not ours to choose; beyond them a song needs none of these
NOT_NEEDED = {
    "accelerate", "datasets", "evaluate", "gradio", "librosa", "matplotlib", "numba", "pandas", "peft", "pyarrow",
    "sklearn", "tensorboard", "torchaudio", "torchvision",
}  # fmt: skip


def run(script: ModuleType, words: str) -> Any:
    """What a script prints with --json."""
    app = typer.Typer()
    app.command()(script.main)
    return json.loads(CliRunner().invoke(app, [*words.split(), "--json"], catch_exceptions=False).stdout)


@pytest.mark.parametrize("pattern", ["flat", "delay"])
def test_every_loop_is_timed_behind_the_same_context(tiny_model: Path, pattern: str) -> None:
    words = f"--model {tiny_model} --pattern {pattern} --rows 4 --context 30 --steps 24 --repeats 3"
    (result,) = run(decoding, words)
    names = {"fast", "fast_bfloat16", "fast_stored_in_bfloat16", "reference", "musicgen"}
    assert set(result["variants"]) == names and set(result["ratios"]) == names - {"musicgen"}
    assert result["options"]["pattern"] == pattern and result["bound_milliseconds"] > 0
    codes = 8 if pattern == "delay" else 2
    musicgen = result["variants"]["musicgen"]["milliseconds_per_step"]
    for name, variant in result["variants"].items():
        speed = codes * 1e3 / variant["milliseconds_per_step"]
        assert variant["tokens_per_second"] == pytest.approx(speed) and variant["milliseconds_per_step"] > 0
        assert name == "musicgen" or result["ratios"][name] == pytest.approx(
            musicgen / variant["milliseconds_per_step"]
        )


@torch.no_grad()
def test_musicgen_hears_the_whole_context_in_every_run(tiny_model: Path) -> None:
    stage = HAFMForVocalAccompaniment.from_pretrained(str(tiny_model)).coarse
    decoder = musicgen_decoder(stage, 50).eval()
    context = torch.randint(stage.config.codebook_size, (2, 30), generator=torch.Generator().manual_seed(0))
    wanted = decoder(input_ids=context.repeat(2, 1)).logits[:, -1]
    assert not torch.allclose(wanted, decoder(input_ids=context[:, -1:].repeat(2, 1)).logits[:, -1], atol=1e-3)
    steps: list[tuple[int, torch.Tensor]] = []
    decoder.register_forward_hook(
        lambda module, inputs, out: steps.append((out.past_key_values.get_seq_length(), out.logits[:, -1]))
    )
    timed = musicgen_run(decoder, context)
    for _ in range(2):
        steps.clear()
        timed(5)
        assert [slots for slots, _ in steps] == [30, 31, 32, 33, 34]
        assert torch.allclose(steps[0][1], wanted, atol=1e-5)


def test_a_hiccup_in_one_run_makes_no_step_shorter_and_what_says_nothing_is_none() -> None:
    # in the second turn something else has held up the short run
    short, long = [1.0, 2.9, 1.0], [1.4, 3.0, 1.2]
    assert decoding.step_milliseconds(short, long, 11, min) == pytest.approx(20.0)
    assert decoding.step_milliseconds(short, long, 11, statistics.median) == pytest.approx(40.0)
    assert decoding.step_milliseconds([1.0], [1.0], 11, min) is None


@pytest.mark.parametrize(
    ("wrong", "said"), [({"rows": 3}, "rows is 3"), ({"steps": 10}, "steps is 10"), ({"stage": "bass"}, "'bass'")]
)
def test_settings_that_measure_nothing_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        benchmark_decoding(DecodingBenchmark(**wrong))


def test_a_song_is_timed_part_by_part(tiny_model: Path) -> None:
    (result,) = run(song, f"--model {tiny_model} --seconds 2 --num-samples 3 --pattern delay --threads 1")
    assert set(result["parts"]) == {"listening", "semantic", "coarse", "fine", "codec and mix"}
    assert all(value > 0 for value in result["parts"].values()) and result["load_seconds"] > 0
    assert sum(result["parts"].values()) == pytest.approx(result["elapsed_seconds"])
    assert result["tokens_per_second"] == pytest.approx(3 * 2.0 * (50 + 300 + 300) / result["elapsed_seconds"])
    assert 0 < result["loaded_gib"] <= result["peak_gib"] < 16


def test_patterns_are_compared_in_decoding_songs_and_training(tiny_model: Path) -> None:
    words = f"--model {tiny_model} --seconds 1 --window-seconds 2 --crops 1 --repeats 1"
    result = run(patterns, words)
    assert list(result["work"]) == [
        "decode coarse", "decode fine", "decode coarse + fine", "whole path", "train coarse", "train fine",
    ]  # fmt: skip
    for entry in result["work"].values():
        assert entry["ratio"] == pytest.approx(entry["delay"] / entry["flat"])
    # a quarter of the steps: even beside other work this can be told
    both = result["work"]["decode coarse + fine"]
    assert both["ratio"] > 1.5 and both["sum_ratio"] > 1.5


def test_the_bias_and_the_data_cost_little_and_musicgens_decoder_is_no_faster() -> None:
    sizes = "--num-hidden-layers 2 --hidden-size 256 --num-attention-heads 4 --crop-seconds 6 --batch 3 --repeats 6"
    result = run(training, sizes)
    assert set(result["variants"]) == {"relative_bias", "without_bias", "musicgen"}
    # below the 0.9 and 1.05 of a quiet machine: this one may be busy
    assert result["ratios"]["without_bias"] > 0.75 and result["ratios"]["musicgen"] > 0.85
    assert result["data_loading"]["share_of_step"] < 0.05
    parameters = {name: variant["parameters"] for name, variant in result["variants"].items()}
    assert parameters["relative_bias"] == parameters["without_bias"] + 32 * 4, "only the bias's table is missing"


def test_the_command_starts_quickly_beside_the_imports_of_torch_and_transformers(bundled_model: Path) -> None:
    result = run(start, f"--model {bundled_model} --repeats 2")
    assert set(result["parts"]) == set(start.PARTS) and all(value > 0 for value in result["parts"].values())
    assert result["ours"] == pytest.approx(sum(result["parts"][name] for name in start.OURS))
    assert not NOT_NEEDED & set(result["packages"])
    assert result["ratio"] <= 0.5, result
