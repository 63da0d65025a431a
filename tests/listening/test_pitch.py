# SPDX-License-Identifier: Apache-2.0
"""What pictures show: pitch and spectra of sounds whose pitch and spectra are known."""

import numpy as np
import pytest

from hafm_hf.listening import pitch_line
from vocals import CODEC_RATE, glide


@pytest.mark.parametrize("rate", [16_000, 24_000, 44_100])
def test_pitch_of_a_glide_is_found_within_a_quarter_of_a_semitone(rate: int) -> None:
    pitch = pitch_line.fundamental_frequency(glide(2.0, rate), rate)
    time = np.arange(len(pitch)) / pitch_line.FRAME_RATE
    true = 220.0 * 2.0 ** (time / 2.0) * (1.0 + 0.01 * np.sin(2 * np.pi * 5.5 * time))
    inner = slice(5, -5)
    cents = 1200.0 * np.log2(pitch[inner] / true[inner])
    assert len(pitch) == 201
    assert np.abs(cents).max() < 25.0


def test_rich_tones_are_not_taken_for_their_octaves() -> None:
    time = np.arange(CODEC_RATE) / CODEC_RATE
    tone = sum(np.sin(2 * np.pi * 110.0 * k * time) / k for k in (2, 3, 4, 5))
    pitch = pitch_line.fundamental_frequency((0.3 * np.asarray(tone)).astype(np.float32), CODEC_RATE)
    assert np.nanmedian(pitch) == pytest.approx(110.0, rel=0.01)


def test_noise_and_silence_have_no_pitch() -> None:
    noise = np.random.default_rng(0).normal(scale=0.1, size=CODEC_RATE).astype(np.float32)
    assert np.isnan(pitch_line.fundamental_frequency(noise, CODEC_RATE)).mean() > 0.9
    assert np.isnan(pitch_line.fundamental_frequency(np.zeros(5000, np.float32), CODEC_RATE)).all()
