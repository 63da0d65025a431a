# SPDX-License-Identifier: Apache-2.0
"""Low-level descriptors of a voice, nothing learnt: voicing, pitch, level and onset strength.

The rhythm network reads them beside HuBERT's features. Features learnt from a few voices transfer badly to others;
pitch, level and spectral flux do not depend on the voice.
Dimensions: N samples, S frames of measuring at 100 Hz, T frames of the tokenizer.
"""

import numpy as np
from numpy.typing import NDArray
from torch import nn
from transformers.audio_utils import window_function

from ..audio import Samples
from ..audio.analysis import FRAME_RATE, fundamental_frequency, mel_filters

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
# frames that are measured at once, some 20 ms of computing, and what their windows reach into on both sides
BLOCK_FRAMES, MARGIN_FRAMES = 500, 10


class HAFMVocalDescriptors(nn.Module):
    """Measures voices. It has no weights; it is a module so that hooks come between blocks.

    Args:
        sampling_rate: of the voices, in Hz.
        frame_rate: of the tokenizer, in Hz.

    Raises:
        ValueError: 100 is no multiple of `frame_rate`.
    """

    def __init__(self, sampling_rate: int, frame_rate: int) -> None:
        super().__init__()
        if FRAME_RATE % frame_rate:
            raise ValueError(f"Descriptors are measured {FRAME_RATE} times a second, no multiple of {frame_rate}.")
        self.sampling_rate, self.frame_rate = sampling_rate, frame_rate
        self.hop, self.size = sampling_rate // FRAME_RATE, round(WINDOW_SECONDS * sampling_rate)

    def described(self, pitch: Array, level: Array, bands: Array) -> Array:
        """What the rhythm network reads of a voice, of what `measured` says of it.

        Returns:
            float32 [T, 10], of the order of 1: share of the frame that has a pitch; level; rise of the level; change
            of pitch around the frame, and its size; pitch against the clip's median; spectral flux of four ranges of
            bands.
        """
        if not len(pitch):
            return np.zeros((0, DESCRIPTORS), np.float32)
        each = FRAME_RATE // self.frame_rate
        reference = max(float(np.quantile(level, LOUD_QUANTILE)), SILENT_DBFS)
        flux = _by_frame(_flux(bands, reference), each).max(axis=1)
        loudness = np.maximum(_by_frame(level, each).max(axis=1) - reference, FLOOR_DB)
        voiced = _by_frame(np.isfinite(pitch), each).mean(axis=1)
        sung = _mean_pitch(_by_frame(pitch, each))
        interval = sung - (np.nanmedian(sung) if voiced.any() else 0.0)
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

    def measured(self, samples: Samples, frames: int) -> tuple[Array, Array, Array]:
        """What `forward` says of a mono voice (float32 [N]), with silence behind it, in T frames of the tokenizer:
        float32 [S], [S], [S, 40]."""
        count = frames * (FRAME_RATE // self.frame_rate)
        pitch, level = np.empty((2, count), np.float32)
        bands = np.empty((count, MEL_BANDS), np.float32)
        for start in range(0, count, BLOCK_FRAMES):
            stop = min(start + BLOCK_FRAMES, count)
            pitch[start:stop], level[start:stop], bands[start:stop] = self(samples, start, stop)
        return pitch, level, bands

    def forward(self, samples: Samples, start: int, stop: int) -> tuple[Array, Array, Array]:
        """One block, frames of measuring `start` to `stop` of a voice (float32 [N]).

        Returns:
            of each frame the pitch in Hz, NaN where there is none, the level in dBFS and mel bands in dB: [n], [n],
            [n, 40].
        """
        around = self._cut(samples, start, stop, MARGIN_FRAMES * self.hop)
        pitch = fundamental_frequency(around, self.sampling_rate)[MARGIN_FRAMES : MARGIN_FRAMES + stop - start]
        windows = np.lib.stride_tricks.sliding_window_view(self._cut(samples, start, stop, self.size // 2), self.size)
        cut = windows[:: self.hop][: stop - start] * window_function(self.size, "hann").astype(np.float32)
        filters = mel_filters(self.size, self.sampling_rate, MEL_BANDS, LOWEST_HZ).astype(np.float32)
        power = np.abs(np.fft.rfft(cut)) ** 2 @ filters
        return pitch.astype(np.float32), _decibels((cut**2).mean(axis=1)), _decibels(power)

    def _cut(self, samples: Samples, start: int, stop: int, margin: int) -> Samples:
        """The samples of these frames of measuring and `margin` more on both sides, with silence beyond the ends."""
        first, last = start * self.hop - margin, stop * self.hop + margin
        inside = samples[max(first, 0) : max(last, 0)].astype(np.float32, copy=False)
        return np.pad(inside, (max(-first, 0), last - max(first, 0) - len(inside)))


def _decibels(power: Array) -> Array:
    found: Array = 10 * np.log10(np.maximum(power, 1e-10)).astype(np.float32)
    return found


def _flux(bands: Array, reference: float) -> Array:
    """By how much each range of bands (dB, float32 [S, 40]) has risen on average, as far as it is audible at all.

    Returns:
        float32 [S, 4]; the rise is put near the middle of what it is measured between.
    """
    audible = np.maximum(bands - reference, BAND_FLOOR_DB)
    rise = np.maximum(audible[RISE_FRAMES:] - audible[:-RISE_FRAMES], 0.0)
    flux = np.zeros((len(bands), len(FLUX_BANDS)), np.float32)
    for number, part in enumerate(FLUX_BANDS):
        flux[RISE_FRAMES - 1 : RISE_FRAMES - 1 + len(rise), number] = rise[:, part].mean(axis=1)
    return flux


def _mean_pitch(pitch: NDArray[np.float32]) -> NDArray[np.float64]:
    """Semitones above 440 Hz of the frames' pitches in Hz ([T, n]), on average of those there are: float64 [T]."""
    sung = np.full(len(pitch), np.nan)
    found = np.isfinite(pitch).any(axis=1)
    sung[found] = np.nanmean(12 * np.log2(pitch[found] / 440.0), axis=1)
    return sung


def _by_frame(values: np.ndarray, each: int) -> np.ndarray:
    """[T · each, …] → [T, each, …]."""
    return values.reshape(-1, each, *values.shape[1:])


def _change(values: np.ndarray, frames: int) -> np.ndarray:
    """By how much values ([T]) change over so many frames around each, less far at the ends: [T]."""
    at = np.arange(len(values))
    after = values[np.minimum(at + frames // 2, len(values) - 1)]
    changed: np.ndarray = after - values[np.maximum(at - frames // 2, 0)]
    return changed
