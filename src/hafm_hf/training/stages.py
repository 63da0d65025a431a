# SPDX-License-Identifier: Apache-2.0
"""The stage that a run trains: new from the corpus's vocabularies, or one that exists, with adapters if asked for."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from ..corpus.tokens import TokenCorpusInfo
from ..modeling.modeling_hafm import STAGE_MODELS
from ..tokenizers.codecs import load_codec
from ..tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel
from .adapters import add_adapters
from .arguments import ARCHITECTURE, DROPOUTS, STREAMS, StageArguments, asked, stage_config
from .initialization import initialise_from_codebooks

# the weights that read the streams of a lead sheet
TOLD = "model.lead_sheet_embedding.weight"


def make_stage(arguments: StageArguments, info: TokenCorpusInfo, crop_seconds: float) -> PreTrainedModel:
    """The stage to train.

    `init_from` names the folder or hub id of a stage, or of a composite whose stage is taken. Streams of a lead sheet
    that it does not read yet may be added to it.

    Raises:
        ValueError: for an unknown stage, a stage of another kind or shape, or more codebooks than the corpus has.
        OSError: when there is no stage where `init_from` says.
    """
    config = stage_config(arguments, info, crop_seconds)
    model: PreTrainedModel
    if arguments.init_from:
        model = published_stage(arguments.stage, arguments.init_from, **asked(arguments, DROPOUTS))
        model = told_more(model, config.lead_sheet_streams, config.styles)
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


def told_more(stage: PreTrainedModel, streams: Mapping[str, int], styles: Sequence[str]) -> PreTrainedModel:
    """The same stage, with streams of a lead sheet (sizes by name) and styles added to those that it reads.

    What is added starts at zero, so that it plays what it played until it has learnt to read them. Styles must begin
    with its own, which keep their numbers; the stage itself is returned where there is nothing to add.
    """
    own = stage.config.lead_sheet_streams
    added = set(streams) - set(own)
    known = list(stage.config.styles)
    if list(styles[: len(known)]) == known and len(styles) > len(known):
        known = list(styles)
    if not added:
        stage.config.styles = known
        return stage
    streams = {**own, **{name: streams[name] for name in added}}
    config = type(stage.config).from_dict({**stage.config.to_dict(), "lead_sheet_streams": streams, "styles": known})
    grown = type(stage)(config)
    weights = stage.state_dict()
    learnt = weights.pop(TOLD, None)
    grown.load_state_dict(weights | {TOLD: grown.state_dict()[TOLD]})
    table = grown.model.lead_sheet_embedding.weight
    with torch.no_grad():
        table.zero_()
        for row, name in enumerate(own):
            table[list(config.lead_sheet_streams).index(name), : learnt.shape[1]] = learnt[row]
    return grown


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
