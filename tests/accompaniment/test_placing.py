# SPDX-License-Identifier: Apache-2.0
"""`device_map` of stages and of the composite: weights that do not fit are offloaded, and the song is the same."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hafm_hf import HAFMForVocalAccompaniment, HAFMSemanticForCausalLM
from tiny_models import tiny_composite
from vocals import CODEC_RATE, glide

# less than a stage
BUDGET = {"cpu": "40KB"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "two_layers"
    tiny_composite(num_hidden_layers=2).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_stage_whose_weights_are_offloaded_writes_the_same_tokens(folder: Path, tmp_path: Path, dtype: Any) -> None:
    whole = HAFMSemanticForCausalLM.from_pretrained(folder / "semantic", dtype=dtype)
    budget = {"cpu": whole.get_memory_footprint() // 2}
    spread = HAFMSemanticForCausalLM.from_pretrained(
        folder / "semantic", dtype=dtype, device_map="auto", max_memory=budget, offload_folder=tmp_path
    )
    assert "disk" in spread.hf_device_map.values() and {each.dtype for each in spread.parameters()} == {dtype}
    ids = torch.arange(7).view(1, 1, 7)
    wanted, found = (each.generate(conditioning_ids=ids, do_sample=False) for each in (whole, spread))
    assert torch.equal(wanted, found)


def test_a_composite_shares_its_memory_among_the_stages_and_sings_the_same(folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"device_map": "auto", "max_memory": BUDGET, "offload_folder": tmp_path}
    spread = HAFMForVocalAccompaniment.from_pretrained(folder, **options)
    whole = HAFMForVocalAccompaniment.from_pretrained(folder, device_map="auto")
    maps = [getattr(stage, "hf_device_map", {}) for stage in spread.stages.values()]
    assert all("disk" in each.values() for each in maps)
    held = sum(each.nbytes for stage in spread.stages.values() for each in stage.parameters() if not each.is_meta)
    assert held <= 40_000, "of all stages together"
    assert not any(each.is_meta for part in (spread.codec, spread.semantic_tokenizer) for each in part.parameters())
    songs = [model.generate(glide(0.12), CODEC_RATE, seed=1, skip_fine=True).codes[0] for model in (spread, whole)]
    assert torch.equal(*songs)
    with pytest.raises(ValueError, match="choose decoding=.reference"):
        spread.generate(glide(0.12), CODEC_RATE, seed=1, decoding="fast")


def test_a_map_of_modules_is_refused_for_a_composite(folder: Path) -> None:
    with pytest.raises(ValueError, match="a composite takes a device, auto, balanced.* join them with from_parts"):
        HAFMForVocalAccompaniment.from_pretrained(folder, device_map={"semantic": "cpu", "coarse": "disk"})
