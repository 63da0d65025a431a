# SPDX-License-Identifier: Apache-2.0
"""Analysis of sound without a model: fundamental frequency, notes, keys.

For scores, and the pitch for what the rhythm network reads (`descriptors`). Pitch is estimated with NumPy alone,
because the libraries that do so bring a compiler with them that every call would wait for.
"""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
from numpy.typing import NDArray
from transformers.audio_utils import mel_filter_bank

from . import Samples

FRAME_RATE = 100
# one octave below a bass's lowest notes to one above a soprano's usual ones
F0_RANGE_HZ = (65.0, 1100.0)
F0_WINDOW_SECONDS = 0.05
# YIN's threshold of aperiodicity, and the level below which nothing is sung
F0_APERIODICITY = 0.15
F0_FLOOR_DBFS = -50.0
F0_FRAMES_AT_ONCE = 1000
# frames on both sides over which a note's pitch is smoothed, and frames of the shortest note
NOTE_SMOOTHING, SHORTEST_NOTE = 8, 8

Array = NDArray[np.float64]
# Krumhansl and Kessler (1982): how well each pitch class fits a major and a minor key, tonic first
MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)
KEYS = np.stack([np.roll(mode, tonic) for mode in (MAJOR, MINOR) for tonic in range(len(MAJOR))])
KEYS -= KEYS.mean(axis=1, keepdims=True)
KEYS /= np.linalg.norm(KEYS, axis=1, keepdims=True)


def key_fit(profile: Array) -> Array:
    """Correlation of a pitch-class profile (float64 [12]) with 24 keys: float64 [24], C major first, then minor."""
    centred = profile - profile.mean()
    length = float(np.linalg.norm(centred))
    return KEYS @ centred / length if length > 1e-9 else np.zeros(len(KEYS))


@cache
def mel_filters(size: int, sampling_rate: int, bands: int, lowest_hz: float) -> Array:
    """Slaney's mel filters up to half the rate, for power spectra of windows of `size` samples: float64
    [1 + size // 2, bands]."""
    filters: Array = mel_filter_bank(
        num_frequency_bins=size // 2 + 1,
        num_mel_filters=bands,
        min_frequency=lowest_hz,
        max_frequency=sampling_rate / 2,
        sampling_rate=sampling_rate,
        mel_scale="slaney",
        norm="slaney",
    )
    return filters


def fundamental_frequency(samples: Samples, sampling_rate: int) -> Array:
    """Pitch of a single voice at 100 frames a second, by YIN (de Cheveigné and Kawahara, 2002).

    Args:
        samples (float32 [N], at `sampling_rate` Hz).

    Returns:
        float64 [1 + N // hop], Hz; NaN where nothing is sung.
    """
    hop = sampling_rate // FRAME_RATE
    window = round(F0_WINDOW_SECONDS * sampling_rate)
    longest = round(sampling_rate / F0_RANGE_HZ[0])
    half = (window + longest) // 2
    padded = np.pad(samples.astype(np.float64), half)
    starts = np.arange(1 + len(samples) // hop) * hop
    pitches = []
    for first in range(0, len(starts), F0_FRAMES_AT_ONCE):
        index = starts[first : first + F0_FRAMES_AT_ONCE, None] + np.arange(2 * half)
        pitches.append(_yin(padded[np.minimum(index, len(padded) - 1)], window, sampling_rate))
    return np.concatenate(pitches)


def _yin(frames: Array, window: int, sampling_rate: int) -> Array:
    """Pitch of each frame (float64 [T, window + longest lag]) in Hz: float64 [T], NaN where there is none."""
    shortest = int(sampling_rate / F0_RANGE_HZ[1])
    longest = frames.shape[1] - window
    size = 1 << (frames.shape[1] + window - 1).bit_length()
    spectra = np.fft.rfft(frames, size)
    kernels = np.fft.rfft(frames[:, :window], size)
    correlation = np.fft.irfft(spectra * np.conj(kernels), size)[:, :longest]
    energy = np.concatenate([np.zeros((len(frames), 1)), np.cumsum(frames**2, axis=1)], axis=1)
    energy = energy[:, window : window + longest] - energy[:, :longest]
    difference = np.maximum(energy[:, :1] + energy - 2.0 * correlation, 0.0)
    # cumulative mean normalised difference, equation 8 of the paper
    lags = np.arange(1, longest)
    normalised = np.ones_like(difference)
    normalised[:, 1:] = difference[:, 1:] * lags / np.maximum(np.cumsum(difference[:, 1:], axis=1), 1e-12)
    normalised[:, :shortest] = np.inf
    below = normalised < F0_APERIODICITY
    # the minimum of the first dip below the threshold; a later, deeper one is a multiple of the period
    falling = np.append(normalised[:, 1:] < normalised[:, :-1], np.zeros((len(frames), 1), bool), axis=1)
    lag = np.argmax(below & ~falling, axis=1)
    rows = np.arange(len(frames))
    before, at, after = (normalised[rows, np.clip(lag + step, 0, longest - 1)] for step in (-1, 0, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        shift = 0.5 * (before - after) / (before - 2.0 * at + after)
    shift = np.where(np.isfinite(shift) & (np.abs(shift) <= 1.0), shift, 0.0)
    loud = energy[:, 0] / window > 10.0 ** (F0_FLOOR_DBFS / 10.0)
    with np.errstate(divide="ignore"):
        return np.where(loud & (lag >= shortest), sampling_rate / (lag + shift), np.nan)


def sung_notes(samples: Samples, sampling_rate: int) -> list[tuple[float, float, int]]:
    """The notes of a single voice: start s, stop s and MIDI pitch (69 is 440 Hz) of each that lasts 80 ms or longer.

    Args:
        samples (float32 [N], at `sampling_rate` Hz).
    """
    with np.errstate(invalid="ignore"):
        pitch = 69 + 12 * np.log2(fundamental_frequency(samples, sampling_rate) / 440.0)
    # vibrato and slides round to the note around them: the median over a sixth of a second, where there is one
    around = np.lib.stride_tricks.sliding_window_view(
        np.pad(pitch, NOTE_SMOOTHING, constant_values=np.nan), 2 * NOTE_SMOOTHING + 1
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        steady = np.where(np.isfinite(pitch), np.nanmedian(around, axis=1), np.nan)
    rounded = np.where(np.isfinite(steady), np.round(steady), -1).astype(int)
    borders = [0, *(np.flatnonzero(np.diff(rounded)) + 1), len(rounded)]
    spans = zip(borders, borders[1:], strict=False)
    return [
        (first / FRAME_RATE, last / FRAME_RATE, int(rounded[first]))
        for first, last in spans
        if last - first >= SHORTEST_NOTE and rounded[first] >= 0
    ]
