# SPDX-License-Identifier: Apache-2.0
"""`hafm accompany`: from recordings of singing to instrumentals and mixes on disk."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .. import audio
from ..atomic_files import write_json
from ..lead_sheet.vocabulary import AUTO_STYLE
from .accompany_folder import accompany_folder
from .console import HAFMCommandError, progress_bars, require_packages, say, stderr
from .options import (
    AsJson,
    Balance,
    Beats,
    Chords,
    Compile,
    DeviceName,
    DType,
    Energy,
    Engine,
    GuidanceScale,
    InstrumentalGain,
    IntroBars,
    Key,
    Loudness,
    ModelName,
    NumSamples,
    Outcome,
    OutFolder,
    OutputRate,
    OutroBars,
    Overwrite,
    Request,
    Seconds,
    Seed,
    SkipFine,
    StemsToo,
    Style,
    Tail,
    Temperature,
    Tempo,
    Threads,
    TopK,
    VocalGain,
    Vocals,
    Workers,
    advanced,
    basic,
    check_output,
    engine_arguments,
    folder,
    load_pipeline,
    read_lead_sheet,
    read_vocal,
    report_vocal,
    vocal_name,
)

if TYPE_CHECKING:
    from ..accompaniment.pipeline_hafm import HAFMPipeline

ONE_VOCAL = "--beats, --chords and --key are for one vocal; in a folder, put NAME_beats.txt and so on next to each."
FileFormat = Literal["wav", "flac", "mp3"]


def accompany(
    vocals: Vocals,
    engine: Engine = "local",
    workers: Workers = 1,
    model: ModelName = None,
    out: OutFolder = Path("."),
    overwrite: Overwrite = False,
    seconds: Seconds = None,
    file_format: Annotated[FileFormat, basic("--format", help="Format of the audio files.")] = "wav",
    device: DeviceName = "auto",
    dtype: Annotated[DType, advanced(help="Precision of the model; auto is float32.")] = "auto",
    tempo: Tempo = None,
    beats: Beats = None,
    chords: Chords = None,
    key: Key = None,
    batch_size: Annotated[int | None, folder(min=1, help="Vocals generated together; 8 by default.")] = None,
    as_json: AsJson = False,
    num_samples: NumSamples = 1,
    seed: Seed = None,
    guidance_scale: GuidanceScale = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    style: Style = AUTO_STYLE,
    energy: Energy = None,
    stems: StemsToo = False,
    skip_fine: SkipFine = False,
    compile: Compile = None,
    threads: Threads = None,
    vocal_gain_db: VocalGain = 0.0,
    instrumental_gain_db: InstrumentalGain = 0.0,
    balance: Balance = None,
    loudness: Loudness = None,
    tail: Tail = 0.0,
    intro_bars: IntroBars = 0,
    outro_bars: OutroBars = 0,
    output_rate: OutputRate = None,
) -> None:
    """Writes NAME_instrumental.wav and NAME_mix.wav for each vocal, at its own rate or the model's if that is higher.

    VOCAL may also be a single folder. Such a run can be stopped at any time, and the same command continues it.
    If no seed is given, NAME_take_FORMAT.json (of a folder: plan.json) records the one used, with all options.
    """
    # whether a folder is among the vocals; os.path.isdir is False where permission is denied, Path.is_dir raises
    many = any(map(os.path.isdir, vocals))
    if not many and ((engine, workers) != ("local", 1) or batch_size is not None):
        raise typer.BadParameter("--engine, --workers and --batch-size are only for a folder of vocals.")
    if many and overwrite:
        raise typer.BadParameter("--overwrite is only for single vocals; for a folder choose another --out.")
    if (beats or chords or key) and (many or len(vocals) > 1):
        raise typer.BadParameter(ONE_VOCAL)
    sheet = read_lead_sheet(tempo, beats, chords, key)
    # the plan of a folder is stored as JSON: plain values, no LeadSheet
    sheet_parameters = {"tempo": tempo} if many else {"lead_sheet": sheet}
    parameters = {
        "num_samples": num_samples,
        "seed": seed,
        "guidance_scale": guidance_scale,
        "temperature": temperature,
        "top_k": top_k,
        "style": style,
        "energy": energy,
        "stems": stems,
        "skip_fine": skip_fine,
        "compile": compile,
        "threads": threads,
        "vocal_gain_db": vocal_gain_db,
        "instrumental_gain_db": instrumental_gain_db,
        "balance": balance,
        "loudness": loudness,
        "tail": tail,
        "intro_bars": intro_bars,
        "outro_bars": outro_bars,
        "output_rate": output_rate,
        "seconds": seconds,
        **sheet_parameters,
    }
    request = Request(vocals[0], str(out), model, device, dtype, file_format, parameters, as_json)
    check_request(request, vocals, many)
    usable_names = [vocal_name(vocal) for vocal in vocals if not request.name_problem(vocal, vocal_name(vocal))]
    planned: list[Path] = []
    for name in usable_names:
        planned += request.paths(name)
    check_output(out, [] if many or overwrite else planned)
    if many:
        accompany_folder(request, batch_size or 8, engine_arguments(engine, workers))
    else:
        accompany_files(request, vocals)


def check_request(request: Request, vocals: list[str], many: bool) -> None:
    """Refuses arguments that do not go together, before generating for minutes.

    Args:
        request: the options.
        vocals: files, URLs or "-", or a folder.
        many: whether one of them is a folder.

    Raises:
        typer.BadParameter: naming the arguments.
        ModuleNotFoundError: if balance or loudness is given and pyloudnorm is not installed.
    """
    if many and (len(vocals) > 1 or request.out == "."):
        raise typer.BadParameter("name one folder and no other vocal, and add --out.")
    repeated = [name for name, count in Counter(map(vocal_name, vocals)).items() if count > 1]
    if repeated:
        raise typer.BadParameter(f"two vocals are named {repeated[0]!r}; run the command twice with different --out.")
    rate = request.parameters["output_rate"]
    if request.file_format == "mp3" and rate not in (None, *audio.MP3_RATES):
        raise typer.BadParameter(f"MP3 has no sample rate of {rate} Hz; choose 44100 or 48000, for example.")
    # checked now because it is needed only after minutes of generating
    if request.parameters["balance"] is not None or request.parameters["loudness"] is not None:
        require_packages("pyloudnorm")


def accompany_files(request: Request, vocals: list[str]) -> None:
    """Accompanies one vocal after the other, and ends the command.

    Args:
        request: the options; if they have no seed, one is drawn and set in them.
        vocals: files, URLs, or "-" for standard input.

    Raises:
        typer.Exit: always, at the end; exit code 1 if any of the vocals cannot be used.
    """
    seed_is_drawn = request.parameters["seed"] is None
    if seed_is_drawn:
        request.parameters["seed"] = secrets.randbits(31)
    seed = request.parameters["seed"]
    pipeline: HAFMPipeline | None = None
    failed = False
    for vocal in vocals:
        # before the model is loaded, so that a bad vocal is reported at once
        if problem := request.name_problem(vocal, vocal_name(vocal)):
            report_vocal(vocal, HAFMCommandError(problem), request.as_json)
            failed = True
            continue
        read = read_vocal(vocal, request.as_json, seconds=request.parameters["seconds"], mono=False)
        if read is None:
            failed = True
            continue
        sound, rate = read
        if pipeline is None:
            pipeline = load_pipeline(request.model, request.device, request.dtype)
            request.check(pipeline.model)
        try:
            accompanied = accompany_one(
                pipeline, request, vocal, {"array": sound, "sampling_rate": rate, "path": vocal}
            )
        except KeyboardInterrupt:
            stderr.print(f"stopped at {vocal}; the same command with --seed {seed} makes the same song.")
            raise
        record = request.record(vocal_name(vocal))
        # a record from an earlier run may exist
        record.unlink(missing_ok=True)
        if seed_is_drawn:
            sheet = request.parameters["lead_sheet"]
            parameters = {**request.parameters, "lead_sheet": sheet and sheet.to_dict()}
            loaded = {"model": request.model, "device": request.device, "dtype": request.dtype}
            write_json(record, {"vocal": vocal, **loaded, **parameters})
        # reported last: if printing fails, the files are still there
        report_song(request, accompanied)
    raise typer.Exit(1 if failed else 0)


@dataclass(frozen=True)
class Accompanied:
    """The songs of a vocal, one per variation.

    Args:
        outcome: the vocal and its output files.
        songs: what the pipeline has returned for each variation.
        written: the files written.
        elapsed: seconds that it took to generate them all.
    """

    outcome: Outcome
    songs: list[dict[str, Any]]
    written: list[Path]
    elapsed: float


def accompany_one(pipeline: HAFMPipeline, request: Request, vocal: str, sound: dict[str, Any]) -> Accompanied:
    """Generates and writes the songs of one vocal, with a progress bar for each stage.

    Args:
        pipeline: of the model.
        request: the options, with a seed.
        vocal: as named on the command line.
        sound: its "array" (float32 [N] or [N, 2]), "sampling_rate" (Hz) and "path".
    """
    # imports transformers, which the pipeline has already imported
    from ..accompaniment.parts import stage_parts

    began = time.perf_counter()
    with progress_bars(request.as_json) as bars:
        tasks: dict[str, Any] = {}

        def advance(stage: str, done: int, total: int) -> None:
            """Updates the stage's progress bar; its first report adds the bar."""
            if stage not in tasks:
                tasks[stage] = bars.add_task(f"{vocal_name(vocal)}: {stage_parts()[stage].title}", total=total)
            bars.update(tasks[stage], completed=done, total=total)

        songs: Any = pipeline(sound, progress=advance, **request.parameters)
    elapsed = time.perf_counter() - began
    outcome = Outcome(vocal, request.files(vocal_name(vocal)))
    written = outcome.write(songs)
    if not isinstance(songs, list):
        songs = [songs]
    return Accompanied(outcome, songs, written, elapsed)


def report_song(request: Request, accompanied: Accompanied) -> None:
    """Prints the files of a vocal's songs and how long they took; with `--json`, a line of JSON per song instead."""
    records = accompanied.outcome.lines(request.parameters["seed"])
    seconds = records[0]["seconds"]
    timing = {
        "elapsed_seconds": accompanied.elapsed,
        "real_time_factor": accompanied.elapsed / (seconds * len(records)),
    }
    if request.as_json:
        for record, song in zip(records, accompanied.songs, strict=True):
            facts = {"vocal_start": song["vocal_start"], "style": song["lead_sheet"].style}
            say(json.dumps(record | facts | timing))
        return
    for path in accompanied.written:
        say(f"wrote {path}")
    if start := accompanied.songs[0]["vocal_start"]:
        say(f"the voice begins at {start:.2f} s")
    speed = f"{seconds:.1f} s in {accompanied.elapsed:.1f} s, real-time factor {timing['real_time_factor']:.2f}"
    styles = [song["lead_sheet"].style for song in accompanied.songs if isinstance(song["lead_sheet"].style, str)]
    say(", ".join([speed, f"seed {request.parameters['seed']}", *styles]))
