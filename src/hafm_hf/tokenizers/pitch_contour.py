# SPDX-License-Identifier: Apache-2.0
"""Signal-processing features of a vocal: pitch, level and onsets; notes; its pitch contour. Nothing here is learnt.

`HAFMVocalDescriptors` measures 100 times a second. Its descriptors are the input of the rhythm network, because
features learnt from a few voices transfer poorly to others, while pitch, level and spectral flux hardly depend on the
voice. The listener reads the pitch contour: pitch, level and onset strength, 50 times a second.

Pitch is estimated by YIN in plain NumPy, because libraries for it depend on a JIT compiler whose start-up every call
would wait for. Where it and SwiftF0 both find a pitch, they agree within half a semitone in 98 % of the frames of real
singers, at the same speed.
Dimensions: N samples, S analysis frames at 100 Hz, T frames of the tokenizer, P cells.
"""

import warnings
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers.audio_utils import mel_filter_bank, window_function

from ..audio import Samples
from ..lead_sheet.chords import PITCH_CLASSES
from .stopping import CheckStop, checked

Array = NDArray[np.float32]
Pitches = NDArray[np.float64]
# analysis frames a second
FRAME_RATE = 100
# from below a bass's lowest notes to a soprano's highest
F0_RANGE_HZ = (65.0, 1100.0)
F0_WINDOW_SECONDS = 0.05
# YIN's aperiodicity threshold, and the level below which a frame counts as unvoiced
F0_APERIODICITY = 0.15
F0_FLOOR_DBFS = -50.0
F0_FRAMES_AT_ONCE = 1000
# frames on both sides over which pitch is smoothed for notes, and the shortest note in frames
NOTE_SMOOTHING = 8
SHORTEST_NOTE = 8
# voicing, level and its rise, signed and absolute change of pitch, pitch; spectral flux of four ranges of bands
DESCRIPTORS = 10
WINDOW_SECONDS = 0.032
MEL_BANDS = 40
LOWEST_HZ = 60.0
FLUX_BANDS = (slice(0, 8), slice(8, 18), slice(18, 28), slice(28, 40))
# distances over which rises of bands (in analysis frames) and changes of pitch (in the tokenizer's) are measured
RISE_FRAMES = 3
CHANGE_FRAMES = 4
# levels are relative to a clip's 95th percentile, clipped to a floor; quiet clips are amplified, silent ones are not
LOUD_QUANTILE = 0.95
QUIET_DBFS = -21.0
SILENT_DBFS = -60.0
FLOOR_DB = -50.0
BAND_FLOOR_DB = -36.0
# frames analysed per call, some 20 ms of computing, and their context on both sides
BLOCK_FRAMES = 500
MARGIN_FRAMES = 10
CONTOUR_RATE = 50
# length in frames of the median filter that removes outliers from the pitch contour
VOTES = 5
# ranges of mel bands for onset strength: vowels, consonants
FLUX_RANGES = (slice(0, 18), slice(18, 40))
# parts of a harmony cell, features per pitch class and part, and further features per part
HARMONY_PARTS = 2
CLASS_NUMBERS = 2
PART_NUMBERS = 3
TIME_NUMBERS = 10
A4_HZ = 440.0
# weight of the prior that a voice is in tune with A4_HZ; it counts more the less its pitches agree
IN_TUNE = 0.4
# a held pitch moves by less than STILL semitones over HELD frames; exponent that assigns pitches to semitones
HELD = 9
STILL = 0.6
SHARPNESS = 3
GLIDE_FRAMES = 3
LARGEST_GLIDE = 4.0
LARGEST_INTERVAL = 18.0


def fundamental_frequency(samples: Samples, sampling_rate: int) -> Pitches:
    """Pitch of a single voice at 100 frames a second, by YIN (de Cheveigné and Kawahara, 2002).

    Args:
        samples (float32 [N], at `sampling_rate` Hz).

    Returns:
        float64 [1 + N // hop], in Hz; NaN in unvoiced frames.
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


def _yin(frames: Pitches, window: int, sampling_rate: int) -> Pitches:
    """Pitch in Hz of each frame (float64 [T, window + longest lag]): float64 [T], NaN if unvoiced."""
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


def midi_pitch(hertz: NDArray[Any]) -> NDArray[Any]:
    """Pitches of frequencies (float, any shape, Hz) in semitones: 69 at 440 Hz, NaN for NaN."""
    return 69 + 12 * np.log2(hertz / A4_HZ)


def sung_notes(samples: Samples, sampling_rate: int) -> list[tuple[float, float, int]]:
    """The notes of a single voice: start s, stop s and MIDI pitch (69 is 440 Hz) of each that lasts 80 ms or longer.

    Args:
        samples (float32 [N], at `sampling_rate` Hz).
    """
    with np.errstate(invalid="ignore"):
        pitch = midi_pitch(fundamental_frequency(samples, sampling_rate))
    # the median over a sixth of a second makes vibrato and slides round to the notes around them
    around = np.lib.stride_tricks.sliding_window_view(
        np.pad(pitch, NOTE_SMOOTHING, constant_values=np.nan), 2 * NOTE_SMOOTHING + 1
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        steady = np.where(np.isfinite(pitch), np.nanmedian(around, axis=1), np.nan)
    rounded = np.where(np.isfinite(steady), np.round(steady), -1).astype(int)
    borders = [0, *(np.flatnonzero(np.diff(rounded)) + 1), len(rounded)]
    spans = zip(borders, borders[1:], strict=False)
    frame = sampling_rate // FRAME_RATE / sampling_rate
    return [
        (first * frame, last * frame, int(rounded[first]))
        for first, last in spans
        if last - first >= SHORTEST_NOTE and rounded[first] >= 0
    ]


@cache
def mel_filters(size: int, sampling_rate: int, bands: int, lowest_hz: float) -> Pitches:
    """Slaney's mel filters up to the Nyquist frequency, for power spectra of windows of `size` samples: float64
    [1 + size // 2, bands]."""
    return mel_filter_bank(
        num_frequency_bins=size // 2 + 1,
        num_mel_filters=bands,
        min_frequency=lowest_hz,
        max_frequency=sampling_rate / 2,
        sampling_rate=sampling_rate,
        mel_scale="slaney",
        norm="slaney",
    )


class HAFMVocalDescriptors:
    """Analyses vocals.

    Args:
        sampling_rate: of the vocals, in Hz.
        frame_rate: of the tokenizer, in Hz.

    Raises:
        ValueError: 100 is not a multiple of `frame_rate`.
    """

    def __init__(self, sampling_rate: int, frame_rate: int) -> None:
        if FRAME_RATE % frame_rate:
            raise ValueError(f"frame_rate is {frame_rate}; it must divide the {FRAME_RATE} analysis frames a second.")
        self.sampling_rate = sampling_rate
        self.frame_rate = frame_rate
        self.hop = sampling_rate // FRAME_RATE
        self.size = round(WINDOW_SECONDS * sampling_rate)

    def described(self, pitch: Array, level: Array, bands: Array) -> Array:
        """Input of the rhythm network, computed from the output of `measured`.

        Returns:
            float32 [T, 10], of the order of 1: voiced fraction of the frame; level; rise of the level; signed and
            absolute change of pitch around the frame; pitch relative to the clip's median; spectral flux of four
            ranges of bands.
        """
        if not len(pitch):
            return np.zeros((0, DESCRIPTORS), np.float32)
        each = FRAME_RATE // self.frame_rate
        reference = max(float(np.quantile(level, LOUD_QUANTILE)), SILENT_DBFS)
        flux = _cells(_flux(bands, reference), each).max(axis=1)
        loudness = np.maximum(_cells(level, each).max(axis=1) - reference, FLOOR_DB)
        voiced = _cells(np.isfinite(pitch), each).mean(axis=1)
        sung = _mean_pitch(_cells(pitch, each))
        interval = sung - (np.nanmedian(sung) if voiced.any() else 0.0)
        glide = np.clip(_change(sung, CHANGE_FRAMES // 2), -LARGEST_GLIDE, LARGEST_GLIDE)
        columns = [
            voiced,
            loudness / 20 + 1,
            np.maximum(_change(loudness, 1), 0.0) / 10,
            glide / 2,
            np.abs(glide) / 2,
            np.clip(interval, -LARGEST_INTERVAL, LARGEST_INTERVAL) / 6,
        ]
        # NaN: unvoiced frames have no interval and no change of pitch
        measured = np.nan_to_num(np.stack(columns, axis=1))
        return np.concatenate([measured, flux / (flux.std(axis=0) + 1e-6)], axis=1).astype(np.float32)

    def measured(
        self, samples: Samples, frames: int, check_stop: CheckStop | None = None
    ) -> tuple[Array, Array, Array]:
        """Analyses a mono vocal (float32 [N]), padded with silence, over `frames` frames of the tokenizer, T: float32
        [S], [S], [S, 40], as from `block`; `check_stop` is called before each block."""
        samples = _audible(samples, self.hop)
        count = frames * (FRAME_RATE // self.frame_rate)
        pitch, level = np.empty((2, count), np.float32)
        bands = np.empty((count, MEL_BANDS), np.float32)
        for start in checked(range(0, count, BLOCK_FRAMES), check_stop):
            stop = min(start + BLOCK_FRAMES, count)
            pitch[start:stop], level[start:stop], bands[start:stop] = self.block(samples, start, stop)
        return pitch, level, bands

    def block(self, samples: Samples, start: int, stop: int) -> tuple[Array, Array, Array]:
        """Analyses one block, frames `start` to `stop` at 100 Hz, of a vocal (float32 [N]).

        Returns:
            the frames' pitches in Hz, NaN if unvoiced, levels in dBFS, and mel bands in dB: [n], [n], [n, 40].
        """
        around = self._cut(samples, start, stop, MARGIN_FRAMES * self.hop)
        pitch = fundamental_frequency(around, self.sampling_rate)[MARGIN_FRAMES : MARGIN_FRAMES + stop - start]
        windows = np.lib.stride_tricks.sliding_window_view(self._cut(samples, start, stop, self.size // 2), self.size)
        cut = windows[:: self.hop][: stop - start] * window_function(self.size, "hann").astype(np.float32)
        filters = mel_filters(self.size, self.sampling_rate, MEL_BANDS, LOWEST_HZ).astype(np.float32)
        power = np.abs(np.fft.rfft(cut)) ** 2 @ filters
        return pitch.astype(np.float32), _decibels((cut**2).mean(axis=1)), _decibels(power)

    def _cut(self, samples: Samples, start: int, stop: int, margin: int) -> Samples:
        """The samples of these analysis frames and `margin` more on both sides, padded with silence at the ends."""
        first, last = start * self.hop - margin, stop * self.hop + margin
        inside = samples[max(first, 0) : max(last, 0)].astype(np.float32, copy=False)
        return np.pad(inside, (max(-first, 0), last - max(first, 0) - len(inside)))


def _decibels(power: Array) -> Array:
    return 10 * np.log10(np.maximum(power, 1e-10)).astype(np.float32)


@dataclass(frozen=True)
class PitchContour:
    """Pitch, level and onset strength of a vocal, at 50 Hz.

    Attributes:
        midi (float32 [T]): pitch in semitones (69 is 440 Hz), NaN in unvoiced frames.
        level (float32 [T]): dB relative to the voice's 95th percentile, at least -50.
        flux (float32 [T, 2]): onset strengths of vowels and of consonants.
        heard (float32 or float16 [T, D], *optional*): features of a pretrained network, the composite's `ear`.
    """

    midi: Array
    level: Array
    flux: Array
    heard: Array | None = None

    def __len__(self) -> int:
        return len(self.midi)

    @cached_property
    def held(self) -> Array:
        """Smoothed pitch where a note is held, NaN where the voice slides or is silent: float32 [T]."""
        around = np.lib.stride_tricks.sliding_window_view(np.pad(self.midi, HELD // 2, constant_values=np.nan), HELD)
        still = around.max(axis=1) - around.min(axis=1) < STILL
        found = np.full(len(self), np.nan, np.float32)
        found[still] = np.median(around[still][:, 1:-1], axis=1)
        return found

    @cached_property
    def tuning(self) -> float:
        """Tuning relative to 440 Hz in semitones, -0.5 to 0.5; drawn towards 0 the less the pitches agree."""
        held = self.held[np.isfinite(self.held)]
        if len(held):
            sung = held
        else:
            sung = self.midi[np.isfinite(self.midi)]
        mean = np.exp(2j * np.pi * sung).mean() if len(sung) else 0.0
        return float(np.angle(mean + IN_TUNE * (1 - np.abs(mean))) / (2 * np.pi))

    def harmony_cells(self, each: int) -> Array:
        """Pitch-class features, corrected for the voice's tuning, in cells of `each` frames.

        For real singers 52 % of held pitches, but only 42 % of all pitches, belong to the current chord, so both kinds
        are features.

        Args:
            each: frames per cell, an even number.

        Returns:
            float32 [P, 12 · 4 + 6 + D]: for each pitch class from C, the fractions of the cell's first half in which
            it is held and in which it is sung, then those of the second half; after these, for each half, the voiced
            fraction, the largest onset strength, and the mean pitch relative to the voice's median; then `heard`.
        """
        part = each // HARMONY_PARTS
        sung = np.isfinite(self.midi)
        height = self._intervals() / LARGEST_INTERVAL
        classes = np.stack([self._classes(pitch, part) for pitch in (self.held, self.midi)], axis=2)
        whole = [_cells(sung, part).mean(1), _cells(self.flux.mean(1), part).max(1), _cells(height, part).mean(1)]
        extras = np.stack(whole, axis=1)
        count = -(-len(extras) // HARMONY_PARTS)
        missing = (0, count * HARMONY_PARTS - len(extras))
        classes = np.pad(classes, (missing, (0, 0), (0, 0))).reshape(count, HARMONY_PARTS, PITCH_CLASSES, -1)
        extras = np.pad(extras, (missing, (0, 0))).reshape(count, -1)
        cells = [classes.transpose(0, 2, 1, 3).reshape(count, -1), extras]
        return self._with_heard(np.concatenate(cells, axis=1), each)

    def _with_heard(self, cells: Array, each: int) -> Array:
        """Cells of `each` frames (float [P, F]), followed by the mean of `heard`, if there is any: float32."""
        if self.heard is None:
            parts = [cells]
        else:
            parts = [cells, _cells(self.heard.astype(np.float32), each).mean(1)]
        return np.concatenate(parts, axis=1).astype(np.float32)

    def _classes(self, pitch: Array, each: int) -> NDArray[np.float64]:
        """Fractions of cells in which each pitch class sounds: float64 [P, 12]."""
        sounds = np.isfinite(pitch)
        above = np.where(sounds, pitch, 0.0).astype(np.float64) - self.tuning
        below = np.floor(above).astype(np.int64)
        # a pitch between two semitones counts for both, mostly for the nearer
        odds = (above - below) / np.maximum(1 - (above - below), 1e-6)
        share = sounds * odds**SHARPNESS / (1 + odds**SHARPNESS)
        cell = np.arange(len(self)) // each
        found = np.zeros((-(-len(self) // each), PITCH_CLASSES))
        np.add.at(found, (cell, below % PITCH_CLASSES), sounds - share)
        np.add.at(found, (cell, (below + 1) % PITCH_CLASSES), share)
        return found / each

    def time_cells(self, each: int) -> Array:
        """Rhythmic features, in cells of `each` frames: float32 [P, 10 + D], of the order of 1.

        They are the voiced fraction; start and end of singing; signed and absolute change of pitch; pitch relative to
        the voice's median; level; rise of the level; onset strengths of vowels and of consonants; then `heard`.
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
        found = np.stack([getattr(_cells(values, each), how)(1) for values, how in columns], axis=1)
        return self._with_heard(found, each)

    def _intervals(self) -> Array:
        """Semitones above the voice's median, 0 in unvoiced frames: float32 [T]."""
        sung = np.isfinite(self.midi)
        above = np.where(sung, self.midi - (np.median(self.midi[sung]) if sung.any() else 0.0), 0.0)
        return np.clip(above, -LARGEST_INTERVAL, LARGEST_INTERVAL)


def _audible(samples: Samples, size: int) -> Samples:
    """Amplifies a quiet vocal (float32 [N]) to the level of one sung closer to the microphone, but not silence."""
    windows = samples[: len(samples) // size * size].reshape(-1, size)
    power = (windows.astype(np.float64) ** 2).mean(axis=1)
    loud = 0.0
    if len(power):
        loud = float(np.quantile(power, LOUD_QUANTILE)) ** 0.5
    quiet = 10 ** (SILENT_DBFS / 20) < loud < 10 ** (QUIET_DBFS / 20)
    if quiet:
        return samples * np.float32(10 ** (QUIET_DBFS / 20) / loud)
    return samples


def pitch_contour(pitch: Array, level: Array, bands: Array) -> PitchContour:
    """The pitch contour of a vocal at 50 Hz, from the output of `HAFMVocalDescriptors.measured` at 100 Hz."""
    each = FRAME_RATE // CONTOUR_RATE
    if not len(pitch):
        return PitchContour(*(np.zeros(shape, np.float32) for shape in (0, 0, (0, len(FLUX_RANGES)))))
    reference = float(np.quantile(level, LOUD_QUANTILE))
    audible = np.maximum(bands - reference, BAND_FLOOR_DB)
    rise = np.maximum(np.diff(audible, axis=0, prepend=audible[:1]), 0.0)
    flux = np.stack([_cells(rise[:, part].mean(1), each).max(1) for part in FLUX_RANGES], axis=1)
    loudness = np.maximum(_cells(level, each).max(1) - reference, FLOOR_DB)
    return PitchContour(_steady(pitch, each), loudness.astype(np.float32), normalised(flux))


def normalised(flux: NDArray[Any]) -> Array:
    """Onset strengths (float [T, 2]) in units of their standard deviations."""
    return (flux / (flux.std(axis=0) + 1e-6)).astype(np.float32)


def _steady(pitch: Array, each: int) -> Array:
    """Converts pitches in Hz to semitones, averaged over `each` frames and median-filtered: [T · each] → [T]."""
    midi = midi_pitch(_cells(pitch, each))
    found = np.full(len(midi), np.nan, np.float32)
    sung = np.isfinite(midi).any(axis=1)
    found[sung] = np.nanmean(midi[sung], axis=1)
    around = np.lib.stride_tricks.sliding_window_view(np.pad(found, VOTES // 2, constant_values=np.nan), VOTES)
    several = sung & (np.isfinite(around).sum(axis=1) > 1)
    steady = np.full(len(midi), np.nan, np.float32)
    steady[several] = np.nanmedian(around[several], axis=1)
    return steady


def _flux(bands: Array, reference: float) -> Array:
    """Spectral flux: mean rise of the audible part of each range of bands (dB, float32 [S, 40]): float32 [S, 4].
    Rises over three frames are assigned to one between them."""
    audible = np.maximum(bands - reference, BAND_FLOOR_DB)
    rise = np.maximum(audible[RISE_FRAMES:] - audible[:-RISE_FRAMES], 0.0)
    flux = np.zeros((len(bands), len(FLUX_BANDS)), np.float32)
    for number, part in enumerate(FLUX_BANDS):
        flux[RISE_FRAMES - 1 : RISE_FRAMES - 1 + len(rise), number] = rise[:, part].mean(axis=1)
    return flux


def _mean_pitch(pitch: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean of the voiced pitches in Hz ([T, n]) of each frame, in semitones above 440 Hz: float64 [T], or NaN."""
    sung = np.full(len(pitch), np.nan)
    found = np.isfinite(pitch).any(axis=1)
    sung[found] = np.nanmean(12 * np.log2(pitch[found] / 440.0), axis=1)
    return sung


def _filled(midi: Array) -> Array:
    """Pitches with unvoiced frames filled from the last voiced one."""
    sung = np.isfinite(midi)
    if not sung.any():
        return np.zeros_like(midi)
    last = np.maximum.accumulate(np.where(sung, np.arange(len(midi)), int(np.argmax(sung))))
    return midi[last]


def _cells(values: np.ndarray, each: int) -> np.ndarray:
    """[T, …] → [⌈T / each⌉, each, …], padded by repeating the last value."""
    missing = [(0, -len(values) % each)] + [(0, 0)] * (values.ndim - 1)
    return np.pad(values, missing, mode="edge").reshape(-1, each, *values.shape[1:])


def _change(values: np.ndarray, frames: int) -> np.ndarray:
    """Change of values ([T]) from `frames` before to `frames` after each, over shorter distances at the ends."""
    at = np.arange(len(values))
    return values[np.minimum(at + frames, len(values) - 1)] - values[np.maximum(at - frames, 0)]
