"""`hafm lead-sheet`: a model's estimate of beats and chords, in files that can be mended; and reading such files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import audio
from .console import HAFMCommandError, loading, stderr, stdout
from .request import check_output, open_vocal, vocal_name

if TYPE_CHECKING:
    from ..lead_sheet.lead_sheet import LeadSheet


def lead_sheet(
    vocal: Annotated[
        str, typer.Argument(metavar="VOCAL", help="A recording of singing: path, URL, or - for standard input.")
    ],
    model: Annotated[str | None, typer.Option(help="Folder or hub id; the bundled hafm-tiny if not given.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the files.", file_okay=False)] = Path("."),
    seconds: Annotated[float | None, typer.Option(min=0.01, help="Use only the start.")] = None,
    tempo: Annotated[float | None, typer.Option(help="Beats a minute, if they are known.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there already.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The lead sheet on stdout as JSON, and no files.")] = False,
) -> None:
    """Writes a model's estimate of the beats and chords of a vocal: NAME_beats.txt and NAME_chords.lab.

    Corrected, they go into hafm accompany with --beats and --chords.
    """
    from ..lead_sheet.files import lead_sheet_files, write_lead_sheet

    known, stem = read_lead_sheet(tempo, None, None), vocal_name(vocal)
    if not as_json:
        check_output(out, [] if overwrite else [out / name for name in lead_sheet_files(stem, ["lab"])])
    samples, rate = audio.read_audio(open_vocal(vocal), seconds=seconds)
    if audio.is_silent(samples):
        shown = stem if vocal == "-" else audio.source_name(vocal)
        stderr.print(f"{shown} is silent; its beats and chords are arbitrary.", markup=False)
    with loading(model):
        from ..accompaniment.modeling_accompaniment import HAFMForVocalAccompaniment

        composite = HAFMForVocalAccompaniment.from_pretrained(model)
    try:
        estimated = composite.estimate_lead_sheet(samples, rate, 0, known)
    except ValueError as error:
        raise HAFMCommandError(str(error)) from error
    if as_json:
        typer.echo(json.dumps(estimated.to_dict()))
        return
    beats = list(estimated.beats or ())
    if beats:
        estimated_tempo = 60 * (len(beats) - 1) / (beats[-1] - beats[0])
        stdout.print(f"{len(beats)} beats, {estimated_tempo:.1f} a minute", markup=False)
    if estimated.chords:
        stdout.print(f"chords: {' '.join(label for *_, label in estimated.chords)}", markup=False)
    for path in write_lead_sheet(estimated, out, stem, ["lab"]):
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
