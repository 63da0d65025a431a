# SPDX-License-Identifier: Apache-2.0
"""Training a codec: losses, the training side of the quantizer, and resuming, on seconds of synthetic songs."""

import copy
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import EncodecConfig, EncodecModel

from hafm_tiny.codec import (
    CodecTrainer,
    CodecTrainingArguments,
    draw_batch,
    evaluate_codec,
    start_codec,
)
from hafm_tiny.song_pool import SongPool
from hafm_tiny.state import load_state, save_state
from programs import run_program
from synthetic_songs import write_song

RATE = 8_000


def tiny_codec() -> EncodecModel:
    torch.manual_seed(0)
    config = EncodecConfig(
        sampling_rate=RATE,
        num_filters=3,
        hidden_size=12,
        upsampling_ratios=[5, 4, 2],
        codebook_size=32,
        target_bandwidths=[8.0],  # 4 codebooks
        num_lstm_layers=1,
    )
    return EncodecModel(config).train()


def arguments(**changes: float) -> CodecTrainingArguments:
    fields = {"steps": 120, "batch_size": 5, "crop_seconds": 0.2, "warmup_steps": 5, "learning_rate": 5e-3}
    fields |= {"quantize_from": 60, "spectral_from": 100, "spectral_ramp": 10, "start_batches": 8}
    return CodecTrainingArguments(**{**fields, **changes})  # type: ignore[arg-type]


def test_training_reduces_the_error_before_and_after_quantizing(pool: SongPool) -> None:
    codec = tiny_codec()
    start_codec(codec, draw_batch(pool, arguments(), 0))
    trainer = CodecTrainer(codec, pool, arguments())
    reports = [trainer.train_step() for _ in range(120)]
    errors = [report["waveform"] for report in reports]
    assert np.mean(errors[50:60]) < 0.8 * np.mean(errors[:10])
    assert np.mean(errors[110:]) < 0.95 * np.mean(errors[60:70])
    assert "commitment" not in reports[59] and "commitment" in reports[60]
    assert "spectral" not in reports[99] and "spectral" in reports[100]
    figures = evaluate_codec(codec, pool, depths=(2, 1), seconds=1.0, clips=6)
    assert figures["si_sdr_db"][2] > figures["si_sdr_db"][1]
    assert all(1.0 < perplexity <= 32 for perplexity in figures["perplexity"])
    assert evaluate_codec(codec, pool, depths=(1,), seconds=2.0)["clips"] == 6, "as many as the songs hold"


def test_a_resumed_run_takes_the_same_steps(pool: SongPool, tmp_path: Path) -> None:
    codec = tiny_codec()
    start_codec(codec, draw_batch(pool, arguments(), 0))
    trainer = CodecTrainer(codec, pool, arguments(quantize_from=3))
    for _ in range(5):
        trainer.train_step()
    save_state(tmp_path / "state.pt", trainer.state_dict())
    wanted = [trainer.train_step() for _ in range(4)]
    resumed = CodecTrainer(tiny_codec(), pool, arguments(quantize_from=3))
    resumed.load_state_dict(load_state(tmp_path / "state.pt"))
    assert [resumed.train_step() for _ in range(4)] == wanted


def test_pool_takes_in_finished_songs_only(tmp_path: Path) -> None:
    write_song(tmp_path / "train" / "one", RATE, seconds=2.0, seed=0)
    write_song(tmp_path / "train" / "two.partial", RATE, seconds=2.0, seed=1)
    pool = SongPool(tmp_path, "train", RATE)
    assert pool.refresh() == 1 and pool.refresh() == 0
    (tmp_path / "train" / "two.partial").rename(tmp_path / "train" / "two")
    assert pool.refresh() == 1
    assert {song.name for song in pool.songs} == {"one", "two"}
    assert pool.hours == pytest.approx(4 / 3600, rel=1e-3)
    (tmp_path / "train" / "three").mkdir()
    (tmp_path / "train" / "three" / "labels.json").write_text("{}")
    assert pool.refresh() == 0, "a song without audio is skipped, not fatal"
    with pytest.raises(ValueError, match="no finished song longer than 5 s"):
        pool.require(5.0)
    with pytest.raises(ValueError, match="validation holds no finished song"):
        SongPool(tmp_path, "validation", RATE).require(1.0)


def test_the_codec_trains_against_discriminators_from_the_step_that_was_asked_for(pool: SongPool) -> None:
    options = arguments(adversarial_from=5, quantize_from=3, spectral_from=1000)
    trainer = CodecTrainer(tiny_codec(), pool, options)
    start_codec(trainer.codec, draw_batch(pool, options, 0))
    reports = [trainer.train_step() for _ in range(20)]
    judged = [step for step, report in enumerate(reports) if "discriminator" in report]
    assert [step for step, report in enumerate(reports) if "adversarial" in report] == list(range(5, 20))
    assert set(judged) < set(range(5, 20)), "the discriminators learn in two steps of three"
    again = CodecTrainer(tiny_codec(), pool, options)
    again.load_state_dict(copy.deepcopy(trainer.state_dict()))
    assert [trainer.train_step() for _ in range(3)] == [again.train_step() for _ in range(3)]


def test_the_recipe_trains_and_resumes_a_codec_from_the_command_line(tmp_path: Path) -> None:
    write_song(tmp_path / "songs/train/song", RATE, seconds=2.0, seed=4)

    def run(steps: int, out: str = "run", **more: object) -> list[dict]:
        recipe = Path(__file__).resolve().parents[3] / "recipes/train_codec.py"
        flags = {"corpus": tmp_path / "songs", "out": tmp_path / out, "steps": steps, "num_filters": 2}
        flags |= {"batch_size": 2, "crop_seconds": 0.2, "log_every": 1, "quantize_from": 9, **more}
        words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        done = run_program([sys.executable, recipe, *words])
        assert done.returncode == 0, done.stderr[-3000:]
        return [json.loads(line) for line in (tmp_path / out / "metrics.jsonl").read_text().splitlines()]

    assert [line["step"] for line in run(2)] == [1, 2]
    assert [line["step"] for line in run(3)] == [1, 2, 3]
    trained = EncodecModel.from_pretrained(tmp_path / "run/codec")
    assert trained.config.num_filters == 2
    assert len(run(1, "decoder", codec=tmp_path / "run/codec", decoder_only=True)) == 1
    decoder = EncodecModel.from_pretrained(tmp_path / "decoder/codec")
    for name, values in trained.state_dict().items():
        if not name.startswith("decoder."):
            assert torch.equal(values, decoder.state_dict()[name]), name
    assert "commitment" in run(1, "further", codec=tmp_path / "run/codec")[0], "quantized from the first step on"
    with pytest.raises(AssertionError, match="needs the --codec"):
        run(1, "nothing", decoder_only=True)
