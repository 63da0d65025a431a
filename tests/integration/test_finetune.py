# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning a stage of a published composite with adapters: one run of the recipe."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hafm_hf.corpus.tokens import TokenCorpusInfo, TokenExcerpt, write_shard
from hafm_hf.modeling.modeling_stage import HAFMCoarseForCausalLM
from hafm_hf.pretrained.loading import load_strictly
from integration.training_runs import train_here
from tiny_models import CLUSTERS, CODES

pytest.importorskip("peft", reason="peft is not installed; pip install 'hafm-hf[train]'")


def write_own_songs(folder: Path) -> Path:
    """Writes token shards of a few random songs of 4 s with the tiny composite's vocabularies; returns the folder."""
    info = TokenCorpusInfo(50, 75, num_clusters=CLUSTERS, codebook_size=CODES, num_codebooks=8)
    random = np.random.default_rng(1)

    def song(name: str) -> TokenExcerpt:
        """4 s of random tokens, at 50 and 75 Hz."""
        vocal, band = (random.integers(CLUSTERS, size=200).astype(np.int16) for _ in range(2))
        return TokenExcerpt(name, 0.0, 4.0, vocal, band, random.integers(CODES, size=(8, 300)).astype(np.int16))

    folder.mkdir()
    for split, count in (("train", 6), ("validation", 4)):
        write_shard(folder / f"{split}-00000.parquet", [song(f"{split}{n}") for n in range(count)], info)
    return folder


@pytest.fixture(scope="module")
def run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of a run that fine-tunes the coarse stage with adapters of rank 2."""
    folder = tmp_path_factory.mktemp("finetune")
    changes: dict[str, Any] = {"max_steps": 4, "save_steps": 2, "validation_steps": 4, "learning_rate": 3e-2}
    changes |= {"stage": "coarse", "init_from": tiny_model, "lora_rank": 2, "activation_checkpointing": True}
    train_here(write_own_songs(folder / "own-songs"), folder / "run", **changes)
    return folder / "run"


def test_adapters_change_only_the_linear_layers_and_are_merged(tiny_model: Path, run: Path) -> None:
    tuned = load_strictly(HAFMCoarseForCausalLM, run / "final")
    before = HAFMCoarseForCausalLM.from_pretrained(tiny_model, subfolder="coarse").state_dict()
    changed = {name for name, value in tuned.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.split(".")[-2] in ("qkv_proj", "o_proj", "up_proj", "down_proj") for name in changed)
    # the four linear layers of each block
    assert len(changed) == 4 * tuned.config.num_hidden_layers
