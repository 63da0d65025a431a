# SPDX-License-Identifier: Apache-2.0
"""`hafm accompany`: the whole path of the data, from recordings of singing to instrumentals and mixes on disk."""

from __future__ import annotations

import itertools
import json
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .. import audio
from ..accompaniment.options import MIX_OPTIONS, OPTIONS
from ..atomic_files import write_json
from ..lead_sheet.vocabulary import STEMS
from ..modeling.stage_table import STAGES
from .accompany_many import accompany_folder, is_many, song_line
from .console import HAFMCommandError, plotting, progress_bars, report_error, require_packages, stderr, stdout
from .lead_sheet import read_lead_sheet
from .request import (
    STANDARD,
    Device,
    DType,
    Request,
    check_output,
    load_pipeline,
    read_vocal,
    takes_options,
    vocal_name,
)

if TYPE_CHECKING:
    from ..accompaniment.pipeline_hafm import HAFMPipeline

ONE_VOCAL = "--beats and --chords belong to one vocal; in a folder lay NAME_beats.txt and NAME_chords.lab beside each."
FileFormat = Literal["wav", "flac", "mp3"]


@takes_options(after="out", table={**OPTIONS, **MIX_OPTIONS})
def accompany(
    vocals: Annotated[
        list[str],
        typer.Argument(
            metavar="VOCAL…",
            help="Recordings of singing, paths or URLs, - for standard input; or one folder or Parquet file.",
        ),
    ],
    model: Annotated[str | None, typer.Option(help="Folder or hub id; the bundled hafm-tiny if not given.")] = None,
    out: Annotated[Path, typer.Option("--out", "--output", help="Folder; - writes the mix to stdout.")] = Path("."),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there already.")] = False,
    seconds: Annotated[float | None, typer.Option(min=0.01, help="Use only the start of each vocal.")] = None,
    file_format: Annotated[FileFormat, typer.Option("--format", help="Of the files with sound.")] = "wav",
    device: Annotated[Device, typer.Option(help="Where to run.")] = Device.auto,
    dtype: Annotated[DType, typer.Option(help="Precision of the weights.")] = DType.auto,
    instrumental: Annotated[str | None, typer.Option(help="An accompaniment of the vocal, to keep parts of.")] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="START:STOP in s of --instrumental, 0:12.5 or 20:; repeatable.")
    ] = None,
    tempo: Annotated[
        float | None, typer.Option(help="Beats a minute of a take to a click, kept exactly; estimated if not given.")
    ] = None,
    beats: Annotated[
        Path | None, typer.Option(help="File with the beats: seconds, one a line.", dir_okay=False)
    ] = None,
    chords: Annotated[
        str | None, typer.Option(help="File with chords: START STOP LABEL a line; or by the bar: 'C | Am | F G'.")
    ] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Write the instrumental while it is generated.")] = False,
    plot: Annotated[bool, typer.Option("--plot", help="Also NAME_plot.png: voice and band on one time axis.")] = False,
    engine: Annotated[str, typer.Option(help="Of a folder: local, or ray for many machines.")] = "local",
    workers: Annotated[int, typer.Option(min=0, help="Models of a folder; with ray 0 is all there is room for.")] = 1,
    address: Annotated[str, typer.Option(help="Of a running Ray cluster.")] = "",
    batch_size: Annotated[int, typer.Option(min=1, help="Vocals of a folder that are generated together.")] = 8,
    column: Annotated[str, typer.Option(help="Of a Parquet file; the one with sound if not given.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout.")] = False,
    **options: Any,
) -> None:
    """Writes NAME_instrumental.wav and NAME_mix.wav for each vocal, at its own rate or the model's if that is higher.

    Where no seed is given, NAME_take.json says which was drawn. A folder or Parquet file of vocals may be stopped at
    any moment; the same command continues it.
    """
    many = any(is_many(vocal) for vocal in vocals)
    if not many and (engine, workers, address) != ("local", 1, ""):
        raise typer.BadParameter("--engine, --workers and --address go with a folder or a Parquet file of vocals.")
    if (beats or chords) and (many or len(vocals) > 1):
        raise typer.BadParameter(ONE_VOCAL)
    sheet = read_lead_sheet(tempo, beats, chords)
    # a folder's plan holds nothing but names and numbers
    parameters = {**options, "seconds": seconds, **({"tempo": tempo} if many else {"lead_sheet": sheet})}
    parameters |= kept_instrumental(instrumental, keep or [], vocals, out, file_format)
    request = Request(model, out, device, dtype, as_json, plot, stream, parameters, file_format)
    check_request(request, vocals, many)
    check_output(request.out, [] if many or overwrite else planned_files(request, vocals))
    if many:
        accompany_folder(request, vocals[0], engine, workers, address, batch_size, column)
    else:
        accompany_files(request, vocals)


def check_request(request: Request, vocals: list[str], many: bool) -> None:
    """Refuses what does not go together, before minutes of generating; raises typer.BadParameter."""
    kept = "keep" in request.parameters
    if many and (len(vocals) > 1 or request.stream or request.plot or kept or request.out == Path(".")):
        raise typer.BadParameter("a folder goes alone, with --output, and without --stream, --plot, --instrumental.")
    repeated = [name for name, count in Counter(map(vocal_name, vocals)).items() if count > 1]
    if repeated:
        raise typer.BadParameter(f"two vocals are called {repeated[0]!r}; give them two runs with different --out.")
    if request.stream and (request.parameters["num_samples"] > 1 or kept):
        raise typer.BadParameter("--stream goes with one sample of a new instrumental only.")
    taken = request.stream or request.plot or request.as_json or request.parameters["num_samples"] > 1
    if request.out == STANDARD and (many or len(vocals) > 1 or taken):
        raise typer.BadParameter("--out - is for one mix of one vocal, without --stream, --plot and --json.")
    if request.stream and request.file_format != "wav":
        raise typer.BadParameter(f"--stream writes WAV; leave --format {request.file_format} out.")
    if request.stream and (request.parameters["stem_gain_db"] or request.parameters["stem_pan"]):
        raise typer.BadParameter("--stream writes the band as it is played; leave --stem-gain and --stem-pan out.")
    rate = request.parameters["output_rate"]
    if request.file_format == "mp3" and rate not in (None, *audio.MP3_RATES):
        raise typer.BadParameter(f"MP3 has no sample rate of {rate} Hz; choose 44100 or 48000, for example.")
    if request.plot:
        with plotting() as plots:
            plots.require_matplotlib()
    # needed at the end of minutes of generating
    if request.parameters["balance"] is not None or request.parameters["loudness"] is not None:
        require_packages("pyloudnorm")


def planned_files(request: Request, vocals: list[str]) -> list[Path]:
    """The sound files that a request will write."""
    names = [name for vocal in vocals for name in song_names(vocal_name(vocal), request.parameters["num_samples"])]
    parts = ("instrumental", "mix", *(STEMS[1:] if request.parameters["stems"] else ()))
    return [request.out / f"{name}_{part}.{request.file_format}" for name in names for part in parts]


def song_names(name: str, samples: int) -> list[str]:
    """What the files of each sample of a vocal are called by."""
    return [name] if samples == 1 else [f"{name}_{number}" for number in range(1, samples + 1)]


def accompany_files(request: Request, vocals: list[str]) -> None:
    """Accompanies one vocal after the other; exit code 1 if there is a bad one."""
    drawn = request.parameters["seed"] is None
    if drawn:
        request.parameters["seed"] = secrets.randbits(31)
    pipeline: HAFMPipeline | None = None
    failed = False
    for vocal in vocals:
        try:
            sound, rate = read_vocal(vocal, request.parameters["seconds"])
        except audio.HAFMAudioError as error:
            # One bad vocal doesn't take the good ones with it, and is found before any model is loaded.
            report_error(error)
            if request.as_json:
                typer.echo(json.dumps({"vocal": vocal, "error": str(error)}))
            failed = True
            continue
        pipeline = pipeline or _loaded(request)
        try:
            accompany_one(
                pipeline, request, vocal, vocal_name(vocal), {"array": sound, "sampling_rate": rate, "path": vocal}
            )
        except KeyboardInterrupt:
            seed = request.parameters["seed"]
            stderr.print(f"stopped at {vocal}; the same command with --seed {seed} makes the same song.", markup=False)
            raise
        if drawn and request.out != STANDARD:
            asked = {name: request.parameters[name] for name in (*OPTIONS, *MIX_OPTIONS)}
            take = {"vocal": vocal, "model": request.model, **asked}
            write_json(request.out / f"{vocal_name(vocal)}_take.json", take)
    raise typer.Exit(1 if failed else 0)


def _loaded(request: Request) -> HAFMPipeline:
    """The pipeline of a request; raises HAFMCommandError where its model cannot do what is asked for."""
    from ..accompaniment.options import GenerationOptions

    pipeline = load_pipeline(request)
    try:
        pipeline.model.check_streams(GenerationOptions.of(given={key: request.parameters[key] for key in OPTIONS}))
    except ValueError as error:
        raise HAFMCommandError(str(error)) from error
    return pipeline


def accompany_one(pipeline: HAFMPipeline, request: Request, vocal: str, name: str, sound: dict[str, Any]) -> None:
    """Generates, writes and reports the songs of one vocal."""
    began = time.perf_counter()
    with _progress(name, quiet=request.as_json) as progress:
        if request.stream:
            songs: Any = stream_one(pipeline, request, name, sound, progress)
        else:
            songs = pipeline(sound, progress=progress, **request.parameters)
    elapsed, samples = time.perf_counter() - began, request.parameters["num_samples"]
    if request.out == STANDARD:
        audio.write_stream(sys.stdout.buffer, songs["mix"], songs["sampling_rate"], request.file_format)
        return
    songs = songs if isinstance(songs, list) else [songs]
    for number, (stem, song) in enumerate(zip(song_names(name, samples), songs, strict=True), start=1):
        rate = song["sampling_rate"]
        duration = song["audio"].shape[0] / rate
        parts = {"instrumental": song["audio"], "mix": song["mix"]}
        parts |= song["stems"] if request.parameters["stems"] else {}
        written = {key: str(_write(request, stem, key, sound, rate)) for key, sound in parts.items()}
        if request.plot:
            written["plot"] = str(plot_one(request.out / f"{stem}_plot.png", song, stem))
        if request.as_json:
            result = song_line(vocal, number, written, rate, duration, request.parameters["seed"])
            timing = {"elapsed_seconds": elapsed, "real_time_factor": elapsed / (duration * samples)}
            typer.echo(json.dumps(result | timing))
        else:
            for path in written.values():
                stdout.print(f"wrote {path}", markup=False)
    if not request.as_json:
        factor = elapsed / (duration * samples)
        seed = request.parameters["seed"]
        stdout.print(f"{duration:.1f} s in {elapsed:.1f} s, real-time factor {factor:.2f}, seed {seed}", markup=False)


def plot_one(path: Path, song: dict[str, Any], title: str) -> Path:
    """Draws a song, with beats, bars and chords where its lead sheet has any."""
    from ..lead_sheet.bars import completed

    sheet, rate = song.get("lead_sheet"), song["sampling_rate"]
    sounds = [audio.with_channels(song[key], 1) for key in ("vocals", "audio")]
    known: dict[str, Any] = {}
    if sheet is not None and sheet.has_beats:
        sheet = completed(sheet, len(sounds[0]) / rate)
        known = {"beats": sheet.beats, "downbeats": sheet.downbeats, "chords": sheet.chords}
    with plotting() as plots:
        drawn: Path = plots.write_plot(path, plots.plot_song(*sounds, rate, title=title, **known))
    return drawn


def stream_one(
    pipeline: HAFMPipeline,
    request: Request,
    name: str,
    sound: dict[str, Any],
    progress: Callable[[str, int, int], None],
) -> dict[str, Any]:
    """Writes the instrumental chunk by chunk as it is generated; returns the song as the pipeline would."""
    asked = {key: request.parameters[key] for key in (*OPTIONS, "seconds", "lead_sheet", "output_rate", "tail")}
    path, chunks = request.out / f"{name}_instrumental.wav", pipeline.stream(sound, progress=progress, **asked)
    first = next(chunks)
    channels = pipeline.model.codec_format.channels
    written: list[dict[str, Any]] = []
    with audio.GrowingAudio(path, first["sampling_rate"], channels=channels) as file:
        for chunk in itertools.chain([first], chunks):
            chunk["audio"] = file.write(chunk["audio"])
            # turned down as the band is, whose sum they are
            stems = {key: stem * file.gain for key, stem in chunk.get("stems", {}).items()}
            written.append(chunk | ({"stems": stems} if stems else {}))
    mixing = {key: request.parameters[key] for key in MIX_OPTIONS}
    return pipeline.join(written, **mixing)


def _write(request: Request, stem: str, key: str, samples: audio.Samples, rate: int) -> Path:
    path = request.out / f"{stem}_{key}.{request.file_format}"
    # a stream has written its instrumental already
    return path if request.stream and key == "instrumental" else audio.write_audio(path, samples, rate)


def kept_instrumental(
    instrumental: str | None, keep: list[str], vocals: list[str], out: Path, file_format: str
) -> dict[str, Any]:
    """The parameters `instrumental` and `keep` of the pipeline, from the options of those names.

    Raises:
        typer.BadParameter: if one is there without the other, for several vocals, if a span is none of the
            instrumental, or if the instrumental would be written over.
        HAFMAudioError: if the instrumental cannot be used.
    """
    if instrumental is None and not keep:
        return {}
    if instrumental is None or not keep or len(vocals) > 1:
        raise typer.BadParameter("--instrumental and --keep START:STOP belong together, and to one vocal.")
    written = out / f"{vocal_name(vocals[0])}_instrumental.{file_format}"
    if written.exists() and Path(instrumental).exists() and written.samefile(instrumental):
        raise typer.BadParameter(f"{instrumental} would be written over; choose another folder with --out.")
    sound, rate = audio.read_audio(instrumental, mono=False)
    spans = [kept_span(text, len(sound) / rate) for text in keep]
    return {"instrumental": {"array": sound, "sampling_rate": rate, "path": instrumental}, "keep": spans}


def kept_span(text: str, seconds: float) -> tuple[float, float]:
    """Start and stop in s of START:STOP; without one of them the instrumental's own beginning or end.

    Raises:
        typer.BadParameter: if it is no span, or not one of an instrumental of so many seconds.
    """
    try:
        first, last = text.split(":")
        start, stop = float(first or 0.0), float(last or seconds)
    except ValueError:
        raise typer.BadParameter(
            f"--keep takes START:STOP in seconds, 0:12.5, :12.5 or 20: for example, and not {text}."
        ) from None
    # what is printed with two digits may be given back
    stop = seconds if 0.0 < stop - seconds <= 0.01 else stop
    if not 0.0 <= start < stop <= seconds:
        raise typer.BadParameter(f"--keep {text} does not lie within the instrumental of {seconds:.2f} s.")
    return start, stop


@contextmanager
def _progress(name: str, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A callback for `generate` that keeps one bar a stage on stderr, with the remaining time."""
    with progress_bars(quiet) as bars:
        tasks: dict[str, Any] = {}

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(f"{name}: {STAGES[stage].title}", total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield advance
