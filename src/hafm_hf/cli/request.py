# SPDX-License-Identifier: Apache-2.0
"""What a command was asked to generate, and the pipeline on the device that it asked for."""

from __future__ import annotations

import enum
import functools
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_type_hints

import typer

from .. import audio
from ..accompaniment.options import OPTIONS, Option
from .console import HAFMCommandError, loading

if TYPE_CHECKING:
    from ..accompaniment.pipeline_hafm import HAFMPipeline

Command = TypeVar("Command", bound=Callable[..., None])
Result = TypeVar("Result")
# most files are read sooner, and a bad one is refused before anything large is imported
AT_ONCE_SECONDS = 0.3
# standard input or output in the place of a file or folder
STANDARD = Path("-")
# where an option is called otherwise than in the table
FLAGS = {
    "num_samples": "--samples",
    "vocal_gain_db": "--vocal-gain",
    "instrumental_gain_db": "--instrumental-gain",
    "stem_gain_db": "--stem-gain",
    "output_rate": "--sample-rate",
}


class Device(enum.StrEnum):
    """Where the model runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class DType(enum.StrEnum):
    """Precision that the stages compute in; auto is float32, however they are stored."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@dataclass
class Request:
    """What `accompany` was asked for, beside the vocals; `parameters` are what the pipeline is called with."""

    model: str | None
    out: Path
    device: Device
    dtype: DType
    as_json: bool
    plot: bool
    stream: bool
    parameters: dict[str, Any]
    file_format: str = "wav"


@dataclass
class EngineFlags:
    """Who does the work of a command that works on many files (see `jobs.engines.run_on`)."""

    engine: Annotated[str, typer.Option(help="local, or ray for many machines.")] = "local"
    workers: Annotated[int, typer.Option(min=0, help="Processes; with ray, 0 for as many as there is room for.")] = 1
    address: Annotated[str, typer.Option(help="Of a running Ray cluster; a new one here if not given.")] = ""


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameters that are dataclasses stand for the options that their fields are annotated as."""
    signature = inspect.signature(command, eval_str=True)
    groups: dict[str, Any] = {
        each.name: each.annotation for each in signature.parameters.values() if is_dataclass(each.annotation)
    }
    parameters: list[inspect.Parameter] = []
    for each in signature.parameters.values():
        if each.name not in groups:
            parameters.append(each)
            continue
        hints = get_type_hints(groups[each.name], include_extras=True)
        parameters += [
            each.replace(name=own.name, default=own.default, annotation=hints[own.name])
            for own in fields(groups[each.name])
        ]

    @functools.wraps(command)
    def run(*positional: Any, **given: Any) -> None:
        made = {
            name: kind(**{own.name: given.pop(own.name, own.default) for own in fields(kind)})
            for name, kind in groups.items()
        }
        command(*positional, **given, **made)

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def takes_options(after: str, table: Mapping[str, Option] = OPTIONS) -> Callable[[Command], Command]:
    """Gives a command the options of a table: its `**options` come from there.

    Args:
        after: its own parameter behind which they stand in the help.
        table: the options by name.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
        place = 1 + [each.name for each in own].index(after)
        parameters = [*own[:place], *map(_parameter, table.values()), *own[place:]]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {each.name: each.annotation for each in parameters}
        return command

    return decorate


def _parameter(option: Option) -> inspect.Parameter:
    """A row of the table as typer reads it."""
    kind: Any = Literal[option.choices] if option.choices else option.kind
    limits: Any = {} if option.least is None else {"min": option.least, "max": option.most}
    if option.word:
        parser = functools.partial(_number_or_word, option)
        kind, limits = Any, {"parser": parser, "metavar": f"[{option.word}|NUMBER]"}
    elif option.kind is dict:
        kind, limits = Any, {"parser": functools.partial(_numbers_by_name, option), "metavar": "NAME=NUMBER,…"}
    flag = FLAGS.get(option.name, f"--{option.name.replace('_', '-')}")
    if option.kind is bool and option.optional:
        # left out it is the model's own
        flag = f"{flag}/--no-{flag.removeprefix('--')}"
    kind = kind | None if option.optional else kind
    annotation = Annotated[kind, typer.Option(flag, help=option.help, **limits)]  # type: ignore[valid-type]
    return inspect.Parameter(
        option.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=option.default, annotation=annotation
    )


def _number_or_word(option: Option, text: str) -> float | str:
    """What an option that takes a word, too, is given as; raises typer.BadParameter."""
    try:
        value = text if text == option.word else float(text)
        option.check(value)
    except ValueError as error:
        said = str(error) if "must be between" in str(error) else f"{text!r} is neither {option.word} nor a number."
        raise typer.BadParameter(said) from None
    return value


def _numbers_by_name(option: Option, text: str) -> dict[str, float]:
    """An option of numbers by name as it is written, drums=-3,bass=2; raises typer.BadParameter."""
    try:
        pairs = [part.split("=") for part in text.split(",")]
        value = {name.strip(): float(number) for name, number in pairs}
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not of the kind drums=-3,bass=2.") from None
    try:
        option.check(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return value


def vocal_name(vocal: str) -> str:
    """What the files of a vocal are called by."""
    return "stdin" if vocal == "-" else Path(audio.source_name(vocal)).stem


def open_vocal(vocal: str) -> str | bytes:
    """A vocal as `audio.read_audio` takes it: what stands at standard input for "-"."""
    return sys.stdin.buffer.read() if vocal == "-" else vocal


def check_output(folder: Path, files: list[Path]) -> None:
    """Finds out before minutes of generating that results cannot be written.

    Raises:
        typer.BadParameter: one of the files is there, or a file stands where the folder should.
        HAFMCommandError: the folder cannot be written to.
    """
    if folder == STANDARD:
        return
    if there := [path for path in files if path.exists()]:
        raise typer.BadParameter(f"{there[0]} is there already; add --overwrite, or choose another folder with --out.")
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise typer.BadParameter(f"{nearest} is a file; name a folder with --out.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise HAFMCommandError(f"{folder} cannot be written to; choose another folder with --out.")


def read_vocal(vocal: str, seconds: float | None) -> tuple[audio.Samples, int]:
    """Reads a vocal, its channels kept, and imports what a model is made of while that takes long, an address say.

    Raises:
        HAFMAudioError: it cannot be used.
    """
    return beside(lambda: audio.read_audio(open_vocal(vocal), seconds=seconds, mono=False), import_models)


def beside(read: Callable[[], Result], work: Callable[[], object]) -> Result:
    """What `read` returns or raises in a thread of its own; `work` goes on here where it is not there at once."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(read())
        except BaseException as error:
            future.set_exception(error)

    # a daemon, so that Ctrl-C does not wait for a slow server
    Thread(target=run, daemon=True).start()
    if not wait([future], AT_ONCE_SECONDS).done:
        work()
    return future.result()


def import_models() -> None:
    """Imports torch, transformers and our models, and registers them: most of the seconds before a first song."""
    from ..registration import register

    register()


def load_pipeline(request: Request) -> HAFMPipeline:
    """The pipeline on the wanted device, or an error that says what to do instead."""
    import torch
    import transformers

    from ..pretrained.loading import model_source

    import_models()
    device = torch_device(request.device)
    dtype: Any = getattr(torch, request.dtype.value, "auto")
    with loading(request.model):
        model = str(model_source(request.model))
        return transformers.pipeline(
            "vocal-accompaniment", model=model, device=device, dtype=dtype, trust_remote_code=False
        )


def torch_device(wanted: Device) -> str:
    """The device as torch names it; raises HAFMCommandError where this machine has none of the kind."""
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted is Device.auto:
        return next(name for name, there in available.items() if there)
    if not available[wanted.value]:
        raise HAFMCommandError(f"This machine has no {wanted.value} device that torch can use; try --device cpu.")
    return wanted.value
