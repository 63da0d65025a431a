# SPDX-License-Identifier: Apache-2.0
"""Lead sheets from users' arguments, and as hand-editable files: one JSON file, or a file of beats and one
of chords (.lab). MusicXML and MIDI can be written (`export`) but not read.

A line of a beat file has a time in seconds and, optionally, the beat's number in the bar; between the two, Audacity
writes a stop. A line of a chord file has start, stop and label, as `mir_eval` and Sonic Visualiser write them. Fields
are separated by spaces, tabs or commas, and may be quoted; empty lines and lines that begin with # are skipped.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from ..atomic_files import replacing
from . import export
from .bars import Chart
from .chord_symbols import read_chord
from .lead_sheet import HELD, METRES, OUTER_COMMA, LeadSheet, Span

T = TypeVar("T")
# what follows the first field of a line of chords: the stop, and the chord as a group
CHORD_LINE = re.compile(r"[\d.]+\s+([A-GN]\S*)")
# around the fields of a CSV file
QUOTES = "\"'“”"
FileName = str | os.PathLike[str]
# output formats, and the suffixes of their files
FORMATS = {
    "lab": ("_beats.txt", "_chords.lab"),
    "beats": ("_beats.txt",),
    "json": ("_lead_sheet.json",),
    "midi": ("_lead_sheet.mid",),
    "musicxml": ("_lead_sheet.musicxml",),
}
# formats that need a chart in bars, and the optional package that each requires
IN_BARS = {"midi": "mido", "musicxml": "music21"}


def known_lead_sheet(
    lead_sheet: Any = None,
    tempo: float | None = None,
    beats: Sequence[float] | FileName | None = None,
    chords: Sequence[Span] | FileName | None = None,
    key: str | None = None,
    files: bool = True,
) -> LeadSheet | None:
    """Builds a lead sheet from the arguments of a call; None if all of them are None.

    Args:
        lead_sheet: a `LeadSheet`, or a dict of its fields; the other arguments override them, and tempo or beats
            override everything about its beats.
        tempo: beats a minute.
        beats: times in seconds, or the path of a beat file.
        chords: (start s, stop s, label) each, the path of a .lab file, or chords by the bar, repeated: "C | Am | F G".
        key: such as "Am" or "C".
        files: whether strings may name files; False on servers, whose files users must not read.

    Raises:
        ValueError: a file cannot be read (the message names its line), or the values are invalid.
    """
    if all(value is None for value in (lead_sheet, tempo, beats, chords, key)):
        return None
    arguments: dict[str, Any] = {"tempo": tempo, "beats": beats, "chords": chords, "key": key}
    new_fields = {name: value for name, value in arguments.items() if value is not None}
    if isinstance(beats, (str, os.PathLike)):
        if not files:
            raise ValueError(f"beats is {beats!r}; give seconds, [0.5, 1.0] for example.")
        new_fields |= read_beats(beats)
    if files and isinstance(chords, (str, os.PathLike)) and not _are_chords(os.fspath(chords)):
        new_fields["chords"] = read_chords(chords)
    sheet = LeadSheet.given({} if lead_sheet is None else lead_sheet)
    if new_fields.keys() & {"tempo", "beats"}:
        bar_fields = {}
        if sheet.beats is not None:
            # the downbeat is an index in the beats that are replaced; chords by the bar keep their metre
            metre = sheet.beats_per_bar if sheet.bars else None
            bar_fields = {"downbeat": 0, "beats_per_bar": metre}
        new_fields = {"tempo": None, "beats": None, **bar_fields, **new_fields}
    still_estimated = [name for name in sheet.estimated if name not in new_fields]
    return replace(sheet, **new_fields, estimated=still_estimated or ())


def _are_chords(text: str) -> bool:
    """Whether a string is chords rather than the path of a chord file.

    It is chords if it has bar lines, or if all of its words are chords and no file has that name.
    """
    if "|" in text:
        return True
    if os.path.isfile(text):
        return False
    try:
        for word in text.split():
            if word != HELD:
                read_chord(word)
    except ValueError:
        return False
    return True


def read_lead_sheet(path: str | Path) -> LeadSheet:
    """Reads a lead sheet from a JSON file.

    Raises:
        ValueError: it cannot be read or is invalid; the message names the file.
    """
    text = _read_text(Path(path), "JSON")
    try:
        return LeadSheet.given(json.loads(text))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_beats(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a beat file as keywords of `LeadSheet`: `beats`, with `beats_per_bar` and `downbeat` if it numbers them.

    Raises:
        ValueError: the file cannot be read, or a line (named in the message) is invalid.
    """

    def parse(words: list[str]) -> tuple[float, str]:
        """Time in seconds of a line's beat, and its number in the bar ("" if the line has none).

        `words` are the time and, if there is more, the rest of the line as one string.
        """
        # a line of a chord file: start, stop, chord
        if (chord := CHORD_LINE.fullmatch(words[-1])) and _are_chords(chord[1]):
            raise ValueError
        rest = " ".join(words[1:]).replace('"', " ").split()
        # Audacity's stop, which may come before it, is not a whole number
        number_in_bar = next(filter(str.isdecimal, rest), "")
        return float(words[0]), number_in_bar

    def check(so_far: list[tuple[float, str]]) -> None:
        """Raises ValueError if the latest two beats are not valid in a lead sheet."""
        if len(so_far) > 1:
            LeadSheet(beats=[second for second, _ in so_far[-2:]])

    lines = _parsed_lines(Path(path), 2, "seconds", parse, check)
    sheet_fields: dict[str, Any] = {"beats": [second for second, _ in lines]}
    numbers_in_bar = [int(number) for _, number in lines if number]
    different = set(numbers_in_bar)
    plausible = {1, 2} <= different or (len(different) > 1 and different <= {1, 2, 3, 4})
    # a second column that is not plausible as beat numbers is ignored
    if len(numbers_in_bar) == len(lines) and plausible:
        # the largest number before a 1
        metre = max((before for before, after in pairwise(numbers_in_bar) if after == 1), default=max(METRES))
        if 1 in numbers_in_bar:
            downbeat = numbers_in_bar.index(1)
        else:
            downbeat = 1 - numbers_in_bar[0]
        are_consistent = metre in METRES and all(
            number == (beat - downbeat) % metre + 1 for beat, number in enumerate(numbers_in_bar)
        )
        if not are_consistent:
            raise ValueError(f"{path} counts bars that are not all of 3 or all of 4 beats; leave the numbers out.")
        sheet_fields |= {"beats_per_bar": metre, "downbeat": downbeat}
    return sheet_fields


def read_chords(path: str | os.PathLike[str]) -> list[Span]:
    """Reads a chord file: (start s, stop s, label) each.

    Raises:
        ValueError: the file cannot be read, or a line (named in the message) is invalid.
    """

    def parse(fields: list[str]) -> Span:
        """(start s, stop s, label) from the three fields of a line."""
        start, stop, label = (field.strip(QUOTES) for field in fields)
        return float(start), float(stop), label

    def check(so_far: list[Span]) -> None:
        """Raises ValueError if the latest chord is not valid in a lead sheet."""
        LeadSheet(chords=so_far[-1:])

    return _parsed_lines(Path(path), 3, "START STOP LABEL", parse, check)


def lead_sheet_files(name: str, formats: Iterable[str] = ("lab", "json")) -> list[str]:
    """Names of the files of a song's lead sheet in the given formats."""
    return list(dict.fromkeys(name + suffix for file_format in formats for suffix in FORMATS[file_format]))


def write_lead_sheet(
    sheet: LeadSheet,
    folder: str | Path,
    name: str,
    formats: Iterable[str] = ("lab", "json"),
    chart: Chart | None = None,
    melody: Sequence[export.Note] = (),
) -> list[Path]:
    """Writes a lead sheet to files NAME_….

    Args:
        sheet: the lead sheet.
        folder: created if it is missing.
        name: name of the song, with which the files' names begin.
        formats: names in `FORMATS`; those in `IN_BARS` are left out without a `chart`.
        chart: the song in bars.
        melody: (start s, stop s, MIDI pitch) of each sung note, for "midi".

    Returns:
        The files written; files that would be empty are left out.

    Raises:
        ModuleNotFoundError: "midi" without mido, "musicxml" without music21.
    """
    contents: dict[str, Callable[[], str | bytes]] = {
        "_beats.txt": lambda: _beat_lines(sheet),
        "_chords.lab": lambda: "".join(f"{start:.3f}\t{stop:.3f}\t{label}\n" for start, stop, label in sheet.chords),
        "_lead_sheet.json": lambda: json.dumps(sheet.to_dict(), indent=1) + "\n",
    }
    if chart is not None:
        contents |= {
            "_lead_sheet.musicxml": lambda: export.to_musicxml(chart, name),
            "_lead_sheet.mid": lambda: export.to_midi(chart, melody),
        }
    written = []
    for file_name in lead_sheet_files(name, formats):
        # `str()` is empty: no content for a format that needs a chart if there is none
        content = contents.get(file_name.removeprefix(name), str)()
        if not content:
            continue
        if isinstance(content, str):
            content = content.encode()
        path = Path(folder) / file_name
        with replacing(path) as stream:
            stream.write(content)
        written.append(path)
    return written


def _beat_lines(sheet: LeadSheet) -> str:
    """The text of a beat file: each beat's time in seconds and, if the metre is known, its number in the bar."""
    metre = sheet.beats_per_bar
    beats = sheet.beats or ()
    if metre is None:
        return "".join(f"{second:.3f}\n" for second in beats)
    lines = []
    for beat, second in enumerate(beats):
        number_in_bar = (beat - sheet.downbeat) % metre + 1
        lines.append(f"{second:.3f}\t{number_in_bar}\n")
    return "".join(lines)


def _parsed_lines(
    path: Path, count: int, wanted: str, parse: Callable[[list[str]], T], check: Callable[[list[T]], object]
) -> list[T]:
    """Parses each line of a text file.

    Args:
        path: the file; its empty lines and comments (#) are skipped.
        count: most fields that a line is split into, at spaces, tabs and commas; the last one has the rest.
        wanted: what a line should be, for error messages.
        parse: makes a value of the fields of a line; raises ValueError if it can't.
        check: called after each line with the values so far; its ValueErrors are attributed to that line.

    Returns:
        The values, one for each line.

    Raises:
        ValueError: the file cannot be read, or a line (named in the message) is invalid.
    """
    parsed: list[T] = []
    for number, line in enumerate(_read_text(path, wanted).splitlines(), start=1):
        # commas in brackets are part of a chord
        words = OUTER_COMMA.sub(" ", line).strip().split(None, count - 1)
        if not words or words[0].startswith("#"):
            continue
        try:
            # a decimal comma, as in 0,50 for 0.50, would be taken for a separator
            if re.match(r"\s*\d+,\d{2,}(?![^\s;])", line):
                raise ValueError
            parsed.append(parse(words))
        except ValueError:
            raise ValueError(f"{path}, line {number}: {line.strip()[:40]!r} is not {wanted}.") from None
        try:
            check(parsed)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    return parsed


def _read_text(path: Path, wanted: str) -> str:
    """The text of a file in UTF-8, without a byte order mark.

    Raises:
        ValueError: the file cannot be read; `wanted` says in the message what it should contain.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text; give a file with {wanted} in it.") from error
