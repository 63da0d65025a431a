# SPDX-License-Identifier: Apache-2.0
"""Loudness, true peak, balance and the ends of a song."""

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hafm_hf import audio
from hafm_hf.audio.feature_extraction_hafm import HAFMFeatureExtractor
from hafm_hf.audio.levels import BLOCK
from vocals import glide

RATE = 44_100


def noise(seconds: float = 3.0, level: float = 0.1, seed: int = 0, channels: int = 1) -> np.ndarray:
    """White noise with an RMS of `level`: float32 [N] at RATE Hz, or [N, channels] if there are several."""
    samples = np.random.default_rng(seed).normal(0.0, level, (round(seconds * RATE), channels)).astype(np.float32)
    return samples[:, 0] if channels == 1 else samples


def knocks(seconds: float = 6.0) -> np.ndarray:
    """A quiet tone with a loud click twice a second, which needs much limiting: float32 [N] at RATE Hz."""
    sound = glide(seconds, RATE, amplitude=0.05)
    sound[:: RATE // 2] += 0.9
    return sound


def test_the_true_peak_lies_between_samples_and_does_not_depend_on_blocks() -> None:
    # a quarter of the rate, sampled at 45°: the samples reach 0.71 of the sine's peak
    sine = (0.5 * np.sin(np.pi / 2 * np.arange(BLOCK + 5000) + np.pi / 4)).astype(np.float32)
    # faded at both ends, as a cut has peaks of its own
    sine[:200] *= np.linspace(0, 1, 200, dtype=np.float32)
    sine[-200:] *= np.linspace(1, 0, 200, dtype=np.float32)
    assert audio.peak_dbfs(sine) == pytest.approx(-9.03, abs=0.01)
    for empty in (sine[:0], np.zeros((0, 2), np.float32)):
        assert audio.true_peak_dbtp(empty) == -math.inf
    assert audio.true_peak_dbtp(sine) == pytest.approx(-6.02, abs=0.02)
    # a peak between the last sample of one block and the first of the next
    across_blocks = np.zeros(BLOCK + 600, np.float32)
    across_blocks[BLOCK - 3 : BLOCK + 3] = [0.1, -0.4, 0.8, 0.8, -0.4, 0.1]
    within_a_block = across_blocks[BLOCK - 500 :]
    assert audio.true_peak_dbtp(across_blocks) == pytest.approx(audio.true_peak_dbtp(within_a_block), abs=1e-3)
    assert audio.true_peak_dbtp(across_blocks) > audio.peak_dbfs(across_blocks) + 1.0
    assert audio.true_peak_dbtp(np.zeros(100, np.float32)) == -math.inf


@pytest.mark.parametrize("target", [-23.0, -16.0, -10.0])
@pytest.mark.parametrize("sound", [noise(), noise(channels=2), knocks()], ids=["mono", "stereo", "knocks"])
def test_a_mix_has_the_requested_loudness_and_no_true_peak_above_the_ceiling(sound: np.ndarray, target: float) -> None:
    pytest.importorskip("pyloudnorm")
    mix = audio.to_loudness(sound, RATE, target)
    assert mix.dtype == np.float32
    assert mix.shape == sound.shape
    assert audio.loudness(mix, RATE) == pytest.approx(target, abs=0.5)
    assert audio.true_peak_dbtp(mix) <= -1.0 + 1e-3


def test_a_mix_that_needs_no_limiting_is_only_scaled_and_silence_is_unchanged() -> None:
    pytest.importorskip("pyloudnorm")
    quiet = noise(level=0.02)
    gains = audio.to_loudness(quiet, RATE, -23.0) / quiet
    assert np.ptp(gains) < 1e-5, "every sample has the same gain"
    silence = np.zeros(RATE, np.float32)
    assert audio.to_loudness(silence, RATE, -16.0) is silence


def test_a_balance_is_the_difference_in_loudness_in_the_mix() -> None:
    pytest.importorskip("pyloudnorm")
    voice = noise(level=0.05, channels=2)
    band = noise(level=0.2, seed=1)
    gain = audio.balance_gain_db(voice, band, RATE, -2.5)
    scaled = audio.with_channels(band, 2) * np.float32(audio.decibels_to_gain(gain))
    assert audio.loudness(voice, RATE) - audio.loudness(scaled, RATE) == pytest.approx(-2.5, abs=0.01)
    assert audio.balance_gain_db(voice, np.zeros_like(band), RATE, -2.5) == 0.0
    # a band so quiet that it gets the highest gain
    assert audio.balance_gain_db(voice, band * np.float32(0.004), RATE, -30.0) == 48.0


@pytest.mark.parametrize("channels", [1, 2])
def test_faded_ends_are_below_minus_50_decibels_and_the_middle_is_unchanged(channels: int) -> None:
    sound = noise(1.0, 0.2, channels=channels)
    # 5 and 20 ms
    edge = RATE * 5 // 1000
    fade = RATE * 20 // 1000
    faded = audio.fade_edges(sound, RATE)
    assert max(audio.peak_dbfs(faded[:edge]), audio.peak_dbfs(faded[-edge:])) < -50.0
    assert np.array_equal(faded[fade:-fade], sound[fade:-fade])
    assert audio.fade_edges(faded, RATE) is faded
    loud_at_its_end = np.concatenate([np.zeros(RATE, np.float32), noise(1.0, 0.2)])
    assert np.array_equal(audio.fade_edges(loud_at_its_end, RATE)[:-fade], loud_at_its_end[:-fade])


@pytest.mark.parametrize("tail", [0.0, 0.5])
def test_a_band_fades_the_same_in_pieces_and_as_a_whole(tail: float) -> None:
    band = noise(1.0, 0.2)
    whole = audio.fade_instrumental(band.copy(), RATE, 0, len(band), tail)
    pieces = []
    done = 0
    for piece in np.split(band.copy(), [100, 20_000, 43_500, 44_000]):
        pieces.append(audio.fade_instrumental(piece, RATE, done, len(band), tail))
        done += len(piece)
    assert np.array_equal(np.concatenate(pieces), whole)
    # the last 5 ms
    assert audio.peak_dbfs(whole[-220:]) < -50.0
    middle_of_tail = round((1.0 - tail / 2) * RATE)
    around = slice(middle_of_tail - 500, middle_of_tail + 500)
    if tail:
        # half of the amplitude
        assert audio.rms_dbfs(whole[around]) - audio.rms_dbfs(band[around]) == pytest.approx(-6.02, abs=0.3)


def test_pieces_are_resampled_like_the_whole() -> None:
    for sound in (glide(1.0, 24_000), np.stack([glide(1.0, 24_000)] * 2, axis=1)):
        pieces = audio.resample_pieces(np.split(sound, [1000, 1001, 20_000]), 24_000, RATE)
        together = np.concatenate(list(pieces))
        assert np.allclose(together[:RATE], audio.resample(sound, 24_000, RATE), atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2])
def test_mp3_is_written_at_the_audios_rate_or_the_highest_it_supports(tmp_path: Path, channels: int) -> None:
    for rate, written_rate in ((44_100, 44_100), (24_000, 24_000), (96_000, 48_000)):
        sound = audio.with_channels(glide(1.0, rate), channels)
        info = soundfile.info(audio.write_audio(tmp_path / f"{rate}.mp3", sound, rate))
        assert (info.format, info.samplerate, info.channels) == ("MP3", written_rate, channels)
        # a second
        assert info.frames == pytest.approx(written_rate, abs=2)
        decoded, _ = audio.read_audio(tmp_path / f"{rate}.mp3", min_seconds=0.9)
        expected = audio.resample(glide(1.0, rate), rate, written_rate)
        assert audio.rms_dbfs(decoded[: len(expected)] - expected[: len(decoded)]) < -35.0
    with pytest.raises(audio.HAFMAudioError, match=r"end it in \.wav, \.flac or \.mp3"):
        audio.write_audio(tmp_path / "song.ogg", glide(), 24_000)


def test_a_quiet_voice_is_raised_as_far_as_its_peak_allows() -> None:
    # a peak of −42 dBFS, an RMS of −45
    voice = glide(2.0, RATE, amplitude=10 ** (-42 / 20))
    assert audio.rms_dbfs(audio.turned_up(voice, RATE)) == pytest.approx(-21, abs=0.5)
    knock = voice.copy()
    knock[1000] = 0.5
    assert audio.peak_dbfs(audio.turned_up(knock, RATE)) == pytest.approx(-1, abs=0.01)


@pytest.mark.parametrize("peak_dbfs", [-30, -90], ids=["usual", "silent"])
def test_a_voice_of_usual_level_and_silence_are_left_as_they_are(peak_dbfs: float) -> None:
    voice = glide(2.0, RATE, amplitude=10 ** (peak_dbfs / 20))
    assert audio.turned_up(voice, RATE) is voice


def test_a_quiet_voice_is_prepared_at_the_usual_level_and_otherwise_like_a_louder_one() -> None:
    voice = glide(1.5, RATE)
    quiet = HAFMFeatureExtractor().prepare(voice * np.float32(0.01), RATE).samples
    usual = HAFMFeatureExtractor().prepare(voice, RATE).samples
    assert audio.rms_dbfs(quiet) == pytest.approx(-21, abs=0.5)
    assert np.corrcoef(quiet, usual)[0, 1] > 0.9999
