# SPDX-License-Identifier: Apache-2.0
"""Chord labels, in Harte's or lead-sheet notation, as triads and as the classes that condition stages.

Class 0 is no chord, followed by twelve roots from C for each quality. The first 25 classes are the triads.
"""

import re

import numpy as np
from numpy.typing import NDArray

PITCH_CLASSES = 12
# no chord, then 12 roots without and 12 with a minor third, C first
NUM_CHORDS = 2 * PITCH_CLASSES + 1
# of the conditioning stream, in Harte's shorthand; other chords are mapped to the nearest
QUALITIES = ("maj", "min", "7", "maj7", "min7", "sus4", "dim")
NUM_CHORD_CLASSES = 1 + PITCH_CLASSES * len(QUALITIES)
NOTE_NAMES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
# usual spellings of the roots of major and of minor chords
MAJOR_ROOTS = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
MINOR_ROOTS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B")
INTERVALS = {
    "maj": (0, 4, 7), "min": (0, 3, 7), "7": (0, 4, 7, 10), "maj7": (0, 4, 7, 11), "min7": (0, 3, 7, 10),
    "sus4": (0, 5, 7), "dim": (0, 3, 6),
}  # fmt: skip
SUFFIXES = {"maj": "", "min": "m", "7": "7", "maj7": "maj7", "min7": "m7", "sus4": "sus4", "dim": "dim"}
# replaces accidentals and signs by ASCII, as in MIDI files, whose text is Latin-1, and in keys
PLAIN_SIGNS = str.maketrans("♭♯−Δ∆△", "b#-^^^")
MODE = re.compile(r"\s*:?\s*(maj|min)(?:or)?$", re.IGNORECASE)
NO_CHORD = ("", "N", "N.C.", "NC", "X")
# root, Harte's colon, quality; a bass or an added note after a slash (Cm/maj7) does not change the class
CHORD = re.compile(r"([A-G])([#b]*):?([^/\s]*)(/(?:[A-G]?[#b]*|[Mm]aj?|M|add|sus)\d*)?")
# the words of a quality, and the signs between them
WORD = re.compile(r"maj(?:or)?|min(?:or)?|ma(?![a-z])|mi|dim|aug|sus|add|alt|omit|no|dom", re.IGNORECASE)
SIGNS = re.compile(r"[hmMo°ø+^()*,#b\d-]*")
MAJOR_WORD = re.compile(r"maj(?:or)?|ma(?![a-z])", re.IGNORECASE)
MINOR_WORD = re.compile(r"^mi(?:n(?:or)?)?", re.IGNORECASE)
# in Harte's notation and lead sheets: matches Cm7, C-7, C°, Cø and Cmadd9, but not Cmaj7
MINOR_THIRD = re.compile(r"dim|hdim|m(?!aj)|-|°|o(?!mit)|ø")
DIMINISHED = re.compile(r"dim|°|^o(?!mit)|ø|[b-]5")
MAJOR_SEVENTH = re.compile(r"(?:maj|M)(?:7|9|11|13)|7M|\^")
ADDED = re.compile(r"add\(?[#b]?\d+|omit\d|\(.*?\)")
SEVENTH = re.compile(r"(?<!\d)(?:7|9|11|13)")
# Krumhansl and Kessler (1982): how well each pitch class fits a major and a minor key, tonic first
MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)
KEYS = np.stack([np.roll(mode, tonic) for mode in (MAJOR, MINOR) for tonic in range(len(MAJOR))])
KEYS -= KEYS.mean(axis=1, keepdims=True)
KEYS /= np.linalg.norm(KEYS, axis=1, keepdims=True)
# the major and the minor scale, with both sevenths, tonic first
SCALES = ((1, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0, 1), (1, 0, 1, 1, 0, 1, 0, 1, 1, 0, 1, 1))
SCALES_OF_KEYS = np.stack([np.roll(mode, tonic) for mode in SCALES for tonic in range(len(mode))])
# share of the notes of 24 triads (12 major, 12 minor) that are in each of 24 keys: float64 [24 keys, 24 triads]
IN_KEY = np.hstack([sum(np.roll(SCALES_OF_KEYS, -n, 1) for n in INTERVALS[each]) / 3 for each in ("maj", "min")])


def chord_class(label: str) -> int:
    """The triad of a label: 0 for no chord, then 12 roots without and 12 with a minor third.

    Raises:
        ValueError: the label is not a chord.
    """
    parsed = _parsed(label)
    if parsed is None:
        return 0
    root, quality = parsed
    return 1 + root + PITCH_CLASSES * bool(MINOR_THIRD.match(quality))


def chord_index(label: str) -> int:
    """The class of a label among 85: 0 for no chord, then 12 roots for each of `QUALITIES`; the nearest is chosen.

    Raises:
        ValueError: the label is not a chord.
    """
    found = root_and_quality(label)
    return 0 if found is None else 1 + found[0] + PITCH_CLASSES * QUALITIES.index(found[1])


def chord_label(chord: int) -> str:
    """Lead-sheet label of a chord class (0 to 84; the first 25 are the triads): "N", "C", "Cm", "Gsus4"."""
    if chord == 0:
        return "N"
    quality, root = divmod(chord - 1, PITCH_CLASSES)
    name = QUALITIES[quality]
    roots = MINOR_ROOTS if name in ("min", "min7", "dim") else MAJOR_ROOTS
    return roots[root] + SUFFIXES[name]


def key_name(key: int) -> str:
    """Name of a key ("A:min"): 0 to 11 are major keys from C, 12 to 23 minor."""
    minor, tonic = divmod(key, PITCH_CLASSES)
    return f"{(MINOR_ROOTS if minor else MAJOR_ROOTS)[tonic]}:{('maj', 'min')[minor]}"


def key_label(key: str) -> str:
    """Normalises the name of a key: "Am" and "A minor" become "A:min", "B♭" becomes "Bb:maj".

    Raises:
        ValueError: it is not a key.
    """
    named = MODE.sub(lambda mode: f":{mode[1].lower()}", str(key).strip()).translate(PLAIN_SIGNS)
    try:
        found = root_and_quality(named)
    except ValueError:
        found = None
    if found is None or found[1] not in ("maj", "min"):
        raise ValueError(f"key is {key!r}; write C:maj or Am, for example.")
    return f"{re.split('[^A-G#b]', named)[0]}:{found[1]}"


def key_fit(profile: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlation of a pitch-class profile (float64 [12]) with 24 keys: float64 [24], C major first, then minor."""
    centred = profile - profile.mean()
    length = float(np.linalg.norm(centred))
    return KEYS @ centred / length if length > 1e-9 else np.zeros(len(KEYS))


def root_and_quality(label: str) -> tuple[int, str] | None:
    """Pitch class of a label's root and the nearest of `QUALITIES`; None for no chord.

    Raises:
        ValueError: the label is not a chord.
    """
    parsed = _parsed(label)
    return None if parsed is None else (parsed[0], _nearest_quality(parsed[1]))


def pitch_classes(label: str) -> tuple[int, ...]:
    """Pitch classes of a chord's notes, the root first; empty for no chord."""
    found = root_and_quality(label)
    return () if found is None else tuple((found[0] + step) % PITCH_CLASSES for step in INTERVALS[found[1]])


def _parsed(label: str) -> tuple[int, str] | None:
    """Pitch class of the root, and the quality with its major and minor in Harte's notation; None for no chord."""
    written = label.strip().translate(PLAIN_SIGNS) if isinstance(label, str) else None
    if written in NO_CHORD:
        return None
    found = None if written is None else CHORD.fullmatch(written)
    if found is None or not SIGNS.fullmatch(WORD.sub("", found[3])):
        raise ValueError(f"{label!r} is not a chord; write A:min7, Am7, Bb or N, for example.")
    letter, accidentals, quality, _ = found.groups()
    pitch = NOTE_NAMES[letter] + sum(1 if sign == "#" else -1 for sign in accidentals)
    return pitch % PITCH_CLASSES, MAJOR_WORD.sub("maj", MINOR_WORD.sub("min", quality))


def _nearest_quality(quality: str) -> str:
    """The nearest of `QUALITIES` to a quality from `_parsed`; notes added to triads or sevenths are ignored."""
    plain = ADDED.sub("", quality)
    major_seventh = bool(MAJOR_SEVENTH.search(plain))
    seventh = bool(SEVENTH.search(plain)) and not major_seventh
    if MINOR_THIRD.match(quality):
        if DIMINISHED.search(quality):
            return "dim"
        return "min7" if seventh else "min"
    if "sus" in quality:
        return "sus4"
    if major_seventh:
        return "maj7"
    return "7" if seventh else "maj"
