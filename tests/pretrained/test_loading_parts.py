# SPDX-License-Identifier: Apache-2.0
"""Parts loaded from folders that lack weights, and in the precision that they were saved in."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tiny_models import (
    sounds,
    tiny_listener,
    tiny_rhythmic_tokenizer,
    tiny_semantic_tokenizer,
    tiny_separator,
    tiny_stage,
)


def tiny_coarse() -> Any:
    return tiny_stage("coarse")


def without(model: Any, folder: Path, names: list[str]) -> Any:
    """The model, loaded from a folder whose weights lack `names`."""
    model.save_pretrained(folder)
    file = folder / "model.safetensors"
    weights = {name: value for name, value in load_file(file).items() if name not in names}
    save_file(weights, file, metadata={"format": "pt"})
    return type(model).from_pretrained(folder)


@pytest.mark.parametrize(
    ("make", "zeros", "ones"),
    [
        (tiny_rhythmic_tokenizer, ["centroids", "vocal_projection"], ["rhythm_scale", "line_scale"]),
        (tiny_listener, ["notes"], []),
    ],
)
def test_buffers_that_a_checkpoint_lacks_say_nothing(
    make: Callable[[], Any], zeros: list[str], ones: list[str], tmp_path: Path
) -> None:
    model = make()
    for name in (*zeros, *ones):
        # so that memory which is used again is not zero
        model.get_buffer(name).fill_(7.0)
    loaded = without(model, tmp_path, [*zeros, *ones])
    for name, expected in [*((name, 0.0) for name in zeros), *((name, 1.0) for name in ones)]:
        assert loaded.get_buffer(name).unique().tolist() == [expected], name
    kept = dict(model.named_parameters())
    assert all(torch.equal(value, kept[name]) for name, value in loaded.named_parameters())


def test_a_tokenizer_without_centroids_refuses_to_quantise(tmp_path: Path) -> None:
    loaded = without(tiny_semantic_tokenizer(), tmp_path, ["centroids"])
    with pytest.raises(ValueError, match="no centroids"):
        loaded.encode(sounds())


@pytest.mark.parametrize("make", [tiny_rhythmic_tokenizer, tiny_listener, tiny_separator])
def test_layers_that_a_checkpoint_lacks_begin_as_new_ones_do(make: Callable[[], Any], tmp_path: Path) -> None:
    model = make()
    names = [name for name, _ in model.named_parameters() if name.endswith(("head.weight", "norm.weight"))]
    loaded = without(model, tmp_path, names)
    for name, value in loaded.named_parameters():
        if name not in names:
            assert torch.equal(value, model.get_parameter(name)), name
        elif name.endswith("norm.weight"):
            assert value.unique().tolist() == [1.0], name
        else:
            assert 0 < value.abs().max() <= value.shape[1] ** -0.5, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [tiny_coarse, tiny_rhythmic_tokenizer, tiny_listener, tiny_separator])
def test_a_part_saved_in_half_precision_is_loaded_in_it_unless_told(
    make: Callable[[], Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    model = make().to(dtype)
    model.save_pretrained(tmp_path)
    for asked, expected in ((None, dtype), ("auto", dtype), (torch.float32, torch.float32)):
        loaded = type(model).from_pretrained(tmp_path, **({} if asked is None else {"dtype": asked}))
        assert {value.dtype for value in loaded.state_dict().values()} == {expected}
