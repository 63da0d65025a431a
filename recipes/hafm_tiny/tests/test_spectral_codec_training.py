# SPDX-License-Identifier: Apache-2.0
"""Training a spectral codec on short synthetic songs."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hafm_hf import HAFMSpectralConfig, HAFMSpectralModel
from hafm_hf.pretrained.loading import codec_fingerprint
from hafm_tiny.codec import evaluate_codec
from hafm_tiny.song_pool import SongPool
from hafm_tiny.spectral_codec import SpectralTrainer, SpectralTrainingArguments, level_distance
from hafm_tiny.state import load_state, save_state
from programs import RECIPES, run_program
from synthetic_songs import write_song

RATE, HOP, CODES = 8_000, 80, 32


def tiny_codec(**changes: int) -> HAFMSpectralModel:
    torch.manual_seed(0)
    sizes = {"encoder_width": 16, "encoder_layers": 2, "decoder_width": 24, "decoder_layers": 2, "codebook_dim": 10}
    sizes |= {"sampling_rate": RATE, "hop_length": HOP, "window_length": 4 * HOP, "codebook_size": CODES}
    codec = HAFMSpectralModel(HAFMSpectralConfig(**{**sizes, "num_codebooks": 4, "noise_bands": 6, **changes})).train()
    # rounding to half precision leaves negative zeros, which averaging must not turn into positive ones
    codec.encoder.first.weight.data[0, 0] = -0.0
    return codec


def arguments(**changes: float | str) -> SpectralTrainingArguments:
    fields = {"steps": 80, "batch_size": 4, "crop_frames": 20, "warmup_steps": 5, "learning_rate": 5e-3}
    fields |= {"quantize_from": 30, "start_batches": 8, "averaging": 0.9}
    return SpectralTrainingArguments(**{**fields, **changes})  # type: ignore[arg-type]


def test_a_codec_learns_before_and_after_quantisation_starts(pool: SongPool) -> None:
    trainer = SpectralTrainer(tiny_codec(), pool, arguments())
    trainer.start()
    reports = [trainer.train_step() for _ in range(80)]
    errors = [report["spectral"] for report in reports]
    assert np.mean(errors[20:30]) < 0.9 * np.mean(errors[:5])
    assert np.mean(errors[70:]) < np.mean(errors[30:36])
    assert "commitment" not in reports[29] and "commitment" in reports[30]
    codec = trainer.settle(20)
    assert not codec.training and float(codec.decoder.mean.abs().max()) > 0
    figures = evaluate_codec(codec, pool, depths=(4, 1), seconds=1.0, clips=6)
    assert figures["si_sdr_db"][4] > figures["si_sdr_db"][1]
    assert all(1.0 < perplexity <= CODES for perplexity in figures["perplexity"])
    assert evaluate_codec(codec, pool, depths=(1,), seconds=2.0)["clips"] == 6, "as many as fit into the songs"


@pytest.mark.parametrize("decoder_only", [False, True])
def test_a_resumed_run_takes_the_same_steps(pool: SongPool, tmp_path: Path, decoder_only: bool) -> None:
    options = arguments(
        quantize_from=3, adversarial_from=4, adversarial_ramp=3, sizes="64,128", discriminator_share=0.5,
        decoder_only=decoder_only,
    )  # fmt: skip
    trainer = SpectralTrainer(tiny_codec(), pool, options, records=pool.songs[:1])
    if not decoder_only:
        trainer.start()
    reports = [trainer.train_step() for _ in range(8)]
    assert [step for step, report in enumerate(reports) if "adversarial" in report] == [4, 5, 6, 7]
    assert {"discriminator" in report for report in reports[4:]} == {True, False}, "they train every other step"
    save_state(tmp_path / "state.pt", trainer.state_dict())
    wanted = [trainer.train_step() for _ in range(3)]
    resumed = SpectralTrainer(tiny_codec(), pool, options, records=pool.songs[:1])
    resumed.load_state_dict(load_state(tmp_path / "state.pt"))
    assert [resumed.train_step() for _ in range(3)] == wanted
    changed = {
        name.split(".")[0]
        for name, value in tiny_codec().state_dict().items()
        if not torch.equal(value, resumed.averaged().state_dict()[name])
    }
    assert changed == ({"decoder"} if decoder_only else {"encoder", "decoder", "quantizer"}), "codes do not change"
    assert (codec_fingerprint(resumed.averaged()) == codec_fingerprint(tiny_codec())) == decoder_only


def test_the_pool_takes_only_finished_songs(tmp_path: Path) -> None:
    write_song(tmp_path / "train" / "one", RATE, seconds=2.0, seed=0)
    write_song(tmp_path / "train" / "two.partial", RATE, seconds=2.0, seed=1)
    pool = SongPool(tmp_path, "train", RATE)
    assert pool.refresh() == 1 and pool.refresh() == 0
    (tmp_path / "train" / "two.partial").rename(tmp_path / "train" / "two")
    assert pool.refresh() == 1 and {song.name for song in pool.songs} == {"one", "two"}
    assert pool.hours == pytest.approx(4 / 3600, rel=1e-3)
    with pytest.raises(ValueError, match="high <= 0"):
        pool.draw(np.random.default_rng(0), 3 * RATE)
    (tmp_path / "train" / "three").mkdir()
    (tmp_path / "train" / "three" / "labels.json").write_text("{}")
    assert pool.refresh() == 0, "a song without audio is skipped"
    with pytest.raises(ValueError, match="no finished song longer than 5 s"):
        pool.require(5.0)
    with pytest.raises(ValueError, match="validation holds no finished song"):
        SongPool(tmp_path, "validation", RATE).require(1.0)


def test_levels_are_measured_over_whole_crops() -> None:
    sound = torch.randn(2, 1, 9_000, generator=torch.Generator().manual_seed(0))
    assert float(level_distance(sound, sound.flip(-1), RATE)) < 0.02
    assert float(level_distance(sound, 2 * sound, RATE)) == pytest.approx(np.log(2), rel=1e-3)


def test_the_recipe_trains_and_resumes_from_the_command_line(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_song(tmp_path / "songs" / split / "song", 24_000, seconds=6.0, seed=4)

    def run(steps: int, **more: object) -> list[dict]:
        flags = {"corpus": tmp_path / "songs", "out": tmp_path / "run", "steps": steps}
        flags |= {"batch_size": 2, "crop_frames": 20, "log_every": 1, "start_batches": 1}
        flags |= {"encoder_width": 8, "decoder_width": 8, **more}
        words = [word for name, value in flags.items() for word in (f"--{name}", value)]
        run_program([RECIPES / "train_spectral_codec.py", *words], check=True)
        return [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]

    assert [line["step"] for line in run(2, figures=False)] == [1, 2]
    assert [line["step"] for line in run(3)] == [1, 2, 3]
    codec = HAFMSpectralModel.from_pretrained(tmp_path / "run/codec")
    assert (codec.config.sampling_rate, codec.config.hop_length, codec.config.num_codebooks) == (24_000, 320, 8)
    assert set(json.loads((tmp_path / "run/figures.json").read_text())["si_sdr_db"]) == {"8", "4", "2"}
    run(1, out=tmp_path / "other", hop_length=480, num_codebooks=3, figures=False)
    other = HAFMSpectralModel.from_pretrained(tmp_path / "other/codec").config
    assert (other.hop_length, other.window_length, other.num_codebooks) == (480, 1920, 3)
