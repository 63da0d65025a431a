# SPDX-License-Identifier: Apache-2.0
"""The pitch line of a voice: how high it sings, how loud it is and what begins, 50 times a second.

The first thing that is heard on the path of the data, before `modeling_listener`. Pitch is YIN's
(`audio.analysis.fundamental_frequency`): where it and SwiftF0 both find a pitch, they agree within half a semitone in
98 % of real singers' frames, at the same speed. Dimensions: N samples, T frames, P cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio.analysis import FRAME_RATE as MEASURING_RATE
from ..lead_sheet.chords import PITCH_CLASSES
from .descriptors import BAND_FLOOR_DB, FLOOR_DB, LOUD_QUANTILE

Array = NDArray[np.float32]
LINE_RATE = 50
# frames over which single wrong pitches are voted down
VOTES = 5
# ranges of mel bands in which beginnings count: vowels, consonants
FLUX_RANGES = (slice(0, 18), slice(18, 40))
# parts of a cell of harmony, what is said of each pitch class in each part, and of the part as a whole
HARMONY_PARTS, CLASS_NUMBERS, PART_NUMBERS = 2, 2, 3
HARMONY_NUMBERS = HARMONY_PARTS * (PITCH_CLASSES * CLASS_NUMBERS + PART_NUMBERS)
TIME_NUMBERS = 10
# how much another measure of pitch counts in what is held and in what is sung
ALSO_WEIGHTS = (0.4, 0.7)
# frames over which a pitch that is held moves less than so many semitones
HELD, STILL, SHARPNESS = 9, 0.6, 3
GLIDE_FRAMES = 3
LARGEST_GLIDE, LARGEST_INTERVAL = 4.0, 18.0


@dataclass(frozen=True)
class PitchLine:
    """What is measured of a voice.

    Attributes:
        midi (float32 [T]): pitch in semitones (69 is 440 Hz), NaN where nothing is sung.
        level (float32 [T]): dB below the loudest twentieth of the voice, at least -50.
        flux (float32 [T, 2]): how strongly vowels and consonants begin.
    """

    midi: Array
    level: Array
    flux: Array

    def __len__(self) -> int:
        return len(self.midi)

    @cached_property
    def held(self) -> Array:
        """Pitches where a note is held: vibrato taken out, NaN where the voice slides or is silent. float32 [T]."""
        around = np.lib.stride_tricks.sliding_window_view(np.pad(self.midi, HELD // 2, constant_values=np.nan), HELD)
        still = around.max(axis=1) - around.min(axis=1) < STILL
        found = np.full(len(self), np.nan, np.float32)
        found[still] = np.median(around[still][:, 1:-1], axis=1)
        return found

    @cached_property
    def tuning(self) -> float:
        """By how many semitones the voice as a whole lies above 440 Hz's scale, -0.5 to 0.5."""
        held = self.held[np.isfinite(self.held)]
        sung = held if len(held) else self.midi[np.isfinite(self.midi)]
        return float(np.angle(np.exp(2j * np.pi * sung).sum()) / (2 * np.pi)) if len(sung) else 0.0

    def harmony_cells(self, each: int, also: Array | None = None) -> Array:
        """Pitch classes in tune with the voice itself, in cells of so many frames (an even number).

        Of real singers 52 % of what they hold, but 42 % of all that they sing, belongs to the chord of the moment:
        both are told.

        Args:
            each: frames of a cell.
            also (float32 [T', 12], *optional*): how likely each pitch class is sung by another measure; the two are
                weighed, since they are wrong in different places.

        Returns:
            float32 [P, 12 · 4 + 6]: for each pitch class from C the share of the first half of the cell in which it is
            held and in which it is sung, and of the second half; then of the two halves the share in which anything
            is sung, the strongest beginning, and the mean height against the voice's median.
        """
        part = each // HARMONY_PARTS
        sung, height = np.isfinite(self.midi), self._intervals() / LARGEST_INTERVAL
        classes = np.stack([self._classes(pitch, part) for pitch in (self.held, self.midi)], axis=2)
        if also is not None and len(also):
            other = np.stack([_cells(column, part).mean(1) for column in also.T], axis=1)
            # as long as the line
            other = other[np.minimum(np.arange(len(classes)), len(other) - 1), :, None]
            classes += np.array(ALSO_WEIGHTS) * (other - classes)
        whole = [_cells(sung, part).mean(1), _cells(self.flux.mean(1), part).max(1), _cells(height, part).mean(1)]
        extras = np.stack(whole, axis=1)
        count = -(-len(extras) // HARMONY_PARTS)
        missing = (0, count * HARMONY_PARTS - len(extras))
        classes = np.pad(classes, (missing, (0, 0), (0, 0))).reshape(count, HARMONY_PARTS, PITCH_CLASSES, -1)
        extras = np.pad(extras, (missing, (0, 0))).reshape(count, -1)
        cells = [classes.transpose(0, 2, 1, 3).reshape(count, -1), extras]
        return np.concatenate(cells, axis=1).astype(np.float32)

    def _classes(self, pitch: Array, each: int) -> NDArray[np.float64]:
        """Shares of cells in which each pitch class sounds: float64 [P, 12]."""
        sounds = np.isfinite(pitch)
        above = np.where(sounds, pitch, 0.0).astype(np.float64) - self.tuning
        below = np.floor(above).astype(np.int64)
        # what lies between two semitones counts for both, nearly all for the nearer one
        odds = (above - below) / np.maximum(1 - (above - below), 1e-6)
        share = sounds * odds**SHARPNESS / (1 + odds**SHARPNESS)
        cell, found = np.arange(len(self)) // each, np.zeros((-(-len(self) // each), PITCH_CLASSES))
        np.add.at(found, (cell, below % PITCH_CLASSES), sounds - share)
        np.add.at(found, (cell, (below + 1) % PITCH_CLASSES), share)
        shares: NDArray[np.float64] = found / each
        return shares

    def time_cells(self, each: int) -> Array:
        """What says where beats are, in cells of so many frames: float32 [P, 10], of the order of 1.

        Share of the cell that is sung; singing that begins and that ends; change of pitch around it, and its size;
        height against the voice's median; level; rise of the level; beginnings of vowels and of consonants.
        """
        sung = np.isfinite(self.midi).astype(np.float32)
        filled = _filled(self.midi)
        glide = np.clip(_change(filled, GLIDE_FRAMES), -LARGEST_GLIDE, LARGEST_GLIDE)
        turn = np.append(0.0, np.diff(sung))
        columns = [
            (sung, "mean"),
            (np.maximum(turn, 0.0), "max"),
            (np.maximum(-turn, 0.0), "max"),
            (glide / 2, "mean"),
            (np.abs(glide) / 2, "max"),
            (self._intervals() / 6, "mean"),
            (self.level / 20 + 1, "max"),
            (np.maximum(_change(self.level, 2), 0.0) / 10, "max"),
            (self.flux[:, 0], "max"),
            (self.flux[:, 1], "max"),
        ]
        return np.stack([getattr(_cells(values, each), how)(1) for values, how in columns], axis=1).astype(np.float32)

    def _intervals(self) -> Array:
        """Semitones above the voice's median, 0 where nothing is sung: float32 [T]."""
        sung = np.isfinite(self.midi)
        above = np.where(sung, self.midi - (np.median(self.midi[sung]) if sung.any() else 0.0), 0.0)
        return np.clip(above, -LARGEST_INTERVAL, LARGEST_INTERVAL)


def pitch_line(pitch: Array, level: Array, bands: Array) -> PitchLine:
    """The line of a voice that `HAFMVocalDescriptors.measured` has measured at 100 Hz: half as many frames."""
    each = MEASURING_RATE // LINE_RATE
    if not len(pitch):
        return PitchLine(*(np.zeros(shape, np.float32) for shape in (0, 0, (0, len(FLUX_RANGES)))))
    reference = float(np.quantile(level, LOUD_QUANTILE))
    audible = np.maximum(bands - reference, BAND_FLOOR_DB)
    rise = np.maximum(np.diff(audible, axis=0, prepend=audible[:1]), 0.0)
    flux = np.stack([_cells(rise[:, part].mean(1), each).max(1) for part in FLUX_RANGES], axis=1)
    loudness = np.maximum(_cells(level, each).max(1) - reference, FLOOR_DB)
    return PitchLine(_steady(pitch, each), loudness.astype(np.float32), normalised(flux))


def normalised(flux: NDArray[Any]) -> Array:
    """Beginnings (float [T, 2]) in standard deviations."""
    found: Array = (flux / (flux.std(axis=0) + 1e-6)).astype(np.float32)
    return found


def _steady(pitch: Array, each: int) -> Array:
    """Pitches in Hz as semitones, each the median of those around it: [T · each] → [T]."""
    midi = 69 + 12 * np.log2(_cells(pitch, each) / 440.0)
    found = np.full(len(midi), np.nan, np.float32)
    sung = np.isfinite(midi).any(axis=1)
    found[sung] = np.nanmean(midi[sung], axis=1)
    around = np.lib.stride_tricks.sliding_window_view(np.pad(found, VOTES // 2, constant_values=np.nan), VOTES)
    several = sung & (np.isfinite(around).sum(axis=1) > 1)
    steady = np.full(len(midi), np.nan, np.float32)
    steady[several] = np.nanmedian(around[several], axis=1)
    return steady


def _filled(midi: Array) -> Array:
    """Pitches with the last one that was sung where nothing is."""
    sung = np.isfinite(midi)
    if not sung.any():
        return np.zeros_like(midi)
    last = np.maximum.accumulate(np.where(sung, np.arange(len(midi)), int(np.argmax(sung))))
    return midi[last]


def _cells(values: np.ndarray, each: int) -> np.ndarray:
    """[T] → [⌈T / each⌉, each], the last value repeated."""
    return np.pad(values, (0, -len(values) % each), mode="edge").reshape(-1, each)


def _change(values: np.ndarray, frames: int) -> np.ndarray:
    """By how much values ([T]) change between so many frames before and behind each, less far at the ends."""
    at = np.arange(len(values))
    changed: np.ndarray = values[np.minimum(at + frames, len(values) - 1)] - values[np.maximum(at - frames, 0)]
    return changed
