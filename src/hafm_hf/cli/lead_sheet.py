# SPDX-License-Identifier: Apache-2.0
"""`hafm lead-sheet`: writes estimated beats, bars, chords and key of vocals to files that can be corrected."""

from __future__ import annotations

import enum
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .. import audio
from .console import HAFMCommandError, loading, require_packages, say, stderr
from .options import (
    Beats,
    Chords,
    Key,
    ModelName,
    OutFolder,
    Overwrite,
    Seconds,
    Tempo,
    Vocals,
    basic,
    check_output,
    name_problem,
    read_lead_sheet,
    read_vocal,
    report_vocal,
    sheet,
    vocal_name,
)

if TYPE_CHECKING:
    from ..lead_sheet.lead_sheet import LeadSheet

CLICK_FILE = "_click.wav"


class Format(enum.StrEnum):
    """File formats of a lead sheet (`lead_sheet.files.FORMATS`)."""

    lab = "lab"
    beats = "beats"
    json = "json"
    midi = "midi"
    musicxml = "musicxml"


@dataclass(frozen=True)
class Sheets:
    """The options that apply to every vocal.

    Args:
        out: folder for the files.
        formats: file formats of the lead sheets.
        click: whether to write a click track.
        as_json: whether to print the lead sheets instead of writing files.
        given: what is known of the songs; None: nothing.
        metre: beats per bar; None to estimate them.
    """

    out: Path
    formats: list[str]
    click: bool
    as_json: bool
    given: LeadSheet | None
    metre: int | None


def lead_sheet(
    vocals: Vocals,
    model: ModelName = None,
    out: OutFolder = Path("."),
    overwrite: Overwrite = False,
    seconds: Seconds = None,
    formats: Annotated[list[Format] | None, basic("--format", help="lab if not given; repeatable.")] = None,
    click: Annotated[bool, basic("--click", help="Also write a click track, NAME_click.wav.")] = False,
    as_json: Annotated[
        bool, basic("--json", help="Print the lead sheets on stdout, one JSON object per line, and write no files.")
    ] = False,
    tempo: Tempo = None,
    beats: Beats = None,
    chords: Chords = None,
    metre: Annotated[
        Literal["3/4", "4/4"] | None,
        sheet(help="Estimated if neither given nor implied by --beats; 4/4 where unsure."),
    ] = None,
    key: Key = None,
) -> None:
    """Writes the estimated beats and chords of each vocal: NAME_beats.txt and NAME_chords.lab.

    After correction, pass them to hafm accompany with --beats and --chords; other formats are for notation programs.
    For a folder, all audio files in it are processed.
    """
    from ..lead_sheet.files import IN_BARS, lead_sheet_files

    # (base name of the files, vocal) each
    named = [pair for vocal in vocals for pair in named_vocals(vocal)]
    names = [name for name, _ in named]
    if (beats or chords) and len(names) > 1:
        raise typer.BadParameter("--beats and --chords are for one vocal; run the command once for each.")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise typer.BadParameter(f"two vocals have the same name, {twice}; name each by itself, with another --out.")
    sheet_given = read_lead_sheet(tempo, beats, chords, key)
    wanted = [file_format.value for file_format in formats or [Format.lab]]
    require_packages(*(IN_BARS[file_format] for file_format in wanted if file_format in IN_BARS))

    planned: dict[str, list[Path]] = {}
    problems: dict[str, str] = {}
    for name, vocal in named:
        files = list(lead_sheet_files(name, wanted))
        if click:
            files.append(name + CLICK_FILE)
        planned[name] = [out / file for file in files]
        problems[name] = ""
        if not as_json:
            problems[name] = name_problem(vocal, planned[name])
    if not as_json:
        # files to write that must not exist yet
        new_files: list[Path] = []
        if not overwrite:
            for name in names:
                if not problems[name]:
                    new_files += planned[name]
        check_output(out, new_files)

    beats_per_bar = None
    if metre is not None:
        beats_per_bar = int(metre[0])
    if sheet_given and sheet_given.bars and beats_per_bar:
        sheet_given = replace(sheet_given, beats_per_bar=beats_per_bar)
    asked = Sheets(out, wanted, click, as_json, sheet_given, beats_per_bar)

    composite = None
    failed = False
    for name, vocal in named:
        if problems[name]:
            report_vocal(vocal, HAFMCommandError(problems[name]), as_json)
            failed = True
            continue
        read = read_vocal(vocal, as_json, seconds=seconds)
        if read is None:
            failed = True
            continue
        if composite is None:
            with loading(model):
                from ..accompaniment.modeling_accompaniment import HAFMForVocalAccompaniment

                composite = HAFMForVocalAccompaniment.from_pretrained(model)
        try:
            write_one(composite, asked, vocal, name, *read)
        except HAFMCommandError as error:
            # one vocal without beats must not stop the others
            report_vocal(vocal, error, as_json)
            failed = True
    raise typer.Exit(1 if failed else 0)


def named_vocals(vocal: str) -> list[tuple[str, str]]:
    """The vocals that an argument names: itself or, if it is a folder, all audio files in it.

    Returns:
        (base name of the output files, vocal) each.

    Raises:
        typer.BadParameter: if the folder contains none.
    """
    if not os.path.isdir(vocal):
        return [(vocal_name(vocal), vocal)]
    from ..corpus.tracks import find_audio

    paths, _, _ = find_audio(Path(vocal))
    if not paths:
        raise typer.BadParameter(f"{vocal} contains no audio files.")
    return [(os.path.splitext(path)[0], os.path.join(vocal, path)) for path in paths]


def write_one(composite: Any, asked: Sheets, vocal: str, name: str, samples: audio.Samples, rate: int) -> None:
    """Completes the lead sheet of a vocal with estimates, and writes or prints it.

    Args:
        composite (`HAFMForVocalAccompaniment`): the model.
        asked: the options that apply to every vocal.
        vocal: as named on the command line.
        name: base name of its files.
        samples (float32 [N]): the vocal.
        rate: its sampling rate in Hz.

    Raises:
        HAFMCommandError: if there are no beats to count bars by, or the options contradict each other.
    """
    from ..audio.click import click_track
    from ..audio.feature_extraction_hafm import LISTENING_RATE
    from ..lead_sheet.bars import chart, with_bars_throughout
    from ..lead_sheet.files import IN_BARS, write_lead_sheet
    from ..tokenizers.pitch_contour import sung_notes

    if audio.is_silent(samples):
        shown = name if vocal == "-" else audio.source_name(vocal)
        stderr.print(f"{shown} is silent; its beats and chords are arbitrary.")
    length = len(samples) / rate
    try:
        (prepared,) = composite.feature_extractor().vocals(samples, rate)
        heard = None
        if composite.encoder.semantic_tokenizer.config.beat_line:
            heard = composite.encoder.hear(prepared)
            melody = heard.notes
        else:
            melody = sung_notes(prepared.samples, LISTENING_RATE)
        whole_sheet = composite.encoder.lead_sheet(prepared, asked.given, heard)
        if whole_sheet.has_beats:
            whole_sheet = with_bars_throughout(whole_sheet, length, asked.metre, notes=melody)
        elif asked.click or set(asked.formats).intersection(IN_BARS):
            raise HAFMCommandError("There are no beats to count bars by; give them with --tempo or --beats.")
    except ValueError as error:
        raise HAFMCommandError(str(error)) from error
    if asked.as_json:
        say(json.dumps({"vocal": vocal, **whole_sheet.to_dict()}))
        return

    song = None
    if whole_sheet.has_beats:
        song = chart(whole_sheet, length)
    written = write_lead_sheet(whole_sheet, (asked.out / name).parent, Path(name).name, asked.formats, song, melody)
    if asked.click and song is not None:
        track = click_track(song.beats, whole_sheet.downbeats, length, rate)
        written.append(audio.write_audio(asked.out / f"{name}{CLICK_FILE}", track, rate))
    # reported last: if printing fails, the files are still there
    if song is not None:
        about = f"{name}: {len(song.beats)} beats, {song.tempo:.1f} BPM, {len(song.bars)} bars of {song.metre}/4"
        if whole_sheet.key:
            about += f", key {whole_sheet.key}"
        say(about)
    if whole_sheet.chords:
        say(f"chords: {' '.join(label for *_, label in whole_sheet.chords)}")
    for path in written:
        say(f"wrote {path}")
