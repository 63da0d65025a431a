# SPDX-License-Identifier: Apache-2.0
"""Levels, and the mixing of voice and instrumental: gains, loudness, true peak, and fades at both ends.

Loudness is measured by pyloudnorm, which the extra `studio` brings. Shapes: [N] or [N, C]; a gain that moves, [N], is
multiplied with the transpose, whose last axis is time.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Iterator
from itertools import compress
from typing import Any

import numpy as np
import soxr

from .files import HAFMAudioError, Samples, with_channels

SILENCE_DBFS = -70.0
CEILING_DBFS = -1.0
# the longest window that pyloudnorm's gating needs (ITU-R BS.1770)
LOUDNESS_BLOCK_SECONDS = 0.4
# of ITU-R BS.1770-4, annex 2
OVERSAMPLING = 4
# window of the limiter's gain; samples on both sides of a block that the resampler's filter needs; samples of a block
LIMITER_SECONDS, FILTER_SAMPLES, BLOCK = 0.04, 256, 1 << 20
# limiting lowers the loudness, so that gain and limiter take turns
LIMITER_TURNS, LOUDNESS_TOLERANCE = 6, 0.1
LARGEST_GAIN_DB = 48.0
# the first quarter of the shortest fade is below this level
EDGE_SECONDS, EDGE_DBFS = 0.005, -50.0
FADE_SECONDS, FADE_POWER, TAIL_POWER = 4 * EDGE_SECONDS, 6, 2
# a fade this short hides the join of two sounds
JOIN_SECONDS = 0.02


def decibels_to_gain(decibels: float) -> float:
    """Amplitude factor of a level in dB: 6.02 dB double the amplitude."""
    return float(10.0 ** (decibels / 20.0))


def peak_dbfs(samples: Samples) -> float:
    """Largest absolute sample of float32 [N], in dB below full scale; -inf for silence."""
    return _to_decibels(max(float(samples.max(initial=0.0)), -float(samples.min(initial=0.0))))


def rms_dbfs(samples: Samples) -> float:
    """Root mean square of float32 [N], in dB below full scale; -inf for silence."""
    # block by block: squares of an hour in float64 would take a gigabyte
    blocks = (samples[start : start + BLOCK] for start in range(0, samples.size, BLOCK))
    total = sum(float(np.square(block, dtype=np.float64).sum()) for block in blocks)
    return _to_decibels(math.sqrt(total / samples.size) if samples.size else 0.0)


def _to_decibels(amplitude: float) -> float:
    return 20.0 * math.log10(amplitude) if amplitude > 0.0 else -math.inf


def is_silent(samples: Samples) -> bool:
    """Whether float32 [N] without its (inaudible) mean lies below -70 dBFS RMS."""
    if not samples.size:
        return True
    power = 10.0 ** (rms_dbfs(samples) / 10.0) - float(samples.mean(dtype=np.float64)) ** 2
    return power < 10.0 ** (SILENCE_DBFS / 10.0)


def limit_peak(samples: Samples) -> Samples:
    """Turns float32 [N] down as a whole until its peak is at most −1 dBFS; quieter sound is left as it is."""
    excess = peak_dbfs(samples) - CEILING_DBFS
    return samples if excess <= 0.0 else samples * np.float32(decibels_to_gain(-excess))


def loudness(samples: Samples, sampling_rate: int) -> float:
    """Integrated loudness in LUFS (ITU-R BS.1770-4) of float32 [N] or [N, C]; NaN below 0.4 s, −inf for silence."""
    if len(samples) < LOUDNESS_BLOCK_SECONDS * sampling_rate:
        return float("nan")
    with warnings.catch_warnings():
        # below the gate there is no loudness; it comes as -inf
        warnings.simplefilter("ignore")
        return float(_meter(sampling_rate).integrated_loudness(samples.astype(np.float64)))


@functools.cache
def _meter(sampling_rate: int) -> Any:
    import pyloudnorm

    return pyloudnorm.Meter(sampling_rate)


def true_peak_dbtp(samples: Samples) -> float:
    """Largest peak between the samples of float32 [N] or [N, C] as well, in dB below full scale; −inf for silence."""
    peak = max((float(block.max(initial=0.0)) for block in _true_peaks(samples)), default=0.0)
    return _to_decibels(peak)


def _true_peaks(samples: Samples) -> Iterator[np.ndarray]:
    """Largest value at and behind each sample, of all channels: float32 [n] block by block."""
    frames = samples.reshape(len(samples), -1)
    for start in range(0, len(frames), BLOCK):
        before = min(start, FILTER_SAMPLES)
        fine = soxr.resample(frames[start - before : start + BLOCK + FILTER_SAMPLES], 1, OVERSAMPLING, quality="HQ")
        count = min(BLOCK, len(frames) - start)
        peaks = np.abs(fine).max(axis=1)[before * OVERSAMPLING :][: count * OVERSAMPLING]
        between = np.pad(peaks, (0, count * OVERSAMPLING - len(peaks))).reshape(count, OVERSAMPLING).max(axis=1)
        yield np.maximum(between, np.abs(frames[start : start + count]).max(axis=1))


def mix_audio(
    vocal: Samples, instrumental: Samples, *, vocal_gain_db: float = 0.0, instrumental_gain_db: float = 0.0
) -> Samples:
    """Adds a vocal and an instrumental (float32 [N] or [N, C] each) of one rate after their gains in dB.

    A sum that would clip is turned down as a whole, so that the balance of the two stays as asked.

    Returns:
        float32 [N] or [N, C] in the channels of the one that has more, true peak at most −1 dBTP.

    Raises:
        HAFMAudioError: the two differ in length.
    """
    if len(vocal) != len(instrumental):
        raise HAFMAudioError(
            f"The vocal has {vocal.shape[0]} samples and the instrumental {instrumental.shape[0]}; "
            "bring them to one rate and length first."
        )
    channels = max(math.prod(sound.shape[1:]) for sound in (vocal, instrumental))
    mixed: Samples = with_channels(vocal, channels) * np.float32(decibels_to_gain(vocal_gain_db))
    gain = np.float32(decibels_to_gain(instrumental_gain_db))
    # in place and block by block: an hour of sound is copied as little as possible
    for start in range(0, len(mixed), BLOCK):
        mixed[start : start + BLOCK] += with_channels(instrumental[start : start + BLOCK], channels) * gain
    excess = true_peak_dbtp(mixed) - CEILING_DBFS
    if excess > 0.0:
        mixed *= np.float32(decibels_to_gain(-excess))
    return mixed


def balance_gain_db(vocal: Samples, instrumental: Samples, sampling_rate: int, balance: float) -> float:
    """The gain in dB after which an instrumental lies `balance` LU below its vocal, at most 48; 0 where one is silent.

    Raises:
        ModuleNotFoundError: without pyloudnorm.
    """
    channels = max(math.prod(sound.shape[1:]) for sound in (vocal, instrumental))
    voice, band = (loudness(with_channels(sound, channels), sampling_rate) for sound in (vocal, instrumental))
    gain = voice - band - balance
    return min(gain, LARGEST_GAIN_DB) if math.isfinite(gain) else 0.0


def to_loudness(samples: Samples, sampling_rate: int, lufs: float) -> Samples:
    """A mix at a loudness in LUFS, its true peaks limited to the ceiling; silence is left as it is.

    A mix that would be limited too much stays quieter than asked.

    Raises:
        ModuleNotFoundError: without pyloudnorm.
    """
    gain = lufs - loudness(samples, sampling_rate)
    if not math.isfinite(gain):
        return samples
    mix = samples
    for _ in range(LIMITER_TURNS):
        mix = _limited(samples * np.float32(decibels_to_gain(gain)), sampling_rate)
        missing = lufs - loudness(mix, sampling_rate)
        if abs(missing) < LOUDNESS_TOLERANCE:
            break
        gain += missing
    return mix


def _limited(samples: Samples, sampling_rate: int) -> Samples:
    """float32 [N] or [N, C] with a gain that goes down before each peak and comes back behind it."""
    from scipy.ndimage import minimum_filter1d, uniform_filter1d

    ceiling = decibels_to_gain(CEILING_DBFS)
    peaks = np.concatenate(list(_true_peaks(samples)))
    if float(peaks.max(initial=0.0)) <= ceiling:
        return samples
    width = 2 * round(LIMITER_SECONDS * sampling_rate / 2) + 1
    # the mean is of minima over windows that all hold its place, and so never above the gain that is needed
    gain = minimum_filter1d(ceiling / np.maximum(peaks, ceiling), width)
    gain = uniform_filter1d(gain, width)
    limited = (samples.T * gain.astype(np.float32)).T
    # the moving gain changes the curve between samples a little
    return limited * np.float32(decibels_to_gain(min(CEILING_DBFS - true_peak_dbtp(limited), 0.0)))


def fade_band(piece: Samples, sampling_rate: int, first: int, total: int, tail: float = 0.0) -> Samples:
    """A piece of an instrumental with fades where the song begins and ends.

    Args:
        piece (float32 [n] or [n, C]): of a song; changed in place.
        first: place of its first sample in the song.
        total: samples of the song.
        tail: seconds at its end that fade out.

    Returns:
        the piece: the song's first and last 5 ms are 50 dB below what they were.
    """
    for seconds, power, at_end in (
        (FADE_SECONDS, FADE_POWER, False),
        (FADE_SECONDS, FADE_POWER, True),
        (tail, TAIL_POWER, True),
    ):
        length = min(round(seconds * sampling_rate), total)
        start = total - length if at_end else 0
        low, high = max(start, first), min(start + length, first + len(piece))
        if low < high:
            place = np.arange(low - start, high - start)
            slope = np.sin(np.pi / 2 * (length - 1 - place if at_end else place) / length) ** power
            piece[low - first : high - first].T[:] *= slope.astype(np.float32)
    return piece


def fade_edges(samples: Samples, sampling_rate: int) -> Samples:
    """Sound (float32 [N] or [N, C]) faded over 20 ms at each end whose 5 ms are louder than −50 dBFS; else itself."""
    edge = round(EDGE_SECONDS * sampling_rate)
    length = min(round(FADE_SECONDS * sampling_rate), len(samples))
    loud = [peak_dbfs(part) > EDGE_DBFS for part in (samples[:edge], samples[len(samples) - edge :])]
    if any(loud):
        samples = samples.copy()
    for view in compress((samples, samples[::-1]), loud):
        slope = np.sin(np.pi / 2 * np.arange(length) / length) ** FADE_POWER
        view[:length].T[:] *= slope.astype(np.float32)
    return samples


def paste(sound: Samples, part: Samples, sampling_rate: int, first: int, last: int) -> Samples:
    """A copy of a sound (float32 [N] or [N, C]) with samples `first` to `last` of another, cross-faded within them."""
    fade = min(round(JOIN_SECONDS * sampling_rate), (last - first) // 2)
    gain, slope = np.ones(last - first, dtype=np.float32), np.linspace(0, 1, fade + 2, dtype=np.float32)[1:-1]
    gain[:fade] *= slope if first > 0 else 1
    gain[len(gain) - fade :] *= slope[::-1] if last < len(sound) else 1
    joined = sound.copy()
    joined[first:last] = (gain * part[first:last].T + (1 - gain) * sound[first:last].T).T
    return joined
