# SPDX-License-Identifier: Apache-2.0
"""`hafm lead-sheet`: a model's estimate of beats and chords, in files that can be mended; and reading such files."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .. import audio
from .console import HAFMCommandError, loading, require_packages, stderr, stdout
from .request import check_output, open_vocal, vocal_name

if TYPE_CHECKING:
    from ..lead_sheet.lead_sheet import LeadSheet

Metre = Literal["3/4", "4/4"]


class Format(enum.StrEnum):
    """What a lead sheet is written as (`lead_sheet.files.FORMATS`)."""

    lab = "lab"
    beats = "beats"
    json = "json"
    chordpro = "chordpro"
    midi = "midi"
    musicxml = "musicxml"


def lead_sheet(
    vocal: Annotated[
        str, typer.Argument(metavar="VOCAL", help="A recording of singing: path, URL, or - for standard input.")
    ],
    model: Annotated[str | None, typer.Option(help="Folder or hub id; the bundled hafm-tiny if not given.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the files.", file_okay=False)] = Path("."),
    seconds: Annotated[float | None, typer.Option(min=0.01, help="Use only the start.")] = None,
    tempo: Annotated[float | None, typer.Option(help="Beats a minute, if they are known.")] = None,
    beats: Annotated[Path | None, typer.Option(help="File with beats that are known.", dir_okay=False)] = None,
    chords: Annotated[str | None, typer.Option(help="File with chords that are known, or by the bar.")] = None,
    metre: Annotated[Metre | None, typer.Option(help="Estimated bars have four quarters if not given.")] = None,
    key: Annotated[str | None, typer.Option(help="A:min, for example; that of the chords if not given.")] = None,
    formats: Annotated[list[Format] | None, typer.Option("--format", help="lab if not given; repeatable.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The lead sheet on stdout as JSON, and no files.")] = False,
) -> None:
    """Writes a model's estimate of the beats, bars, chords and key of a vocal: NAME_beats.txt and NAME_chords.lab.

    Corrected, they go into hafm accompany with --beats and --chords. Other formats are for notation programs.
    """
    from ..audio.analysis import sung_notes
    from ..lead_sheet.bars import chart, completed
    from ..lead_sheet.files import IN_BARS, lead_sheet_files, write_lead_sheet

    known, stem = read_lead_sheet(tempo, beats, chords), vocal_name(vocal)
    wanted = [each.value for each in formats or [Format.lab]]
    require_packages(*(IN_BARS[each] for each in wanted if IN_BARS.get(each)))
    if not as_json:
        check_output(out, [] if overwrite else [out / name for name in lead_sheet_files(stem, wanted)])
    samples, rate = audio.read_audio(open_vocal(vocal), seconds=seconds)
    if audio.is_silent(samples):
        shown = stem if vocal == "-" else audio.source_name(vocal)
        stderr.print(f"{shown} is silent; its beats and chords are arbitrary.", markup=False)
    with loading(model):
        from ..accompaniment.modeling_accompaniment import HAFMForVocalAccompaniment

        composite = HAFMForVocalAccompaniment.from_pretrained(model)
    try:
        # what is known goes before
        sheet = composite.complete_lead_sheet(composite.tokenize_vocal(samples, rate, 0, known)[0], known)
        seconds_long = len(samples) / rate
        if sheet.has_beats:
            sheet = completed(sheet, seconds_long, None if metre is None else int(metre[0]), key)
        elif set(wanted).intersection(IN_BARS):
            raise HAFMCommandError("There are no beats to count bars by; give them with --tempo or --beats.")
    except ValueError as error:
        raise HAFMCommandError(str(error)) from error
    if as_json:
        typer.echo(json.dumps(sheet.to_dict()))
        return
    melody = sung_notes(samples, rate) if "midi" in wanted else []
    song = chart(sheet, seconds_long) if sheet.has_beats else None
    if song is not None:
        about = f"{len(song.beats)} beats, {song.tempo:.1f} a minute, {len(song.bars)} bars of {song.metre}/4"
        stdout.print(about + (f", key {sheet.key}" if sheet.key else ""), markup=False)
    if sheet.chords:
        stdout.print(f"chords: {' '.join(label for *_, label in sheet.chords)}", markup=False)
    for path in write_lead_sheet(sheet, out, stem, wanted, song, melody):
        stdout.print(f"wrote {path}", markup=False)


def read_lead_sheet(tempo: float | None, beats: Path | None, chords: str | Path | None) -> LeadSheet | None:
    """The lead sheet of the options of those names; None where none is given.

    Raises:
        typer.BadParameter: a file that cannot be read, naming its line, or a lead sheet that makes no sense.
    """
    if tempo is None and beats is None and chords is None:
        return None
    from ..lead_sheet.known import known_lead_sheet

    try:
        return known_lead_sheet(tempo=tempo, beats=beats, chords=chords)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
