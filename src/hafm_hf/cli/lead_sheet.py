"""Reads what `hafm accompany` is told of a song, as beat and chord trackers and Sonic Visualiser write it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from ..lead_sheet_hafm import LeadSheet

CHORD_FIELDS = 3


def read_lead_sheet(tempo: float | None, beats: Path | None, chords: Path | None) -> LeadSheet | None:
    """The lead sheet of the options of those names; None where none is given.

    A file of beats has the seconds of one first in each line, one of chords has start, stop and label; what follows is
    left out, as are empty lines and those that begin with #. Fields are separated by blanks, tabs or commas.

    Raises:
        typer.BadParameter: a file that cannot be read, naming its line, or a lead sheet that makes no sense.
    """
    if tempo is None and beats is None and chords is None:
        return None
    from ..lead_sheet_hafm import LeadSheet

    try:
        known_beats = None if beats is None else [float(fields[0]) for fields in _lines(beats, 1)]
        known_chords = (
            () if chords is None else [(float(a), float(b), name) for a, b, name in _lines(chords, CHORD_FIELDS)]
        )
        return LeadSheet(tempo, known_beats, known_chords)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from error


def _lines(path: Path, count: int) -> Iterator[list[str]]:
    """The first fields of each line, of which the numbers have been checked."""
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        fields = line.replace(",", " ").split()
        if not fields or fields[0].startswith("#"):
            continue
        try:
            if len(fields) < count:
                raise ValueError(line)
            for field in fields[: min(count, 2)]:
                float(field)
        except ValueError:
            wanted = "seconds" if count == 1 else "START STOP LABEL"
            raise ValueError(f"{path}, line {number}: {line.strip()!r} is not {wanted}.") from None
        yield fields[:count]
