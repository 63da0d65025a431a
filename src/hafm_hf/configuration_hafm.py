"""Configurations of the three stages, the semantic tokenizer and the composite.

First on the path of the data: every rate, vocabulary and width that the other files use is stated here, once.
Defaults are the paper's (arXiv 2604.09054).
"""

from dataclasses import field
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, HubertConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_codec import (
    MAX_LAYERS,
    MAX_SAMPLING_RATE,
    MAX_STREAMS,
    MAX_WIDTH,
    MAX_WINDOW_SECONDS,
    check_codec_config,
    check_list,
    check_range,
    codec_format,
)
from .stage_table import STAGES, STREAMS

CODEBOOK_PATTERNS = ("flat", "delay")
# names that fields of a stage may have
CHOICES = {
    "position_scheme": ("index", "time"),
    "codebook_pattern": CODEBOOK_PATTERNS,
    "conditioning_fusion": ("prepend", "sum"),
    "conditioning_null": ("zeros", "mask_token"),
}
# layers whose dilation doubles: twelve see more than a minute to each side
MAX_DILATIONS = 12


@strict
class HAFMStageConfig(PreTrainedConfig):
    r"""What the three stages share: a causal decoder over [conditioning | target].

    Args:
        conditioning_codebook_sizes (`list[list[int]]`):
            For each conditioning source, the sizes of its codebooks. The codebooks of one source are embedded and
            summed to one vector a frame; sources follow each other in the sequence.
        lead_sheet_streams (`dict[str, int]`):
            Streams of a lead sheet that the stage is conditioned on, and how many values each has, 0 for what is not
            known (`lead_sheet.streams`); they are embedded and added to the slots of the last source, in the order of
            `stage_table.STREAMS` however they are given: files forget it. The paper's stages have none.
        styles (`list[str]`):
            Names of the styles that the stream `style` counts, from 1.
        codebook_sizes (`list[int]`):
            Sizes of the Q target codebooks.
        codebook_pattern (`str`):
            `"flat"`: one code a slot, all codebooks of frame 0, then of frame 1 … (the paper). `"delay"`: one slot a
            frame, which predicts all codebooks at once, each one frame behind the one before it
            (`stages.codebook_patterns`). Weights of the one are not weights of the other.
        conditioning_frame_rate (`int`): Conditioning frames a second.
        frame_rate (`int`): Target frames a second; each frame is Q target tokens.
        hidden_size (`int`): Width D of the decoder.
        num_hidden_layers (`int`): Decoder layers.
        num_attention_heads (`int`): Heads H.
        head_dim (`int`): Width of a head.
        intermediate_size (`int`): Inner width of the gated feed-forward; 0 means ⌊2/3 · 4 · D⌋.
        position_scheme (`str`):
            `"index"`: the paper's T5 bias on sequence distance. `"time"`: conditioning keys are biased by the signed
            difference in time, one table per source, and conditioning sees the whole conditioning.
        relative_attention_num_buckets (`int`): Buckets of the causal bias; half are exact, half logarithmic.
        relative_attention_max_distance (`int`):
            Distance, in tokens, from which on one bucket holds everything; the paper takes the training length.
        time_attention_num_buckets (`int`): Buckets of the signed bias on time (scheme `"time"` only).
        time_attention_max_distance (`int`): Its largest distance, in conditioning frames.
        conditioning_fusion (`str`):
            `"prepend"`: the conditioning's frames are slots before the target (the paper). `"sum"`: they are added to
            the target's slots that sound with them (`stages.conditioning`), which makes sequences less than half as
            long. Weights of the one are not weights of the other.
        conditioning_context (`int`): Under `"sum"`, frames to each side that a frame of the conditioning knows of.
        conditioning_null (`str`):
            What unconditional rows see: `"zeros"` in place of the conditioning's embeddings (paper, §3.5) or the
            `"mask_token"` of each codebook (§3.4).
        conditioning_dropout (`float`): Probability that a training sample is made unconditional.
        attention_dropout (`float`): Dropout on attention weights.
        rms_norm_eps (`float`): Epsilon of every RMSNorm.
        initializer_range (`float`): Standard deviation of the initial weights.
        window_seconds (`float`): Length of the training crop, and so of a generation window.
        tokenizers (`dict[str, str]`):
            Fingerprints of the `semantic_tokenizer` and the `codec` whose tokens the stage has learnt, where known.
    """

    model_type = "hafm_stage"
    keys_to_ignore_at_inference = ["past_key_values"]

    conditioning_codebook_sizes: list[list[int]] = field(default_factory=lambda: [[500]])
    lead_sheet_streams: dict[str, int] = field(default_factory=dict)
    styles: list[str] = field(default_factory=list)
    codebook_sizes: list[int] = field(default_factory=lambda: [500])
    codebook_pattern: str = "flat"
    conditioning_frame_rate: int = 50
    frame_rate: int = 50
    hidden_size: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    head_dim: int = 64
    intermediate_size: int = 0
    position_scheme: str = "index"
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 1000
    time_attention_num_buckets: int = 64
    time_attention_max_distance: int = 500
    conditioning_fusion: str = "prepend"
    conditioning_context: int = 15
    conditioning_null: str = "zeros"
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
        if self.intermediate_size == 0:
            self.intermediate_size = (2 * 4 * self.hidden_size) // 3
        if self.bos_token_id is None:
            self.bos_token_id = self.codebook_size
        places = {name: place for place, name in enumerate(STREAMS)}
        ordered = sorted(self.lead_sheet_streams, key=lambda name: (places.get(name, len(places)), name))
        self.lead_sheet_streams = {name: self.lead_sheet_streams[name] for name in ordered}
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As of any configuration; other `codebook_sizes` than those of the dictionary move BOS behind them."""
        if kwargs.get("codebook_sizes") is not None:
            changed = {"codebook_sizes": kwargs["codebook_sizes"], "bos_token_id": kwargs.get("bos_token_id")}
            config_dict = {**config_dict, **changed}
        return super().from_dict(config_dict, **kwargs)

    @property
    def codebook_size(self) -> int:
        """Size of the largest target codebook."""
        return max(self.codebook_sizes, default=0)

    @property
    def vocab_size(self) -> int:
        """Columns of the logits: the codes of the largest target codebook."""
        return self.codebook_size

    @property
    def input_vocab_size(self) -> int:
        """Ids that `input_ids` may hold: the codes of the largest target codebook, and BOS behind them."""
        return self.codebook_size + 1

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
        """The number of conditioning token streams over all sources; the streams of a lead sheet come behind them."""
        return sum(len(sizes) for sizes in self.conditioning_codebook_sizes)

    @property
    def conditioning_sizes(self) -> list[int]:
        """How many values each conditioning stream has: tokens of all sources, then the lead sheet's streams."""
        tokens = [size for source in self.conditioning_codebook_sizes for size in source]
        return tokens + list(self.lead_sheet_streams.values())

    @property
    def num_conditioning_streams(self) -> int:
        """K, the number of conditioning streams: tokens over all sources, and those of a lead sheet."""
        return len(self.conditioning_sizes)

    @property
    def num_prepended_sources(self) -> int:
        """The number of conditioning sources that have slots of their own before the target."""
        return 0 if self.conditioning_fusion == "sum" else self.num_conditioning_sources

    def to_diff_dict(self) -> dict[str, Any]:
        """What is saved: all that departs from the defaults, and the codebook pattern in any case."""
        return {**super().to_diff_dict(), "codebook_pattern": self.codebook_pattern}

    def target_length(self, conditioning_frames: int) -> int:
        """Target tokens, all codebooks counted, that last as long as `conditioning_frames` frames of conditioning."""
        return conditioning_frames * self.frame_rate // self.conditioning_frame_rate * self.num_codebooks

    def validate_sizes(self) -> None:
        """Refuses sizes that are not positive, or so large that they can only be a mistake, before any allocation."""
        check_range("num_hidden_layers", self.num_hidden_layers, MAX_LAYERS)
        for name in ("hidden_size", "num_attention_heads", "head_dim", "intermediate_size"):
            check_range(name, getattr(self, name), MAX_WIDTH)
        for name in ("conditioning_frame_rate", "frame_rate"):
            check_range(name, getattr(self, name), MAX_WIDTH)
        sizes = self.conditioning_sizes
        if len(sizes) > MAX_STREAMS or len(self.codebook_sizes) > MAX_STREAMS:
            raise ValueError(f"A stage has at most {MAX_STREAMS} conditioning and as many target codebooks.")
        for size in sizes + self.codebook_sizes:
            check_range("codebook size", size, MAX_WIDTH)
        if not self.num_token_streams or not self.codebook_sizes or not all(self.conditioning_codebook_sizes):
            raise ValueError("A stage needs a conditioning codebook in each source and a target codebook.")

    def validate_token_ids(self) -> None:
        """Refuses another BOS than the row behind the codes, which is no column of the logits."""
        if self.bos_token_id != self.codebook_size:
            raise ValueError(
                f"bos_token_id is {self.bos_token_id}; it follows the codes, so it must be {self.codebook_size}."
            )

    def validate_choices(self) -> None:
        """Refuses unknown names and rates out of range."""
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {choices}.")
        check_range("conditioning_context", self.conditioning_context, MAX_WIDTH, least=0)
        for name in ("conditioning_dropout", "attention_dropout", "rms_norm_eps", "initializer_range"):
            check_range(name, getattr(self, name), 1, least=0)
        for name in ("relative_attention", "time_attention"):
            buckets, distance = getattr(self, f"{name}_num_buckets"), getattr(self, f"{name}_max_distance")
            check_range(f"{name}_num_buckets", buckets, MAX_WIDTH)
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


@strict
class HAFMCoarseConfig(HAFMStageConfig):
    """Stage 2, P(EnCodec codebooks 1–4 | vocal and instrumental semantic): 300 tokens a second from 2 × 50."""

    model_type = "hafm_coarse"

    conditioning_codebook_sizes: list[list[int]] = field(default_factory=lambda: [[500], [500]])
    codebook_sizes: list[int] = field(default_factory=lambda: [1024] * 4)
    frame_rate: int = 75
    relative_attention_max_distance: int = 2000
    time_attention_max_distance: int = 250
    window_seconds: float = 5.0


@strict
class HAFMFineConfig(HAFMStageConfig):
    """Stage 3, P(EnCodec codebooks 5–8 | codebooks 1–4): 300 tokens a second from 75 summed frames a second."""

    model_type = "hafm_fine"

    conditioning_codebook_sizes: list[list[int]] = field(default_factory=lambda: [[1024] * 4])
    codebook_sizes: list[int] = field(default_factory=lambda: [1024] * 4)
    conditioning_frame_rate: int = 75
    frame_rate: int = 75
    relative_attention_max_distance: int = 1125
    time_attention_max_distance: int = 225
    window_seconds: float = 3.0


@strict
class HAFMSemanticTokenizerConfig(PreTrainedConfig):
    r"""HuBERT up to one layer, then k-means: audio at 16 kHz → semantic tokens at 50 Hz.

    Args:
        hubert_config (`HubertConfig` or `dict`, *optional*): The network; HuBERT-Large if not given.
        layer (`int`): The layer whose hidden state is clustered (paper: 9); later layers are not kept.
        num_clusters (`int`): Centroids of the k-means, the semantic vocabulary.
        noise_std (`float`): Standard deviation of the noise added to the vocal ("noisy" as in SingSong).
        sampling_rate (`int`): Input samples a second.
        frame_rate (`int`): Tokens a second.
        do_normalize (`bool`): Whether the waveform is brought to zero mean and unit variance, as HuBERT-Large wants.
        chunk_seconds (`float`): Longest stretch of audio that goes through the network at once.
        context_seconds (`float`): Audio on both sides of a chunk whose tokens are thrown away.
        separate_centroids (`bool`): Whether vocals and instrumentals have `num_clusters` centroids each, instead of
            the paper's shared ones. A token then stands for two things, which the stages never mix up: each source is
            a stream with embeddings of its own.
        vocal_projection_size (`int`): Dimensions of a linear projection of the vocal's features in which its own
            centroids lie, so that they keep what matters of singing; 0 for the features themselves.
        rhythm_channels (`int`): Channels of the network (`rhythm`) that adds the place in the beat to the
            projected features; 0 for none.
        rhythm_layers (`int`): Its layers.
        beat_line (`bool`): Whether frames lie where one beat track through the whole vocal says (`beats`),
            instead of where the network puts each of them.
    """

    model_type = "hafm_semantic_tokenizer"
    sub_configs_defaults: ClassVar[dict[str, Any]] = {"hubert_config": HubertConfig}

    hubert_config: Any = None
    layer: int = 9
    num_clusters: int = 500
    noise_std: float = 0.01
    sampling_rate: int = 16_000
    frame_rate: int = 50
    do_normalize: bool = True
    chunk_seconds: float | int = 30.0
    context_seconds: float | int = 2.0
    separate_centroids: bool = False
    vocal_projection_size: int = 0
    rhythm_channels: int = 0
    rhythm_layers: int = 9
    beat_line: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        if self.hubert_config is None:
            self.hubert_config = hubert_large_config(num_hidden_layers=self.layer)
        super().__post_init__(**kwargs)

    def validate_sizes(self) -> None:
        """Refuses clusters, layers, rates and lengths out of range."""
        check_range("num_clusters", self.num_clusters, MAX_WIDTH)
        check_range("layer", self.layer, MAX_LAYERS)
        check_range("sampling_rate", self.sampling_rate, MAX_SAMPLING_RATE)
        check_range("frame_rate", self.frame_rate, self.sampling_rate)
        # a NaN is not above zero either
        if not (self.noise_std >= 0 and 0 < self.chunk_seconds <= MAX_WINDOW_SECONDS and self.context_seconds >= 0):
            raise ValueError(
                "noise_std and context_seconds must not be negative, and chunk_seconds must be positive and at most "
                f"{MAX_WINDOW_SECONDS:g}."
            )
        if self.chunk_seconds <= 2 * self.context_seconds:
            raise ValueError(
                f"chunk_seconds is {self.chunk_seconds} and context_seconds {self.context_seconds}; a chunk must be "
                "longer than the context on both of its sides."
            )

    def validate_vocal_space(self) -> None:
        """Refuses a projection without centroids of the vocal's own, and a rhythm network without a projection."""
        check_range("vocal_projection_size", self.vocal_projection_size, MAX_WIDTH, least=0)
        check_range("rhythm_channels", self.rhythm_channels, MAX_WIDTH, least=0)
        check_range("rhythm_layers", self.rhythm_layers, MAX_DILATIONS)
        if self.vocal_projection_size and not self.separate_centroids:
            raise ValueError("vocal_projection_size needs separate_centroids: the projection is the vocal's alone.")
        if self.rhythm_channels and not self.vocal_projection_size:
            raise ValueError("rhythm_channels needs vocal_projection_size: the place in the beat lies beside them.")
        if self.beat_line and not self.rhythm_channels:
            raise ValueError("beat_line needs rhythm_channels: the line goes through what the network finds.")

    def validate_hubert(self) -> None:
        """Refuses a network whose sizes are not positive, do not divide, or can only be a mistake."""
        if isinstance(self.hubert_config, HubertConfig):
            check_hubert_config(self.hubert_config)


@strict
class HAFMHarmonyConfig(PreTrainedConfig):
    r"""The network that estimates which chords a vocal asks for, an optional part of the composite.

    Args:
        num_clusters (`int`): Of the semantic tokenizer, for vocals and for instrumentals.
        channels (`int`): Width of its convolutions.
        num_layers (`int`): Convolutions, with dilations of 1, 2, 4 … beats; six of them see ± 126 beats.
        dropout (`float`): In training.
        semantic_tokenizer (`str`): Fingerprint of the tokenizer whose tokens it has learnt, where known.
    """

    model_type = "hafm_harmony"

    num_clusters: int = 500
    channels: int = 128
    num_layers: int = 6
    dropout: float | int = 0.15
    semantic_tokenizer: str = ""

    def validate_sizes(self) -> None:
        """Refuses sizes out of range."""
        check_range("num_clusters", self.num_clusters, MAX_WIDTH)
        check_range("channels", self.channels, MAX_WIDTH)
        check_range("num_layers", self.num_layers, MAX_DILATIONS)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be at least 0 and below 1.")


@strict
class HAFMSeparatorConfig(PreTrainedConfig):
    r"""The network that takes a band apart into the stems of `stage_table`, an optional part of the composite.

    Args:
        sampling_rate (`int`): Of the codec, in Hz.
        n_fft (`int`): Samples of a window of the spectrogram.
        hop_length (`int`): Samples between two windows; divides `n_fft` at least twice.
        channels (`int`): Width of its convolutions.
        num_layers (`int`): Convolutions, with dilations of 1, 2, 4 … windows; four of them see ± 30.
        dropout (`float`): In training.
    """

    model_type = "hafm_separator"

    sampling_rate: int = 24_000
    n_fft: int = 1280
    hop_length: int = 320
    channels: int = 192
    num_layers: int = 4
    dropout: float | int = 0.0

    def validate_sizes(self) -> None:
        """Refuses sizes out of range."""
        check_range("sampling_rate", self.sampling_rate, MAX_SAMPLING_RATE)
        check_range("n_fft", self.n_fft, MAX_WIDTH)
        check_range("hop_length", self.hop_length, self.n_fft // 2)
        check_range("channels", self.channels, MAX_WIDTH)
        check_range("num_layers", self.num_layers, MAX_DILATIONS)
        if self.n_fft % self.hop_length:
            raise ValueError(f"n_fft is {self.n_fft}; it must be a multiple of hop_length, {self.hop_length}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be at least 0 and below 1.")


@strict
class HAFMConfig(PreTrainedConfig):
    r"""The composite: semantic tokenizer, three stages and codec, each saved in a subfolder of one repository.

    Args:
        semantic_tokenizer_config, semantic_config, coarse_config, fine_config, codec_config (`PreTrainedConfig` or
            `dict`, *optional*): The parts; the paper's if not given. `fine_config=None` is a composite of two stages.
        harmony_config (`PreTrainedConfig` or `dict`, *optional*): A part that estimates chords; none if not given.
        separator_config (`PreTrainedConfig` or `dict`, *optional*): A part that takes bands apart; none if not given.
        plays_stems (`bool`): Whether bands come as stems, whose sum they are, where nothing else is asked for; needs a
            coarse stage with the stream `stem`, which plays each as a row of its own, or a separator.
    """

    model_type = "hafm"
    sub_configs_defaults: ClassVar[dict[str, Any]] = {
        "semantic_tokenizer_config": HAFMSemanticTokenizerConfig,
        "semantic_config": HAFMSemanticConfig,
        "coarse_config": HAFMCoarseConfig,
        "fine_config": SubConfigSpec(HAFMFineConfig, optional=True),
        # of any family that `codec_format` knows
        "codec_config": SubConfigSpec(AutoConfig, model_type="encodec"),
        "harmony_config": SubConfigSpec(HAFMHarmonyConfig, optional=True),
        "separator_config": SubConfigSpec(HAFMSeparatorConfig, optional=True),
    }

    semantic_tokenizer_config: Any = None
    semantic_config: Any = None
    coarse_config: Any = None
    fine_config: Any = field(default_factory=HAFMFineConfig)
    codec_config: Any = None
    harmony_config: Any = None
    separator_config: Any = None
    plays_stems: bool = False

    def validate_agreement(self) -> None:
        """Refuses parts whose vocabularies or rates do not fit each other."""
        check_codec_config(self.codec_config)
        tokenizer, codec = self.semantic_tokenizer_config, codec_format(self.codec_config)
        stages = {name: getattr(self, f"{name}_config") for name in STAGES}
        clusters = ([tokenizer.num_clusters], tokenizer.frame_rate)
        stages = {name: config for name, config in stages.items() if config is not None}
        acoustic = [name for name in stages if STAGES[name].acoustic]
        streams = {STAGES[name].writes: (stages[name].codebook_sizes, codec.frame_rate) for name in acoustic}
        streams |= {"vocal_semantic": clusters, "instrumental_semantic": clusters}
        for name, config in stages.items():
            read, (sizes, rate) = [streams[each] for each in STAGES[name].reads], streams[STAGES[name].writes]
            _check_equal(f"{name} conditioning", config.conditioning_codebook_sizes, [sizes for sizes, _ in read])
            _check_equal(f"{name} target", config.codebook_sizes, sizes)
            rates = (config.conditioning_frame_rate, config.frame_rate)
            _check_equal(f"{name} frame rates", rates, (read[0][1], rate))
        codebooks = [size for name in acoustic for size in stages[name].codebook_sizes]
        _check_equal("codec codebooks", set(codebooks), {codec.codebook_size})
        check_range("number of codec codebooks in use", len(codebooks), codec.num_codebooks)
        told = "stem" in self.coarse_config.lead_sheet_streams
        if self.plays_stems and not told and self.separator_config is None:
            raise ValueError("plays_stems needs a coarse stage with the stream `stem`, or a separator.")
        if self.separator_config is not None:
            if told:
                raise ValueError(
                    "The coarse stage plays stems itself, with the stream `stem`: leave the separator out."
                )
            _check_equal("separator sampling rate", self.separator_config.sampling_rate, codec.sampling_rate)
        if self.harmony_config is not None:
            _check_equal("harmony clusters", self.harmony_config.num_clusters, tokenizer.num_clusters)
            if not tokenizer.rhythm_channels:
                raise ValueError("harmony needs a semantic tokenizer that knows the beat: set rhythm_channels.")


def hubert_large_config(num_hidden_layers: int = 24) -> HubertConfig:
    """Architecture of `facebook/hubert-large-ll60k`, with as many layers as are wanted."""
    return HubertConfig(
        hidden_size=1024,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=16,
        intermediate_size=4096,
        feat_extract_norm="layer",
        conv_bias=True,
        do_stable_layer_norm=True,
        feat_proj_layer_norm=True,
    )


def check_hubert_config(config: HubertConfig) -> None:
    """Refuses a HuBERT whose sizes are not positive, do not divide, or can only be a mistake, before any allocation.

    Raises:
        ValueError: naming the value and its range.
    """
    check_range("HuBERT num_hidden_layers", config.num_hidden_layers, MAX_LAYERS)
    for name in ("hidden_size", "num_attention_heads", "intermediate_size", "num_conv_pos_embeddings"):
        check_range(f"HuBERT {name}", getattr(config, name), MAX_WIDTH)
    check_range("HuBERT num_conv_pos_embedding_groups", config.num_conv_pos_embedding_groups, config.hidden_size)
    for name in ("num_attention_heads", "num_conv_pos_embedding_groups"):
        if config.hidden_size % getattr(config, name):
            raise ValueError(f"HuBERT's hidden_size {config.hidden_size} is no multiple of its {name}.")
    lengths = {len(getattr(config, name)) for name in ("conv_dim", "conv_stride", "conv_kernel")}
    if len(lengths) > 1:
        raise ValueError("HuBERT's conv_dim, conv_stride and conv_kernel must be of one length.")
    for name in ("conv_dim", "conv_stride", "conv_kernel"):
        check_list(f"HuBERT {name}", getattr(config, name), MAX_WIDTH)


def _check_equal(name: str, found: Any, wanted: Any) -> None:
    if found != wanted:
        raise ValueError(f"The parts do not fit: {name} is {found}, but the other parts need {wanted}.")
