# SPDX-License-Identifier: Apache-2.0
"""The stage that a run trains: new from the corpus's vocabularies, or one that exists, with adapters if asked for.

Adapters are LoRA's (Hu et al. 2021, arXiv 2106.09685), through `peft`; what is saved is an ordinary stage. A new stage
may start from what its tokens mean: drawn from noise, a table of 1024 codes has to be learnt row by row, each from the
few times its code occurs, while codec and semantic tokenizer know already which of their tokens are alike. The paper
draws all embeddings from N(0, 0.02), so this is an option.
"""

import copy
from importlib.util import find_spec
from typing import Any

import torch
from transformers import PreTrainedModel

from ..corpus.tokens import TokenCorpusInfo
from ..modeling.modeling_hafm import STAGE_MODELS
from ..tokenizers.codecs import load_codec
from ..tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel
from .arguments import ARCHITECTURE, DROPOUTS, STREAMS, StageArguments, asked, stage_config
from .data import stage_streams

# every linear layer of the decoder; embeddings, heads and the relative bias stay as they were published
TARGETS = ["qkv_proj", "o_proj", "up_proj", "down_proj"]
# share of the old random values that is kept: it fills the directions that the projection leaves empty
NOISE = 0.25


def make_stage(arguments: StageArguments, info: TokenCorpusInfo, crop_seconds: float) -> PreTrainedModel:
    """The stage to train.

    `init_from` names the folder or hub id of a stage, or of a composite whose stage is taken.

    Raises:
        ValueError: for an unknown stage, a stage of another kind or shape, or more codebooks than the corpus has.
        OSError: when there is no stage where `init_from` says.
    """
    config = stage_config(arguments, info, crop_seconds)
    model: PreTrainedModel
    if arguments.init_from:
        model = published_stage(arguments.stage, arguments.init_from, **asked(arguments, DROPOUTS))
        for name, value in asked(arguments, (*ARCHITECTURE, *STREAMS, "codec", "semantic_tokenizer")).items():
            own = getattr(model.config, name, None)
            if value and value != own and (name != "lead_sheet_streams" or set(value) - set(own or ())):
                raise ValueError(
                    f"{arguments.init_from} cannot go on with {name} {value!r}: its weights fix {own!r}; leave out "
                    f"--{name}, or train a stage from nothing."
                )
        if arguments.new_tokens:
            model.config.tokenizers = config.tokenizers
    else:
        model = STAGE_MODELS[arguments.stage](config)
        if arguments.codec and arguments.semantic_tokenizer:
            centroids = HAFMSemanticTokenizerModel.from_pretrained(arguments.semantic_tokenizer).centroids
            codec = load_codec(arguments.codec)
            acoustic = torch.stack([codec.codebook(index).detach() for index in range(info.num_codebooks)])
            initialise_from_codebooks(model, centroids, acoustic)
    if arguments.lora_rank:
        model = add_adapters(model, arguments.lora_rank, arguments.lora_alpha, arguments.lora_dropout)
    return model


def published_stage(stage: str, name: str, **changes: Any) -> PreTrainedModel:
    """A stage from a folder or the hub in full precision; of a composite, the part called `stage` is taken.

    `changes` go to its configuration.

    Raises:
        ValueError: when what is there is another stage.
        OSError: when there is nothing.
    """
    from transformers import PreTrainedConfig

    kind, _ = PreTrainedConfig.get_config_dict(name)
    composite = kind.get("model_type") == "hafm"
    found = f"hafm_{stage}" if composite else kind.get("model_type")
    if found != f"hafm_{stage}":
        raise ValueError(f"{name} is of type {found}, but the run trains the {stage} stage: name another init_from.")
    # weights may be stored in half to save space; the optimiser's small steps need full precision
    options = {"subfolder": stage, **changes} if composite else changes
    return STAGE_MODELS[stage].from_pretrained(name, dtype=torch.float32, **options)


def add_adapters(model: PreTrainedModel, rank: int, alpha: int, dropout: float = 0.0) -> Any:
    """A stage whose linear layers carry adapters of `rank`; only those are trained.

    Raises:
        ImportError: without `peft`.
    """
    if find_spec("peft") is None:
        raise ImportError("lora_rank needs peft; install it with: pip install 'hafm-hf[train]'.")
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=TARGETS))


def plain_stage(model: Any) -> PreTrainedModel:
    """The stage itself, or for a stage with adapters a copy with the adapters merged into its weights."""
    if hasattr(model, "merge_and_unload"):
        return copy.deepcopy(model).merge_and_unload()
    return model


def project_codebooks(vectors: torch.Tensor, deviation: float, projection: torch.Tensor) -> torch.Tensor:
    """Projects codebook vectors to the width of a stage, centred, each codebook with standard deviation `deviation`.

    Args:
        vectors (float [Q, V, C]): one codebook vector per token.
        deviation (float): standard deviation of each projected codebook.
        projection (float [C, D]): shared by codebooks that live in one space.
    """
    projected = (vectors - vectors.mean(dim=1, keepdim=True)).float() @ projection
    return projected * deviation / projected.flatten(1).std(dim=1)[:, None, None].clamp(min=1e-9)


@torch.no_grad()
def initialise_from_codebooks(model: PreTrainedModel, semantic: torch.Tensor, acoustic: torch.Tensor) -> None:
    """Sets embeddings and heads of a new stage by the vectors behind its tokens; mask token and BOS keep theirs.

    Args:
        model: a stage.
        semantic (float [clusters, C_s], or [2, clusters, C_s]): centroids of the semantic tokenizer, of vocals and of
            instrumentals where they are separate.
        acoustic (float [8, codebook size, C_a]): codebooks of the codec.
    """
    config, streams = model.config, stage_streams(model.config)
    deviation = config.initializer_range
    sources = semantic.expand(2, -1, -1)
    centroids = {"vocal_semantic": sources[0], "instrumental_semantic": sources[1]}
    projections = {
        "semantic": torch.randn(semantic.shape[-1], config.hidden_size),
        "acoustic": torch.randn(acoustic.shape[-1], config.hidden_size),
    }

    def projected(column: str, first: int, last: int) -> torch.Tensor:
        kind = "acoustic" if column == "acoustic" else "semantic"
        vectors = acoustic[first:last] if kind == "acoustic" else centroids[column][None]
        return project_codebooks(vectors, deviation, projections[kind])

    conditioning = torch.cat([projected(stream.column, stream.first, stream.last) for stream in streams.conditioning])
    target = projected(streams.target.column, streams.target.first, streams.target.last)
    for weight, values in (
        (model.model.conditioning_embedding.weight, conditioning),
        (model.model.target_embedding.weight, target),
        (model.heads.weight, target),
    ):
        rows = weight[:, : values.shape[1]]
        rows.mul_(NOISE).add_(values)
