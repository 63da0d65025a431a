# SPDX-License-Identifier: Apache-2.0
"""The `hafm` command: one module per subcommand, and `options`, which they share.

torch and the models are imported only when needed, so that `hafm --help` and errors about a vocal appear at once.
Exit codes: 0 success, 2 usage error, 130 interrupted, 1 any other failure. stdout carries results only; progress,
warnings and errors go to stderr. `HAFM_DEBUG=1` shows tracebacks.
"""

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
    """Prints the version of the package and exits, if it is `wanted`."""
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
    # set before transformers is imported, here and in workers: it would show a bar for every part that it loads
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if isinstance(sys.stdout, TextIOWrapper):
        # as on stderr: file names that are not UTF-8, or arrows that a terminal cannot encode, must not end a command
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
        shown: BaseException = error
        # our own errors are one sentence; matched by name, as their modules take seconds to import
        if not type(error).__name__.startswith("HAFM"):
            unexpected = HAFMCommandError(f"{first_line(error)} ({type(error).__name__}; HAFM_DEBUG=1 shows more).")
            shown = missing_package(error) or unexpected
        report_error(shown)
        sys.exit(1)
