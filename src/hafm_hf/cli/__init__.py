# SPDX-License-Identifier: Apache-2.0
"""The `hafm` command: a module for each subcommand, and `options`, which turns options into calls.

Torch and the models are imported when they are needed, so that `hafm --help` and a refused vocal answer at once.
Exit codes: 0 done, 2 wrong usage, 130 interrupted, 1 anything else. stdout carries results only; progress, warnings
and errors go to stderr. `HAFM_DEBUG=1` shows tracebacks.
"""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from .accompany import accompany
from .assemble import assemble
from .console import HAFMCommandError, first_line, missing_package, report_error
from .evaluate import evaluate
from .info import info
from .lead_sheet import lead_sheet
from .prepare import prepare

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


def show_version(wanted: bool) -> None:
    """Prints the version of the package and ends the command."""
    if wanted:
        from .. import __version__

        typer.echo(f"hafm-hf {__version__}")
        raise typer.Exit


@app.callback()
def hafm(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """HAFM: a singing voice in, an accompaniment out."""
    # before transformers is imported, here and in workers: it would show a bar for every part that it loads
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if isinstance(sys.stdout, TextIOWrapper):
        # as stderr does: names that are no UTF-8, and arrows where a terminal knows none, end no command
        sys.stdout.reconfigure(errors="backslashreplace")


for command in (accompany, lead_sheet, prepare, assemble, evaluate, info):
    app.command()(command)


def main() -> None:
    """Entry point of `hafm`: every failure becomes one sentence on stderr and an exit code."""
    try:
        app()
    except Exception as error:
        if os.environ.get("HAFM_DEBUG"):
            raise
        unexpected = HAFMCommandError(f"{first_line(error)} ({type(error).__name__}; HAFM_DEBUG=1 shows more).")
        # errors of ours are one sentence; their classes are in modules that take seconds to import
        expected = type(error).__name__.startswith("HAFM")
        report_error(error if expected else missing_package(error) or unexpected)
        sys.exit(1)
