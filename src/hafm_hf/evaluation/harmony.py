# SPDX-License-Identifier: Apache-2.0
"""Whether an accompaniment is in the singer's key and changes chords where the song does.

0 is chance in every score and 1, where there is such a bound, the reference itself. Each docstring ends with how the
score can be fooled; the report shows these fools beside the system.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..lead_sheet.chords import key_fit
from ..lead_sheet.chords import pitch_classes as chord_tones
from ..listening.pitch_line import FRAME_RATE
from .features import CHROMA_RATE, PITCH_CLASSES, Features, pitch_classes

# frames of chroma that one chord is averaged over (a Hann window), and frames from one such chord to the next
CHORD_FRAMES, CHORD_STEP = 16, 4
# less than a second of singing says nothing about harmony
LEAST_VOICED_SECONDS = 1.0

Array = NDArray[np.float64]


def pitch_class_share(voice: Features, candidate: Features) -> float:
    """Share of the accompaniment's chroma at the pitch class that is being sung, times 12, minus 1.

    0: as much as at any other pitch class; 11: nothing else is played. Needs the voice only.

    Fooled by: a sine that doubles the voice, the voice itself, a voice that leaks in, a drone on the tonic.

    Returns:
        the score; NaN where less than 1 s is sung.
    """
    sung = np.flatnonzero(np.isfinite(voice.pitch))
    # the frame of chroma at the instant of each frame that is sung
    frames = np.round(sung * CHROMA_RATE / FRAME_RATE).astype(np.int64)
    sung, frames = (each[frames < candidate.chroma.shape[1]] for each in (sung, frames))
    classes = pitch_classes(voice.pitch[sung])
    if len(classes) < LEAST_VOICED_SECONDS * FRAME_RATE:
        return math.nan
    played = candidate.chroma.astype(np.float64)
    total = played.sum(axis=0)
    # a silent frame is even: an accompaniment gains nothing by pausing
    share = np.where(total > 0, played / np.maximum(total, 1e-12), 1 / PITCH_CLASSES)
    return float(PITCH_CLASSES * share[classes, frames].mean() - 1.0)


def key_agreement(voice: Features, candidate: Features) -> float:
    """Correlation of how well voice and accompaniment fit each of the 24 keys (Krumhansl's profiles), −1 to 1.

    The voice counts by how long each pitch class is sung, the accompaniment by its mean chroma. Needs the voice only.

    Fooled by: a sine that doubles the voice, the voice itself, a drone on the tonic or the fifth.

    Returns:
        the score; NaN where less than 1 s is sung.
    """
    if np.isfinite(voice.pitch).sum() < LEAST_VOICED_SECONDS * FRAME_RATE:
        return math.nan
    return correlation(fit_of_keys(voice), fit_of_keys(candidate))


def fit_of_keys(sound: Features) -> Array:
    """How well a sound fits each key (float64 [24], as `key_fit`): a voice by the notes sung, else by chroma."""
    if np.isfinite(sound.pitch).any():
        classes = pitch_classes(sound.pitch[np.isfinite(sound.pitch)])
        return key_fit(np.bincount(classes, minlength=PITCH_CLASSES).astype(np.float64))
    total = np.maximum(sound.chroma.sum(axis=0), 1e-12)
    return key_fit((sound.chroma / total).mean(axis=1, dtype=np.float64))


def chord_changes_shared(voice: Features, reference: Features, candidate: Features) -> float:
    """Correlation of the changes of chroma in accompaniment and reference, beyond what the voice explains, −1 to 1.

    From both chromas goes the mean of each pitch class (so a drone and a common key count nothing) and the best linear
    prediction from the voice's chroma at any interval (so doubling the voice counts nothing). Needs a reference.

    Fooled by: a recording of the same song in the same key and tempo, which is no fault.

    Returns:
        the score; 0 where the accompaniment never changes, NaN where the reference never does.
    """
    frames = min(features.chroma.shape[1] for features in (voice, reference, candidate))
    sung, wanted, played = (chords(each.chroma[:, :frames]) for each in (voice, reference, candidate))
    if not wanted.any():
        return math.nan
    # the same 12 coefficients for every pitch class: an interval above the sung note is the same interval in any key
    explained = np.stack([np.roll(sung, interval, axis=0).ravel() for interval in range(PITCH_CLASSES)], axis=1)
    return correlation(unexplained(wanted.ravel(), explained), unexplained(played.ravel(), explained))


def chords(chroma: NDArray[np.float32]) -> Array:
    """Chroma (float32 [12, T_c]) smoothed over a chord's length, of unit length, each class without its mean:
    float64 [12, about 4 a second]."""
    window = np.hanning(CHORD_FRAMES + 2)[1:-1]
    window /= window.sum()
    smooth = np.stack([np.convolve(row, window, "same") for row in chroma.astype(np.float64)])[:, ::CHORD_STEP]
    length = np.linalg.norm(smooth, axis=0)
    unit = np.where(length > 0, smooth / np.maximum(length, 1e-12), 0.0)
    return unit - unit.mean(axis=1, keepdims=True)


def told_chords(voice: Features, candidate: Features) -> float:
    """Mean correlation of the accompaniment's chroma with the notes of the known chords, −1 to 1; NaN without any.

    Fooled by: a drone on the tonic chord.
    """
    played = candidate.chroma.astype(np.float64)
    wanted = np.zeros_like(played)
    for start, stop, label in () if voice.told is None else voice.told.chords:
        first, last = (max(round(second * CHROMA_RATE), 0) for second in (start, stop))
        wanted[:, first:last] = np.isin(np.arange(PITCH_CLASSES), chord_tones(label))[:, None]
    known = np.flatnonzero(wanted.any(axis=0))
    if not len(known):
        return math.nan
    return float(np.mean([correlation(wanted[:, frame], played[:, frame]) for frame in known]))


def unexplained(values: Array, explained: Array) -> Array:
    """What is left of float64 [N] after its least-squares prediction from the columns of float64 [N, K]."""
    gram = explained.T @ explained
    scale = max(float(np.trace(gram)) / len(gram), 1e-12)
    return values - explained @ np.linalg.solve(gram + 1e-6 * scale * np.eye(len(gram)), explained.T @ values)


def correlation(first: Array, second: Array) -> float:
    """Pearson's correlation of two float64 [N]; 0 where one of them never changes."""
    first, second = first - first.mean(), second - second.mean()
    length = float(np.linalg.norm(first) * np.linalg.norm(second))
    # rounding errors of something constant are no changes
    return float(first @ second) / length if length > 1e-9 else 0.0
