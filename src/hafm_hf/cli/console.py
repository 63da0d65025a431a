# SPDX-License-Identifier: Apache-2.0
"""Shared by the `hafm` commands: consoles for stdout and stderr, one-sentence errors, and finding a model's files."""

import errno
import os
import re
import sys
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import requires
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from ..pretrained import redaction

# packages whose name differs from that of their module, by the module
DISTRIBUTIONS = {"sklearn": "scikit-learn", "yaml": "pyyaml"}


class Output(Console):
    """A console that prints names as they are, and does not end the command when its reader stops, as `head` does.

    A command that ended there would leave songs unmade. `options` are those of rich's Console.
    """

    def __init__(self, **options: Any) -> None:
        # brackets in a name are not markup, nor is :smile: an emoji
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def on_broken_pipe(self) -> None:
        """Drops all further output; rich calls it when the reader is gone."""
        self.quiet = True
        discard(self.file)


stdout = Output(soft_wrap=True)
stderr = Output(stderr=True, soft_wrap=True)


def discard(file: IO[str]) -> None:
    """Sends all further output of `file`, a standard stream that nobody reads any more, to the null device."""
    null_device = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null_device, file.fileno())
    os.close(null_device)


def say(line: str) -> None:
    """Prints a line of results on stdout as it is; its reader may stop early, as with `Output`."""
    try:
        # color: escape sequences in a name are not removed
        typer.echo(line, color=True)
    except OSError as error:
        # Windows calls a pipe without a reader an invalid argument
        if error.errno not in (errno.EPIPE, errno.EINVAL):
            raise
        discard(sys.stdout)


class HAFMCommandError(Exception):
    """An error that the user can fix; the message is one sentence that says how."""


def report_error(error: BaseException) -> None:
    """Prints an error as one sentence; with `HAFM_DEBUG=1` its traceback, if it has one, above it."""
    if os.environ.get("HAFM_DEBUG") and error.__traceback__ is not None:
        stderr.print(redaction.without_secrets("".join(traceback.format_exception(error))), end="")
    stderr.print(redaction.without_secrets(f"hafm: {error}"), style="red")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without its full stop; the error's type if there is no message."""
    if type(error).__name__.startswith("StrictDataclass") and error.__cause__ is not None:
        # the first line names only the validator; the configuration's own sentence is in the cause
        error = error.__cause__
    return redaction.first_line(error).rstrip(".")


def missing_package(error: BaseException) -> HAFMCommandError | None:
    """The error to show if `error` is about a missing package that one of our extras installs; else None."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return None
    module = error.name.partition(".")[0]
    package = DISTRIBUTIONS.get(module, module.replace("_", "-"))
    # pairs (package, extra) of lines such as "pyarrow>=20.0; extra == 'train'"
    listed = re.findall(r"^([\w-]+).*extra == ['\"]([\w-]+)", "\n".join(requires("hafm-hf") or []), re.MULTILINE)
    extras = sorted({extra for name, extra in listed if name.replace("_", "-") == package} - {"all", "dev"})
    if not extras:
        return None
    subject = "each of the extras"
    if len(extras) == 1:
        subject = "the extra"
    # an extra may contain another: suggest the one with the fewest packages
    num_packages = Counter(extra for _, extra in listed)
    smallest = min(extras, key=lambda extra: num_packages[extra])
    return HAFMCommandError(
        f"{package} is not installed; {subject} {', '.join(extras)} includes it: pip install 'hafm-hf[{smallest}]'."
    )


def require_packages(*modules: str) -> None:
    """Checks in advance for packages of an extra that a long run imports only at its end.

    Raises:
        ModuleNotFoundError: naming the first missing module; `missing_package` says which extra includes it.
    """
    for module in modules:
        if find_spec(module) is None:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)


@contextmanager
def loading(model: str | None) -> Iterator[None]:
    """Turns an error while a model is loaded in the block into a HAFMCommandError of one sentence.

    `model` is a folder or hub id, None for the bundled model. HAFM_DEBUG=1 shows the details.
    """
    try:
        yield
    except Exception as error:
        shown = "The bundled model"
        if model is not None:
            shown = f"The model {model!r}"
        raise HAFMCommandError(
            f"{shown} cannot be loaded ({first_line(error)}); "
            "name a folder written by save_pretrained, or the id of a hub repository."
        ) from error


def model_folder(model: str | None) -> Path:
    """The folder of the files of `model`, downloaded if necessary; that of the bundled model if None."""
    from ..pretrained.loading import model_source

    source = model_source(model)
    folder = Path(source)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(str(source)))
    # transformers treats a folder without a configuration as one with the default values
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} holds no config.json")
    return folder


def progress_bars(quiet: bool) -> Progress:
    """Bars on stderr with counts, elapsed and remaining time; none if `quiet` and stderr is not a terminal."""
    columns = (
        # brackets in a name are not markup
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    # redrawing holds the interpreter for milliseconds that generation needs
    return Progress(*columns, console=stderr, refresh_per_second=4, disable=quiet and not stderr.is_terminal)


def print_table(
    title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[str] = ()
) -> None:
    """Prints a table on stdout.

    Args:
        title: above the table.
        headings: names of the columns.
        rows: the cells of each row, in the order of the columns.
        numbers: names of columns to right-justify.
    """
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="right" if heading in numbers else "left")
    for row in rows:
        table.add_row(*row)
    # where stdout is not a terminal, the default width of 80 characters would cut the table off
    Output(width=None if stdout.is_terminal else 160).print(table)
