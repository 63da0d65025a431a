"""What is measured of a voice, without anything learnt: whether and how high it sings, its level, and what begins.

Beside HuBERT on the path of the data, for the rhythm network. Features that were learnt from a few voices know less of
others; pitch, level and spectral flux (low-level descriptors, as speech research has them) do not depend on the voice.
Dimensions: N samples, S frames of measuring at 100 Hz, T frames of the tokenizer.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray
from transformers.audio_utils import mel_filter_bank, window_function

from .analysis import FRAME_RATE, fundamental_frequency
from .audio import Samples

Array = NDArray[np.float32]
# voicing, level, its rise, change of pitch with and without direction, pitch; rise of each range of bands
DESCRIPTORS = 10
WINDOW_SECONDS, MEL_BANDS, LOWEST_HZ = 0.032, 40, 60.0
FLUX_BANDS = (slice(0, 8), slice(8, 18), slice(18, 28), slice(28, 40))
# frames of measuring between which a rise counts, and frames of the tokenizer between which a change of pitch does
RISE_FRAMES, GLIDE_FRAMES = 3, 4
# levels count below that of the loudest twentieth of the clip, down to a floor; quieter clips are taken for silence
LOUD_QUANTILE, SILENT_DBFS, FLOOR_DB, BAND_FLOOR_DB = 0.95, -60.0, -50.0, -36.0
LARGEST_GLIDE, LARGEST_INTERVAL = 4.0, 18.0
# frames that are measured at once, and samples on both sides that their windows reach into, in frames
BLOCK_FRAMES, MARGIN_FRAMES = 3000, 10


def vocal_descriptors(samples: Samples, sampling_rate: int, frames: int, frame_rate: int) -> Array:
    """Measures a voice for each frame of a tokenizer.

    Args:
        samples (float32 [N], at `sampling_rate` Hz): mono.
        frames: T; behind the last sample there is silence.
        frame_rate: of these frames in Hz, a divisor of 100.

    Returns:
        float32 [T, 10], of the order of 1: share of the frame that has a pitch; level; rise of the level; change of
        pitch around the frame, and its size; pitch against the clip's median; spectral flux of four ranges of bands.

    Raises:
        ValueError: 100 is no multiple of `frame_rate`.
    """
    if FRAME_RATE % frame_rate:
        raise ValueError(f"Descriptors are measured {FRAME_RATE} times a second, no multiple of {frame_rate}.")
    if not frames:
        return np.zeros((0, DESCRIPTORS), np.float32)
    each = FRAME_RATE // frame_rate
    pitch, level = _pitch_and_level(samples, sampling_rate, frames * each)
    reference = max(float(np.quantile(level, LOUD_QUANTILE)), SILENT_DBFS)
    flux = _by_frame(_flux(samples, sampling_rate, frames * each, reference), each).max(axis=1)
    loudness = np.maximum(_by_frame(level, each).max(axis=1) - reference, FLOOR_DB)
    voiced = _by_frame(np.isfinite(pitch), each).mean(axis=1)
    semitones = _by_frame(12 * np.log2(pitch / 440.0), each)
    found = voiced > 0
    sung = np.full(frames, np.nan)
    sung[found] = np.nanmean(semitones[found], axis=1)
    interval = sung - (np.median(sung[found]) if found.any() else 0.0)
    glide = np.clip(_change(sung, GLIDE_FRAMES), -LARGEST_GLIDE, LARGEST_GLIDE)
    columns = [
        voiced,
        loudness / 20 + 1,
        np.maximum(_change(loudness, 2), 0.0) / 10,
        glide / 2,
        np.abs(glide) / 2,
        np.clip(interval, -LARGEST_INTERVAL, LARGEST_INTERVAL) / 6,
    ]
    # what has no pitch has no interval and no change either
    measured = np.nan_to_num(np.stack(columns, axis=1))
    return np.concatenate([measured, flux / (flux.std(axis=0) + 1e-6)], axis=1).astype(np.float32)


def _pitch_and_level(samples: Samples, sampling_rate: int, count: int) -> tuple[Array, Array]:
    """Pitch in Hz, NaN where there is none, and level in dBFS: float32 [S] each."""
    pitch, level = np.empty((2, count), np.float32)
    margin = MARGIN_FRAMES * sampling_rate // FRAME_RATE
    for start, stop in _blocks(count):
        around = _cut(samples, sampling_rate, start, stop, margin)
        pitch[start:stop] = fundamental_frequency(around, sampling_rate)[MARGIN_FRAMES : MARGIN_FRAMES + stop - start]
        level[start:stop] = _decibels((_windows(samples, sampling_rate, start, stop) ** 2).mean(axis=1))
    return pitch, level


def _flux(samples: Samples, sampling_rate: int, count: int, reference: float) -> Array:
    """By how many dB each range of bands has risen on average, as far as it is heard: float32 [S, 4]."""
    flux = np.zeros((count, len(FLUX_BANDS)), np.float32)
    for start, stop in _blocks(count):
        # the rise is put near the middle of what it is measured between
        windows = _windows(samples, sampling_rate, start + 1 - RISE_FRAMES, stop + 1)
        power = np.abs(np.fft.rfft(windows)) ** 2 @ _mel_filters(windows.shape[1], sampling_rate)
        heard = np.maximum(_decibels(power) - reference, BAND_FLOOR_DB)
        rise = np.maximum(heard[RISE_FRAMES:] - heard[:-RISE_FRAMES], 0.0)
        for number, part in enumerate(FLUX_BANDS):
            flux[start:stop, number] = rise[:, part].mean(axis=1)
    return flux


def _blocks(count: int) -> Iterator[tuple[int, int]]:
    """First and last frame of measuring, of as many as are measured at once."""
    for start in range(0, count, BLOCK_FRAMES):
        yield start, min(start + BLOCK_FRAMES, count)


def _windows(samples: Samples, sampling_rate: int, start: int, stop: int) -> Array:
    """The windows around these frames of measuring: float32 [stop − start, window]."""
    size = round(WINDOW_SECONDS * sampling_rate)
    around = _cut(samples, sampling_rate, start, stop, size // 2)
    windows = np.lib.stride_tricks.sliding_window_view(around, size)[:: sampling_rate // FRAME_RATE][: stop - start]
    shaped: Array = windows * window_function(size, "hann").astype(np.float32)
    return shaped


def _cut(samples: Samples, sampling_rate: int, start: int, stop: int, margin: int) -> Samples:
    """The samples of these frames of measuring and `margin` more on both sides, with silence beyond the ends."""
    hop = sampling_rate // FRAME_RATE
    first, last = start * hop - margin, stop * hop + margin
    inside = samples[max(first, 0) : max(last, 0)].astype(np.float32, copy=False)
    return np.pad(inside, (max(-first, 0), last - max(first, 0) - len(inside)))


@cache
def _mel_filters(size: int, sampling_rate: int) -> Array:
    filters: Array = mel_filter_bank(
        num_frequency_bins=size // 2 + 1,
        num_mel_filters=MEL_BANDS,
        min_frequency=LOWEST_HZ,
        max_frequency=sampling_rate / 2,
        sampling_rate=sampling_rate,
        mel_scale="slaney",
        norm="slaney",
    ).astype(np.float32)
    return filters


def _decibels(power: Array) -> Array:
    found: Array = 10 * np.log10(np.maximum(power, 1e-10)).astype(np.float32)
    return found


def _by_frame(values: np.ndarray, each: int) -> np.ndarray:
    """[T · each, …] → [T, each, …]."""
    return values.reshape(-1, each, *values.shape[1:])


def _change(values: np.ndarray, frames: int) -> np.ndarray:
    """By how much values ([T]) change over so many frames around each, less far at the ends: [T]."""
    at = np.arange(len(values))
    after = values[np.minimum(at + frames // 2, len(values) - 1)]
    changed: np.ndarray = after - values[np.maximum(at - frames // 2, 0)]
    return changed
