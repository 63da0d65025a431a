"""The one table of the stages: their order, and the streams of tokens that they read and write; and the stems.

Below everything else on the path of the data, and without an import: `configuration_hafm` has the configurations,
`stages.modeling_hafm.STAGE_MODELS` the models, under the same names.
"""

from dataclasses import dataclass

# what a coarse or fine stage with the stream `stem` may be asked to play: the whole band, or a part of it by itself
STEMS = ("mix", "drums", "bass", "chords", "colour")
# what a stage may be told of a lead sheet and of what to play, in the order in which it embeds them
STREAMS = ("chord", "beat", "bar", "energy", "style", "stem")
# how much a band plays in a section of a song
ENERGIES = ("sparse", "normal", "full")
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
        role: what it does, for cards.
        reads: the streams that condition it, in the order of its conditioning sources.
        writes: the stream that it generates.
    """

    name: str
    title: str
    role: str
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
        Stage(
            "semantic",
            "semantic tokens",
            "the semantic stage, which generates semantic tokens of the instrumental from those of the vocal",
            ("vocal_semantic",),
            "instrumental_semantic",
        ),
        Stage(
            "coarse",
            "coarse codebooks",
            "the coarse stage, which generates the codec's first codebooks from the semantic tokens",
            ("vocal_semantic", "instrumental_semantic"),
            "coarse",
        ),
        Stage(
            "fine",
            "fine codebooks",
            "the fine stage, which generates the codec's further codebooks from the first ones",
            ("coarse",),
            "fine",
        ),
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
