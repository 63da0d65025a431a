# SPDX-License-Identifier: Apache-2.0
"""Simulates a recording of a rendered sound: room, equaliser and level. Input and output are mono float arrays [N]."""

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq
from scipy.signal import fftconvolve

from hafm_hf.audio import rms_dbfs

# time before a room's first reflection
PREDELAY_SECONDS = 0.008
# of a random microphone: cut-off of its high-pass filter; number of points of its response, and the lowest one
LOW_CUT_HZ = 60
RESPONSE_POINTS = 7
LOWEST_POINT_HZ = 80
# share of the ceiling above which peaks are compressed
KNEE = 0.7


def room(
    audio: np.ndarray, sampling_rate: int, seconds: float, wet_db: float, generator: np.random.Generator
) -> np.ndarray:
    """Add a room: convolution with decaying noise.

    Args:
        audio (float [N]): dry sound.
        sampling_rate: in Hz.
        seconds: reverberation time (RT60).
        wet_db: level of the reverberation relative to the dry sound, in dB.
        generator: draws the noise.

    Returns:
        float [N]: dry sound plus room, of the same length and not delayed.
    """
    times = np.arange(int(seconds * sampling_rate)) / sampling_rate
    # noise that decays by 60 dB within `seconds`, silent before the first reflection
    response = generator.standard_normal(times.size) * 10 ** (-3 * times / seconds)
    response[: int(PREDELAY_SECONDS * sampling_rate)] = 0.0
    # a response of energy 1 would give the dry sound's level
    response *= 10 ** (wet_db / 20) / np.sqrt(np.sum(response**2))
    return audio + fftconvolve(audio, response)[: audio.size]


def equalise(
    audio: np.ndarray, sampling_rate: int, generator: np.random.Generator, strength_db: float = 3.0
) -> np.ndarray:
    """Simulate another microphone: a smooth random frequency response and a high-pass at 60 Hz.

    Args:
        audio (float [N]): the sound.
        sampling_rate: in Hz.
        generator: draws the response.
        strength_db: standard deviation of the response's points in dB.

    Returns:
        float [N]: the sound, not delayed.
    """
    length = next_fast_len(audio.size)
    # at least 1 Hz: 0 Hz has no logarithm
    frequency = np.maximum(rfftfreq(length, 1 / sampling_rate), 1.0)
    knots = np.geomspace(LOWEST_POINT_HZ, sampling_rate / 2, RESPONSE_POINTS)
    gain_db = np.interp(np.log(frequency), np.log(knots), generator.normal(0, strength_db, knots.size))
    # attenuation of a second-order high-pass
    gain_db -= 10 * np.log10(1 + (LOW_CUT_HZ / frequency) ** 4)
    return irfft(rfft(audio, length) * 10 ** (gain_db / 20), length)[: audio.size]


def to_level(
    audio: np.ndarray, level_db: float, active: np.ndarray | None = None, ceiling: float = 0.95
) -> np.ndarray:
    """Bring audio to a level and soft-clip peaks below a ceiling.

    Args:
        audio (float [N]): any level; silence is returned unchanged.
        level_db: target level in dBFS RMS.
        active (bool [N]): samples at which to measure the level, such as sung ones; None or all False: all samples.
        ceiling: amplitude that no sample of the result exceeds.

    Returns:
        float [N]: the audio; samples above 70 % of the ceiling are compressed smoothly.
    """
    measured_samples = audio
    if active is not None and active.any():
        measured_samples = audio[active]
    measured = rms_dbfs(measured_samples)
    if measured == -np.inf:
        return audio
    audio = audio * 10 ** ((level_db - measured) / 20)
    knee = KNEE * ceiling
    excess = np.abs(audio) - knee
    compressed = np.sign(audio) * (knee + (ceiling - knee) * np.tanh(excess / (ceiling - knee)))
    return np.where(excess > 0, compressed, audio)
