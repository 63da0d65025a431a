# SPDX-License-Identifier: Apache-2.0
"""The stage that a run trains: a new one for the corpus's vocabularies or an existing one, optionally with adapters.

Adapters are LoRA (Hu et al. 2021, arXiv 2106.09685), through `peft`; they are merged into the stage that is saved.
"""

import copy
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from ..accompaniment.parts import stage_parts
from ..corpus.tokens import TokenCorpusInfo
from ..pretrained.loading import load_strictly
from .arguments import ARCHITECTURE, DROPOUTS, STREAMS, StageArguments, asked, known_tokenizers, stage_config

# every linear layer of the decoder; embeddings, heads and the relative bias stay frozen
TARGETS = ["qkv_proj", "o_proj", "up_proj", "down_proj"]


def make_stage(arguments: StageArguments, info: TokenCorpusInfo, crop_seconds: float | None) -> PreTrainedModel:
    """Builds or loads the stage to train.

    `init_from` is the folder or hub id of a stage, or of a composite model that contains it.

    Raises:
        ValueError: for a stage of another kind or shape, or a new one with more codebooks than the corpus has.
        OSError: when `init_from` has no stage.
    """
    model: PreTrainedModel
    if arguments.init_from:
        model = published_stage(arguments.stage, arguments.init_from, **asked(arguments, DROPOUTS))
        kind, config = stage_parts()[arguments.stage], model.config
        sizes = zip(
            (*kind.reads, kind.writes), (*config.conditioning_codebook_sizes, config.codebook_sizes), strict=True
        )
        fixed = {name: getattr(config, name, None) for name in (*ARCHITECTURE, *STREAMS)}
        for name, own in (fixed | {f"{stream}_codebooks": len(each) for stream, each in sizes}).items():
            value = getattr(arguments, name, None)
            if value and value != own and (name != "lead_sheet_streams" or set(value) - set(own or ())):
                raise ValueError(
                    f"{arguments.init_from} cannot continue with {name} {value!r}: its weights need {own!r}; leave "
                    f"out --{name}, or train a stage from scratch."
                )
        if arguments.new_tokens:
            model.config.tokenizers = known_tokenizers(arguments, info)
    else:
        model = stage_parts()[arguments.stage].model_class(stage_config(arguments, info, crop_seconds))
    if arguments.lora_rank:
        model = add_adapters(model, arguments.lora_rank, arguments.lora_alpha, arguments.lora_dropout)
    return model


def published_stage(stage: str, name: str, **changes: Any) -> PreTrainedModel:
    """Loads a stage from a folder or the hub, in full precision; from a composite, its part called `stage`.

    `changes` override its configuration.

    Raises:
        ValueError: when the model is another stage, or lacks weights.
        OSError: when there is no model.
    """
    kind, _ = PreTrainedConfig.get_config_dict(name)
    composite = kind.get("model_type") == "hafm"
    found = f"hafm_{stage}" if composite else kind.get("model_type")
    if found != f"hafm_{stage}":
        raise ValueError(f"{name} is of type {found}, but the run trains the {stage} stage: name another init_from.")
    # weights may be stored in half precision to save space; the optimiser's small steps need full precision
    options = {"subfolder": stage, **changes} if composite else changes
    return load_strictly(stage_parts()[stage].model_class, name, dtype=torch.float32, **options)


def add_adapters(model: PreTrainedModel, rank: int, alpha: int, dropout: float = 0.0) -> Any:
    """Adds LoRA adapters of rank `rank` to a stage's linear layers and freezes everything else.

    Raises:
        ModuleNotFoundError: without `peft`.
    """
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=TARGETS))


def plain_stage(model: Any) -> PreTrainedModel:
    """The stage itself, or for a stage with adapters a copy with the adapters merged into its weights."""
    if hasattr(model, "merge_and_unload"):
        return copy.deepcopy(model).merge_and_unload()
    return model
