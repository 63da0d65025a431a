# SPDX-License-Identifier: Apache-2.0
"""Names of keys, and of chord roots as a key spells them: V of C# minor is G#, of Db major Ab.

Notes are counted in fifths from C: F is −1, Bb −2, G 1, F# 6. The page has the same rules (`space/static/chords.js`);
tests/lead_sheet/spelling.json has what they give.
"""

import re

from .chord_symbols import PITCH_CLASSES, PLAIN_SIGNS, pitch_class, read_chord

# in fifths, from one fifth below C
LETTERS = "FCGDAEB"
# most sharps or flats of a key signature
MOST_ACCIDENTALS = 7
# usual tonics of major and of minor keys
MAJOR_TONICS = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
MINOR_TONICS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B")
# the lowest of twelve successive fifths from which a key's chords take their roots, counted from the tonic: in C major
# Ab, but G#m and G#dim
LOWEST = {
    "maj": {"maj": -5, "min": -3, "dim": -2},
    "min": {"maj": -6, "min": -6, "dim": -5},
}
# the first and the last note of the scale, in fifths from the tonic
SCALE = {"maj": (-1, 5), "min": (-4, 2)}
# the leading note of a minor key bears a diminished chord
LEADING_NOTE = 5
# letter, accidentals and mode of a key in words: "B-flat major", "A-minor", "c# min", "Ebm"
KEY = re.compile(
    r"([A-Ga-g])(#{1,2}|b{1,2}|[\s-]*(?:(?i:flat)|(?i:sharp)))?(?:[\s:_-]*((?i:maj(?:or)?|min(?:or)?))|\s*(m))?"
)
# chords that name a key; Cm/maj7 is the tonic of C minor
TONIC_CHORDS = {
    frozenset({(1, 0), (3, 4), (5, 7)}): "maj",
    frozenset({(1, 0), (3, 3), (5, 7)}): "min",
    frozenset({(1, 0), (3, 3), (5, 7), (7, 11)}): "min",
}
SIGNS = {"flat": "b", "sharp": "#"}


def key_name(key: int) -> str:
    """Name of the key ("A:min") with an index: 0 to 11 are the major keys from C, 12 to 23 the minor ones."""
    minor, tonic = divmod(key, PITCH_CLASSES)
    if minor:
        return f"{MINOR_TONICS[tonic]}:min"
    return f"{MAJOR_TONICS[tonic]}:maj"


def key_label(key: str) -> str:
    """Normalises the name of a key: "Am", "a minor" and "A-minor" become "A:min", "B♭" becomes "Bb:maj".

    Raises:
        ValueError: it is not a key.
    """
    written = str(key).strip().translate(PLAIN_SIGNS)
    named = KEY.fullmatch(written)
    # a small letter alone may be either mode
    if named is not None and (named[1].isupper() or named[3] or named[4]):
        letter, signs, mode_word, m = named.groups()
        accidental = (signs or "").strip(" -\t").lower()
        mode = "maj"
        if m or (mode_word or "").lower().startswith("min"):
            mode = "min"
        return f"{letter.upper()}{SIGNS.get(accidental, accidental)}:{mode}"
    # the tonic chord of the key, or not a key
    try:
        chord = read_chord(written)
    except ValueError:
        chord = None
    if chord is None or chord.bass or chord.degrees not in TONIC_CHORDS:
        raise ValueError(f"key is {key!r}; write C:maj or Am, for example.")
    return f"{chord.root}:{TONIC_CHORDS[chord.degrees]}"


def usual_key(key: str) -> str:
    """The key ("A:min") itself, or the enharmonic one if its signature would have more than seven sharps or flats.

    "G#:maj" is "Ab:maj".
    """
    tonic, _, mode = key.partition(":")
    first, last = SCALE[mode]
    fifths = in_fifths(tonic)
    # the signature has as many sharps as the scale's last note lies above B, five fifths above C; twelve fifths lower
    # is the same pitch
    while fifths + last - 5 > MOST_ACCIDENTALS:
        fifths -= PITCH_CLASSES
    # as many flats as its first note lies below F, a fifth below C
    while fifths + first + 1 < -MOST_ACCIDENTALS:
        fifths += PITCH_CLASSES
    return f"{note_name(fifths)}:{mode}"


def root_name(pitch: int, third: str, key: str) -> str:
    """Spells the root of a chord in a key.

    Args:
        pitch: pitch class of the root, 0 for C.
        third: "maj", "min" or "dim": the chord's third, "dim" if its fifth is diminished as well.
        key: such as "A:min".

    Returns:
        A note name such as "Bb".
    """
    tonic, _, mode = usual_key(key).partition(":")
    # notes are counted in fifths from C; a fifth is seven semitones
    tonic_fifths = in_fifths(tonic)
    first, last = SCALE[mode]
    for fifths in range(tonic_fifths + first, tonic_fifths + last + 1):
        if 7 * fifths % PITCH_CLASSES == pitch:
            return note_name(fifths)
    # outside the scale
    lowest = tonic_fifths + LOWEST[mode][third]
    fifths = next(number for number in range(lowest, lowest + PITCH_CLASSES) if 7 * number % PITCH_CLASSES == pitch)
    name = note_name(fifths)
    on_leading_note = mode == "min" and third == "dim" and fifths == tonic_fifths + LEADING_NOTE
    has_simpler_name = name in ("E#", "B#", "Fb", "Cb") and not on_leading_note
    # more than two characters are a double accidental
    if len(name) > 2 or has_simpler_name:
        # no chord outside the scale is easier to read with a double accidental, or with Fb for E
        return next(letter for letter in LETTERS if pitch_class(letter) == pitch)
    return name


def spelled(label: str, key: str | None) -> str:
    """A chord label with its root as the key spells it: in F:maj, "A#m7" becomes "Bbm7".

    The quality and bass are kept as they are. Labels of no chord ("N") are returned unchanged, and all if key is None.

    Raises:
        ValueError: the label is not a chord.
    """
    chord = read_chord(label)
    if chord is None or key is None:
        return label
    # degrees are (number, semitones above the root): a minor third, a diminished fifth
    if (3, 3) not in chord.degrees:
        third = "maj"
    elif (5, 6) in chord.degrees:
        third = "dim"
    else:
        third = "min"
    name = root_name(pitch_class(chord.root), third, key)
    rest = label.strip()[len(chord.root) :]
    # A with "#5" would be A sharp with a fifth
    colon = ":" if name != chord.root and rest[:1] in ("#", "b", "♯", "♭") else ""
    return name + colon + rest


def in_fifths(note: str) -> int:
    """Position of a note ("Bb") in fifths from C: G is 1, Bb −2."""
    return LETTERS.index(note[0]) - 1 + len(LETTERS) * (note.count("#") - note.count("b"))


def note_name(fifths: int) -> str:
    """Name of the note at a position in fifths from C, the inverse of `in_fifths`."""
    accidentals, letter = divmod(fifths + 1, len(LETTERS))
    return LETTERS[letter] + ("#" if accidentals > 0 else "b") * abs(accidentals)
