# SPDX-License-Identifier: Apache-2.0
"""Configuration of the semantic tokenizer: HuBERT up to one layer, then k-means."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import HubertConfig, PreTrainedConfig

from ..pretrained.checks import (
    MAX_DILATIONS,
    MAX_LAYERS,
    MAX_SAMPLING_RATE,
    MAX_WIDTH,
    MAX_WINDOW_SECONDS,
    check_range,
)


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
        do_normalize (`bool`): Whether to normalise the waveform to zero mean and unit variance, as HuBERT-Large needs.
        chunk_seconds (`float`): Longest stretch of audio that goes through the network at once.
        context_seconds (`float`): Context on both sides of a chunk, whose tokens are discarded.
        separate_centroids (`bool`): Whether vocals and instrumentals have `num_clusters` centroids each, instead of
            the paper's shared ones. An id then has two meanings, which the stages cannot confuse, since each source
            is a stream with embeddings of its own.
        vocal_projection_size (`int`): Dimensions of a linear projection of the vocal's features, in which its
            centroids lie; the projection keeps what is relevant to singing. 0 for no projection.
        rhythm_channels (`int`): Channels of the rhythm network, whose estimate of the beat phase is appended to the
            projected features; 0 for none.
        rhythm_layers (`int`): Layers of the rhythm network.
        beat_line (`bool`): Whether beat phases come from one beat track through the whole vocal instead of from the
            network's estimates frame by frame.
    """

    model_type = "hafm_semantic_tokenizer"
    role: ClassVar[str] = "the semantic tokenizer, which turns audio into semantic tokens"
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
            # the architecture of facebook/hubert-large-ll60k, up to the layer that is kept
            self.hubert_config = HubertConfig(
                hidden_size=1024, num_hidden_layers=self.layer, num_attention_heads=16, intermediate_size=4096,
                feat_extract_norm="layer", conv_bias=True, do_stable_layer_norm=True, feat_proj_layer_norm=True,
            )  # fmt: skip
        super().__post_init__(**kwargs)

    def describe(self) -> dict[str, str]:
        """Rates, vocabulary and architecture in words, for `hafm info` and the model cards."""
        width = self.hubert_config.hidden_size
        return {
            "rates": f"{self.sampling_rate} Hz → {self.frame_rate} tokens/s",
            "vocabulary": f"{self.num_clusters}",
            "architecture": f"HuBERT, layer {self.layer} of width {width}, k-means",
        }

    def validate_sizes(self) -> None:
        """Raises ValueError for clusters, layers, rates and lengths (of chunks, of their context) out of range."""
        check_range("num_clusters", self.num_clusters, MAX_WIDTH)
        check_range("layer", self.layer, MAX_LAYERS)
        check_range("sampling_rate", self.sampling_rate, MAX_SAMPLING_RATE)
        check_range("frame_rate", self.frame_rate, self.sampling_rate)
        # written so that NaN is refused, too
        if not (self.noise_std >= 0 and 0 < self.chunk_seconds <= MAX_WINDOW_SECONDS and self.context_seconds >= 0):
            raise ValueError(
                "noise_std and context_seconds must not be negative, and chunk_seconds must be positive and at most "
                f"{MAX_WINDOW_SECONDS:g}."
            )
        if self.chunk_seconds <= 2 * self.context_seconds:
            raise ValueError(
                f"chunk_seconds is {self.chunk_seconds} and context_seconds {self.context_seconds}; a chunk must be "
                "longer than twice the context."
            )

    def validate_vocal_space(self) -> None:
        """Raises ValueError for sizes of the vocal centroids' space that are out of range or lack what they build on.

        A projection needs separate centroids, a rhythm network needs a projection, and a beat track that network.
        """
        check_range("vocal_projection_size", self.vocal_projection_size, MAX_WIDTH, least=0)
        check_range("rhythm_channels", self.rhythm_channels, MAX_WIDTH, least=0)
        check_range("rhythm_layers", self.rhythm_layers, MAX_DILATIONS)
        if self.vocal_projection_size and not self.separate_centroids:
            raise ValueError("vocal_projection_size needs separate_centroids: only vocals are projected.")
        if self.rhythm_channels and not self.vocal_projection_size:
            raise ValueError("rhythm_channels needs vocal_projection_size: the beat phase is appended to that space.")
        if self.beat_line and not self.rhythm_channels:
            raise ValueError("beat_line needs rhythm_channels: the beat track is found in the network's estimates.")
