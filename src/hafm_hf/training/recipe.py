# SPDX-License-Identifier: Apache-2.0
"""A whole training run, from its arguments to the finished stage: what recipes/train_stage.py runs."""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import datasets
import pyarrow.compute as pc
import torch
from transformers import PreTrainedModel, set_seed
from transformers.utils import logging

from ..corpus.locks import locked
from ..modeling.configuration_hafm import HAFMStageConfig
from .arguments import DataArguments, RunArguments, StageArguments, parse_arguments
from .data import LEAD_SHEET, TokenCrops, load_token_corpus
from .lead_sheets import LeadSheetNoise
from .stages import make_stage
from .trainer import StageTrainer

logger = logging.get_logger(__name__)


def train_stage(
    arguments: Sequence[str] | None = None, start: Callable[[PreTrainedModel], object] | None = None
) -> None:
    """Reads arguments, builds or loads the stage, and trains it.

    Args:
        arguments: words of the command line; those of the process if None.
        start: what happens to a new stage before its training, to set its weights.

    Raises:
        ValueError: arguments, corpus and stage do not fit each other, or another run trains in the folder.
        OSError: something can't be read or written.
        FloatingPointError: the run has left the finite numbers.
    """
    stage, data, run = parse_arguments(arguments)
    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    set_seed(run.seed)
    trainer = make_trainer(stage, data, run, start)
    # two would take turns in overwriting each other's checkpoints
    with locked(Path(run.output_dir)) if trainer.accelerator.is_main_process else nullcontext():
        trainer.train()
    if trainer.accelerator.is_main_process:
        logger.info("The finished stage is in %s.", trainer.folder.path / "final")


def check_styles(styles: Sequence[str], corpus: datasets.Dataset, name: str) -> None:
    """Warns of styles that no lead sheet of a corpus has; raises ValueError if none of them is there."""
    sheets = corpus.data.column(LEAD_SHEET)
    missing = [style for style in styles if not pc.any(pc.match_substring(sheets, json.dumps(style))).as_py()]
    if missing:
        said = f"No song of {name} has the style {', '.join(missing)}: name its styles as it does."
        if len(missing) == len(styles):
            raise ValueError(said)
        logger.warning(said)


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


def make_trainer(
    stage: StageArguments,
    data: DataArguments,
    run: RunArguments,
    start: Callable[[PreTrainedModel], object] | None = None,
) -> StageTrainer:
    """Corpus, stage and trainer of a run; `start` as for `train_stage`."""
    corpus, info = load_token_corpus(data.corpus, "train", data.cache_dir)
    model = make_stage(stage, info, data.crop_seconds)
    if start and not stage.init_from:
        start(model)
    noise = LeadSheetNoise(
        run.lead_sheet_dropout, run.lead_sheet_dropout_all, run.lead_sheet_half_beat, run.lead_sheet_octave,
        run.lead_sheet_other_voice,
    )  # fmt: skip
    if noise != LeadSheetNoise() and not model.config.lead_sheet_streams:
        raise ValueError("A stage without --lead_sheet_streams has no lead sheet: leave out what changes it.")
    seed, swaps = run.seed, run.history_swap > 0
    crops = TokenCrops(corpus, info, model.config, data.crop_seconds, seed, swaps, noise)
    if stage.styles and not stage.init_from:
        check_styles(stage.styles, corpus, data.corpus)
    validation = validation_crops(data, model.config)
    trainer = StageTrainer(model, crops, validation, data, run)
    if trainer.accelerator.is_main_process:
        batches = trainer.batch_sampler(0)
        logger.info(
            "%s stage, %.1f M parameters; %d excerpts, %.1f h; %d processes × %d crops × %d accumulation steps",
            stage.stage, model.num_parameters() / 1e6, len(crops.corpus),
            crops.cells.sum() * float(info.grid) / 3600, trainer.accelerator.num_processes, batches.largest,
            batches.accumulation,
        )  # fmt: skip
    return trainer
