# SPDX-License-Identifier: Apache-2.0
"""A whole training run, from its arguments to the published stage: what recipes/train_stage.py runs."""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import PreTrainedModel, set_seed
from transformers.utils import logging

from ..corpus.locks import locked
from ..modeling.configuration_hafm import HAFMStageConfig
from ..pretrained.model_card import CardFacts, load_facts, model_card
from .arguments import DataArguments, RunArguments, StageArguments, parse_arguments
from .checkpoints import RunProgress
from .data import TokenCrops, load_token_corpus
from .lead_sheets import LeadSheetNoise
from .stages import make_stage
from .trainer import StageTrainer
from .validation import Metrics

logger = logging.get_logger(__name__)


def train_stage(arguments: Sequence[str] | None = None) -> None:
    """Reads arguments, builds or loads the stage, trains it, and publishes it if asked to.

    Args:
        arguments: words of the command line; those of the process if None.

    Raises:
        ValueError: arguments, corpus and stage do not fit each other, or another run trains in the folder.
        OSError: something can't be read or written.
        FloatingPointError: the run has left the finite numbers.
    """
    stage, data, run = parse_arguments(arguments)
    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    set_seed(run.seed)
    trainer = make_trainer(stage, data, run)
    with _alone_in(Path(run.output_dir), trainer):
        progress = trainer.train()
    if not trainer.accelerator.is_main_process:
        return
    logger.info("The finished stage is in %s.", trainer.folder.path / "final")
    if run.push_to_hub:
        facts = training_facts(stage, data, run, progress, trainer.crops, trainer.last_validation)
        logger.info("Published: %s", publish_stage(trainer.finished_stage, run, facts))


def _alone_in(folder: Path, trainer: StageTrainer) -> AbstractContextManager[None]:
    """The run's folder for this run: two would take turns in overwriting each other's checkpoints."""
    if not trainer.accelerator.is_main_process:
        return nullcontext()
    return locked(folder, ValueError(f"Another run trains in {folder}; wait for it, or name another output_dir."))


def validation_crops(data: DataArguments, config: HAFMStageConfig) -> TokenCrops | None:
    """What a stage is validated on; None where validation is turned off or the corpus has no such split."""
    if data.validation_split == "none":
        return None
    try:
        corpus, info = load_token_corpus(data.corpus, data.validation_split, data.cache_dir)
    except FileNotFoundError:
        logger.warning(
            "%s has no %s split, so the run is not validated; prepare more songs to hold some out.",
            data.corpus, data.validation_split,
        )  # fmt: skip
        return None
    return TokenCrops(corpus, info, config, data.crop_seconds)


def make_trainer(stage: StageArguments, data: DataArguments, run: RunArguments) -> StageTrainer:
    """Corpus, stage and trainer of a run."""
    corpus, info = load_token_corpus(data.corpus, "train", data.cache_dir)
    model = make_stage(stage, info, data.crop_seconds)
    noise = LeadSheetNoise(
        run.lead_sheet_dropout,
        run.lead_sheet_dropout_all,
        run.lead_sheet_half_beat,
        run.lead_sheet_octave,
        run.lead_sheet_wrong_chords,
    )
    seed, swaps = run.seed, run.history_swap > 0
    crops = TokenCrops(corpus, info, model.config, data.crop_seconds, seed, swaps, noise)
    validation = validation_crops(data, model.config)
    trainer = StageTrainer(model, crops, validation, data, run)
    if trainer.accelerator.is_main_process:
        batches = trainer.batch_sampler(0)
        logger.info(
            "%s stage, %.1f M parameters; %d excerpts, %.1f h; %d processes × %d crops × %d accumulation steps",
            stage.stage, sum(p.numel() for p in model.parameters()) / 1e6, len(crops.corpus),
            crops.cells.sum() * float(info.grid) / 3600, trainer.accelerator.num_processes, batches.largest,
            batches.accumulation,
        )  # fmt: skip
    return trainer


def training_facts(
    stage: StageArguments,
    data: DataArguments,
    run: RunArguments,
    progress: RunProgress,
    crops: TokenCrops,
    last: Metrics,
) -> CardFacts:
    """What a card says about a run; facts that only people know come from `run.card_facts`.

    Args:
        stage, data, run: what the run was asked for.
        progress: where it ended.
        crops: what it was trained on.
        last: its last validation.
    """
    facts = load_facts(run.card_facts) if run.card_facts else CardFacts()
    corpus = Path(data.corpus).name
    if corpus not in facts.datasets:
        facts.datasets.append(corpus)
    if stage.init_from and stage.init_from not in facts.base_models and not Path(stage.init_from).exists():
        facts.base_models.append(stage.init_from)
    hours = float(crops.cells.sum() * crops.info.grid) / 3600
    trained = progress.step * run.global_batch * crops.seconds / 3600
    found = {
        "Corpus": f"{corpus}: {len(crops.corpus)} excerpts, {hours:.1f} h",
        "Steps": f"{progress.step} of {run.global_batch} crops of {crops.seconds:g} s ({trained:.1f} h of audio)",
        "Learning rate": f"{run.learning_rate:g}",
        "Precision": run.mixed_precision.replace("no", "fp32"),
        "Trained weights": f"adapters of rank {stage.lora_rank}" if stage.lora_rank else "all",
        "Software": f"hafm-hf {version('hafm-hf')}",
    }
    if "matched" in last:
        found["Validation loss"] = f"{last['matched']:.3f} nats a token"
    facts.training = found | facts.training
    return facts


def publish_stage(model: PreTrainedModel, run: RunArguments, facts: CardFacts) -> str:
    """Uploads the stage with its configurations and card; returns the commit's address.

    Raises:
        HfHubHTTPError: the hub refuses.
    """
    assert run.push_to_hub is not None
    card = model_card(model, run.push_to_hub, facts)
    commit = model.push_to_hub(run.push_to_hub, card=card, private=run.hub_private or None)  # type: ignore[call-arg]
    return str(commit.commit_url)
