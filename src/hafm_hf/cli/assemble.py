# SPDX-License-Identifier: Apache-2.0
"""`hafm assemble`: joins parts into one model."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from .console import HAFMCommandError, first_line, say
from .options import advanced, basic

# names of the parts that a model must have
REQUIRED = ("semantic_tokenizer", "semantic", "coarse", "codec")
Part = Annotated[str | None, basic(help="Folder or hub id.")]


def assemble(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the model.", file_okay=False)],
    base: Annotated[
        str | None,
        basic("--from", help="Model that provides the parts not named here: hafm-tiny, a folder or hub id."),
    ] = None,
    semantic_tokenizer: Part = None,
    semantic: Part = None,
    coarse: Part = None,
    codec: Part = None,
    fine: Annotated[str | None, basic(help="Folder or hub id; coarse codebooks only without it.")] = None,
    listener: Annotated[str | None, basic(help="Folder or hub id of an optional listener, for lead sheets.")] = None,
    ear: Annotated[str | None, basic(help="Folder or hub id of the network whose features it reads.")] = None,
    separator: Annotated[str | None, basic(help="Folder or hub id of an optional separator, for stems.")] = None,
    dtype: Annotated[Literal["float32", "bfloat16", "float16"], advanced(help="Precision of stages.")] = "bfloat16",
) -> None:
    """Joins a semantic tokenizer, the stages and a codec into one model, for use with --model."""
    from ..accompaniment.assemble import assemble_composite

    parts = {
        "semantic_tokenizer": semantic_tokenizer,
        "semantic": semantic,
        "coarse": coarse,
        "fine": fine,
        "codec": codec,
        "listener": listener,
        "ear": ear,
        "separator": separator,
    }
    missing = [name.replace("_", "-") for name in REQUIRED if not parts[name]]
    if base is None and missing:
        raise typer.BadParameter(f"missing --{', --'.join(missing)}; --from MODEL takes them from an existing model.")
    try:
        size = assemble_composite(parts, out, dtype, base)
    except ValueError as error:
        raise HAFMCommandError(f"{first_line(error)}.") from error
    say(f"wrote {out} ({size:.1f} MB)")
