# SPDX-License-Identifier: Apache-2.0
"""The one table of the stages: their order, and the streams of tokens that they read and write."""

from dataclasses import dataclass

# streams of tokens, and the part of the composite that makes them of audio
STREAM_TOKENIZERS = {
    "vocal_semantic": "semantic_tokenizer",
    "instrumental_semantic": "semantic_tokenizer",
    "coarse": "codec",
    "fine": "codec",
}


@dataclass(frozen=True)
class Stage:
    """What everything else asks about a stage.

    Args:
        name: of the part of the composite.
        title: what its tokens are, for people.
        reads: the streams that condition it, in the order of its conditioning sources.
        writes: the stream that it generates.
    """

    name: str
    title: str
    reads: tuple[str, ...]
    writes: str

    @property
    def model_type(self) -> str:
        """As its configuration has it."""
        return f"hafm_{self.name}"

    @property
    def tokenizers(self) -> tuple[str, ...]:
        """The parts whose tokens it reads or writes."""
        return tuple(dict.fromkeys(STREAM_TOKENIZERS[stream] for stream in (*self.reads, self.writes)))

    @property
    def acoustic(self) -> bool:
        """Whether it writes codes of the codec."""
        return STREAM_TOKENIZERS[self.writes] == "codec"


# in the order in which they run
STAGES = {
    stage.name: stage
    for stage in (
        Stage("semantic", "semantic tokens", ("vocal_semantic",), "instrumental_semantic"),
        Stage("coarse", "coarse codebooks", ("vocal_semantic", "instrumental_semantic"), "coarse"),
        Stage("fine", "fine codebooks", ("coarse",), "fine"),
    )
}


def stage_of(model_type: str) -> Stage:
    """The stage of a configuration's `model_type`.

    Raises:
        ValueError: it is that of no stage.
    """
    for stage in STAGES.values():
        if stage.model_type == model_type:
            return stage
    known = ", ".join(stage.model_type for stage in STAGES.values())
    raise ValueError(f"{model_type} is no stage; known are {known}.")
