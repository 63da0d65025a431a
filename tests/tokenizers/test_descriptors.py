# SPDX-License-Identifier: Apache-2.0
"""Vocal descriptors: independent of gain and block size, at the right time, finite in silence."""

import numpy as np
import pytest

from hafm_hf.audio import Samples
from hafm_hf.tokenizers import pitch_contour
from hafm_hf.tokenizers.pitch_contour import DESCRIPTORS, VocalAnalyser, fundamental_frequency
from vocals import CODEC_RATE, glide

# of the audio, and frames per second of the tokenizer
RATE, FRAME_RATE = 16_000, 50


def measure(samples: Samples) -> np.ndarray:
    """The descriptors of audio at 16 kHz: float32 [T, DESCRIPTORS] at 50 Hz; a partial frame counts as a whole one."""
    analyser = VocalAnalyser(RATE, FRAME_RATE)
    frames = -(-len(samples) * FRAME_RATE // RATE)
    return analyser.describe(*analyser.measure(samples, frames))


def sung(*notes: tuple[float, float, float]) -> Samples:
    """3 s with a harmonic tone for each (Hz, start, end in s) and faint noise: float32 [N] at 16 kHz."""
    time = np.arange(3 * RATE) / RATE
    voice = np.zeros(len(time))
    for pitch, start, end in notes:
        inside = (time >= start) & (time < end)
        voice += inside * sum(np.sin(2 * np.pi * k * pitch * time) / k for k in range(1, 8))
    noise = 1e-4 * np.random.default_rng(0).normal(size=len(time))
    return (0.1 * voice + noise).astype(np.float32)


def test_pitch_voicing_and_onsets_are_found_where_they_are_sung() -> None:
    descriptors = measure(sung((220.0, 0.5, 1.5), (330.0, 1.5, 2.0), (247.0, 2.4, 2.9)))
    assert descriptors.shape == (150, DESCRIPTORS)
    assert descriptors.dtype == np.float32
    voiced, level, rise, glide, size, interval = descriptors[:, :6].T
    # frames of 20 ms: the notes last from frame 25 to 75, 75 to 100 and 120 to 145
    assert voiced[30:70].all()
    assert not voiced[103:117].any()
    assert not voiced[:23].any()
    assert level[30:98].min() > 0.8
    assert level[103:117].max() < -1.0
    # a fifth upwards at 1.5 s, and nothing in the middle of a note
    assert 74 <= glide.argmax() <= 76
    assert glide.max() == pytest.approx(2.0, abs=0.3)
    assert np.abs(glide[35:70]).max() < 0.1
    assert (size == np.abs(glide)).all()
    # in units of 6 semitones
    assert 6 * (interval[85] - interval[50]) == pytest.approx(12 * np.log2(330 / 220), abs=0.2)
    assert rise[:40].argmax() in (24, 25)
    assert rise[110:].argmax() + 110 in (119, 120)
    for flux in descriptors[:, 6:].T:
        assert abs(int(flux[10:60].argmax()) + 10 - 25) <= 1
        assert abs(int(flux[110:140].argmax()) + 110 - 120) <= 1


def test_gain_and_block_size_do_not_change_the_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    voice = sung((220.0, 0.3, 1.0), (262.0, 1.2, 2.8))
    whole = measure(voice)
    assert np.allclose(measure(0.25 * voice), whole, atol=2e-3)
    monkeypatch.setattr(pitch_contour, "BLOCK_FRAMES", 70)
    assert np.allclose(measure(voice), whole, atol=1e-5)


def test_descriptors_are_finite_in_silence_and_complete_for_short_clips() -> None:
    assert np.isfinite(measure(np.zeros(RATE, np.float32))).all()
    assert measure(np.zeros(0, np.float32)).shape == (0, DESCRIPTORS)
    # samples, around a frame of 320
    for length in (1, 319, 321, 1600):
        descriptors = measure(sung((220.0, 0.0, 3.0))[:length])
        assert descriptors.shape == (-(-length // 320), DESCRIPTORS)
        assert np.isfinite(descriptors).all()
    # noise far below any singing is not normalised to a high level
    faint_noise = 1e-5 * np.random.default_rng(1).normal(size=RATE).astype(np.float32)
    levels = measure(faint_noise)[:, 1]
    assert levels.max() < 0.0


def test_frame_rates_that_do_not_divide_the_descriptor_rate_are_refused() -> None:
    with pytest.raises(ValueError, match="frame_rate is 60; it must divide the 100 analysis"):
        VocalAnalyser(RATE, 60)


@pytest.mark.parametrize("rate", [16_000, 24_000, 44_100])
def test_pitch_of_a_glide_is_found_within_a_quarter_of_a_semitone(rate: int) -> None:
    pitch = fundamental_frequency(glide(2.0, rate), rate)
    time = np.arange(len(pitch)) / pitch_contour.FRAME_RATE
    # the pitch of `glide` over 2 s, in Hz
    true = 220.0 * 2.0 ** (time / 2.0) * (1.0 + 0.01 * np.sin(2 * np.pi * 5.5 * time))
    inner = slice(5, -5)
    cents = 1200.0 * np.log2(pitch[inner] / true[inner])
    assert len(pitch) == 201
    assert np.abs(cents).max() < 25.0


def test_a_tone_without_its_fundamental_is_not_an_octave_too_high() -> None:
    time = np.arange(CODEC_RATE) / CODEC_RATE
    tone = sum(np.sin(2 * np.pi * 110.0 * k * time) / k for k in (2, 3, 4, 5))
    pitch = fundamental_frequency((0.3 * np.asarray(tone)).astype(np.float32), CODEC_RATE)
    assert np.nanmedian(pitch) == pytest.approx(110.0, rel=0.01)


def test_noise_and_silence_have_no_pitch() -> None:
    noise = np.random.default_rng(0).normal(scale=0.1, size=CODEC_RATE).astype(np.float32)
    assert np.isnan(fundamental_frequency(noise, CODEC_RATE)).mean() > 0.9
    assert np.isnan(fundamental_frequency(np.zeros(5000, np.float32), CODEC_RATE)).all()
