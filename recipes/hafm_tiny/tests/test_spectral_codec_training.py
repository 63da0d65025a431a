# SPDX-License-Identifier: Apache-2.0
"""Training a spectral codec on short synthetic songs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import resample_poly

from hafm_hf import HAFMSpectralConfig, HAFMSpectralModel
from hafm_hf.pretrained.loading import codec_fingerprint
from hafm_hf.tokenizers.codecs import as_codec
from hafm_hf.tokenizers.modeling_spectral_codec import Spectrum
from hafm_tiny.codec import evaluate_codec
from hafm_tiny.song_pool import SongPool
from hafm_tiny.spectral_codec import SpectralTrainer, SpectralTrainingArguments, level_distance, pan_distance
from hafm_tiny.state import load_state, save_state
from hafm_tiny.stereo_figures import (
    OCTAVES,
    evaluate_in_stereo,
    level_differences,
    log_spectral_distance,
    notes_alone,
    octave_levels,
)
from hafm_tiny.wider_codec import widened
from programs import RECIPES, run_program
from synthetic_songs import write_song

RATE = 8_000
HOP = 80
CODES = 32


def tiny_codec(**changes: int) -> HAFMSpectralModel:
    """A tiny codec with random weights."""
    torch.manual_seed(0)
    sizes = {"encoder_width": 16, "encoder_layers": 2, "decoder_width": 24, "decoder_layers": 2, "codebook_dim": 10}
    sizes |= {"side_layers": 2, "sampling_rate": RATE, "hop_length": HOP, "window_length": 4 * HOP}
    codec = HAFMSpectralModel(
        HAFMSpectralConfig(**{**sizes, "codebook_size": CODES, "num_codebooks": 4, "noise_bands": 6, **changes})
    ).train()
    # rounding to half precision makes negative zeros, which averaging must not turn into positive ones
    codec.encoder.first.weight.data[0, 0] = -0.0
    return codec


def arguments(**changes: float | str) -> SpectralTrainingArguments:
    """Arguments of a training of a few seconds."""
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
    assert "commitment" not in reports[29]
    assert "commitment" in reports[30]
    codec = trainer.settle(20)
    assert not codec.training
    assert float(codec.decoder.mean.abs().max()) > 0
    figures = evaluate_codec(codec, pool, depths=(4, 1), seconds=1.0, clips=6)
    assert figures["si_sdr_db"][4] > figures["si_sdr_db"][1]
    assert all(1.0 < perplexity <= CODES for perplexity in figures["perplexity"])
    assert evaluate_codec(codec, pool, depths=(1,), seconds=2.0)["clips"] == 6, "two of 2 s in each of three songs"


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
    assert pool.refresh() == 1
    assert pool.refresh() == 0
    (tmp_path / "train" / "two.partial").rename(tmp_path / "train" / "two")
    assert pool.refresh() == 1
    assert {song.name for song in pool.songs} == {"one", "two"}
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


def test_level_distance_compares_whole_crops_in_nepers() -> None:
    sound = torch.randn(2, 1, 9_000, generator=torch.Generator().manual_seed(0))
    assert float(level_distance(sound, sound.flip(-1), RATE)) < 0.02
    assert float(level_distance(sound, 2 * sound, RATE)) == pytest.approx(np.log(2), rel=1e-3)


def test_the_recipe_widens_a_codecs_output(tmp_path: Path) -> None:
    for split in ("train", "test"):
        folder = tmp_path / "songs" / split / "song"
        write_song(folder, 24_000, seconds=6.0, seed=4)
        band, _ = soundfile.read(folder / "instrumental.flac")
        stereo = resample_poly(np.stack([1.5 * band, 0.5 * band], axis=1), 147, 80, axis=0)
        soundfile.write(folder / "stereo.flac", stereo, 44_100)
    sizes = {"encoder_width": 8, "encoder_layers": 1, "decoder_width": 8, "decoder_layers": 1, "codebook_size": CODES}
    HAFMSpectralModel(HAFMSpectralConfig(**sizes, codebook_dim=4)).save_pretrained(tmp_path / "codec")
    flags = {"corpus": tmp_path / "songs", "out": tmp_path / "run", "codec": tmp_path / "codec", "steps": 2}
    flags |= {"output_sampling_rate": 44_100, "output_audio_channels": 2, "decoder_only": True, "start_batches": 1}
    flags |= {"batch_size": 1, "varied_rows": 1, "crop_frames": 20, "stft_sizes": "512", "level_weight": 0.3}

    def run(**more: object) -> dict[str, dict]:
        """Runs the recipe; returns its figures."""
        options: dict[str, Any] = flags | more
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        run_program([RECIPES / "train_spectral_codec.py", *words], check=True)
        figures: dict[str, dict] = json.loads((options["out"] / "figures.json").read_text())
        return figures

    figures = run()
    codec = HAFMSpectralModel.from_pretrained(tmp_path / "run/codec")
    assert codec_fingerprint(codec) == codec_fingerprint(HAFMSpectralModel.from_pretrained(tmp_path / "codec"))
    assert (codec.config.output_format.sampling_rate, codec.config.output_format.channels) == (44_100, 2)
    assert set(figures) == {"before", "after"}
    # a codec with a wide output already is trained further, and its figures "before" are those at the start
    again = run(codec=tmp_path / "run/codec", out=tmp_path / "again", learning_rate=0.1)
    assert again["before"] == figures["after"]
    assert again["after"] != again["before"]


def test_the_recipe_trains_and_resumes_from_the_command_line(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_song(tmp_path / "songs" / split / "song", 24_000, seconds=6.0, seed=4)

    def run(steps: int, **more: object) -> list[dict]:
        """Runs the recipe up to a number of steps; returns the logged metrics."""
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


def write_stereo_song(folder: Path, seconds: float, seed: int) -> None:
    """Writes a song at 8 kHz, and at 16 kHz with the band 12 dB louder on the left than on the right."""
    write_song(folder, RATE, seconds=seconds, seed=seed)
    band, _ = soundfile.read(folder / "instrumental.flac")
    stereo = resample_poly(np.stack([1.6 * band, 0.4 * band], axis=1), 2, 1, axis=0)
    soundfile.write(folder / "stereo.flac", stereo, 2 * RATE)


@pytest.fixture(scope="module")
def stereo_pool(tmp_path_factory: pytest.TempPathFactory) -> SongPool:
    """Three short songs of `write_stereo_song`."""
    root = tmp_path_factory.mktemp("stereo_songs")
    for index in range(3):
        write_stereo_song(root / "train" / f"song_{index}", seconds=4.0, seed=index)
    pool = SongPool(root, "train", RATE, stereo_rate=2 * RATE)
    assert pool.refresh() == 3
    return pool


def test_the_stereo_evaluation_compares_decoded_and_generated_levels_with_rendered_bands(tmp_path: Path) -> None:
    for index in range(2):
        folder = tmp_path / "test" / f"song_{index}"
        write_stereo_song(folder, seconds=6.0, seed=index)
        labels = json.loads((folder / "labels.json").read_text())
        (folder / "labels.json").write_text(json.dumps(labels | {"style": "folk"}))
    out = tmp_path / "figures.json"
    words = ["--rendered", tmp_path, "--clips", 2, "--seconds", 2.0, "--out", out]
    run_program([RECIPES / "evaluate_stereo.py", *words], check=True)
    figures = json.loads(out.read_text())
    assert figures["decoded"]["clips"] == 2
    assert figures["generated"]["songs"] == 2
    # the bands were written at 16 kHz, and have almost nothing in the highest octave
    assert figures["generated"]["mid_db"]["16000"] > 10
    assert abs(figures["generated"]["mid_db"]["250"]) < 20
    # the rendered side is 4 dB below the mid; the model's is even lower
    assert figures["generated"]["side_db"]["250"] < figures["generated"]["mid_db"]["250"]


def settled_codec(pool: SongPool) -> HAFMSpectralModel:
    """A mono codec after a few steps, with measured levels and running mean."""
    trainer = SpectralTrainer(tiny_codec(), pool, arguments(quantize_from=5))
    trainer.start()
    for _ in range(30):
        trainer.train_step()
    return trainer.settle(5)


def test_a_widened_codec_has_the_same_codes_and_begins_with_the_same_middle(stereo_pool: SongPool) -> None:
    codec = settled_codec(stereo_pool)
    assert codec.decoder.mid.noise is not None
    # no noise, which is random
    torch.nn.init.constant_(codec.decoder.mid.noise.bias, -30.0)
    wide = widened(codec, 2 * RATE, 2).eval()
    assert codec_fingerprint(wide) == codec_fingerprint(codec)
    codes = as_codec(codec).encode(torch.from_numpy(stereo_pool.songs[0].instrumental / 32768).float()[None, None])
    narrow_sound, wide_sound = (as_codec(model).decode(codes)[0].numpy() for model in (codec, wide))
    middle = resample_poly(wide_sound.mean(axis=0), 1, 2)
    difference = middle - narrow_sound[0, : middle.size]
    assert np.std(difference) < 0.1 * np.std(narrow_sound)


def test_a_stereo_codec_cannot_be_widened(stereo_pool: SongPool) -> None:
    wide = widened(tiny_codec(), 2 * RATE, 2)
    with pytest.raises(ValueError, match="plays 2 channel"):
        widened(wide, 4 * RATE, 2)


def test_a_widened_decoder_learns_the_side_without_losing_the_middle(stereo_pool: SongPool) -> None:
    codec = settled_codec(stereo_pool)
    wide = widened(codec, 2 * RATE, 2).train()
    options = arguments(decoder_only=True, level_weight=0.3, mel_weight=0.0, stft_sizes="64,256", averaging=0.8)
    trainer = SpectralTrainer(wide, stereo_pool, options)
    trainer.start_wider(codec.config.output_format.num_bins)
    for _ in range(60):
        trainer.train_step()
    learnt = trainer.settle(5)
    assert codec_fingerprint(learnt) == codec_fingerprint(codec)
    figures = evaluate_in_stereo({"before": codec, "after": learnt}, stereo_pool, depths=(4, 2), seconds=1.0, clips=6)
    assert figures["after"]["si_sdr_db"][4] > figures["before"]["si_sdr_db"][4] - 0.5
    # mono played on both sides has no side at all
    assert figures["before"]["side_db"][250] < -40
    assert figures["after"]["side_db"][250] > -8


def test_the_pan_distance_is_0_for_the_ratio_of_side_to_middle() -> None:
    spectrum = Spectrum(HAFMSpectralConfig(audio_channels=2).input_format, 0.5)
    middle = torch.randn(2, 1, 9_600, generator=torch.Generator().manual_seed(0))
    panned = torch.cat([1.6 * middle, 0.4 * middle], dim=1)
    # mid is `middle`, side 0.6 · `middle`
    pans = torch.full((2, 30, spectrum.format.num_bins), 0.6)
    assert float(pan_distance(panned, pans, spectrum)) < 1e-6
    assert float(pan_distance(panned, pans - 0.5, spectrum)) == pytest.approx(0.25, rel=1e-3)
    assert float(pan_distance(panned.flip(1), pans, spectrum)) == pytest.approx(1.2**2, rel=1e-3)


def test_a_stereo_decoder_learns_pans_with_discriminators(stereo_pool: SongPool) -> None:
    codec = settled_codec(stereo_pool)
    options = arguments(decoder_only=True, mel_weight=0.0, stft_sizes="64,256", pan_weight=1.0, adversarial_from=1)
    trainer = SpectralTrainer(widened(codec, 2 * RATE, 2).train(), stereo_pool, replace(options, sizes="64,128"))
    trainer.start_wider(codec.config.output_format.num_bins)
    reports = [trainer.train_step() for _ in range(60)]
    assert np.mean([report["pan"] for report in reports[-5:]]) < 0.3 * reports[0]["pan"]
    assert all(report["adversarial"] > 0 for report in reports[1:])


def test_level_side_corrects_a_side_that_is_too_quiet(stereo_pool: SongPool) -> None:
    wide = widened(settled_codec(stereo_pool), 2 * RATE, 2).eval()
    trainer = SpectralTrainer(wide, stereo_pool, arguments(decoder_only=True, varied_rows=0))
    trainer.start_wider(wide.config.input_format.num_bins)
    side = wide.decoder.side
    assert side is not None
    # the side sounds like the mid, which is too quiet already, but with typical magnitudes that are 2 dB lower
    side.load_state_dict(wide.decoder.mid.state_dict(), strict=False)
    for weight in side.mid_states.parameters():
        torch.nn.init.zeros_(weight)
    spectrum = wide.decoder.spectrum
    spectrum.usual[spectrum.format.num_bins :] *= 0.8**spectrum.compression

    def side_level() -> float:
        """Level of the side in the octave around 250 Hz, decoded minus true, in dB."""
        figures = evaluate_in_stereo({"wide": wide}, stereo_pool, depths=(4,), seconds=1.0, clips=6)
        return float(figures["wide"]["side_db"][250])

    assert side_level() < -4
    trainer.level_side(wide, batches=6)
    assert abs(side_level()) < 1


def test_training_the_side_alone_changes_only_the_sides_weights(stereo_pool: SongPool) -> None:
    wide = widened(settled_codec(stereo_pool), 2 * RATE, 2).train()
    before = {name: value.clone() for name, value in wide.decoder.named_parameters()}
    options = arguments(decoder_only=True, side_only=True, mel_weight=0.0, stft_sizes="64,256", pan_weight=1.0)
    trainer = SpectralTrainer(wide, stereo_pool, options)
    for _ in range(3):
        trainer.train_step()
    after = dict(trainer.averaged().decoder.named_parameters())
    changed = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"side"}


def test_training_the_side_alone_leaves_the_mean_of_the_channels(stereo_pool: SongPool) -> None:
    wide = widened(settled_codec(stereo_pool), 2 * RATE, 2).eval()
    codes = torch.randint(CODES, (1, 4, 60), generator=torch.Generator().manual_seed(0))
    before = as_codec(wide).decode(codes)[0].mean(0)
    options = arguments(decoder_only=True, side_only=True, mel_weight=0.0, stft_sizes="64,256", pan_weight=1.0)
    trainer = SpectralTrainer(wide.train(), stereo_pool, options)
    for _ in range(3):
        trainer.train_step()
    settled = trainer.settle(3)
    trainer.level_side(settled, batches=2)
    torch.testing.assert_close(as_codec(settled).decode(codes)[0].mean(0), before, atol=1e-5, rtol=1e-4)


def test_pans_alone_are_learnt_without_decoding_a_sound(stereo_pool: SongPool) -> None:
    wide = widened(settled_codec(stereo_pool), 2 * RATE, 2).train()
    only_pans = {"waveform_weight": 0, "spectral_weight": 0, "mel_weight": 0, "pan_weight": 1.0}
    trainer = SpectralTrainer(wide, stereo_pool, arguments(decoder_only=True, side_only=True, **only_pans))
    wide.decoder.mean.fill_(7.0)
    reports = [trainer.train_step() for _ in range(60)]
    assert np.mean([report["pan"] for report in reports[-5:]]) < 0.3 * reports[0]["pan"]
    # decoding a sound would have changed the running mean
    assert bool((wide.decoder.mean == 7.0).all())


@pytest.mark.parametrize("stereo_only", [{"side_only": True}, {"pan_weight": 1.0}])
def test_options_for_the_side_need_a_stereo_decoder(pool: SongPool, stereo_only: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="need a decoder that plays stereo"):
        SpectralTrainer(tiny_codec(), pool, arguments(**stereo_only))


def test_training_in_stereo_refuses_songs_without_stereo_files(pool: SongPool) -> None:
    trainer = SpectralTrainer(widened(tiny_codec(), 2 * RATE, 2), pool, arguments(decoder_only=True))
    with pytest.raises(ValueError, match="has no stereo.flac; render the corpus with --stereo-rate"):
        trainer.train_step()


def test_log_spectral_distance_to_a_louder_copy_is_the_difference_in_level() -> None:
    sound = np.random.default_rng(0).standard_normal((2, 20_000))
    # twice the amplitude is 6.02 dB
    assert log_spectral_distance(sound, 2 * sound) == pytest.approx(6.02, abs=0.01)


def test_level_differences_of_solo_notes_are_those_of_their_instruments_pans() -> None:
    time = np.arange(3 * 24_000) / 24_000
    # E4 in the first second, as chords; C5 in the second and third as pads, with a bass on it in the third
    chords = 0.1 * np.sin(2 * np.pi * 329.6 * time) * (time < 1)
    pads = 0.1 * np.sin(2 * np.pi * 523.3 * time) * (time >= 1)
    bass = 0.1 * np.sin(2 * np.pi * 523.3 * time + 1) * (time >= 2)
    notes = notes_alone({"chords": chords, "pads": pads, "bass": bass}, 24_000)
    assert [band for _, _, band in notes] == [16, 24]
    assert all(stop <= 20 for _, stop, _ in notes)
    stereo = np.stack([1.5 * chords + 0.5 * pads, 0.5 * chords + 1.5 * pads])
    differences = level_differences(stereo, notes, 24_000)
    # 1.5 to 0.5 is 9.5 dB
    np.testing.assert_allclose(differences, [9.5, -9.5], atol=0.1)


def test_a_sine_has_its_level_in_its_own_octave_only() -> None:
    time = np.arange(2 * 44_100) / 44_100
    levels = octave_levels(0.1 * np.sin(2 * np.pi * 1_000 * time), 44_100)
    # an amplitude of 0.1 is an RMS of −23 dBFS
    assert levels[OCTAVES.index(1000)] == pytest.approx(-23.0, abs=0.1)
    assert levels[OCTAVES.index(4000)] < -60
