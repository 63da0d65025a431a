# SPDX-License-Identifier: Apache-2.0
"""A complete training run, from its arguments to the finished stage; recipes/train_stage.py runs it."""

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
from ..modeling.configuration_stage import HAFMStageConfig
from .arguments import (
    CorruptionArguments,
    DataArguments,
    OptimizationArguments,
    RunArguments,
    StageArguments,
    parse_arguments,
)
from .data import LEAD_SHEET, TokenCrops, load_token_corpus
from .stages import make_stage
from .trainer import StageTrainer

logger = logging.get_logger(__name__)


def train_stage(
    arguments: Sequence[str] | None = None, start: Callable[[PreTrainedModel], object] | None = None
) -> None:
    """Parses the arguments, builds or loads the stage, and trains it.

    Args:
        arguments: command-line arguments; `sys.argv[1:]` if None.
        start: called with a newly built stage before training, for example to initialise its weights.

    Raises:
        ValueError: when arguments, corpus and stage do not match, or another run uses the output folder.
        OSError: when something can't be read or written.
        FloatingPointError: when gradients are no longer finite.
    """
    stage, data, corruption, optimization, run = parse_arguments(arguments)
    # takes precedence over any number of threads that has been set before
    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    set_seed(run.seed)
    trainer = make_trainer(stage, data, corruption, optimization, run, start)
    # two runs in one folder would overwrite each other's checkpoints
    lock = locked(Path(run.output_dir)) if trainer.accelerator.is_main_process else nullcontext()
    with lock:
        trainer.train()
    if trainer.accelerator.is_main_process:
        logger.info("The finished stage is in %s.", trainer.folder.path / "final")


def check_styles(styles: Sequence[str], corpus: datasets.Dataset, name: str) -> None:
    """Logs a warning about styles that no lead sheet of the corpus has.

    Args:
        styles: names of the styles.
        corpus: with a column of lead sheets, as JSON.
        name: the corpus's, for the message.

    Raises:
        ValueError: the corpus has none of the styles.
    """
    sheets = corpus.data.column(LEAD_SHEET)
    # lead sheets are JSON, in which a style is a quoted string
    missing = [style for style in styles if not pc.any(pc.match_substring(sheets, json.dumps(style))).as_py()]
    if missing:
        message = f"No song of {name} has the style {', '.join(missing)}: use the names of styles in its lead sheets."
        if len(missing) == len(styles):
            raise ValueError(message)
        logger.warning(message)


def validation_crops(data: DataArguments, config: HAFMStageConfig) -> TokenCrops | None:
    """Validation crops of a stage; None if validation is turned off or the corpus has no such split.

    Args:
        data: names the corpus, the split ("none" turns validation off) and the length of crops.
        config: the stage's configuration.
    """
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
    corruption: CorruptionArguments,
    optimization: OptimizationArguments,
    run: RunArguments,
    start: Callable[[PreTrainedModel], object] | None = None,
) -> StageTrainer:
    """Builds the trainer of a run, with its corpus and stage.

    Args:
        stage, data, corruption, optimization, run: arguments of the run.
        start: called with a newly built stage before training, for example to initialise its weights.

    Raises:
        ValueError: when arguments, corpus and stage do not match.
        OSError: when corpus or stage can't be read.
    """
    corpus, info = load_token_corpus(data.corpus, "train", data.cache_dir)
    model = make_stage(stage, info, data.crop_seconds)
    if start and not stage.init_from:
        start(model)
    if corruption.corrupts_lead_sheets and not model.config.lead_sheet_streams:
        raise ValueError("A stage without --lead_sheet_streams has no lead sheet: drop the options that corrupt it.")
    crops = TokenCrops(corpus, info, model.config, data.crop_seconds, run.seed, corruption)
    if stage.styles and not stage.init_from:
        check_styles(stage.styles, corpus, data.corpus)
    validation = validation_crops(data, model.config)
    trainer = StageTrainer(model, crops, validation, data, corruption, optimization, run)
    if trainer.accelerator.is_main_process:
        batches = trainer.batch_sampler(first_step=0)
        logger.info(
            "%s stage, %.1f M parameters; %d excerpts, %.1f h; %d processes × %d crops × %d accumulation steps",
            stage.stage, model.num_parameters() / 1e6, len(crops.corpus),
            crops.cells.sum() * float(info.grid) / 3600, trainer.accelerator.num_processes, batches.largest,
            batches.accumulation,
        )  # fmt: skip
    return trainer
