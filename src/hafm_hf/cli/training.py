# SPDX-License-Identifier: Apache-2.0
"""`hafm assemble`, and how the script of a recipe ends."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from .console import HAFMCommandError, first_line, missing_package, report_error, stdout
from .options import advanced, basic

# what they log at INFO is about themselves
NOISY = ("httpx", "datasets", "filelock", "fsspec", "torch", "accelerate")


def run_recipe(recipe: Callable[[], object]) -> None:
    """Runs a recipe with its log on stderr; a failure becomes one sentence there and exit code 1.

    `HAFM_DEBUG=1` shows the traceback instead.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        recipe()
    except Exception as error:
        if os.environ.get("HAFM_DEBUG"):
            raise
        expected = isinstance(error, (ValueError, OSError, FloatingPointError, ImportError))
        kind = "" if expected else f" ({type(error).__name__}; HAFM_DEBUG=1 shows more)"
        report_error(missing_package(error) or HAFMCommandError(f"{first_line(error)}{kind}."))
        sys.exit(1)


Part = Annotated[str, basic(help="Folder or hub id.")]


def assemble(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the model.", file_okay=False)],
    semantic_tokenizer: Part,
    semantic: Part,
    coarse: Part,
    codec: Part,
    fine: Annotated[str | None, basic(help="Folder or hub id; without it, the coarse codebooks are all.")] = None,
    listener: Annotated[str | None, basic(help="Folder or hub id of an optional listener, for lead sheets.")] = None,
    separator: Annotated[str | None, basic(help="Folder or hub id of an optional separator, for stems.")] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], advanced(help="What the stages are stored in.")
    ] = "bfloat16",
) -> None:
    """Joins a semantic tokenizer, the stages and a codec into one model for --model."""
    from ..accompaniment.assemble import assemble_composite

    parts = {
        "semantic_tokenizer": semantic_tokenizer,
        "semantic": semantic,
        "coarse": coarse,
        "fine": fine,
        "codec": codec,
        "listener": listener,
        "separator": separator,
    }
    size = assemble_composite(parts, out, dtype)
    stdout.print(f"wrote {out} ({size:.1f} MB)", markup=False)
