# SPDX-License-Identifier: Apache-2.0
"""Parts loaded from folders that lack some weights."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tiny_models import tiny_rhythmic_tokenizer


def without(model: Any, folder: Path, names: list[str]) -> Any:
    """The model, reloaded from a checkpoint without the weights `names`."""
    model.save_pretrained(folder)
    file = folder / "model.safetensors"
    weights = {name: value for name, value in load_file(file).items() if name not in names}
    save_file(weights, file, metadata={"format": "pt"})
    return type(model).from_pretrained(folder)


def test_buffers_missing_from_a_checkpoint_get_neutral_values(tmp_path: Path) -> None:
    model, zeros, ones = tiny_rhythmic_tokenizer(), ["centroids", "vocal_projection"], ["rhythm_scale", "line_scale"]
    for name in (*zeros, *ones):
        # so that reused memory is not zero by chance
        model.get_buffer(name).fill_(7.0)
    loaded = without(model, tmp_path, [*zeros, *ones])
    for name, expected in [*((name, 0.0) for name in zeros), *((name, 1.0) for name in ones)]:
        assert loaded.get_buffer(name).unique().tolist() == [expected], name
    kept = dict(model.named_parameters())
    assert all(torch.equal(value, kept[name]) for name, value in loaded.named_parameters())
