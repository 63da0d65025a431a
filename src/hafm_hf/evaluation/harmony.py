# SPDX-License-Identifier: Apache-2.0
"""Scores of harmony: is an accompaniment in the singer's key, and does it change chords where the song does?

In every score, 0 is chance; where a score has an upper bound, the reference itself reaches 1. Docstrings name what
fools each score (see `fools`); the report lists these fools beside the systems.

Dimensions: T_c chroma frames at 16 Hz.
"""

import math

import numpy as np
from numpy.typing import NDArray

from ..lead_sheet.chords import PITCH_CLASSES, key_fit
from ..lead_sheet.chords import pitch_classes as chord_tones
from ..tokenizers.pitch_contour import FRAME_RATE
from .features import CHROMA_RATE, Features, pitch_classes

# length of the Hann window that chroma is smoothed with, and hop between smoothed frames, in chroma frames at 16 Hz
CHORD_FRAMES = 16
CHORD_STEP = 4
# less than a second of singing is not enough to judge harmony
LEAST_VOICED_SECONDS = 1.0

Array = NDArray[np.float64]


def pitch_class_share(voice: Features, candidate: Features) -> float:
    """Share of the accompaniment's chroma at the pitch class being sung, times 12, minus 1.

    0: as much as at any other pitch class; 11: nothing else is played. Needs the vocal only.

    Fooled by: a sine doubling the voice, the voice itself, the voice leaking in, a drone on the tonic.

    Returns:
        the score; NaN if less than 1 s is sung.
    """
    sung = np.flatnonzero(np.isfinite(voice.pitch))
    # the chroma frame (16 Hz) at the time of each voiced pitch frame (100 Hz)
    frames = np.round(sung * CHROMA_RATE / FRAME_RATE).astype(np.int64)
    # the candidate may be shorter than the voice
    inside = frames < candidate.chroma.shape[1]
    sung = sung[inside]
    frames = frames[inside]
    classes = pitch_classes(voice.pitch[sung])
    if len(classes) < LEAST_VOICED_SECONDS * FRAME_RATE:
        return math.nan
    played = candidate.chroma.astype(np.float64)
    total = played.sum(axis=0)
    # silent frames count as even chroma, so that pausing gains nothing
    share = np.where(total > 0, played / np.maximum(total, 1e-12), 1 / PITCH_CLASSES)
    return float(PITCH_CLASSES * share[classes, frames].mean() - 1.0)


def key_agreement(voice: Features, candidate: Features) -> float:
    """Correlation of how well voice and accompaniment fit each of the 24 keys (Krumhansl's profiles), −1 to 1.

    The voice's fit uses the durations of its pitch classes, the accompaniment's its chroma. Needs no
    reference accompaniment.

    Fooled by: a sine doubling the voice, the voice itself, a drone on the tonic or the fifth.

    Returns:
        the score; NaN if less than 1 s is sung.
    """
    if np.isfinite(voice.pitch).sum() < LEAST_VOICED_SECONDS * FRAME_RATE:
        return math.nan
    return correlation(fit_of_keys(voice), fit_of_keys(candidate))


def fit_of_keys(sound: Features) -> Array:
    """How well a sound fits each of the 24 keys: by its sung notes if it is a vocal, else by its mean chroma.

    Returns:
        float64 [24], correlations (−1 to 1): 12 major keys from C, then 12 minor ones.
    """
    # only a vocal's features have a pitch
    if np.isfinite(sound.pitch).any():
        classes = pitch_classes(sound.pitch[np.isfinite(sound.pitch)])
        return key_fit(np.bincount(classes, minlength=PITCH_CLASSES).astype(np.float64))
    total = np.maximum(sound.chroma.sum(axis=0), 1e-12)
    return key_fit((sound.chroma / total).mean(axis=1, dtype=np.float64))


def chord_changes_shared(voice: Features, reference: Features, candidate: Features) -> float:
    """Correlation of chroma changes in accompaniment and reference, beyond what the voice explains, −1 to 1.

    From both chromas, the mean of each pitch class is subtracted (so a drone or a common key gain nothing), and the
    best linear prediction from the voice's chroma at any interval (so doubling it gains nothing). Needs a reference.

    Fooled by: nothing but other recordings of the same song in the same key and tempo, which are rightly rewarded.

    Returns:
        the score; 0 if the accompaniment's chroma is constant, NaN if the reference's is.
    """
    frames = min(features.chroma.shape[1] for features in (voice, reference, candidate))
    # float64 [12, frames / 4] each, 4 columns per second
    sung = chords(voice.chroma[:, :frames])
    expected = chords(reference.chroma[:, :frames])
    played = chords(candidate.chroma[:, :frames])
    if not expected.any():
        return math.nan
    # the voice's chroma transposed by each interval, one a column; all pitch classes share the 12 coefficients, so the
    # prediction is the same in any key
    transposed = [np.roll(sung, interval, axis=0).ravel() for interval in range(PITCH_CLASSES)]
    explaining = np.stack(transposed, axis=1)
    return correlation(unexplained(expected.ravel(), explaining), unexplained(played.ravel(), explaining))


def chords(chroma: NDArray[np.float32]) -> Array:
    """Smooths chroma over 1 s and scales it, so that neither loudness nor a drone counts.

    Args:
        chroma (float32 [12, T_c] at 16 Hz): magnitude by pitch class.

    Returns:
        float64 [12, T_c / 4] at 4 Hz: each frame has length 1 (0 if silent), then each pitch class's mean is
        subtracted.
    """
    # without the zeros at its ends
    window = np.hanning(CHORD_FRAMES + 2)[1:-1]
    window /= window.sum()
    smooth = np.stack([np.convolve(row, window, "same") for row in chroma.astype(np.float64)])
    frames = smooth[:, ::CHORD_STEP]
    length = np.linalg.norm(frames, axis=0)
    unit = np.where(length > 0, frames / np.maximum(length, 1e-12), 0.0)
    return unit - unit.mean(axis=1, keepdims=True)


def followed_chords(voice: Features, candidate: Features) -> float:
    """Mean correlation of the accompaniment's chroma with the notes of the labelled chords, −1 to 1.

    The chords are those of the voice's `lead_sheet`; frames without a chord do not count.

    Fooled by: a drone on the tonic chord.

    Returns:
        the score; NaN without labelled chords.
    """
    played = candidate.chroma.astype(np.float64)
    # 1 for the notes of the chord in each frame, [12, T_c]
    notes = np.zeros_like(played)
    if voice.lead_sheet is None:
        return math.nan
    for start, stop, label in voice.lead_sheet.chords:
        first = max(round(start * CHROMA_RATE), 0)
        last = max(round(stop * CHROMA_RATE), 0)
        notes[:, first:last] = np.isin(np.arange(PITCH_CLASSES), chord_tones(label))[:, None]
    labelled = np.flatnonzero(notes.any(axis=0))
    if not len(labelled):
        return math.nan
    return float(np.mean([correlation(notes[:, frame], played[:, frame]) for frame in labelled]))


def unexplained(values: Array, explaining: Array) -> Array:
    """The residual of values after a least-squares regression, float64 [N].

    Args:
        values (float64 [N]): the values to explain.
        explaining (float64 [N, K]): the K variables that explain them, one a column.
    """
    gram = explaining.T @ explaining
    scale = max(float(np.trace(gram)) / len(gram), 1e-12)
    # a little of the identity, so that columns may be linearly dependent
    regularised = gram + 1e-6 * scale * np.eye(len(gram))
    coefficients = np.linalg.solve(regularised, explaining.T @ values)
    return values - explaining @ coefficients


def correlation(first: Array, second: Array) -> float:
    """Pearson correlation (−1 to 1) of two float64 [N]; 0 if one of them is constant."""
    first = first - first.mean()
    second = second - second.mean()
    length = float(np.linalg.norm(first) * np.linalg.norm(second))
    # rounding errors of a constant must not count as changes
    if length <= 1e-9:
        return 0.0
    return float(first @ second) / length
