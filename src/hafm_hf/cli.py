"""The `hafm` command: `accompany` walks the whole path of the data, `info` says what a model is made of,
`inspect-tokens` draws what it hears, `card` and `convert` prepare models for the hub and from others' checkpoints.

Torch and the models are imported when they are needed, so that `hafm --help` and a refused vocal answer at once.
Exit codes: 0 done, 2 wrong usage, 1 anything else. stdout carries results only; progress, warnings and errors go to
stderr. `HAFM_DEBUG=1` shows tracebacks.
"""

from __future__ import annotations

import enum
import json
import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from . import audio

if TYPE_CHECKING:
    from .pipeline_hafm import HAFMPipeline

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
stdout = Console(highlight=False, soft_wrap=True)
stderr = Console(stderr=True, highlight=False, soft_wrap=True)

STAGE_NAMES = {"semantic": "semantic tokens", "coarse": "coarse codebooks", "fine": "fine codebooks"}


class HAFMCommandError(Exception):
    """Something that the caller can mend; the message is one sentence that says how."""


class Device(str, enum.Enum):
    """Where the model runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class DType(str, enum.Enum):
    """Precision that the stages compute in; auto is float32, however they are stored."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@dataclass
class Request:
    """What `accompany` was asked for, beside the vocals."""

    model: str | None
    out: Path
    samples: int
    device: Device
    dtype: DType
    as_json: bool
    plot: bool
    parameters: dict[str, Any]


@app.callback()
def hafm() -> None:
    """HAFM: a singing voice in, an accompaniment in time and in key out."""


@app.command()
def accompany(
    vocals: Annotated[list[str], typer.Argument(metavar="VOCAL…", help="Recordings of singing: paths or URLs.")],
    model: Annotated[str | None, typer.Option(help="Folder or hub id; the bundled hafm-tiny if not given.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.", file_okay=False)] = Path("."),
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed gives the same files.")] = None,
    samples: Annotated[int, typer.Option(min=1, max=64, help="Instrumentals per vocal.")] = 1,
    guidance_scale: Annotated[float | None, typer.Option(min=0.0, help="How strictly to follow the voice.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0.01, help="How adventurous the sampling is.")] = None,
    top_k: Annotated[int | None, typer.Option(min=0, help="Sample among the K likeliest codes; 0 for all.")] = None,
    skip_fine: Annotated[bool, typer.Option("--skip-fine", help="Decode four codebooks: faster, rougher.")] = False,
    seconds: Annotated[float | None, typer.Option(min=0.01, help="Use only the start of each vocal.")] = None,
    vocal_gain: Annotated[float, typer.Option(min=-96.0, max=48.0, help="Voice in the mix, in dB.")] = 0.0,
    instrumental_gain: Annotated[float, typer.Option(min=-96.0, max=48.0, help="Band in the mix, in dB.")] = 0.0,
    device: Annotated[Device, typer.Option(help="Where to run.")] = Device.auto,
    dtype: Annotated[DType, typer.Option(help="Precision of the weights.")] = DType.auto,
    plot: Annotated[bool, typer.Option("--plot", help="Also NAME_plot.png: voice and band on one time axis.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout.")] = False,
) -> None:
    """Writes NAME_instrumental.wav and NAME_mix.wav (24 kHz) for each vocal."""
    names = [Path(audio.source_name(vocal)).stem for vocal in vocals]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise typer.BadParameter(f"two vocals are called {repeated[0]!r}; give them two runs with different --out.")
    parameters = {
        "seed": secrets.randbits(31) if seed is None else seed,
        "num_samples": samples,
        "guidance_scale": guidance_scale,
        "temperature": temperature,
        "top_k": top_k,
        "skip_fine": skip_fine,
        "seconds": seconds,
        "vocal_gain_db": vocal_gain,
        "instrumental_gain_db": instrumental_gain,
    }
    if plot:
        # found out before minutes of generating
        with _plotting() as plots:
            plots.require_matplotlib()
    request = Request(model, out, samples, device, dtype, as_json, plot, parameters)
    pipeline: HAFMPipeline | None = None
    failed = False
    for vocal, name in zip(vocals, names, strict=True):
        try:
            sound, rate = audio.read_audio(vocal, seconds=seconds)
        except audio.HAFMAudioError as error:
            # One bad vocal doesn't take the good ones with it, and is found before any model is loaded.
            _report_error(error)
            failed = True
            continue
        pipeline = pipeline or load_pipeline(request)
        accompany_one(pipeline, request, vocal, name, {"array": sound, "sampling_rate": rate, "path": vocal})
    raise typer.Exit(1 if failed else 0)


def load_pipeline(request: Request) -> HAFMPipeline:
    """The pipeline on the wanted device, or an error that says what to do instead."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    device = _device(request.device)
    dtype: Any = getattr(torch, request.dtype.value, "auto")
    with _loading(request.model):
        model = _model_folder(None) if request.model is None else request.model
        return transformers.pipeline("vocal-accompaniment", model=str(model), device=device, dtype=dtype)


def _device(wanted: Device) -> str:
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted is Device.auto:
        return next(name for name, there in available.items() if there)
    if not available[wanted.value]:
        raise HAFMCommandError(f"This machine has no {wanted.value} device that torch can use; try --device cpu.")
    return wanted.value


@contextmanager
def _loading(model: str | None) -> Iterator[None]:
    """Turns what goes wrong while a model is loaded into one sentence; the details are for HAFM_DEBUG=1."""
    try:
        yield
    except Exception as error:
        shown = "The bundled model" if model is None else f"The model {model!r}"
        raise HAFMCommandError(
            f"{shown} cannot be loaded ({_first_line(error)}); "
            "name a folder that save_pretrained wrote, or the id of a hub repository."
        ) from error


@contextmanager
def _plotting() -> Iterator[ModuleType]:
    """The module `plots`, imported only now; what it cannot do becomes an error of the command."""
    from . import plots

    try:
        yield plots
    except plots.HAFMPlotError as error:
        raise HAFMCommandError(str(error)) from error


def accompany_one(pipeline: HAFMPipeline, request: Request, vocal: str, name: str, sound: dict[str, Any]) -> None:
    """Generates, writes and reports the songs of one vocal."""
    began = time.perf_counter()
    with _progress(name, quiet=request.as_json) as progress:
        songs = pipeline(sound, progress=progress, **request.parameters)
    elapsed = time.perf_counter() - began
    for number, song in enumerate(songs if isinstance(songs, list) else [songs], start=1):
        stem = name if request.samples == 1 else f"{name}_{number}"
        rate = song["sampling_rate"]
        duration = song["audio"].shape[0] / rate
        written = {
            key: str(audio.write_audio(request.out / f"{stem}_{key}.wav", song[entry], rate))
            for key, entry in (("instrumental", "audio"), ("mix", "mix"))
        }
        if request.plot:
            with _plotting() as plots:
                figure = plots.plot_song(song["vocals"], song["audio"], rate, title=stem)
                written["plot"] = str(plots.write_plot(request.out / f"{stem}_plot.png", figure))
        if request.as_json:
            result = {"vocal": vocal, "sample": number, **written, "sampling_rate": rate, "seconds": duration}
            result |= {"seed": request.parameters["seed"], "elapsed_seconds": elapsed}
            result |= {"real_time_factor": elapsed / (duration * request.samples)}
            typer.echo(json.dumps(result))
        else:
            for path in written.values():
                stdout.print(f"wrote {path}", markup=False)
    if not request.as_json:
        factor = elapsed / (duration * request.samples)
        seed = request.parameters["seed"]
        stdout.print(f"{duration:.1f} s in {elapsed:.1f} s, real-time factor {factor:.2f}, seed {seed}", markup=False)


@contextmanager
def _progress(name: str, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A callback for `generate` that keeps one bar a stage on stderr, with the remaining time."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=stderr, disable=quiet and not stderr.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(f"{name}: {STAGE_NAMES.get(stage, stage)}", total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield advance


@app.command("inspect-tokens")
def inspect_tokens(
    sound: Annotated[str, typer.Argument(metavar="AUDIO", help="A recording: path or URL.")],
    model: Annotated[str | None, typer.Option(help="Folder or hub id; the bundled hafm-tiny if not given.")] = None,
    out: Annotated[Path | None, typer.Option(help="Picture to write; NAME_tokens.png if not given.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.01, help="Use only the start.")] = None,
) -> None:
    """Draws the tokens that a model hears in a recording: semantic at 50 Hz, all codebooks of the codec at 75 Hz."""
    with _plotting() as plots:
        plots.require_matplotlib()
    name = audio.source_name(sound)
    samples, rate = audio.read_audio(sound, seconds=seconds)
    with _loading(model):
        streams = tokenize(samples, rate, model)
    with _plotting() as plots:
        figure = plots.plot_tokens(streams, title=name)
        path = plots.write_plot(f"{Path(name).stem}_tokens.png" if out is None else out, figure)
    for stream, (tokens, frame_rate) in streams.items():
        stdout.print(f"{stream}: {plots.describe_tokens(tokens, frame_rate)}", markup=False)
    stdout.print(f"wrote {path}", markup=False)


def tokenize(samples: audio.Samples, sampling_rate: int, model: str | None) -> dict[str, tuple[Any, int]]:
    """Token streams of a recording (float32 [N] at `sampling_rate` Hz), as numbers and frames a second.

    Returns:
        {"semantic tokens": (int64 [T_v], 50), "codec": (int64 [8, T_a], 75)}; the semantic ones without the noise
        that vocals get, as for an instrumental.
    """
    import torch

    from .accompaniment_hafm import HAFMForVocalAccompaniment
    from .codec import encode_codes

    composite = HAFMForVocalAccompaniment.from_pretrained(model)
    tokenizer, codec = composite.semantic_tokenizer, composite.codec
    waveform = torch.from_numpy(audio.resample(samples, sampling_rate, tokenizer.config.sampling_rate))
    sound = torch.from_numpy(audio.resample(samples, sampling_rate, codec.config.sampling_rate))
    with torch.no_grad():
        semantic = tokenizer.encode(waveform).numpy()
        codes = encode_codes(codec, sound[None], codec.config.num_quantizers)[0].numpy()
    return {"semantic tokens": (semantic, tokenizer.config.frame_rate), "codec": (codes, codec.config.frame_rate)}


@app.command()
def convert(
    original: Annotated[Path, typer.Argument(help="Folder with ar_semantic, ar_coarse, ar_fine.", file_okay=False)],
    out: Annotated[Path, typer.Argument(help="Folder for the converted stages.", file_okay=False)],
    mapping: Annotated[Path | None, typer.Option(help="YAML or JSON that says where keys belong.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the matches and write nothing.")] = False,
) -> None:
    """Converts published PyTorch checkpoints (ckpt_best.pt); refuses whatever is ambiguous or left over."""
    from .convert import HAFMConversionError, save_converted
    from .convert import convert as convert_checkpoints

    try:
        stages = convert_checkpoints(original, mapping)
        for stage in stages:
            table = Table(title=f"{stage.name}, step {stage.step}", title_justify="left")
            for heading in ("original", "shape", "becomes", "because of"):
                table.add_column(heading, overflow="fold")
            for match in stage.matches:
                becomes = match.slot.label if match.slot else "–"
                table.add_row(*map(escape, (match.key, str(match.shape), becomes, match.reason)))
            Console(highlight=False, width=None if stdout.is_terminal else 160).print(table)
        for folder in [] if dry_run else save_converted(stages, out):
            stdout.print(f"wrote {folder}", markup=False)
    except (HAFMConversionError, OSError) as error:
        raise HAFMCommandError(str(error)) from error


@app.command()
def card(
    folder: Annotated[Path, typer.Argument(help="A saved model, or a corpus of token shards.", file_okay=False)],
    facts: Annotated[Path | None, typer.Option(help="YAML or JSON with licence, data, results …")] = None,
    repo_id: Annotated[
        str | None, typer.Option(help="Name on the hub, for the examples; the folder if not given.")
    ] = None,
) -> None:
    """Writes README.md into a folder: the card of the model or corpus in it, from its files and from --facts."""
    from .model_card import write_card

    try:
        stdout.print(f"wrote {write_card(folder, facts, repo_id)}", markup=False)
    except (ValueError, OSError) as error:
        raise HAFMCommandError(str(error)) from error


@app.command()
def info(
    model: Annotated[str | None, typer.Argument(help="Folder or hub id; the bundled hafm-tiny if not given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Shows what a model is made of: parts, parameter counts, rates, vocabularies, position scheme, file sizes."""
    with _loading(model):
        description = describe_model(model)
    if as_json:
        typer.echo(json.dumps(description))
        return
    table = Table(title=description["model"], title_justify="left")
    for heading in ("part", "parameters", "size on disk", "rates", "vocabulary", "architecture"):
        table.add_column(heading, justify="right" if heading in ("parameters", "size on disk") else "left")
    for name, part in description["parts"].items():
        sizes = f"{part['parameters']:,}", f"{part['bytes'] / 1e6:.1f} MB"
        table.add_row(name, *sizes, part["rates"], part["vocabulary"], part["architecture"])
    table.add_row("total", f"{description['parameters']:,}", f"{description['bytes'] / 1e6:.1f} MB", "", "", "")
    # A table cut to 80 columns in a log is of no use to anybody.
    Console(highlight=False, width=None if stdout.is_terminal else 160).print(table)


def describe_model(model: str | None) -> dict[str, Any]:
    """What `hafm info` shows, read from the configurations; no weights are loaded.

    Args:
        model: folder or hub id; the bundled hafm-tiny if None.

    Returns:
        {"model", "sampling_rate" (Hz), "parameters", "bytes", "parts": {name: {"parameters", "bytes", "rates",
        "vocabulary", "architecture", and for the stages "position_scheme"}}}.

    Raises:
        OSError: there is no such model.
    """
    folder = _model_folder(model)
    import torch

    from .accompaniment_hafm import PARTS, HAFMForVocalAccompaniment
    from .configuration_hafm import HAFMConfig
    from .description import describe_part

    config = HAFMConfig.from_pretrained(folder)
    # On the meta device a model has shapes but no memory: the paper's size is counted in seconds.
    with torch.device("meta"):
        counts = HAFMForVocalAccompaniment(config).parameter_counts()
    parts = {}
    for name in PARTS:
        part = getattr(config, f"{name}_config")
        parts[name] = {"parameters": counts[name], "bytes": _bytes_in(folder / name), **describe_part(part)}
    return {
        "model": str(folder if model is None else model),
        "sampling_rate": config.codec_config.sampling_rate,
        "parameters": counts["total"],
        "bytes": _bytes_in(folder),
        "parts": parts,
    }


def _model_folder(model: str | None) -> Path:
    """Where the files of `model` lie, downloaded if they must be."""
    if model is None:
        from .accompaniment_hafm import BUNDLED_MODEL

        return BUNDLED_MODEL
    folder = Path(model)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(model))
    # transformers takes a folder without a configuration for one with the default values.
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no config.json")
    return folder


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _report_error(error: BaseException) -> None:
    stderr.print(f"hafm: {error}", markup=False, style="red")


def main() -> None:
    """Entry point of `hafm`: every failure becomes one sentence on stderr and an exit code."""
    try:
        app()
    except Exception as error:
        if os.environ.get("HAFM_DEBUG"):
            raise
        if isinstance(error, (audio.HAFMAudioError, HAFMCommandError)):
            _report_error(error)
        else:
            _report_error(HAFMCommandError(f"{_first_line(error)} ({type(error).__name__}; HAFM_DEBUG=1 shows more)."))
        sys.exit(1)


if __name__ == "__main__":
    main()
