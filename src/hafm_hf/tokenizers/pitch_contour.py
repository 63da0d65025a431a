# SPDX-License-Identifier: Apache-2.0
"""Signal-processing features of a vocal: pitch, level, onsets, notes and pitch contour. Nothing here is learnt.

`VocalAnalyser` measures 100 times a second. Its descriptors are the input of the rhythm network, because
features learnt from a few voices transfer poorly to others, while pitch, level and spectral flux hardly depend on the
voice. The listener reads the pitch contour: pitch, level and onset strength, 50 times a second.

Pitch is estimated by YIN in plain NumPy, because libraries for it depend on a JIT compiler whose start-up every call
would wait for. Where it and SwiftF0 both find a pitch, they agree within half a semitone in 98 % of the frames of real
singers, at the same speed.
Dimensions: N samples, F analysis frames at 100 Hz, T frames of the tokenizer or of the contour (50 Hz), D width of the
features of the ear (an optional pretrained network). Unvoiced frames, without a pitch, have NaN.
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
from ..stopping import CheckStop, stoppable

Array = NDArray[np.float32]
# start and stop in seconds, and MIDI pitch: 69 is 440 Hz
Note = tuple[float, float, int]
Float64Array = NDArray[np.float64]
# analysis frames a second
FRAME_RATE = 100
# range of pitches: from below a bass's lowest notes to a soprano's highest
F0_RANGE_HZ = (65.0, 1100.0)
F0_WINDOW_SECONDS = 0.05
# YIN's aperiodicity threshold, and the level below which a frame counts as unvoiced
F0_APERIODICITY = 0.15
F0_FLOOR_DBFS = -50.0
# analysed per call: ten seconds
F0_FRAMES_AT_ONCE = 1000
# frames on both sides over which pitch is smoothed for notes, and the shortest note in frames
NOTE_SMOOTHING = 8
SHORTEST_NOTE = 8
# numbers per frame that `VocalAnalyser.describe` returns
DESCRIPTORS = 10
# of the spectra: window, mel bands and their lowest frequency, ranges of bands whose flux is a descriptor
WINDOW_SECONDS = 0.032
MEL_BANDS = 40
LOWEST_HZ = 60.0
FLUX_BANDS = (slice(0, 8), slice(8, 18), slice(18, 28), slice(28, 40))
# distances over which rises of bands (in analysis frames) and changes of pitch (in the tokenizer's) are measured
RISE_FRAMES = 3
CHANGE_FRAMES = 4
# levels are relative to a clip's 95th percentile, clipped to a floor; quiet clips are amplified, silent ones are not
LOUD_QUANTILE = 0.95
USUAL_DBFS = -21.0
SILENT_DBFS = -60.0
FLOOR_DB = -50.0
BAND_FLOOR_DB = -36.0
# frames analysed per call, some 20 ms of computing, and their context on both sides
BLOCK_FRAMES = 500
MARGIN_FRAMES = 10
# frames of the pitch contour a second
CONTOUR_RATE = 50
# length in frames of the median filter that removes outliers from the pitch contour
VOTES = 5
# ranges of mel bands for onset strength: vowels, consonants
FLUX_RANGES = (slice(0, 18), slice(18, 40))
# of `harmony_cells`: parts of a cell, features per part and pitch class, further features per part; of `time_cells`:
# features per cell
HARMONY_PARTS = 2
CLASS_FEATURES = 2
PART_FEATURES = 3
TIME_FEATURES = 10
A4_HZ = 440.0
# weight of the prior that a voice is in tune with A4_HZ; it counts more the less its pitches agree
IN_TUNE = 0.4
# a held pitch moves by less than STILL semitones over HELD frames; the larger SHARPNESS, the more a pitch between two
# semitones counts for the nearer one
HELD = 9
STILL = 0.6
SHARPNESS = 3
# frames of the contour on both sides over which a glide and a rise of the level are measured
GLIDE_FRAMES = 3
RISE_CONTOUR_FRAMES = 2
# limits of changes of pitch, and of pitches relative to the median, in semitones
LARGEST_GLIDE = 4.0
LARGEST_INTERVAL = 18.0


def fundamental_frequency(samples: Samples, sampling_rate: int, check_stop: CheckStop | None = None) -> Float64Array:
    """Pitch of a single voice at 100 frames a second, by YIN (de Cheveigné and Kawahara, 2002).

    Args:
        samples (float32 [N] at `sampling_rate` Hz): the voice.
        sampling_rate: in Hz.
        check_stop: called every ten seconds of the voice; an exception that it raises ends the analysis.

    Returns:
        float64 [1 + N // hop], hop = `sampling_rate` // 100, in Hz; NaN in unvoiced frames.
    """
    hop = sampling_rate // FRAME_RATE
    window = round(F0_WINDOW_SECONDS * sampling_rate)
    longest_lag = round(sampling_rate / F0_RANGE_HZ[0])
    # frames are centred on their time, with silence around the vocal
    half = (window + longest_lag) // 2
    padded = np.pad(samples.astype(np.float64), half)
    starts = np.arange(1 + len(samples) // hop) * hop
    pitches = []
    for first in stoppable(range(0, len(starts), F0_FRAMES_AT_ONCE), check_stop):
        # of samples, [frames, samples per frame]; beyond the padding, its last sample is repeated
        index = starts[first : first + F0_FRAMES_AT_ONCE, None] + np.arange(2 * half)
        pitches.append(_yin(padded[np.minimum(index, len(padded) - 1)], window, sampling_rate))
    return np.concatenate(pitches)


def _yin(frames: Float64Array, window: int, sampling_rate: int) -> Float64Array:
    """Pitch in Hz of each frame, by YIN: float64 [frames], NaN if unvoiced.

    Args:
        frames (float64 [frames, window + longest lag]): samples of each frame.
        window: number of samples that are compared with as many at each lag.
        sampling_rate: in Hz.
    """
    # lags in samples, between which the period is sought
    shortest = int(sampling_rate / F0_RANGE_HZ[1])
    longest = frames.shape[1] - window
    # correlation of a frame's first window with the one at each lag, [frames, longest]
    size = 1 << (frames.shape[1] + window - 1).bit_length()
    spectra = np.fft.rfft(frames, size)
    kernels = np.fft.rfft(frames[:, :window], size)
    correlation = np.fft.irfft(spectra * np.conj(kernels), size)[:, :longest]
    # energy of the window at each lag, [frames, longest], from the energy before each sample
    energy_before = np.concatenate([np.zeros((len(frames), 1)), np.cumsum(frames**2, axis=1)], axis=1)
    energy = energy_before[:, window : window + longest] - energy_before[:, :longest]
    difference = np.maximum(energy[:, :1] + energy - 2.0 * correlation, 0.0)
    # cumulative mean normalised difference, equation 8 of the paper
    lags = np.arange(1, longest)
    normalised = np.ones_like(difference)
    normalised[:, 1:] = difference[:, 1:] * lags / np.maximum(np.cumsum(difference[:, 1:], axis=1), 1e-12)
    normalised[:, :shortest] = np.inf

    below = normalised < F0_APERIODICITY
    # the period is the minimum of the first dip below the threshold; later, deeper ones are multiples of it
    falling = np.append(normalised[:, 1:] < normalised[:, :-1], np.zeros((len(frames), 1), bool), axis=1)
    lag = np.argmax(below & ~falling, axis=1)  # [frames], 0 without a dip
    rows = np.arange(len(frames))
    value_before = normalised[rows, np.clip(lag - 1, 0, longest - 1)]
    value_at_lag = normalised[rows, lag]
    value_after = normalised[rows, np.clip(lag + 1, 0, longest - 1)]
    # from the lag to the vertex of a parabola through the three; 0 where there is none, for equal or infinite values
    with np.errstate(invalid="ignore", divide="ignore"):
        shift = 0.5 * (value_before - value_after) / (value_before - 2.0 * value_at_lag + value_after)
    shift = np.where(np.isfinite(shift) & (np.abs(shift) <= 1.0), shift, 0.0)

    loud = energy[:, 0] / window > 10.0 ** (F0_FLOOR_DBFS / 10.0)
    # lag 0, which stands for no dip, is replaced by NaN
    with np.errstate(divide="ignore"):
        return np.where(loud & (lag >= shortest), sampling_rate / (lag + shift), np.nan)


def midi_pitch(hertz: NDArray[Any]) -> NDArray[Any]:
    """MIDI pitches, in semitones with fractions, of frequencies in Hz (any shape): 69 for 440 Hz, NaN for NaN."""
    return 69 + 12 * np.log2(hertz / A4_HZ)


def sung_notes(samples: Samples, sampling_rate: int, check_stop: CheckStop | None = None) -> list[Note]:
    """The notes of a single voice, as from `notes_of_pitches`; a quiet recording is amplified first.

    Args:
        samples (float32 [N] at `sampling_rate` Hz): the voice.
        sampling_rate: in Hz.
        check_stop: called between pieces of the work; an exception that it raises ends it.
    """
    hop = sampling_rate // FRAME_RATE
    # in Hz, one for each hop
    pitches = fundamental_frequency(_amplified_if_quiet(samples, hop), sampling_rate, check_stop)
    return notes_of_pitches(pitches, hop / sampling_rate)


def notes_of_pitches(hertz: NDArray[Any], frame_seconds: float = 1 / FRAME_RATE) -> list[Note]:
    """The notes of a voice that last 80 ms (`SHORTEST_NOTE` frames) or longer.

    Args:
        hertz (float [F]): pitch of each frame in Hz, NaN if unvoiced.
        frame_seconds: from one frame to the next, about 0.01 s.

    Returns:
        (start in seconds, end in seconds, MIDI pitch) of each note.
    """
    if not len(hertz):
        return []
    pitch = midi_pitch(hertz)
    # [F, frames around]: with the median over a sixth of a second, vibrato and slides round to the notes around them
    around = np.lib.stride_tricks.sliding_window_view(
        np.pad(pitch, NOTE_SMOOTHING, constant_values=np.nan), 2 * NOTE_SMOOTHING + 1
    )
    with warnings.catch_warnings():
        # about medians of frames without a voiced one around them, which are NaN
        warnings.simplefilter("ignore", RuntimeWarning)
        steady = np.where(np.isfinite(pitch), np.nanmedian(around, axis=1), np.nan)
    # MIDI pitches, −1 in unvoiced frames; a note is a run of frames of one pitch
    rounded = np.where(np.isfinite(steady), np.round(steady), -1).astype(int)
    borders = [0, *(np.flatnonzero(np.diff(rounded)) + 1), len(rounded)]
    notes = []
    for first, last in zip(borders, borders[1:], strict=False):
        if last - first >= SHORTEST_NOTE and rounded[first] >= 0:
            notes.append((first * frame_seconds, last * frame_seconds, int(rounded[first])))
    return notes


@cache
def mel_filters(size: int, sampling_rate: int, bands: int, lowest_hz: float) -> Float64Array:
    """Slaney's mel filters from `lowest_hz` to the Nyquist frequency, for power spectra of windows of `size` samples.

    Returns:
        float64 [1 + size // 2 frequencies, bands].
    """
    return mel_filter_bank(
        num_frequency_bins=size // 2 + 1,
        num_mel_filters=bands,
        min_frequency=lowest_hz,
        max_frequency=sampling_rate / 2,
        sampling_rate=sampling_rate,
        mel_scale="slaney",
        norm="slaney",
    )


class VocalAnalyser:
    """Measures pitch, level and spectrum of vocals, and derives descriptors for the rhythm network from them.

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

    def describe(self, pitch: Array, level: Array, bands: Array) -> Array:
        """Descriptors of a vocal, the input of the rhythm network, from the results of `measure`.

        Args:
            pitch (float32 [F], F frames at 100 Hz): in Hz, NaN if unvoiced.
            level (float32 [F]): in dBFS.
            bands (float32 [F, 40]): mel bands in dB.

        Returns:
            float32 [T, 10], T frames of the tokenizer, of the order of 1: voiced fraction of the frame; level; rise of
            the level; signed and absolute change of pitch around the frame; pitch relative to the vocal's median;
            spectral flux of four ranges of bands.
        """
        if not len(pitch):
            return np.zeros((0, DESCRIPTORS), np.float32)
        # analysis frames per frame of the tokenizer
        size = FRAME_RATE // self.frame_rate
        # level of the loud parts in dBFS, at least that of silence, so that noise is not turned up
        reference = max(float(np.quantile(level, LOUD_QUANTILE)), SILENT_DBFS)
        flux = _cells(_flux(bands, reference), size).max(axis=1)
        loudness = np.maximum(_cells(level, size).max(axis=1) - reference, FLOOR_DB)
        voiced = _cells(np.isfinite(pitch), size).mean(axis=1)
        sung = _mean_pitch(_cells(pitch, size))
        median = np.nanmedian(sung) if voiced.any() else 0.0
        interval = sung - median
        glide = np.clip(_change(sung, CHANGE_FRAMES // 2), -LARGEST_GLIDE, LARGEST_GLIDE)
        # the divisors bring decibels and semitones to the order of 1
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

    def measure(
        self, samples: Samples, frames: int, check_stop: CheckStop | None = None
    ) -> tuple[Array, Array, Array]:
        """Measures pitch, level and spectrum of a mono vocal 100 times a second; a quiet one is amplified first.

        Args:
            samples (float32 [N] at `self.sampling_rate`): the vocal.
            frames: number of the tokenizer's frames to cover; beyond the vocal there is silence.
            check_stop: called before each block; an exception that it raises ends the analysis.

        Returns:
            Pitches in Hz, NaN if unvoiced, levels in dBFS, and mel bands in dB: float32 [F], [F], [F, 40], for F
            frames at 100 Hz.
        """
        samples = _amplified_if_quiet(samples, self.hop)
        count = frames * (FRAME_RATE // self.frame_rate)
        pitch, level = np.empty((2, count), np.float32)
        bands = np.empty((count, MEL_BANDS), np.float32)
        for start in stoppable(range(0, count, BLOCK_FRAMES), check_stop):
            stop = min(start + BLOCK_FRAMES, count)
            pitch[start:stop], level[start:stop], bands[start:stop] = self.block(samples, start, stop)
        return pitch, level, bands

    def block(self, samples: Samples, start: int, stop: int) -> tuple[Array, Array, Array]:
        """Analyses a block of n frames of a vocal.

        Args:
            samples (float32 [N]): the vocal.
            start, stop: indices of the first frame and of the one after the last, at 100 Hz.

        Returns:
            Their pitches in Hz, NaN if unvoiced, levels in dBFS, and mel bands in dB: float32 [n], [n], [n, 40].
        """
        # with context, so that pitches do not depend on the block's borders
        around = self._excerpt(samples, start, stop, MARGIN_FRAMES * self.hop)
        pitch = fundamental_frequency(around, self.sampling_rate)[MARGIN_FRAMES : MARGIN_FRAMES + stop - start]

        # Hann windows centred on the frames' times
        around = self._excerpt(samples, start, stop, self.size // 2)
        frames = np.lib.stride_tricks.sliding_window_view(around, self.size)[:: self.hop][: stop - start]
        windowed = frames * window_function(self.size, "hann").astype(np.float32)  # [n, size]
        filters = mel_filters(self.size, self.sampling_rate, MEL_BANDS, LOWEST_HZ).astype(np.float32)
        power = np.abs(np.fft.rfft(windowed)) ** 2 @ filters
        return pitch.astype(np.float32), _decibels((windowed**2).mean(axis=1)), _decibels(power)

    def _excerpt(self, samples: Samples, start: int, stop: int, margin: int) -> Samples:
        """Samples of the analysis frames `start` to `stop` of a vocal, with silence beyond its ends.

        Args:
            samples (float [N]): the vocal.
            start, stop: indices of analysis frames at 100 Hz.
            margin: further samples on both sides.

        Returns:
            float32 [(stop − start) · hop + 2 · margin].
        """
        first = start * self.hop - margin
        last = stop * self.hop + margin
        inside = samples[max(first, 0) : max(last, 0)].astype(np.float32, copy=False)
        # of silence
        before = max(-first, 0)
        after = last - max(first, 0) - len(inside)
        return np.pad(inside, (before, after))


def _decibels(power: Array) -> Array:
    """Powers in dB relative to 1, at least −100."""
    return 10 * np.log10(np.maximum(power, 1e-10)).astype(np.float32)


@dataclass(frozen=True)
class PitchContour:
    """Pitch, level and onset strength of a vocal, at 50 Hz.

    Attributes:
        midi (float32 [T], T frames at 50 Hz): pitch in semitones (69 is 440 Hz), NaN in unvoiced frames.
        level (float32 [T]): dB relative to the 95th percentile of the voice's levels, at least -50.
        flux (float32 [T, 2]): onset strengths of vowels and of consonants, in standard deviations.
        ear_features (float32 or float16 [T, D], *optional*): features of a pretrained network, the composite's `ear`.
    """

    midi: Array
    level: Array
    flux: Array
    ear_features: Array | None = None

    def __len__(self) -> int:
        return len(self.midi)

    @cached_property
    def held(self) -> Array:
        """Smoothed MIDI pitch where a note is held, NaN where the voice slides or is silent: float32 [frames]."""
        # frames around each frame, [T, HELD]; a NaN among them makes the comparison false
        around = np.lib.stride_tricks.sliding_window_view(np.pad(self.midi, HELD // 2, constant_values=np.nan), HELD)
        still = around.max(axis=1) - around.min(axis=1) < STILL
        held = np.full(len(self), np.nan, np.float32)
        # without the outermost frames
        held[still] = np.median(around[still][:, 1:-1], axis=1)
        return held

    @cached_property
    def tuning(self) -> float:
        """Tuning relative to 440 Hz in semitones, -0.5 to 0.5: the closer to 0, the less the pitches agree on it."""
        pitches = self.held[np.isfinite(self.held)]
        if not len(pitches):
            pitches = self.midi[np.isfinite(self.midi)]
        # mean of the pitches' distances from semitones, as points on a circle: its absolute value is their agreement
        mean = np.exp(2j * np.pi * pitches).mean() if len(pitches) else 0.0
        # the prior is the point of a voice in tune, at angle 0
        drawn_to_tune = mean + IN_TUNE * (1 - np.abs(mean))
        return float(np.angle(drawn_to_tune) / (2 * np.pi))

    def harmony_cells(self, size: int) -> Array:
        """Pitch-class features, corrected for the voice's tuning, of cells (spans) of `size` frames each.

        For real singers 52 % of held pitches, but only 42 % of all pitches, belong to the current chord, so both kinds
        are features.

        Args:
            size: frames per cell, an even number.

        Returns:
            float32 [cells, 12 · 4 + 6 + D]: for each pitch class from C, the fractions of the cell's first half in
            which it is held and in which it is sung, then those of the second half; after these, for each half, the
            voiced fraction, the largest onset strength, and the mean pitch relative to the voice's median; then the
            mean of `ear_features` (D; 0 without an ear).
        """
        # frames in half a cell; H is the number of halves
        half = size // HARMONY_PARTS
        sung = np.isfinite(self.midi)
        height = self._semitones_above_median() / LARGEST_INTERVAL
        held_and_sung = [self._pitch_class_fractions(pitch, half) for pitch in (self.held, self.midi)]
        classes = np.stack(held_and_sung, axis=2)  # [H, 12, 2]
        voiced = _cells(sung, half).mean(1)
        onset = _cells(self.flux.mean(1), half).max(1)
        extras = np.stack([voiced, onset, _cells(height, half).mean(1)], axis=1)  # [H, 3]
        # number of cells; zeros make an odd number of halves even
        count = -(-len(extras) // HARMONY_PARTS)
        missing = (0, count * HARMONY_PARTS - len(extras))
        # both halves of a cell are brought into one row
        classes = np.pad(classes, (missing, (0, 0), (0, 0))).reshape(count, HARMONY_PARTS, PITCH_CLASSES, -1)
        extras = np.pad(extras, (missing, (0, 0))).reshape(count, -1)
        by_class = classes.transpose(0, 2, 1, 3).reshape(count, -1)  # [cells, 12 · 4]
        return self._with_ear_features(np.concatenate([by_class, extras], axis=1), size)

    def _with_ear_features(self, cells: Array, size: int) -> Array:
        """Appends the mean of `ear_features` in each cell, if there are any, to other features of cells.

        Args:
            cells (float [cells, n]): n features of each cell.
            size: frames per cell.

        Returns:
            float32 [cells, n + D]; D is 0 without an ear.
        """
        if self.ear_features is not None:
            ear_cells = _cells(self.ear_features.astype(np.float32), size).mean(1)
            cells = np.concatenate([cells, ear_cells], axis=1)
        return cells.astype(np.float32)

    def _pitch_class_fractions(self, pitch: Array, size: int) -> Float64Array:
        """Fraction of each cell in which each pitch class sounds, corrected for the tuning: float64 [cells, 12].

        Args:
            pitch (float32 [T]): in semitones, NaN where nothing sounds.
            size: frames per cell.
        """
        sounds = np.isfinite(pitch)
        tuned = np.where(sounds, pitch, 0.0).astype(np.float64) - self.tuning
        lower = np.floor(tuned).astype(np.int64)
        # a pitch between two semitones counts for both, mostly for the nearer one; `share` is what the upper one gets
        distance = tuned - lower
        odds = distance / np.maximum(1 - distance, 1e-6)
        share = sounds * odds**SHARPNESS / (1 + odds**SHARPNESS)
        # number of frames of each pitch class in each cell, [cells, 12]
        cell = np.arange(len(self)) // size
        counts = np.zeros((-(-len(self) // size), PITCH_CLASSES))
        np.add.at(counts, (cell, lower % PITCH_CLASSES), sounds - share)
        np.add.at(counts, (cell, (lower + 1) % PITCH_CLASSES), share)
        return counts / size

    def time_cells(self, size: int) -> Array:
        """Rhythmic features, of the order of 1, of cells (spans) of `size` frames each.

        Returns:
            float32 [cells, 10 + D]: voiced fraction; start and end of singing; signed and absolute change of pitch;
            pitch relative to the voice's median; level; rise of the level; onset strengths of vowels and of
            consonants; then the mean of `ear_features` (D; 0 without an ear).
        """
        sung = np.isfinite(self.midi).astype(np.float32)
        filled = _filled(self.midi)
        glide = np.clip(_change(filled, GLIDE_FRAMES), -LARGEST_GLIDE, LARGEST_GLIDE)
        # 1 where singing starts, −1 where it ends
        turn = np.append(0.0, np.diff(sung))
        # values of frames, and how those of a cell become one number; the divisors bring them to the order of 1
        columns = [
            (sung, "mean"),
            (np.maximum(turn, 0.0), "max"),
            (np.maximum(-turn, 0.0), "max"),
            (glide / 2, "mean"),
            (np.abs(glide) / 2, "max"),
            (self._semitones_above_median() / 6, "mean"),
            (self.level / 20 + 1, "max"),
            (np.maximum(_change(self.level, RISE_CONTOUR_FRAMES), 0.0) / 10, "max"),
            (self.flux[:, 0], "max"),
            (self.flux[:, 1], "max"),
        ]
        features = []
        for values, reduction in columns:
            cells = _cells(values, size)
            if reduction == "mean":
                features.append(cells.mean(axis=1))
            else:
                features.append(cells.max(axis=1))
        return self._with_ear_features(np.stack(features, axis=1), size)

    def _semitones_above_median(self) -> Array:
        """Semitones above the voice's median, within ±`LARGEST_INTERVAL`; 0 in unvoiced frames: float32 [T]."""
        sung = np.isfinite(self.midi)
        median = np.median(self.midi[sung]) if sung.any() else 0.0
        above = np.where(sung, self.midi - median, 0.0)
        return np.clip(above, -LARGEST_INTERVAL, LARGEST_INTERVAL)


def _amplified_if_quiet(samples: Samples, size: int) -> Samples:
    """Amplifies a quiet vocal to the level of one sung closer to the microphone, but not silence.

    Args:
        samples (float32 [N]): the vocal.
        size: samples in the windows whose levels are measured.

    Returns:
        float32 [N]: as it is, or, if its loud windows (95th percentile) lie between −60 and −21 dBFS, with these
        brought to −21 dBFS.
    """
    windows = samples[: len(samples) // size * size].reshape(-1, size)
    power = (windows.astype(np.float64) ** 2).mean(axis=1)
    if not len(power):
        return samples
    # RMS amplitude of the loud windows
    loud = float(np.quantile(power, LOUD_QUANTILE)) ** 0.5
    usual = 10 ** (USUAL_DBFS / 20)
    if 10 ** (SILENT_DBFS / 20) < loud < usual:
        return samples * np.float32(usual / loud)
    return samples


def pitch_contour(pitch: Array, level: Array, bands: Array) -> PitchContour:
    """The pitch contour of a vocal at 50 Hz, from what `VocalAnalyser.measure` returns at 100 Hz.

    Args:
        pitch (float32 [F], F frames at 100 Hz): in Hz, NaN if unvoiced.
        level (float32 [F]): in dBFS.
        bands (float32 [F, 40]): mel bands in dB.
    """
    if not len(pitch):
        empty = np.zeros(0, np.float32)
        return PitchContour(empty, empty, np.zeros((0, len(FLUX_RANGES)), np.float32))
    # analysis frames per frame of the contour
    size = FRAME_RATE // CONTOUR_RATE
    # level of the loud parts in dBFS
    reference = float(np.quantile(level, LOUD_QUANTILE))
    # onset strength: how far the audible part of bands rises from one analysis frame to the next
    audible = np.maximum(bands - reference, BAND_FLOOR_DB)
    rise = np.maximum(np.diff(audible, axis=0, prepend=audible[:1]), 0.0)
    flux = np.stack([_cells(rise[:, band_range].mean(1), size).max(1) for band_range in FLUX_RANGES], axis=1)
    loudness = np.maximum(_cells(level, size).max(1) - reference, FLOOR_DB)
    return PitchContour(_smoothed_midi(pitch, size), loudness.astype(np.float32), normalised(flux))


def normalised(flux: NDArray[Any]) -> Array:
    """Onset strengths (float [T, 2]: vowels, consonants) divided by their standard deviations: float32 [T, 2]."""
    return (flux / (flux.std(axis=0) + 1e-6)).astype(np.float32)


def _smoothed_midi(pitch: Array, size: int) -> Array:
    """Converts pitches in Hz to semitones, averaged over `size` frames each and median-filtered.

    Args:
        pitch (float32 [T · size]): in Hz, NaN if unvoiced.
        size: analysis frames per frame of the result.

    Returns:
        float32 [T]: 69 at 440 Hz; NaN if unvoiced, or if no frame nearby is voiced.
    """
    midi = midi_pitch(_cells(pitch, size))  # [T, size]
    means = np.full(len(midi), np.nan, np.float32)
    sung = np.isfinite(midi).any(axis=1)
    means[sung] = np.nanmean(midi[sung], axis=1)
    around = np.lib.stride_tricks.sliding_window_view(np.pad(means, VOTES // 2, constant_values=np.nan), VOTES)
    # a single voiced frame among unvoiced ones is an outlier
    several = sung & (np.isfinite(around).sum(axis=1) > 1)
    smoothed = np.full(len(midi), np.nan, np.float32)
    smoothed[several] = np.nanmedian(around[several], axis=1)
    return smoothed


def _flux(bands: Array, reference: float) -> Array:
    """Spectral flux of four ranges of mel bands: the mean rise of their audible part, float32 [F, 4].

    Args:
        bands (float32 [F, 40]): mel bands in dB, at 100 Hz.
        reference: level of the vocal's loud parts in dB; bands are audible down to `BAND_FLOOR_DB` relative to it.
    """
    audible = np.maximum(bands - reference, BAND_FLOOR_DB)
    rise = np.maximum(audible[RISE_FRAMES:] - audible[:-RISE_FRAMES], 0.0)
    # a rise over three frames is assigned to a frame between them; the first and last frames have none
    flux = np.zeros((len(bands), len(FLUX_BANDS)), np.float32)
    first = RISE_FRAMES - 1
    for index, band_range in enumerate(FLUX_BANDS):
        flux[first : first + len(rise), index] = rise[:, band_range].mean(axis=1)
    return flux


def _mean_pitch(pitch: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean pitch of each frame in semitones above 440 Hz, NaN if unvoiced: float64 [T].

    Args:
        pitch (float32 [T, n]): pitches in Hz of the n analysis frames in each frame, NaN if unvoiced.
    """
    means = np.full(len(pitch), np.nan)
    voiced = np.isfinite(pitch).any(axis=1)
    means[voiced] = np.nanmean(12 * np.log2(pitch[voiced] / A4_HZ), axis=1)
    return means


def _filled(midi: Array) -> Array:
    """Pitches (float32 [T], NaN where unvoiced) with each gap filled by the pitch before it.

    A gap at the start is filled by the first pitch; all are 0 if nothing is voiced.
    """
    sung = np.isfinite(midi)
    if not sung.any():
        return np.zeros_like(midi)
    # index of the latest voiced frame, or else of the first one
    latest = np.maximum.accumulate(np.where(sung, np.arange(len(midi)), int(np.argmax(sung))))
    return midi[latest]


def _cells(values: np.ndarray, size: int) -> np.ndarray:
    """Groups frames in cells of `size` frames, the last one filled up with its last value.

    Args:
        values: [T, …], values of T frames.
        size: frames per cell.

    Returns:
        [⌈T / size⌉, size, …].
    """
    # at the end of the first axis only
    padding = [(0, -len(values) % size)] + [(0, 0)] * (values.ndim - 1)
    return np.pad(values, padding, mode="edge").reshape(-1, size, *values.shape[1:])


def _change(values: np.ndarray, frames: int) -> np.ndarray:
    """Change of a value from `frames` before to `frames` after each frame, [T] → [T]; over less at the ends."""
    index = np.arange(len(values))
    return values[np.minimum(index + frames, len(values) - 1)] - values[np.maximum(index - frames, 0)]
