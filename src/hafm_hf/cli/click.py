# SPDX-License-Identifier: Apache-2.0
"""`hafm click`: a click track to sing to, and its beats as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .. import audio
from .console import stdout
from .lead_sheet import Metre
from .request import check_output


def click(
    tempo: Annotated[float, typer.Argument(metavar="TEMPO", help="Beats a minute.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="File: .wav, .flac or .mp3.", dir_okay=False)],
    bars: Annotated[int, typer.Option(min=1, max=1000, help="Bars to sing in.")] = 16,
    metre: Annotated[Metre, typer.Option(help="Of the bars.")] = "4/4",
    count_in: Annotated[int, typer.Option(min=0, max=8, help="Bars before them.")] = 1,
    beats: Annotated[Path | None, typer.Option(help="Also a file of the beats, for --beats.", dir_okay=False)] = None,
    sample_rate: Annotated[int, typer.Option(min=8000, max=192_000, help="Samples a second.")] = 44_100,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there already.")] = False,
) -> None:
    """Writes a click track with an accent on the first beat of each bar.

    A take recorded from its beginning has its beats: hafm accompany TAKE --tempo TEMPO, or --beats with the file.
    """
    from ..audio.click import click_track
    from ..lead_sheet.files import write_beats
    from ..lead_sheet.lead_sheet import LeadSheet

    try:
        LeadSheet(tempo=tempo)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    check_output(out.parent, [] if overwrite else [path for path in (out, beats) if path is not None])
    beats_of_a_bar = int(metre[0])
    track, seconds = click_track(tempo, count_in + bars, beats_of_a_bar, sample_rate)
    audio.write_audio(out, track, sample_rate)
    stdout.print(f"wrote {out}", markup=False)
    if beats is not None:
        write_beats(LeadSheet(beats=seconds, beats_per_bar=beats_of_a_bar), beats)
        stdout.print(f"wrote {beats}", markup=False)
