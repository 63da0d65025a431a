# SPDX-License-Identifier: Apache-2.0
"""A published composite's stage, fine-tuned with adapters, heard on the way, and published: one run of the recipe."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

from hafm_hf.corpus.tokens import TokenCorpusInfo, TokenExcerpt, write_shard
from hafm_hf.modeling.modeling_hafm import HAFMCoarseForCausalLM
from hafm_hf.pretrained.loading import load_strictly
from hub_stand_in import TOKEN, StandIn, stand_in
from integration.training_runs import RECIPE, read_metrics, words
from programs import run_program
from tiny_models import CLUSTERS, CODES

pytest.importorskip("peft", reason="peft is not installed; pip install 'hafm-hf[train]'")
NAME = "singers/tiny-coarse-mine"


def write_own_songs(folder: Path) -> Path:
    """Token shards of a few made-up songs in the vocabularies of the tiny composite."""
    info = TokenCorpusInfo(
        semantic_frame_rate=50, acoustic_frame_rate=75, num_clusters=CLUSTERS, codebook_size=CODES, num_codebooks=8
    )
    random = np.random.default_rng(1)

    def song(name: str) -> TokenExcerpt:
        vocal, band = (random.integers(CLUSTERS, size=200).astype(np.int16) for _ in range(2))
        return TokenExcerpt(name, 0.0, 4.0, vocal, band, random.integers(CODES, size=(8, 300)).astype(np.int16))

    folder.mkdir()
    for split, count in (("train", 6), ("validation", 4)):
        write_shard(folder / f"{split}-00000.parquet", [song(f"{split}{n}") for n in range(count)], info)
    return folder


@pytest.fixture(scope="module")
def published(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StandIn]:
    """Output folder of the run, and the hub that it published to."""
    folder = tmp_path_factory.mktemp("finetune")
    corpus = write_own_songs(folder / "own-songs")
    (folder / "facts.yaml").write_text("license: cc-by-4.0\nattribution: [Sung by nobody]\n")
    flags = words(
        corpus,
        folder / "run",
        stage="coarse",
        init_from=tiny_model,
        lora_rank=2,
        max_steps=4,
        save_steps=2,
        validation_steps=4,
        ema_decay=0.0,
        activation_checkpointing=True,
        learning_rate=3e-2,
        report_to="tensorboard",
        push_to_hub=NAME,
        hub_private=True,
        card_facts=folder / "facts.yaml",
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
    with stand_in() as hub:
        online = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(folder / "cache")}
        online |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        environment = {**kept, **online, "ACCELERATE_USE_CPU": "true"}
        run = run_program([sys.executable, RECIPE, *flags], environment, fresh=True)
    assert run.returncode == 0, run.stderr[-3000:]
    return folder / "run", hub


def test_adapters_change_the_linear_layers_only_and_are_merged(
    tiny_model: Path, published: tuple[Path, StandIn]
) -> None:
    tuned = load_strictly(HAFMCoarseForCausalLM, published[0] / "final")
    before = HAFMCoarseForCausalLM.from_pretrained(tiny_model, subfolder="coarse").state_dict()
    changed = {name for name, value in tuned.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.split(".")[-2] in ("qkv_proj", "o_proj", "up_proj", "down_proj") for name in changed)
    assert len(changed) == 4 * tuned.config.num_hidden_layers


def test_the_hub_gets_weights_configurations_and_a_card_that_tells_the_run(published: tuple[Path, StandIn]) -> None:
    run, hub = published
    repository = hub.repositories[NAME]
    files = repository.files("main")
    assert files is not None and repository.private
    assert {"config.json", "generation_config.json", "model.safetensors", "README.md"} <= set(files)
    assert files["model.safetensors"] == (run / "final/model.safetensors").read_bytes()
    card = ModelCard(files["README.md"].decode())
    assert card.data["license"] == "cc-by-4.0" and "datasets" not in card.data.to_dict()
    loss = next(line for line in reversed(read_metrics(run)) if "validation_matched" in line)["validation_matched"]
    for told in ("own-songs: 6 excerpts", "4 of 8 crops of 1.2 s", "adapters of rank 2", f"{loss:.3f} nats"):
        assert told in card.text, told


def test_the_run_is_tracked(published: tuple[Path, StandIn]) -> None:
    run, _ = published
    events = list(run.rglob("events.out.tfevents.*"))
    assert events
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(max(events, key=lambda path: path.stat().st_size)))
    log.Reload()
    assert {"loss", "validation_paired_difference", "codebook_losses/4"} <= set(log.Tags()["scalars"])
