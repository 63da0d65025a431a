# SPDX-License-Identifier: Apache-2.0
"""Converts a checkpoint of Meta's `encodec` package to a folder for `load_codec` and `hafm assemble --codec`.

    python recipes/convert_encodec.py encodec_24khz-d7cc33bc.th codec

It takes the published 24 kHz checkpoint; weights of another size or shape are rejected. Codes and audio are
bit-identical to the original's.
"""

import pickle
import re
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import EncodecConfig, EncodecModel

from running import run_recipe

# from the original weight names to those of transformers: wrappers are flattened, lists are called layers
RENAMED = (
    (r"^(encoder|decoder)\.model\.", r"\1.layers."),
    (r"\.conv(tr)?\.conv(tr)?\.", ".conv."),
    (r"\.(conv|convtr)\.norm\.", ".norm."),
    (r"\.weight_g$", ".parametrizations.weight.original0"),
    (r"\.weight_v$", ".parametrizations.weight.original1"),
    (r"^quantizer\.vq\.layers\.(\d+)\._codebook\.", r"quantizer.layers.\1.codebook."),
)


def convert(checkpoint: Path) -> EncodecModel:
    """Loads a 24 kHz checkpoint of the `encodec` package, with 32 codebooks; no code in it is run.

    Raises:
        ValueError: the file is not such a checkpoint.
    """
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError) as error:
        raise ValueError(f"{checkpoint} cannot be read as a checkpoint of plain tensors.") from error
    codec = EncodecModel(EncodecConfig()).eval()
    try:
        codec.load_state_dict({_renamed(key): value for key, value in state.items()})
    except (RuntimeError, AttributeError, TypeError) as error:
        raise ValueError(f"{checkpoint} is not a checkpoint of encodec_24khz: {error}") from error
    return codec


def _renamed(key: str) -> str:
    """A key of the original checkpoint by transformers' name."""
    for pattern, replacement in RENAMED:
        key = re.sub(pattern, replacement, key)
    return key


def main(
    checkpoint: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="encodec_24khz-*.th.")],
    output: Annotated[Path, typer.Argument(file_okay=False, help="Folder for the codec.")],
) -> None:
    """Convert CHECKPOINT into the folder OUTPUT."""
    convert(checkpoint).save_pretrained(output)


if __name__ == "__main__":
    run_recipe(lambda: typer.run(main))
