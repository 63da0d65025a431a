# SPDX-License-Identifier: Apache-2.0
"""`hafm info`: describes a model from its configurations."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .console import loading, model_folder, print_table, say
from .options import AsJson


def info(
    model: Annotated[str | None, typer.Argument(help="Folder or hub id; the bundled hafm-tiny if not given.")] = None,
    as_json: AsJson = False,
) -> None:
    """Shows a model's parts with their sizes, frame rates, vocabularies and architectures, and its styles."""
    with loading(model):
        description = describe_model(model)
    if as_json:
        say(json.dumps(description))
        return
    headings = ("part", "parameters", "size on disk", "rates", "vocabulary", "architecture")
    rows = []
    for name, part in description["parts"].items():
        size = f"{part['bytes'] / 1e6:.1f} MB"
        rows.append((name, f"{part['parameters']:,}", size, part["rates"], part["vocabulary"], part["architecture"]))
    rows.append(("total", f"{description['parameters']:,}", f"{description['bytes'] / 1e6:.1f} MB", "", "", ""))
    print_table(description["model"], headings, rows, numbers=headings[1:3])
    if description["styles"]:
        say(f"styles: {', '.join(description['styles'])}")


def describe_model(model: str | None) -> dict[str, Any]:
    """Describes a model from its configurations, without loading weights.

    Args:
        model: folder or hub id; the bundled hafm-tiny if None.

    Returns:
        {"model", "sampling_rate" (Hz), "parameters", "bytes", "styles", "parts": {name: {"parameters", "bytes",
        "rates", "vocabulary", "architecture", and for the stages "position_scheme", "codebook_pattern"}}}.

    Raises:
        OSError: if there is no such model.
    """
    folder = model_folder(model)
    composite = without_weights(folder)
    counts = composite.parameter_counts()
    total = counts.pop("total")
    parts = {
        name: {"parameters": count, "bytes": _bytes_in(folder / name), **composite.config.describe_part(name)}
        for name, count in counts.items()
    }
    return {
        "model": str(folder if model is None else model),
        "sampling_rate": composite.sampling_rate,
        "parameters": total,
        "bytes": _bytes_in(folder),
        "styles": composite.styles,
        "parts": parts,
    }


def without_weights(folder: Path) -> Any:
    """A composite on the meta device, made from a folder's configurations.

    It takes no memory for weights, and is made fast even at the paper's size.
    """
    import torch

    from ..accompaniment.configuration_accompaniment import HAFMConfig
    from ..accompaniment.modeling_accompaniment import HAFMForVocalAccompaniment

    config = HAFMConfig.from_pretrained(folder)
    with torch.device("meta"):
        return HAFMForVocalAccompaniment(config)


def _bytes_in(folder: Path) -> int:
    """Size in bytes of all files in and below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
