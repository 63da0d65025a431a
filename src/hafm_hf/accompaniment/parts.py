# SPDX-License-Identifier: Apache-2.0
"""The table of the composite's parts, which stages among them read and write what, and who makes their tokens.

Every part is stored in a subfolder of the composite's repository by its name in the table, and its configuration is
the composite's `NAME_config`.
"""

from collections.abc import Container
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from ..listening.modeling_listener import HAFMListenerModel
from ..modeling.modeling_stage import (
    HAFMCoarseForCausalLM,
    HAFMFineForCausalLM,
    HAFMSemanticForCausalLM,
)
from ..tokenizers.codecs import codec_class
from ..tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel
from .modeling_separator import HAFMSeparatorModel

# the token stream of the vocal, which no stage writes
VOCAL_STREAM = "vocal_semantic"


@dataclass(frozen=True)
class PartEntry:
    """A part's entry in the table.

    Args:
        model_class: the part's class.
        optional: whether a composite may lack it.
    """

    model_class: type[Any]
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class StageEntry(PartEntry):
    """The entry of a stage, a part that generates tokens.

    Args:
        model_class, optional: as for every part.
        title: human-readable name of its tokens.
        reads: names of the token streams that condition it, in the order of its conditioning sources.
        writes: name of the token stream that it generates.
        tokenizer: the part that makes such tokens from audio, "semantic_tokenizer" or "codec".
    """

    title: str
    reads: tuple[str, ...]
    writes: str
    tokenizer: str

    @property
    def acoustic(self) -> bool:
        """Whether the stage generates codec codes."""
        return self.tokenizer == "codec"

    @property
    def tokenizers(self) -> tuple[str, ...]:
        """Names of the parts that make tokens as the stage reads or writes them, each once."""
        return tuple(dict.fromkeys(tokenizer_of(stream) for stream in (*self.reads, self.writes)))


# stages in the order in which they run
PARTS: dict[str, PartEntry] = {
    "semantic_tokenizer": PartEntry(HAFMSemanticTokenizerModel),
    "semantic": StageEntry(
        HAFMSemanticForCausalLM,
        title="semantic tokens",
        reads=(VOCAL_STREAM,),
        writes="instrumental_semantic",
        tokenizer="semantic_tokenizer",
    ),
    "coarse": StageEntry(
        HAFMCoarseForCausalLM,
        title="coarse codebooks",
        reads=(VOCAL_STREAM, "instrumental_semantic"),
        writes="coarse",
        tokenizer="codec",
    ),
    "fine": StageEntry(
        HAFMFineForCausalLM,
        title="fine codebooks",
        reads=("coarse",),
        writes="fine",
        tokenizer="codec",
        optional=True,
    ),
    # its class depends on its configuration (`part_classes`)
    "codec": PartEntry(PreTrainedModel),
    "listener": PartEntry(HAFMListenerModel, optional=True),
    "ear": PartEntry(HAFMSemanticTokenizerModel, optional=True),
    "separator": PartEntry(HAFMSeparatorModel, optional=True),
}


def stage_parts() -> dict[str, StageEntry]:
    """The parts that generate tokens, in the order in which they run."""
    return {name: part for name, part in PARTS.items() if isinstance(part, StageEntry)}


def stage_of(model_type: str) -> StageEntry:
    """The table's entry of the stage whose configuration has this `model_type` ("hafm_semantic" …).

    Raises:
        ValueError: no stage has it.
    """
    by_type = {stage.model_class.config_class.model_type: stage for stage in stage_parts().values()}
    if model_type not in by_type:
        raise ValueError(f"{model_type} is not a stage; choose from {', '.join(by_type)}.")
    return by_type[model_type]


def tokenizer_of(stream: str) -> str:
    """The part, "semantic_tokenizer" or "codec", that makes the tokens of a stream ("coarse" …) from audio."""
    if stream == VOCAL_STREAM:
        return "semantic_tokenizer"
    # exactly one stage writes it
    (tokenizer,) = [stage.tokenizer for stage in stage_parts().values() if stage.writes == stream]
    return tokenizer


def part_classes(config: Any) -> dict[str, type[PreTrainedModel]]:
    """Classes of the parts that a composite with the configuration `config` (`HAFMConfig`) has, by name."""
    classes = {}
    for name, part in PARTS.items():
        if getattr(config, f"{name}_config", None) is not None:
            # codecs of several families are supported
            classes[name] = codec_class(config.codec_config) if name == "codec" else part.model_class
    return classes


def check_names(parts: Container[str]) -> None:
    """Raises ValueError if a required part is not among the names in `parts`."""
    missing = [name for name, part in PARTS.items() if name not in parts and not part.optional]
    if missing:
        raise ValueError(f"Name every part; missing: {', '.join(missing)}.")
