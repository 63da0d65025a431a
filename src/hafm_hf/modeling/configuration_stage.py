# SPDX-License-Identifier: Apache-2.0
"""Configurations of the three stages.

The defaults are the paper's (arXiv 2604.09054).
"""

from collections import Counter
from dataclasses import field
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from ..lead_sheet.style_choice import StyleRange
from ..lead_sheet.vocabulary import LEAD_SHEET_ROWS
from ..pretrained.checks import MAX_LAYERS, MAX_STREAMS, MAX_WIDTH, MAX_WINDOW_SECONDS, check_range

CODEBOOK_PATTERNS = ("flat", "delay")
# allowed values of configuration fields
CHOICES = {
    "position_scheme": ("index", "time"),
    "codebook_pattern": CODEBOOK_PATTERNS,
    "conditioning_fusion": ("prepend", "sum"),
}


@strict
class HAFMStageConfig(PreTrainedConfig):
    r"""Base configuration of the three stages: a causal decoder of the target, given conditioning.

    Args:
        conditioning_codebook_sizes (`list[list[int]]`):
            For each conditioning source, the sizes of its codebooks. The codebooks of one source are embedded and
            summed to one vector per frame; sources are concatenated in the sequence, or summed as well with the fusion
            "sum".
        source_order (`list[int]`):
            Order in which the conditioning sources stand in the sequence, by index; empty for that of
            `conditioning_codebook_sizes`. A trained stage works with its own order only.
        lead_sheet_streams (`dict[str, int]`):
            Lead-sheet rows (`lead_sheet.rows_by_frame`), called streams in config files, that condition the stage, and
            the number of values of each (`lead_sheet.lead_sheet.ROW_SIZES`), where 0 means unknown. They are embedded
            and added to the vectors of the last source. They are always put into the order of
            `vocabulary.LEAD_SHEET_ROWS`, which config files lose. The paper's stages have none.
        styles (`list[str]`):
            Names of the styles, which the row `style` numbers from 1.
        style_ranges (`dict[str, dict]`):
            The songs that a style suits, by its name: `metres` (beats per bar), `tempo` (slowest and fastest, in beats
            a minute) and `density` (fewest and most notes per second of singing). A style without any suits all songs.
        codebook_sizes (`list[int]`):
            Sizes of the Q target codebooks, all the same.
        first_codebook (`int`):
            Index in the codec, from 0, of the first target codebook. For the fine stage, 0 means the codebook after
            those that it reads.
        codebook_pattern (`str`):
            `"flat"`: one code per slot, all codebooks of frame 0, then of frame 1 … (the paper). `"delay"`: one slot
            per frame, which predicts all codebooks at once, each delayed by one frame against the one before it
            (`codebook_patterns`). Weights trained with one pattern do not work with the other.
        conditioning_frame_rate (`int`): Conditioning frames a second.
        frame_rate (`int`): Target frames a second; each frame is Q target tokens.
        hidden_size (`int`): Width D of the decoder.
        num_hidden_layers (`int`): Decoder layers.
        num_attention_heads (`int`): Heads H.
        head_dim (`int`): Width of a head.
        intermediate_size (`int`): Inner width of the gated feed-forward; 0 means ⌊2/3 · 4 · D⌋.
        feed_forward_bias (`bool`): Whether both matrices of the feed-forward have biases; the paper names none.
        head_bias (`bool`): Whether the heads have biases; the paper names none.
        position_scheme (`str`):
            `"index"`: the paper's T5 bias on sequence distance. `"time"`: conditioning keys are biased by the signed
            difference in time, one table per source, and attention within the conditioning is bidirectional.
        relative_attention_num_buckets (`int`): Buckets of the causal bias; half are exact, half logarithmic.
        relative_attention_max_distance (`int`):
            Distance, in tokens, beyond which all distances share one bucket; the paper uses the training length.
        time_attention_num_buckets (`int`): Buckets of the signed bias on time (scheme `"time"` only).
        time_attention_max_distance (`int`): Its largest distance, in conditioning frames.
        conditioning_fusion (`str`):
            `"prepend"`: the conditioning's frames are slots before the target (the paper). `"sum"`: they are added to
            the target's slots at the same instants (`HAFMConditioningMixer`), which more than halves the sequence
            length. Weights trained with one do not work with the other.
        conditioning_context (`int`): Under `"sum"`, context in frames to each side of a conditioning frame.
        conditioning_dropout (`float`): Probability that a training sample is made unconditional.
        attention_dropout (`float`): Dropout on attention weights.
        rms_norm_eps (`float`): Epsilon of every RMSNorm.
        initializer_range (`float`): Standard deviation of the initial weights.
        window_seconds (`float`):
            Length of the training crop, and of a generation window unless the generation config has another one.
        tokenizers (`dict[str, str]`):
            Fingerprints of the `semantic_tokenizer` and the `codec` whose tokens the stage was trained on, if known.
    """

    model_type = "hafm_stage"
    role: ClassVar[str] = "a stage, which generates tokens from tokens"
    keys_to_ignore_at_inference = ["cache"]

    conditioning_codebook_sizes: list[list[int]] = field(default_factory=lambda: [[500]])
    source_order: list[int] = field(default_factory=list)
    lead_sheet_streams: dict[str, int] = field(default_factory=dict)
    styles: list[str] = field(default_factory=list)
    style_ranges: dict[str, Any] = field(default_factory=dict)
    codebook_sizes: list[int] = field(default_factory=lambda: [500])
    first_codebook: int = 0
    codebook_pattern: str = "flat"
    conditioning_frame_rate: int = 50
    frame_rate: int = 50
    hidden_size: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    head_dim: int = 64
    intermediate_size: int = 0
    feed_forward_bias: bool = False
    head_bias: bool = False
    position_scheme: str = "index"
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 1000
    time_attention_num_buckets: int = 64
    time_attention_max_distance: int = 500
    conditioning_fusion: str = "prepend"
    conditioning_context: int = 15
    conditioning_dropout: float = 0.1
    attention_dropout: float = 0.0
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    window_seconds: float = 10.0
    tokenizers: dict[str, str] = field(default_factory=dict)
    use_cache: bool = True
    bos_token_id: int | None = None
    pad_token_id: int | None = None
    eos_token_id: int | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Sets the defaults that depend on other fields, and orders `lead_sheet_streams`."""
        if self.intermediate_size == 0:
            self.intermediate_size = (2 * 4 * self.hidden_size) // 3
        if self.bos_token_id is None:
            self.bos_token_id = self.codebook_size
        # in the order of LEAD_SHEET_ROWS, which config files lose; unknown ones last, by name
        positions = {name: position for position, name in enumerate(LEAD_SHEET_ROWS)}
        ordered = sorted(self.lead_sheet_streams, key=lambda name: (positions.get(name, len(positions)), name))
        self.lead_sheet_streams = {name: self.lead_sheet_streams[name] for name in ordered}
        super().__post_init__(**kwargs)

    @property
    def codebook_size(self) -> int:
        """Number of codes of a target codebook, all of which are of the same size; 0 if there are none."""
        return self.codebook_sizes[0] if self.codebook_sizes else 0

    @property
    def vocab_size(self) -> int:
        """V, the width of the logits: the codes of a target codebook, without BOS."""
        return self.codebook_size

    @property
    def num_codebooks(self) -> int:
        """Q, the number of target codebooks."""
        return len(self.codebook_sizes)

    @property
    def num_conditioning_sources(self) -> int:
        """S, the number of conditioning sources; the paper's N_seg is S + 1."""
        return len(self.conditioning_codebook_sizes)

    @property
    def num_token_streams(self) -> int:
        """The number of conditioning token streams over all sources, without the rows of a lead sheet."""
        return sum(len(sizes) for sizes in self.conditioning_codebook_sizes)

    @property
    def conditioning_sizes(self) -> list[int]:
        """Number of values of each conditioning stream: the tokens of all sources, then the lead sheet's rows."""
        token_sizes = [size for source in self.conditioning_codebook_sizes for size in source]
        return token_sizes + list(self.lead_sheet_streams.values())

    @property
    def num_conditioning_streams(self) -> int:
        """K, the number of conditioning streams: token streams of all sources, and the rows of a lead sheet."""
        return len(self.conditioning_sizes)

    @property
    def num_prepended_sources(self) -> int:
        """The number of conditioning sources that have slots of their own before the target."""
        return 0 if self.conditioning_fusion == "sum" else self.num_conditioning_sources

    @property
    def prepended_sources(self) -> list[int]:
        """Indices of the sources that have slots of their own before the target, in the order of the sequence."""
        return self.source_order or list(range(self.num_prepended_sources))

    def to_diff_dict(self) -> dict[str, Any]:
        """The values to save: those that differ from the defaults, and always the codebook pattern."""
        return {**super().to_diff_dict(), "codebook_pattern": self.codebook_pattern}

    def target_frames(self, conditioning_frames: int) -> int:
        """Target frames that last as long as `conditioning_frames` frames of conditioning."""
        return conditioning_frames * self.frame_rate // self.conditioning_frame_rate

    def target_length(self, conditioning_frames: int) -> int:
        """Target tokens, all codebooks counted, that last as long as `conditioning_frames` frames of conditioning."""
        return self.target_frames(conditioning_frames) * self.num_codebooks

    def describe(self) -> dict[str, str]:
        """Rates, vocabulary and architecture in words, for `hafm info` and the model cards."""
        sources = " and ".join(_vocabulary(sizes) for sizes in self.conditioning_codebook_sizes)
        pattern = f", codebook pattern {self.codebook_pattern}" if self.num_codebooks > 1 else ""
        pattern += ", fusion sum" if self.conditioning_fusion == "sum" else ""
        return {
            "rates": f"{self.conditioning_frame_rate} → {self.frame_rate} frames/s "
            f"({self.frame_rate * self.num_codebooks} tokens/s)",
            "vocabulary": f"{sources} → {_vocabulary(self.codebook_sizes)}",
            "architecture": f"{self.num_hidden_layers} layers × {self.hidden_size}, {self.num_attention_heads} × "
            f"{self.head_dim} heads, positions {self.position_scheme}{pattern}, "
            f"windows of {self.window_seconds:g} s",
            "position_scheme": self.position_scheme,
            "codebook_pattern": self.codebook_pattern,
        }

    def validate_sizes(self) -> None:
        """Refuses sizes that are not positive, or so large that they can only be a mistake, before any allocation.

        Raises:
            ValueError: says what is allowed.
        """
        check_range("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS)
        widths = ("hidden_size", "num_attention_heads", "head_dim", "intermediate_size")
        for name in (*widths, "conditioning_frame_rate", "frame_rate"):
            check_range(name, getattr(self, name), MAX_WIDTH)
        sizes = self.conditioning_sizes
        if len(sizes) > MAX_STREAMS or len(self.codebook_sizes) > MAX_STREAMS:
            raise ValueError(f"A stage can have at most {MAX_STREAMS} conditioning streams and target codebooks each.")
        for size in sizes + self.codebook_sizes:
            check_range("codebook size", size, MAX_WIDTH)
        if not self.num_token_streams or not self.codebook_sizes or not all(self.conditioning_codebook_sizes):
            raise ValueError("A stage needs at least one conditioning codebook per source and one target codebook.")
        if len(set(self.codebook_sizes)) > 1:
            raise ValueError(f"codebook_sizes are {self.codebook_sizes}; target codebooks must have the same size.")

    def validate_style_ranges(self) -> None:
        """Refuses ranges of a style that the stage does not have, and invalid ones.

        Raises:
            ValueError: names the style or the range.
        """
        for name, ranges in self.style_ranges.items():
            if name not in self.styles:
                raise ValueError(f"style_ranges has {name!r}, which is not among the styles.")
            StyleRange.from_dict(ranges)

    def validate_token_ids(self) -> None:
        """Refuses any BOS id but the one after the last code, which has an embedding but no logit.

        Raises:
            ValueError: names the id and the only one that is allowed.
        """
        if self.bos_token_id != self.codebook_size:
            raise ValueError(f"bos_token_id is {self.bos_token_id}; it must be {self.codebook_size}, after the codes.")

    def validate_choices(self) -> None:
        """Refuses unknown names, and numbers out of range.

        Raises:
            ValueError: names the field, its value, and what is allowed.
        """
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {choices}.")
        if self.source_order and sorted(self.source_order) != list(range(self.num_prepended_sources)):
            raise ValueError(
                f"source_order is {self.source_order}; it must hold the numbers 0 to "
                f"{self.num_prepended_sources - 1}, each once, or nothing."
            )
        check_range("first_codebook", self.first_codebook, MAX_STREAMS, least=0)
        check_range("conditioning_context", self.conditioning_context, MAX_WIDTH, least=0)
        for name in ("conditioning_dropout", "attention_dropout", "rms_norm_eps", "initializer_range"):
            check_range(name, getattr(self, name), 1, least=0)
        for name in ("relative_attention", "time_attention"):
            buckets = getattr(self, f"{name}_num_buckets")
            distance = getattr(self, f"{name}_max_distance")
            check_range(f"{name}_num_buckets", buckets, MAX_WIDTH)
            # signed buckets are halved by sign, and each half into exact and logarithmic buckets
            if buckets % 4 or distance <= buckets // 2:
                raise ValueError(
                    f"{name}_num_buckets is {buckets} and {name}_max_distance {distance}; the buckets must be a "
                    "multiple of 4 and the distance above half of them."
                )
        if not 0 < self.window_seconds <= MAX_WINDOW_SECONDS:
            longest = f"{MAX_WINDOW_SECONDS:g} s"
            raise ValueError(f"window_seconds is {self.window_seconds}; it must be above 0 and at most {longest}.")


@strict
class HAFMSemanticConfig(HAFMStageConfig):
    """Stage 1, P(instrumental semantic | vocal semantic): 50 tokens a second from 50 a second."""

    model_type = "hafm_semantic"
    role: ClassVar[str] = "the semantic stage, which generates the instrumental's semantic tokens from the vocal's"


@strict
class HAFMCoarseConfig(HAFMStageConfig):
    """Stage 2, P(the codec's codebooks 1–4 | vocal and instrumental semantic): 300 tokens a second from 2 × 50."""

    model_type = "hafm_coarse"
    role: ClassVar[str] = "the coarse stage, which generates the codec's first codebooks from the semantic tokens"

    conditioning_codebook_sizes: list[list[int]] = field(default_factory=lambda: [[500], [500]])
    codebook_sizes: list[int] = field(default_factory=lambda: [1024] * 4)
    frame_rate: int = 75
    relative_attention_max_distance: int = 2000
    time_attention_max_distance: int = 250
    window_seconds: float = 5.0


@strict
class HAFMFineConfig(HAFMStageConfig):
    """Stage 3, P(the codec's codebooks 5–8 | 1–4): 300 tokens a second from 75 summed frames a second."""

    model_type = "hafm_fine"
    role: ClassVar[str] = "the fine stage, which generates the codec's further codebooks from the first ones"

    conditioning_codebook_sizes: list[list[int]] = field(default_factory=lambda: [[1024] * 4])
    codebook_sizes: list[int] = field(default_factory=lambda: [1024] * 4)
    conditioning_frame_rate: int = 75
    frame_rate: int = 75
    relative_attention_max_distance: int = 1125
    time_attention_max_distance: int = 225
    window_seconds: float = 3.0

    def __post_init__(self, **kwargs: Any) -> None:
        """Sets `first_codebook`, unless given, to the codebook after those that the stage reads."""
        if self.first_codebook == 0:
            self.first_codebook = self.num_token_streams
        super().__post_init__(**kwargs)


def _vocabulary(sizes: list[int]) -> str:
    """Sizes of codebooks in words: [1024, 1024, 1024, 500] → "3 × 1024 + 500"."""
    counted = Counter(sizes).items()
    return " + ".join(str(size) if count == 1 else f"{count} × {size}" for size, count in counted)
