# SPDX-License-Identifier: Apache-2.0
"""Command-line options shared by commands: option groups, generation and mix options, vocals, outputs, devices."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import soundfile
import typer

from .. import audio
from ..accompaniment.options import GenerationOptions, MixOptions, options_by_name
from ..atomic_files import possible_name, too_long
from ..lead_sheet.vocabulary import STEMS
from .console import HAFMCommandError, loading, report_error, say

if TYPE_CHECKING:
    from ..accompaniment.modeling_accompaniment import HAFMForVocalAccompaniment
    from ..accompaniment.pipeline_hafm import HAFMPipeline
    from ..lead_sheet.lead_sheet import LeadSheet

# panels of options in the help
basic = functools.partial(typer.Option, rich_help_panel="Basic")
sheet = functools.partial(typer.Option, rich_help_panel="Lead sheet")
mix = functools.partial(typer.Option, rich_help_panel="Mix")
folder = functools.partial(typer.Option, rich_help_panel="Folder")
advanced = functools.partial(typer.Option, rich_help_panel="Advanced")

# auto: the best device of this machine; and float32, in whatever precision the weights are stored
Device = Literal["auto", "cpu", "cuda", "mps"]
DType = Literal["auto", "float32", "bfloat16", "float16"]
Vocals = Annotated[
    list[str],
    typer.Argument(metavar="VOCAL…", help="Recordings of singing: files, URLs, or - for standard input; or a folder."),
]
ModelName = Annotated[str | None, basic("--model", help="Folder or hub id; the bundled hafm-tiny if not given.")]
OutFolder = Annotated[Path, basic("--out", help="Folder for the files.", file_okay=False)]
Overwrite = Annotated[bool, basic("--overwrite", help="Replace files that exist.")]
AsJson = Annotated[bool, basic("--json", help="Print one JSON object per line on stdout.")]
Seconds = Annotated[float | None, basic(min=1.0, help="Use only this much from the start of each vocal.")]
DeviceName = Annotated[Device, advanced(help="Where the model runs.")]
Tempo = Annotated[float | None, sheet(help="BPM of a take recorded to a click; estimated if not given.")]
Beats = Annotated[Path | None, sheet(help="File of beat times in seconds, one per line.", dir_okay=False)]
Chords = Annotated[str | None, sheet(help="File of lines START STOP LABEL, or chords by the bar: 'C | Am | F G'.")]
Key = Annotated[str | None, sheet(help="E.g. Am or C; chords are estimated to suit it. Estimated if not given.")]


Engine = Annotated[str, folder("--engine", help="local, ray, or ray:HOST:PORT for a running Ray cluster.")]
Workers = Annotated[
    int, folder("--workers", min=0, help="Processes, or concurrent Ray tasks; with ray, 0 for no limit.")
]


def described_flag(flag: str) -> dict[str, Any]:
    """Help and limits of a flag ("--top-k") of a generation or mix option, as arguments of `typer.Option`."""
    name = flag.removeprefix("--").replace("-", "_")
    option = (options_by_name(GenerationOptions) | options_by_name(MixOptions))[name]
    limits = {}
    if option.least is not None:
        limits = {"min": option.least, "max": option.most}
    return {"help": option.help, **limits}


NumSamples = Annotated[int, basic("--num-samples", **described_flag("--num-samples"))]
Seed = Annotated[int | None, basic("--seed", **described_flag("--seed"))]
GuidanceScale = Annotated[float | None, advanced("--guidance-scale", **described_flag("--guidance-scale"))]
Temperature = Annotated[float | None, advanced("--temperature", **described_flag("--temperature"))]
TopK = Annotated[int | None, advanced("--top-k", **described_flag("--top-k"))]
Style = Annotated[str, sheet("--style", **described_flag("--style"))]
Energy = Annotated[Literal["auto", "sparse", "normal", "full"] | None, sheet("--energy", **described_flag("--energy"))]
StemsToo = Annotated[bool, basic("--stems", **described_flag("--stems"))]
SkipFine = Annotated[bool, advanced("--skip-fine", **described_flag("--skip-fine"))]
Compile = Annotated[bool | None, advanced("--compile", **described_flag("--compile"))]
Threads = Annotated[int | None, advanced("--threads", **described_flag("--threads"))]
VocalGain = Annotated[float, mix("--vocal-gain-db", **described_flag("--vocal-gain-db"))]
InstrumentalGain = Annotated[float, mix("--instrumental-gain-db", **described_flag("--instrumental-gain-db"))]
Loudness = Annotated[float | None, mix("--loudness", **described_flag("--loudness"))]
Tail = Annotated[float, mix("--tail", **described_flag("--tail"))]
IntroBars = Annotated[int, mix("--intro-bars", **described_flag("--intro-bars"))]
OutroBars = Annotated[int, mix("--outro-bars", **described_flag("--outro-bars"))]
OutputRate = Annotated[int | None, mix("--output-rate", **described_flag("--output-rate"))]


def parsed_balance(text: str) -> float | str:
    """Parses the value of --balance, "auto" or a number in LU.

    Raises:
        typer.BadParameter: for anything else, or a number out of range.
    """
    value: float | str = text
    if text != "auto":
        try:
            value = float(text)
        except ValueError:
            raise typer.BadParameter(f"{text!r} is neither auto nor a number.") from None
    try:
        # checks the limits; it is never None here
        return MixOptions(balance=value).balance or 0.0
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


Balance = Annotated[
    Any,
    mix("--balance", parser=parsed_balance, metavar="[auto|NUMBER]", help=described_flag("--balance")["help"]),
]


def engine_arguments(engine: str, workers: int) -> dict[str, Any]:
    """The arguments of `corpus.engines.run_on` for --engine and --workers.

    Args:
        engine: "local", "ray", or "ray:HOST:PORT".
        workers: number of processes, or of concurrent Ray tasks.

    Returns:
        `engine` ("local" or "ray"), `workers`, and `address`, "HOST:PORT" or empty.
    """
    name, _, address = engine.partition(":")
    return {"engine": name, "workers": workers, "address": address}


@dataclass(frozen=True)
class Request:
    """The arguments of `hafm accompany`.

    Args:
        source: the vocal or the folder of vocals.
        out: the output folder.
        model: folder or hub id; the bundled hafm-tiny if None.
        device, dtype: as for `load_pipeline`.
        file_format: format and suffix of the audio files.
        parameters: keyword arguments for the pipeline.
        as_json: whether to print results as JSON.
    """

    source: str
    out: str
    model: str | None = None
    device: Device = "auto"
    dtype: DType = "auto"
    file_format: str = "wav"
    parameters: dict[str, Any] = field(default_factory=dict)
    as_json: bool = False

    def files(self, name: str) -> list[dict[str, Path]]:
        """The output files of a vocal.

        Args:
            name: base name of the vocal's files; with several samples, _1, _2 … follow it.

        Returns:
            For each sample, the paths by part: "instrumental", "mix" and, if requested, the names of the stems.
        """
        samples = self.parameters.get("num_samples") or 1
        if samples == 1:
            songs = [name]
        else:
            songs = [f"{name}_{number}" for number in range(1, samples + 1)]
        parts = ("instrumental", "mix", *(STEMS if self.parameters.get("stems") else ()))
        return [{part: Path(self.out, f"{song}_{part}.{self.file_format}") for part in parts} for song in songs]

    def paths(self, name: str) -> list[Path]:
        """All output files of a vocal, but for the record; `name` is the base name of its files."""
        paths: list[Path] = []
        for files in self.files(name):
            paths += files.values()
        return paths

    def record(self, name: str) -> Path:
        """The file that records the options of songs whose seed was drawn; each number of songs has its own.

        `name` is the base name of the vocal's files.
        """
        samples = self.parameters.get("num_samples") or 1
        if samples > 1:
            name = f"{name}_1_to_{samples}"
        return Path(self.out, f"{name}_take_{self.file_format}.json")

    def name_problem(self, vocal: str, name: str) -> str:
        """The sentence that refuses a vocal if its files would have names that are too long; else empty.

        Args:
            vocal: name of the vocal in that sentence.
            name: base name of its files.
        """
        return name_problem(vocal, [*self.paths(name), self.record(name)])

    def check(self, model: HAFMForVocalAccompaniment) -> None:
        """Raises HAFMCommandError if a model, which may be without weights, does not support the options."""
        from ..accompaniment.generation_accompaniment import check_supported

        options = {name: self.parameters.get(name) for name in options_by_name(GenerationOptions)}
        try:
            check_supported(GenerationOptions.of(given=options), model)
        except ValueError as error:
            raise HAFMCommandError(str(error)) from error


@dataclass(frozen=True)
class Outcome:
    """The result for a vocal: its output files, or an error.

    Args:
        vocal: as named on the command line; in a run over a folder, its path relative to the folder.
        files: for each sample, the paths by part (`Request.files`); empty if there is an error.
        error: why the vocal cannot be used, in a sentence; empty if it can.
    """

    vocal: str
    files: Sequence[Mapping[str, Path]] = ()
    error: str = ""

    def write(self, songs: Any, *, missing: bool = False) -> list[Path]:
        """Writes the songs of a vocal to its files.

        Args:
            songs: what the pipeline has returned: a song, or with several samples a list of songs.
            missing: whether to write only files that do not exist yet.

        Returns:
            The files written.
        """
        written = []
        for song, files in zip(songs if isinstance(songs, list) else [songs], self.files, strict=True):
            parts = {**song.get("stems", {}), "instrumental": song["audio"], "mix": song["mix"]}
            for part, path in files.items():
                if not (missing and path.exists()):
                    written.append(audio.write_audio(path, parts[part], song["sampling_rate"]))
        return written

    def exists(self) -> bool:
        """Whether all of its files exist."""
        return all(path.exists() for files in self.files for path in files.values())

    def lines(self, seed: int) -> list[dict[str, Any]]:
        """The objects that `--json` prints, one per line: one for each sample, or one with the error.

        Rate and length are read from the files written; `seed` is the generation's seed.
        """
        lines = []
        for sample, files in enumerate(self.files, start=1):
            header = soundfile.info(audio.soundfile_name(files["instrumental"]))
            line = {"vocal": self.vocal, "sample": sample, **{part: str(path) for part, path in files.items()}}
            line |= {"sampling_rate": header.samplerate, "seconds": header.frames / header.samplerate, "seed": seed}
            lines.append(line)
        return lines or [{"vocal": self.vocal, "error": self.error}]


def read_lead_sheet(
    tempo: float | None, beats: Path | None, chords: str | Path | None, key: str | None = None
) -> LeadSheet | None:
    """The lead sheet given by --tempo, --beats, --chords and --key; None if none of them is given.

    Raises:
        typer.BadParameter: if a file cannot be read, naming the line, or the lead sheet is not valid.
    """
    if all(value is None for value in (tempo, beats, chords, key)):
        return None
    from ..lead_sheet.files import known_lead_sheet

    try:
        return known_lead_sheet(tempo=tempo, beats=beats, chords=chords, key=key)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def vocal_name(vocal: str) -> str:
    """The base name of the output files of a vocal: a path, a URL, or "-" for standard input."""
    if vocal == "-":
        return "stdin"
    return possible_name(Path(audio.source_name(vocal)).stem)


def read_vocal(vocal: str, as_json: bool, **options: Any) -> tuple[audio.Samples, int] | None:
    """Reads a vocal; if that fails, reports the error.

    Args:
        vocal: a path, a URL, or "-" for standard input.
        as_json: whether to report an error on stdout as well, as JSON.
        options: keyword arguments for `audio.read_audio`.

    Returns:
        Its samples (float32 [N], or [N, channels] with `mono=False`) and their rate in Hz; None if it cannot be read.
    """
    try:
        return audio.read_audio(sys.stdin.buffer.read() if vocal == "-" else vocal, **options)
    except audio.HAFMAudioError as error:
        # one bad vocal must not stop the others
        report_vocal(vocal, error, as_json)
        return None


def name_problem(shown: str, files: Iterable[Path]) -> str:
    """The sentence that refuses a vocal if a name of its output files would be too long; else empty.

    Args:
        shown: name of the vocal in that sentence.
        files: its output files.
    """
    reasons = (too_long(path) for path in files)
    if reason := next(filter(None, reasons), ""):
        return f"{shown} is left out, since its files would have too long a name ({reason}); rename it."
    return ""


def report_vocal(vocal: str, error: Exception, as_json: bool) -> None:
    """Reports that a vocal can't be used, on stderr and, with `as_json`, as a line of JSON on stdout."""
    report_error(error)
    if as_json:
        say(json.dumps({"vocal": vocal, "error": str(error)}))


def check_output(out: Path, files: list[Path]) -> None:
    """Checks before minutes of work that results can be written.

    Args:
        out: the output folder, which may not exist yet.
        files: files that must not exist yet.

    Raises:
        typer.BadParameter: if one of the files exists, or the path of the folder is a file.
        HAFMCommandError: if the folder cannot be written to.
    """
    if there := [path for path in files if path.exists()]:
        raise typer.BadParameter(f"{there[0]} exists already; add --overwrite, or choose another folder with --out.")
    # os.path.exists, unlike Path.exists, raises nothing where a name is too long
    nearest = next(path for path in (out.absolute(), *out.absolute().parents) if os.path.exists(path))
    if not nearest.is_dir():
        raise typer.BadParameter(f"{nearest} is a file; name a folder with --out.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise HAFMCommandError(f"{out} cannot be written to; choose another folder with --out.")


def load_pipeline(model: str | None, device: Device, dtype: DType) -> HAFMPipeline:
    """Loads the pipeline of a model onto a device.

    Args:
        model: folder or hub id; the bundled hafm-tiny if None.
        device: "auto" for the best one of this machine.
        dtype: precision of the stages; "auto" is float32.

    Raises:
        HAFMCommandError: if the model cannot be loaded, or the machine has no such device.
    """
    import torch

    from ..accompaniment.modeling_accompaniment import HAFMForVocalAccompaniment
    from ..accompaniment.pipeline_hafm import HAFMPipeline
    from ..pretrained.loading import model_source
    from ..registration import TASK, register

    register()
    device_name = torch_device(device)
    precision = getattr(torch, dtype, "auto")
    with loading(model):
        # transformers.pipeline would bury the reason why a file cannot be used in a traceback
        loaded = HAFMForVocalAccompaniment.from_pretrained(model_source(model), dtype=precision)
        return HAFMPipeline(loaded, task=TASK, device=device_name)


def torch_device(wanted: Device) -> Device:
    """The torch name of a device; "auto" is the best one of this machine.

    Raises:
        HAFMCommandError: if this machine has no such device.
    """
    import torch

    # the best first
    available: dict[Device, bool] = {
        "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True
    }  # fmt: skip
    if wanted == "auto":
        return next(name for name, there in available.items() if there)
    if not available[wanted]:
        raise HAFMCommandError(f"This machine has no {wanted} device that torch can use; try --device cpu.")
    return wanted
