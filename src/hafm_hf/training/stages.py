"""The stage that a run trains: new from the corpus's vocabularies, or one that exists, with adapters if asked for."""

import torch
from transformers import PreTrainedModel

from ..codec import load_codec
from ..corpus.tokens import TokenCorpusInfo
from ..semantic_tokenizer import HAFMSemanticTokenizer
from ..stages.modeling_hafm import (
    HAFMCoarseForCausalLM,
    HAFMFineForCausalLM,
    HAFMSemanticForCausalLM,
    HAFMStageForCausalLM,
)
from .adapters import add_adapters
from .arguments import StageArguments, stage_config
from .initialization import initialise_from_codebooks

STAGE_MODELS: dict[str, type[HAFMStageForCausalLM]] = {
    "semantic": HAFMSemanticForCausalLM,
    "coarse": HAFMCoarseForCausalLM,
    "fine": HAFMFineForCausalLM,
}


def make_stage(arguments: StageArguments, info: TokenCorpusInfo, crop_seconds: float) -> PreTrainedModel:
    """The stage to train.

    `init_from` names the folder or hub id of a stage, or of a composite whose stage is taken.

    Raises:
        ValueError: for an unknown stage, a stage of another kind, or more codebooks than the corpus has.
        OSError: when there is no stage where `init_from` says.
    """
    config = stage_config(arguments, info, crop_seconds)
    model: PreTrainedModel
    if arguments.init_from:
        model = published_stage(arguments.stage, arguments.init_from)
        own, asked = model.config.codebook_pattern, arguments.codebook_pattern
        if asked not in (own, StageArguments.codebook_pattern):
            raise ValueError(
                f"{arguments.init_from} has the codebook pattern {own!r} and cannot go on with {asked!r}."
            )
        if arguments.new_tokens:
            model.config.tokenizers = config.tokenizers
    else:
        model = STAGE_MODELS[arguments.stage](config)
        if arguments.codec and arguments.semantic_tokenizer:
            centroids = HAFMSemanticTokenizer.from_pretrained(arguments.semantic_tokenizer).centroids
            codec = load_codec(arguments.codec)
            acoustic = torch.stack([codec.codebook(index).detach() for index in range(info.num_codebooks)])
            initialise_from_codebooks(model, centroids, acoustic)
    if arguments.lora_rank:
        model = add_adapters(model, arguments.lora_rank, arguments.lora_alpha, arguments.lora_dropout)
    return model


def published_stage(stage: str, name: str) -> PreTrainedModel:
    """A stage from a folder or the hub in full precision; of a composite, the part called `stage` is taken.

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
    options = {"subfolder": stage} if composite else {}
    return STAGE_MODELS[stage].from_pretrained(name, dtype=torch.float32, **options)
