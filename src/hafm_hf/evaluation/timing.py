# SPDX-License-Identifier: Apache-2.0
"""Scores of timing: onsets shared with the voice and with the reference, beats and tempo.

Once the score of shuffled pairs is subtracted, 0 is chance; the reference itself scores 1. Curves are at 100 Hz.
Dimensions: T frames at 100 Hz, K beats.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..tokenizers.pitch_contour import FRAME_RATE
from .features import Features
from .harmony import correlation, unexplained

# lengths of Hann windows, in frames at 100 Hz: to smooth onsets, and to estimate the local level that they rise from
ONSET_FRAMES = 11
LEVEL_FRAMES = 101
# cut off at either end of a curve: every clip has an onset at its start
EDGE_FRAMES = 20
# tolerances: onsets ± 50 ms, beats ± 70 ms, as usual in onset and beat evaluation
TOLERANCE_FRAMES = 5
BEAT_TOLERANCE_SECONDS = 0.07
# relative error that counts as the same tempo, and factors also accepted if octave errors are allowed
TEMPO_TOLERANCE = 0.04
OCTAVES = (1 / 3, 1 / 2, 1.0, 2.0, 3.0)

Array = NDArray[np.float64]


def onset_agreement(voice: Features, candidate: Features) -> float:
    """Correlation of the onsets of voice and accompaniment, ± 50 ms, −1 to 1. Needs the vocal only.

    Fooled by: the voice itself, the voice leaking in, a sine doubling the voice.

    Returns:
        the score; NaN if the voice has no onsets.
    """
    sung, played = _onset_curves(voice, candidate)
    if not sung.any():
        return math.nan
    return float(lag_curve(sung, played, TOLERANCE_FRAMES).max())


def onsets_shared(voice: Features, reference: Features, candidate: Features) -> float:
    """Correlation of the onsets of accompaniment and reference beyond the voice's own, ± 50 ms, −1 to 1.

    The linear prediction from the voice's onsets within ± 50 ms is subtracted from both. Needs a reference.

    Fooled by: a click track at the song's beats, which the harmony scores catch.

    Returns:
        the score; NaN if the reference has no onsets.
    """
    sung, wanted, played = _onset_curves(voice, reference, candidate)
    if sung.any():
        lags = range(-TOLERANCE_FRAMES, TOLERANCE_FRAMES + 1)
        # the voice's onsets at each lag, one a column
        explaining = np.stack([np.roll(sung, lag) for lag in lags], axis=1)
        wanted = unexplained(wanted, explaining)
        played = unexplained(played, explaining)
    if not wanted.any():
        return math.nan
    return float(lag_curve(wanted, played, TOLERANCE_FRAMES).max())


def beat_agreement(reference: Features, candidate: Features, octaves: bool = False) -> float:
    """F-measure of the beats of accompaniment and reference, ± 70 ms, 0 to 1. Needs a reference.

    With `octaves`, the best F-measure against all beats of the reference, every other one (even or odd), or twice as
    many, so that another metrical level of the same beat is right as well.

    Returns:
        the score; NaN if the reference has no beats.
    """
    seconds = min(reference.seconds, candidate.seconds)
    wanted = reference.beats[reference.beats < seconds]
    played = candidate.beats[candidate.beats < seconds]
    if not octaves or len(wanted) < 2:
        return beat_f_measure(wanted, played)
    # a beat is added halfway between every two
    half_beats = np.arange(2 * len(wanted) - 1) / 2
    doubled = np.interp(half_beats, np.arange(len(wanted)), wanted)
    metrical_levels = (wanted, wanted[::2], wanted[1::2], doubled)
    return max(beat_f_measure(beats, played) for beats in metrical_levels)


def tempo_agreement(reference: Features, candidate: Features, octaves: bool = False) -> float:
    """1 if the tempo is within 4 % of the reference's (with `octaves`, also of 1/3, 1/2, 2 or 3 times it), else 0.

    NaN if the reference has fewer than two beats, and so no tempo.
    """
    tempo = tempo_of(reference.beats)
    if math.isnan(tempo):
        return math.nan
    factors = OCTAVES if octaves else (1.0,)
    return float(tempo_is_right(tempo_of(candidate.beats), tempo, factors))


def tempo_of(beats: NDArray[Any]) -> float:
    """Tempo in BPM from the median interval of beats (seconds, [K]); NaN if there are fewer than two."""
    if len(beats) < 2:
        return math.nan
    return 60.0 / float(np.median(np.diff(beats)))


def tempo_is_right(estimated: float, known: float, factors: Sequence[float] = (1.0,)) -> bool:
    """Whether a tempo is within 4 % of the known one (both in BPM) times any of `factors`."""
    return any(abs(estimated / (known * factor) - 1) <= TEMPO_TOLERANCE for factor in factors)


def beat_f_measure(wanted: NDArray[Any], played: NDArray[Any]) -> float:
    """F-measure (0 to 1) of beats `played` against those `wanted` (seconds, [K] each), ± 70 ms.

    Each beat is matched at most once. NaN if `wanted` is empty.
    """
    import mir_eval

    if not len(wanted):
        return math.nan
    if not len(played):
        return 0.0
    return float(mir_eval.beat.f_measure(wanted, played, f_measure_threshold=BEAT_TOLERANCE_SECONDS))


def followed_beats(voice: Features, candidate: Features) -> float:
    """F-measure of the accompaniment's beats against the labelled ones, ± 70 ms, 0 to 1; NaN without labelled beats.

    Fooled by: a click track at the song's beats.
    """
    seconds = min(voice.seconds, candidate.seconds)
    labelled: Sequence[float] = ()
    if voice.lead_sheet is not None:
        labelled = voice.lead_sheet.beats or ()
    wanted = np.array([beat for beat in labelled if 0 <= beat < seconds])
    return beat_f_measure(wanted, candidate.beats[candidate.beats < seconds])


def lag_curve(wanted: Array, played: Array, longest: int) -> Array:
    """Pearson correlation of two onset curves at each lag of `played` behind `wanted`.

    Args:
        wanted, played (float64 [T] at 100 Hz): the curves, which may differ in length.
        longest: largest lag in frames, in either direction.

    Returns:
        float64 [2 · longest + 1], for lags from −longest to longest; 0 where they overlap by half a second or less.
    """
    curve = np.zeros(2 * longest + 1)
    for index, lag in enumerate(range(-longest, longest + 1)):
        # the frames of `wanted` that `played` overlaps
        low = max(0, -lag)
        high = min(len(wanted), len(played) - lag)
        if high - low > FRAME_RATE // 2:
            curve[index] = correlation(wanted[low:high], played[low + lag : high + lag])
    return curve


def _onset_curves(*sounds: Features) -> list[Array]:
    """The `onset_curve` of each sound, cut to the shortest first so that all curves have the same length."""
    frames = min(len(sound.onsets) for sound in sounds)
    return [onset_curve(sound.onsets[:frames]) for sound in sounds]


def onset_curve(onsets: NDArray[np.float32]) -> Array:
    """The peaks of an onset curve: its square root, smoothed over 0.1 s, minus its mean over 1 s.

    Args:
        onsets (float32 [T] at 100 Hz): onset strength.

    Returns:
        float64 [T − 40]: `EDGE_FRAMES` are cut off at either end, but one frame is left if T is above `EDGE_FRAMES`.
    """
    root = np.sqrt(np.maximum(onsets.astype(np.float64), 0.0))
    curve = _smooth(root, ONSET_FRAMES) - _smooth(root, LEVEL_FRAMES)
    stop = max(len(curve) - EDGE_FRAMES, EDGE_FRAMES + 1)
    return curve[EDGE_FRAMES:stop]


def _smooth(values: Array, frames: int) -> Array:
    """Average of float64 [T], weighted by a Hann window of `frames` around each value: float64 [T].

    Near the edges, where the window reaches beyond the values, the average is over those inside. If there are fewer
    values than `frames`, each is replaced by the mean of all.
    """
    # without the zeros at the ends of the window
    window = np.hanning(frames + 2)[1:-1]
    if len(values) < frames:
        return np.full_like(values, values.mean())
    # sum of the window's weights that fall on values
    weights = np.convolve(np.ones_like(values), window, "same")
    return np.convolve(values, window, "same") / weights
