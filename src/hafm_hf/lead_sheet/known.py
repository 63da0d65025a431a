# SPDX-License-Identifier: Apache-2.0
"""What is known of a song, as people say it: a lead sheet, or its tempo, beats and chords by themselves."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .chords import chord_class
from .files import read_beats, read_chords
from .lead_sheet import LeadSheet, Span

# parameters of a call that say something of the song
KNOWN = ("lead_sheet", "tempo", "beats", "chords")
FileName = str | os.PathLike[str]


def known_lead_sheet(
    lead_sheet: Any = None,
    tempo: float | None = None,
    beats: Sequence[float] | FileName | None = None,
    chords: Sequence[Span] | FileName | None = None,
    files: bool = True,
) -> LeadSheet | None:
    """The lead sheet of what is known; None where nothing is.

    Args:
        lead_sheet: a `LeadSheet`, or a dict of its parts; what else is given replaces them.
        tempo: beats a minute.
        beats: seconds, or the path of a file of them.
        chords: (start s, stop s, label) each, the path of a .lab file, or by the bar, over and over: "C | Am | F G".
        files: whether texts may name files; strangers must not read a server's.

    Raises:
        ValueError: a file that can't be read, naming its line, or what makes no sense.
    """
    if all(each is None for each in (lead_sheet, tempo, beats, chords)):
        return None
    known: dict[str, Any] = {"tempo": tempo, "beats": beats, "chords": chords}
    known = {name: value for name, value in known.items() if value is not None}
    if isinstance(beats, (str, os.PathLike)):
        if not files:
            raise ValueError(f"beats is {beats!r}; give seconds, [0.5, 1.0] for example.")
        known |= read_beats(beats)
    if files and isinstance(chords, (str, os.PathLike)) and not _are_chords(os.fspath(chords)):
        known["chords"] = read_chords(chords)
    return replace(LeadSheet.told({} if lead_sheet is None else lead_sheet), **known)


def _are_chords(text: str) -> bool:
    """Whether a text says chords itself, rather than where they stand."""
    try:
        return "|" in text or chord_class(text) >= 0
    except ValueError:
        return False
