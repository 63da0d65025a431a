# SPDX-License-Identifier: Apache-2.0
"""Chords as the classes that condition stages, and how well notes and chords fit keys.

Class 0 is no chord, followed by twelve roots from C for each quality. The first 25 classes are the triads.
"""

import numpy as np
from numpy.typing import NDArray

from .chord_symbols import PITCH_CLASSES, Degrees, pitch_class, read_chord
from .spelling import root_name

# no chord, then 12 roots without and 12 with a minor third, C first
NUM_TRIADS = 2 * PITCH_CLASSES + 1
# qualities that condition stages, in Harte's shorthand; other chords are mapped to the nearest
QUALITIES = ("maj", "min", "7", "maj7", "min7", "sus4", "dim")
NUM_CHORD_CLASSES = 1 + PITCH_CLASSES * len(QUALITIES)
# their notes, in semitones above the root
INTERVALS = {
    "maj": (0, 4, 7), "min": (0, 3, 7), "7": (0, 4, 7, 10), "maj7": (0, 4, 7, 11), "min7": (0, 3, 7, 10),
    "sus4": (0, 5, 7), "dim": (0, 3, 6),
}  # fmt: skip
# what follows the root in a lead-sheet label
SUFFIXES = {"maj": "", "min": "m", "7": "7", "maj7": "maj7", "min7": "m7", "sus4": "sus4", "dim": "dim"}
# Krumhansl and Kessler (1982): how well each pitch class fits a major and a minor key, tonic first
MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)
# the profile of each key, 12 major from C, then 12 minor, centred and of length 1: float64 [24 keys, 12 pitch classes]
KEYS = np.stack([np.roll(mode, tonic) for mode in (MAJOR, MINOR) for tonic in range(len(MAJOR))])
KEYS -= KEYS.mean(axis=1, keepdims=True)
KEYS /= np.linalg.norm(KEYS, axis=1, keepdims=True)
# the major and the minor scale, with both sevenths, tonic first
SCALES = ((1, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0, 1), (1, 0, 1, 1, 0, 1, 0, 1, 1, 0, 1, 1))
# the scale of each key, in the order of KEYS: int64 [24 keys, 12 pitch classes]
SCALES_OF_KEYS = np.stack([np.roll(mode, tonic) for mode in SCALES for tonic in range(len(mode))])
# share of the notes of 24 triads (12 major, 12 minor) that are in each of 24 keys: float64 [24 keys, 24 triads]
IN_KEY = np.hstack([sum(np.roll(SCALES_OF_KEYS, -n, 1) for n in INTERVALS[mode]) / 3 for mode in ("maj", "min")])


def triad_class(label: str) -> int:
    """Class of a label among the triads, 0 to 24: 0 for no chord, then 12 roots without and 12 with a minor third.

    Raises:
        ValueError: the label is not a chord.
    """
    chord = read_chord(label)
    if chord is None:
        return 0
    return 1 + pitch_class(chord.root) + PITCH_CLASSES * has_minor_third(chord.degrees)


def chord_class(label: str) -> int:
    """Class of a label, 0 to 84, that conditions stages: 0 for no chord, then 12 roots from C for each of `QUALITIES`.

    A chord of another quality is mapped to the nearest (`nearest_quality`).

    Raises:
        ValueError: the label is not a chord.
    """
    chord = read_chord(label)
    if chord is None:
        return 0
    quality = nearest_quality(chord.degrees)
    return 1 + pitch_class(chord.root) + PITCH_CLASSES * QUALITIES.index(quality)


def chord_label(chord: int) -> str:
    """Lead-sheet label of a chord class (0 to 84; the first 25 are the triads): "N", "C", "Cm", "Gsus4"."""
    if chord == 0:
        return "N"
    quality_index, root = divmod(chord - 1, PITCH_CLASSES)
    quality = QUALITIES[quality_index]
    third = {"min": "min", "min7": "min", "dim": "dim"}.get(quality, "maj")
    # without a key, roots are spelled as in C major
    return root_name(root, third, "C:maj") + SUFFIXES[quality]


def key_fit(profile: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlation (−1 to 1) of a pitch-class profile (float64 [12], C first) with the profiles of the 24 keys.

    Returns:
        float64 [24]: 12 major keys from C, then 12 minor ones; zeros for a flat profile.
    """
    centred = profile - profile.mean()
    length = float(np.linalg.norm(centred))
    if length > 1e-9:
        return KEYS @ centred / length
    return np.zeros(len(KEYS))


def root_and_quality(label: str) -> tuple[int, str] | None:
    """Pitch class of a label's root (0 for C) and the nearest of `QUALITIES`; None for no chord.

    Raises:
        ValueError: the label is not a chord.
    """
    chord = read_chord(label)
    if chord is None:
        return None
    return pitch_class(chord.root), nearest_quality(chord.degrees)


def pitch_classes(label: str) -> tuple[int, ...]:
    """Pitch classes (0 for C) of a label's chord as the model reads it (`nearest_quality`), the root first.

    Returns:
        Empty for no chord.

    Raises:
        ValueError: the label is not a chord.
    """
    chord = read_chord(label)
    if chord is None:
        return ()
    intervals = INTERVALS[nearest_quality(chord.degrees)]
    return tuple((pitch_class(chord.root) + interval) % PITCH_CLASSES for interval in intervals)


def has_minor_third(degrees: Degrees) -> bool:
    """Whether a chord has a minor third and no major one; `degrees` are (degree, semitones above the root) each."""
    return (3, 3) in degrees and (3, 4) not in degrees


def nearest_quality(degrees: Degrees) -> str:
    """The nearest of `QUALITIES` to a chord of these degrees ((degree, semitones above the root) each).

    Notes added to triads or sevenths are ignored; a suspended second counts as a fourth.
    """
    numbers = {degree for degree, _ in degrees}
    if has_minor_third(degrees):
        if (5, 6) in degrees and (5, 7) not in degrees:
            return "dim"
        if (7, 10) in degrees:
            return "min7"
        return "min"
    if 3 not in numbers and numbers & {2, 4}:
        return "sus4"
    if (7, 11) in degrees:
        return "maj7"
    if (7, 10) in degrees:
        return "7"
    return "maj"
