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
from ..lead_sheet.lead_sheet import ROW_SIZES
from ..modeling.codebook_patterns import PATTERNS
from ..modeling.configuration_stage import HAFMStageConfig
from ..pretrained.loading import load_strictly
from .arguments import StageArguments

# codebooks of the paper's coarse stage, and as many of its fine stage
CODEBOOKS = 4
# the layers that get adapters: every linear layer of the decoder; embeddings, heads and relative bias stay frozen
TARGETS = ["qkv_proj", "o_proj", "up_proj", "down_proj"]


def make_stage(arguments: StageArguments, info: TokenCorpusInfo, crop_seconds: float | None) -> PreTrainedModel:
    """Builds or loads the stage to train.

    Args:
        arguments: of the stage; `init_from` is the folder or hub id of a stage, or of a composite model that contains
            one, or None for a new stage.
        info: frame rates and vocabularies of the corpus.
        crop_seconds: length of the training crops in seconds, for a new stage; None for the paper's window.

    Returns:
        The stage, with adapters around it if `lora_rank` is given.

    Raises:
        ValueError: for a stage of another kind or shape, or a new one with more codebooks than the corpus has.
        OSError: when `init_from` has no stage.
    """
    model: PreTrainedModel
    if arguments.init_from:
        model = published_stage(arguments.stage, arguments.init_from, **arguments.dropouts())
        _check_continues(arguments, model.config)
        if arguments.new_tokens:
            # the corpus's, as the stage will learn their tokens
            model.config.tokenizers = known_tokenizers(arguments, info)
    else:
        model = stage_parts()[arguments.stage].model_class(stage_config(arguments, info, crop_seconds))
    if arguments.lora_rank:
        model = add_adapters(model, arguments.lora_rank, arguments.lora_alpha, arguments.lora_dropout)
    return model


def _check_continues(arguments: StageArguments, config: HAFMStageConfig) -> None:
    """Refuses arguments that contradict the weights of `init_from`, whose configuration is `config`.

    Raises:
        ValueError: naming the first such argument.
    """
    stage_part = stage_parts()[arguments.stage]
    # number of codebooks of each stream that the stage reads or writes
    streams = (*stage_part.reads, stage_part.writes)
    sizes = (*config.conditioning_codebook_sizes, config.codebook_sizes)
    codebooks = {stream: len(vocabularies) for stream, vocabularies in zip(streams, sizes, strict=True)}

    # given and needed value of each argument that the weights determine
    determined = {name: (value, getattr(config, name)) for name, value in arguments.architecture().items()}
    # only streams that the stage does not read contradict it: not all that it reads have to be given
    if set(arguments.lead_sheet_streams) - set(config.lead_sheet_streams):
        determined["lead_sheet_streams"] = (arguments.lead_sheet_streams, list(config.lead_sheet_streams))
    if arguments.styles:
        determined["styles"] = (arguments.styles, config.styles)
    for stream, value in (("coarse", arguments.coarse_codebooks), ("fine", arguments.fine_codebooks)):
        if value and stream in codebooks:
            determined[f"{stream}_codebooks"] = (value, codebooks[stream])
    for name, (value, needed) in determined.items():
        if value != needed:
            raise ValueError(
                f"{arguments.init_from} cannot continue with {name} {value!r}: its weights need {needed!r}; leave "
                f"out --{name}, or train a stage from scratch."
            )


def stage_config(stage: StageArguments, info: TokenCorpusInfo, crop_seconds: float | None) -> HAFMStageConfig:
    """Configuration of a new stage: vocabularies and rates from the corpus, attention distances from the crop length.

    Args:
        stage: arguments of the stage.
        info: frame rates and vocabularies of the corpus.
        crop_seconds: length of the training crops in seconds; None for the paper's window of the stage.

    Raises:
        ValueError: when the stage needs more codebooks than the corpus has.
    """
    entry = stage_parts()[stage.stage]
    codebooks = {"coarse": stage.coarse_codebooks or CODEBOOKS, "fine": stage.fine_codebooks or CODEBOOKS}
    # codec codebooks that the stage reads or writes; semantic streams need none
    needed = sum(codebooks.get(stream, 0) for stream in {*entry.reads, entry.writes})
    if needed > info.num_codebooks:
        raise ValueError(f"The stage needs {needed} codebooks; the corpus has {info.num_codebooks} (--num-codebooks).")

    def sizes_and_rate(stream: str) -> tuple[list[int], int]:
        """Sizes of a stream's codebooks, and its frame rate in Hz."""
        if stream in codebooks:
            return [info.codebook_size] * codebooks[stream], info.acoustic_frame_rate
        return [info.num_clusters], info.semantic_frame_rate

    conditioning_sizes = [sizes_and_rate(stream)[0] for stream in entry.reads]
    _, conditioning_rate = sizes_and_rate(entry.reads[0])
    target_sizes, target_rate = sizes_and_rate(entry.writes)
    config_class = entry.model_class.config_class
    seconds = crop_seconds
    if seconds is None:
        seconds = config_class().window_seconds
    conditioning_frames = round(seconds * conditioning_rate)
    pattern = PATTERNS[stage.codebook_pattern or "flat"](len(target_sizes))
    sequence_length = pattern.num_slots(round(seconds * target_rate))
    if stage.conditioning_fusion != "sum":
        # the frames of each conditioning stream come before the target
        sequence_length += len(conditioning_sizes) * conditioning_frames
    return config_class(
        conditioning_codebook_sizes=conditioning_sizes,
        codebook_sizes=target_sizes,
        conditioning_frame_rate=conditioning_rate,
        frame_rate=target_rate,
        window_seconds=seconds,
        lead_sheet_streams={name: ROW_SIZES[name] for name in stage.lead_sheet_streams},
        styles=list(stage.styles),
        style_ranges=stage.ranges_by_style(),
        tokenizers=known_tokenizers(stage, info),
        # at least the default numbers of buckets, as a distance must exceed half of its number
        relative_attention_max_distance=max(sequence_length, 32),
        time_attention_max_distance=max(conditioning_frames, 64),
        **stage.architecture(),
        **stage.dropouts(),
    )


def known_tokenizers(stage: StageArguments, info: TokenCorpusInfo) -> dict[str, str]:
    """Fingerprints of the tokenizers that made the tokens a stage learns, by part: "semantic_tokenizer", "codec".

    They are taken from the corpus's `info`; unknown ones are left out.
    """
    fingerprints = {name: getattr(info, name) for name in stage_parts()[stage.stage].tokenizers}
    return {name: fingerprint for name, fingerprint in fingerprints.items() if fingerprint}


def published_stage(stage: str, name: str, **changes: Any) -> PreTrainedModel:
    """Loads a stage in full precision.

    Args:
        stage: "semantic", "coarse" or "fine".
        name: folder or hub id of the stage, or of a composite model that contains it.
        changes: values by name that override those of its configuration.

    Raises:
        ValueError: when the model is another stage, or lacks weights.
        OSError: when there is no model.
    """
    stored, _ = PreTrainedConfig.get_config_dict(name)
    model_type = stored.get("model_type")
    options = changes
    if model_type == "hafm":
        options = {"subfolder": stage, **changes}
    elif model_type != f"hafm_{stage}":
        raise ValueError(
            f"{name} is of type {model_type}, but the run trains the {stage} stage: name another init_from."
        )
    # weights may be stored in half precision to save space; the optimiser's small steps need full precision
    return load_strictly(stage_parts()[stage].model_class, name, dtype=torch.float32, **options)


def add_adapters(model: PreTrainedModel, rank: int, alpha: int, dropout: float = 0.0) -> Any:
    """Adds LoRA adapters to a stage's linear layers; everything else of the stage is frozen.

    Args:
        model: the stage, which is changed.
        rank: of the adapters.
        alpha: they are scaled by `alpha` / `rank`.
        dropout: probability of dropout on their inputs.

    Returns:
        The `PeftModel` around the stage.

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
