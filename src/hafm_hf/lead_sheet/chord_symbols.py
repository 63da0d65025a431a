# SPDX-License-Identifier: Apache-2.0
"""Reads chord labels, in Harte's or lead-sheet notation, as the notes that they mean.

A label is a root, a quality and possibly a bass: "F#m7b5/A". Harte's notation has a colon after the root and may list
degrees: "C:min7", "C:(b3,5)", "C:maj/3". What this grammar does not know is refused, so that no label is silently read
as another. The page has the same grammar (`space/static/chords.js`).
"""

import re
from dataclasses import dataclass
from functools import lru_cache

PITCH_CLASSES = 12
NOTE_NAMES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
# replaces accidentals and signs by ASCII, as in MIDI files, whose text is Latin-1, and in keys
PLAIN_SIGNS = str.maketrans("♭♯−–—‐‑‒Δ∆△º˚Ø", "b#------^^^°°ø")
# degrees of a chord: (degree, semitones above the root); (9, 13) is a flat ninth
Degrees = frozenset[tuple[int, int]]
# semitones of the degrees of a major scale
NATURAL = {1: 0, 2: 2, 3: 4, 4: 5, 5: 7, 6: 9, 7: 11, 8: 12, 9: 14, 10: 16, 11: 17, 12: 19, 13: 21}
MAJOR_SEVENTH = (7, NATURAL[7])
# degrees of an altered chord, such as C7alt
ALTERED = frozenset({(1, 0), (3, 4), (5, 8), (7, 10), (9, 13), (9, 15)})

NO_CHORD = re.compile(r"|N|X|[Nn]\.?[Cc]\.?")
# words of a quality, which may be written in any case, and how the grammar writes them
WORDS = (
    (r"half-?dim(?:inished)?|hdim", "h"),
    (r"dim(?:inished)?", "dim"),
    (r"maj(?:or)?|ma(?![a-z])", "maj"),
    (r"min(?:or)?|mi(?![a-z])", "m"),
    (r"aug(?:mented)?", "aug"),
    (r"sus(?:pended)?", "sus"),
    (r"alt(?:ered)?", "alt"),
    (r"omit|no", "omit"),
    (r"dom(?:inant)?(?=\d)", ""),
    (r"add", "add"),
)
WORD = re.compile("|".join(f"({pattern})" for pattern, _ in WORDS), re.IGNORECASE)

# an accidental belongs to the root: C#4 is no C with a raised fourth
ROOT = r"[A-G](?:##?(?!#)|bb?(?!b)|(?![#b]))"
# Bbb5 may be a fifth on Bbb, or a B flat with a flat fifth
UNCLEAR_ROOT = r"(?!(?:[CF]b|[EB]#|[A-G](?:bb|##))(?:5|9|11|13))"
NOTE = r"[A-G](?:##?|bb?)?"
MAJOR = r"(?:maj|M|\^|j)"
SIXTH = r"(?:69|6/9|6)"
SEVENTH = r"(?:7|9|11|13)"
# triad, and sixth or seventh; C-5 and C+9 are refused, as each is used for two chords
CORE = (
    rf"(?!-5|\+(?:6|9|1))(?:(?:7?alt|7\(alt\)|5|{MAJOR}?{SIXTH}|[m-]{SIXTH}|[hø]{SEVENTH}?)"
    rf"|(?:[m-]|dim|°|o(?!mit)|aug|\+(?!5))?(?:{MAJOR}{SEVENTH}?|{SEVENTH}|[79]M)?)"
)
ADDED = r"(?:b(?:6|9|13)|#(?:4|9|11)|2|4|6|9|11|13)"
CHANGE = (
    rf"(?:b(?:5|6|9|13)|#(?:4|5|9|11)|-(?:5|9|13)|\+(?:5|9|11)|add{ADDED}|add\({ADDED}\)"
    r"|omit(?:3(?:rd)?|5(?:th)?)|sus(?:24|42|2|4|7|9|13)?)"
)
LISTED = rf"(?:{CHANGE}|{MAJOR}[79]|b7|6|9|11|13)"
CHANGES = rf"(?:{CHANGE}|\({LISTED}(?:,?{LISTED})*\)|/{MAJOR}7|/add{ADDED}|/sus[24]?)*"
# C7/9 has a ninth; C/E, C7/b7 and, in Harte's notation, C/3 have another bass
TENSIONS = r"(?:/(?:[b-](?:9|13)|[#+](?:9|11)|9|11|13))*"
DEGREE = r"(?:bb?|##?)?(?:1[0-3]|[1-9])"
DEGREES = rf"\(\*?{DEGREE}(?:,\*?{DEGREE})*\)"
COMMON = re.compile(rf"{UNCLEAR_ROOT}({ROOT})({CORE}{CHANGES}{TENSIONS})(?:/({NOTE}|[b#][357]))?")
HARTE = re.compile(rf"({ROOT})(?::((?:1|{CORE.replace('6/9|', '')}){CHANGES}(?:{DEGREES})?))?(?:/({NOTE}|{DEGREE}))?")
HEAD = re.compile(rf"{NOTE}:?")
SLASHED_TENSION = re.compile(r"/[b#]?(?:9|1\d)$")
LISTED_ALONE = re.compile(DEGREES)
# the parts of a quality that the grammar has accepted: the triad and its seventh, and the changes one by one
TRIAD = re.compile(r"(m(?!aj)|-|h|ø|dim|°|o(?!mit)|aug|\+(?!5))?(maj|M|\^|j)?(69|6/9|6|7|9|11|13)?(M)?")
PART = re.compile(r"sus(24|42|2|4|7|9|13)?|(add|omit|\*)?\(?(maj|M|\^|j)?([b#+-]*)(1[0-3]|[1-9])")
SHIFTS = {"b": -1, "-": -1, "#": 1, "+": 1}


@dataclass(frozen=True)
class ChordSymbol:
    """A chord as its label writes it.

    Args:
        root: letter and accidentals in ASCII, such as "Bb".
        quality: as written, without Harte's colon, in ASCII where there is an equivalent.
        degrees: (degree, semitones above the root) of the notes.
        bass: note name of the bass if it is not the root.
    """

    root: str
    quality: str
    degrees: Degrees
    bass: str | None

    @property
    def lowest(self) -> int:
        """Pitch class of the bass, or else of the root."""
        return pitch_class(self.root if self.bass is None else self.bass)

    @property
    def notes(self) -> tuple[int, ...]:
        """Pitch classes (0 for C) of the degrees, each once, from the root up to tensions above the octave.

        A bass that is none of the degrees is left out.
        """
        steps = sorted(semitones for _, semitones in self.degrees)
        return tuple(dict.fromkeys((pitch_class(self.root) + step) % PITCH_CLASSES for step in steps))


def read_chord(label: str) -> ChordSymbol | None:
    """Reads a chord label; None for "no chord" ("N", "N.C.", an empty label).

    Raises:
        ValueError: the label is not a chord, or may mean more than one.
    """
    chord = None
    # labels come from users' files and requests, in which they may be anything
    if isinstance(label, str):
        written = label.strip().translate(PLAIN_SIGNS)
        if NO_CHORD.fullmatch(written):
            return None
        # as in C7(b9, #11)
        chord = _read(re.sub(r",\s+", ",", written))
    if chord is None:
        raise ValueError(f"{label!r} is not a chord; write A:min7, Am7, Bb or N, for example.")
    return chord


def pitch_class(note: str) -> int:
    """Pitch class of a note name in ASCII: 0 for C, 10 for Bb."""
    return (NOTE_NAMES[note[0]] + note.count("#") - note.count("b")) % PITCH_CLASSES


@lru_cache(maxsize=4096)
def _read(written: str) -> ChordSymbol | None:
    """The chord of a label in ASCII, without spaces around it; None if the grammar does not know it."""
    # the root, with a colon in Harte's notation
    head = HEAD.match(written)
    if head is None:
        return None
    tail = written[head.end() :]
    # "Cminor" → "Cm": the group of WORD that matched is numbered as the word's entry in WORDS, from 1
    normalised = head[0] + WORD.sub(lambda word: WORDS[(word.lastindex or 1) - 1][1], tail)
    matched = HARTE.fullmatch(normalised)
    # a bare root with a slash and a tension is common notation, not Harte's
    if matched is None or (matched[2] is None and SLASHED_TENSION.search(normalised)):
        matched = COMMON.fullmatch(normalised)
    if matched is None:
        return None
    root, normalised_quality, bass = matched.groups()
    quality = tail
    if bass:
        # without the slash and the bass
        quality = tail[: len(tail) - len(bass) - 1]
        # a degree, such as b3, rather than a note
        if bass[0] not in NOTE_NAMES:
            bass = _note_at(root, bass)
        if bass == root:
            bass = None
    is_harte = head[0][-1] == ":"
    return ChordSymbol(root, quality, _degrees(normalised_quality or "", is_harte), bass)


def _degrees(quality: str, harte: bool) -> Degrees:
    """The degrees of a quality that the grammar has accepted, such as "m7b5".

    `harte` says whether it followed a colon, as in Harte's notation, in which degrees may also be listed.
    """
    if "alt" in quality:
        return ALTERED
    # Harte's "C:1" is the root alone
    if harte and quality == "1":
        return frozenset({(1, 0)})
    # the degrees to begin with, and the changes to them that follow
    if harte and LISTED_ALONE.fullmatch(quality):
        degrees = {(1, 0)}
        changes = quality
    elif quality.startswith("5"):
        # a power chord
        degrees = {(1, 0), (5, 7)}
        changes = quality[1:]
    else:
        core = TRIAD.match(quality)
        assert core is not None
        degrees = _core(*core.groups())
        changes = quality[core.end() :]
    for sus, action, major, signs, number in PART.findall(changes):
        # only a suspension has its number, if any, in a group of its own
        if number:
            shift = sum(SHIFTS[sign] for sign in signs)
            _apply_modifier(degrees, action, bool(major), shift, int(number))
        else:
            _suspend(degrees, sus)
    return frozenset(degrees)


def _apply_modifier(degrees: set[tuple[int, int]], action: str, major: bool, shift: int, degree: int) -> None:
    """Adds, alters or leaves out a degree, in place.

    Args:
        degrees: (degree, semitones above the root) of the chord so far.
        action: "add", "omit", "*" (Harte's omission) or "".
        major: whether the change is to a major seventh, as in maj7, or brings one, as in maj9.
        shift: semitones by which accidentals alter the degree; not used with `major`.
        degree: 1 to 13.
    """
    if action in ("omit", "*"):
        _leave_out(degrees, degree)
    elif major:
        # instead of a minor seventh
        _leave_out(degrees, 7)
        degrees.update([MAJOR_SEVENTH, (degree, NATURAL[degree])])
    else:
        # an altered fifth or tension replaces the natural one
        if shift and action != "add" and degree in (5, 9, 11, 13):
            degrees.discard((degree, NATURAL[degree]))
        degrees.add((degree, NATURAL[degree] + shift))


def _suspend(degrees: set[tuple[int, int]], number: str) -> None:
    """Replaces the third of a chord, in place, by the fourth, the second, or both.

    Args:
        degrees: (degree, semitones above the root) of the chord so far.
        number: what follows "sus": "2", "4", "24", "42", or "" for the fourth; "7", "9" and "13" bring the fourth and
            the seventh with its tensions, so that Csus9 is C9sus4.
    """
    _leave_out(degrees, 3)
    if "2" in number:
        degrees.add((2, 2))
    if "4" in number or "2" not in number:
        degrees.add((4, 5))
    if number in ("7", "9", "13"):
        degrees.add((7, 10))
        degrees |= {(tension, NATURAL[tension]) for tension in (9, 13) if tension <= int(number)}


def _leave_out(degrees: set[tuple[int, int]], degree: int) -> None:
    """Removes a degree from `degrees` ((degree, semitones) each), in place, however it is altered."""
    degrees -= {present for present in degrees if present[0] == degree}


def _core(third: str | None, major: str | None, number: str | None, after: str | None) -> set[tuple[int, int]]:
    """The degrees of a triad with its sixth or seventh, from the groups of `TRIAD`.

    Args:
        third: the sign of the triad, such as "m", "dim" or "+"; None for major.
        major: the sign of a major seventh, before its number.
        number: "6", "7", "9" and so on; None without a sixth or seventh.
        after: the sign of a major seventh behind the number, as in 7M.

    Returns:
        (degree, semitones above the root) each.
    """
    semitones = {1: 0, 3: 4, 5: 7}
    if third in ("m", "-", "h", "ø", "dim", "°", "o"):
        semitones[3] = 3
    if third in ("h", "ø", "dim", "°", "o"):
        semitones[5] = 6
    if third in ("aug", "+"):
        semitones[5] = 8
    # without a number: a half-diminished chord has a seventh; C^ and Cm(maj) mean a major seventh, Cmaj a triad
    if number in ("6", "69", "6/9"):
        semitones[6] = 9
    elif number or third in ("h", "ø") or major in ("^", "j") or (major and third):
        if major or after:
            semitones[7] = 11
        elif third in ("dim", "°", "o"):
            semitones[7] = 9
        else:
            semitones[7] = 10
    if number in ("69", "6/9"):
        semitones[9] = NATURAL[9]
    # C13 has the ninth and the eleventh, too
    if number in ("9", "11", "13"):
        for degree in (9, 11, 13):
            if degree <= int(number):
                semitones[degree] = NATURAL[degree]
    return set(semitones.items())


def _note_at(root: str, degree: str) -> str:
    """The note name of a degree above a root: of "b3" above A, "C"."""
    signs = degree.rstrip("0123456789")
    number = int(degree.lstrip("b#"))
    letters = "CDEFGAB"
    letter = letters[(letters.index(root[0]) + number - 1) % len(letters)]
    pitch = pitch_class(root) + NATURAL[number] + signs.count("#") - signs.count("b")
    # semitones from the natural note of that letter, −6 to 5
    shift = (pitch - pitch_class(letter) + 6) % PITCH_CLASSES - 6
    return letter + ("#" if shift > 0 else "b") * abs(shift)
