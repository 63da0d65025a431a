"""Says in words what a part of the composite is; `hafm info` and the model cards show it.

Off the path of the data: it reads configurations only.
"""

import math
from collections import Counter

from transformers import DacConfig, EncodecConfig, PreTrainedConfig

from ..configuration_codec import codec_format
from ..configuration_hafm import (
    HAFMHarmonyConfig,
    HAFMSemanticTokenizerConfig,
    HAFMSeparatorConfig,
    HAFMStageConfig,
)
from ..stage_table import STEMS


def describe_part(config: PreTrainedConfig) -> dict[str, str]:
    """Rates, vocabulary and architecture of a part.

    Args:
        config: the part's configuration.

    Returns:
        {"rates", "vocabulary", "architecture", and for the stages "position_scheme", "codebook_pattern"}.

    Raises:
        TypeError: for any other configuration.
    """
    if isinstance(config, HAFMStageConfig):
        return _describe_stage(config)
    if isinstance(config, HAFMSemanticTokenizerConfig):
        return _describe_semantic_tokenizer(config)
    if isinstance(config, EncodecConfig | DacConfig):
        return _describe_codec(config)
    if isinstance(config, HAFMHarmonyConfig):
        return _describe_harmony(config)
    if isinstance(config, HAFMSeparatorConfig):
        return _describe_separator(config)
    raise TypeError(f"A {type(config).__name__} is no part of HAFM.")


def _describe_stage(config: HAFMStageConfig) -> dict[str, str]:
    sources = " and ".join(_vocabulary(sizes) for sizes in config.conditioning_codebook_sizes or [])
    rate = config.frame_rate * config.num_codebooks
    pattern = f", codebook pattern {config.codebook_pattern}" if config.num_codebooks > 1 else ""
    pattern += ", conditioning added to the target's slots" if config.conditioning_fusion == "sum" else ""
    return {
        "rates": f"{config.conditioning_frame_rate} → {config.frame_rate} frames/s ({rate} tokens/s)",
        "vocabulary": f"{sources} → {_vocabulary(config.codebook_sizes or [])}",
        "architecture": f"{config.num_hidden_layers} layers × {config.hidden_size}, {config.num_attention_heads} × "
        f"{config.head_dim} heads, position scheme {config.position_scheme}{pattern}, "
        f"windows of {config.window_seconds:g} s",
        "position_scheme": config.position_scheme,
        "codebook_pattern": config.codebook_pattern,
    }


def _describe_semantic_tokenizer(config: HAFMSemanticTokenizerConfig) -> dict[str, str]:
    hubert = config.hubert_config
    return {
        "rates": f"{config.sampling_rate} Hz → {config.frame_rate} tokens/s",
        "vocabulary": f"{config.num_clusters}",
        "architecture": f"HuBERT, layer {config.layer} of width {hubert.hidden_size}, k-means{_vocal_space(config)}",
    }


def _describe_harmony(config: HAFMHarmonyConfig) -> dict[str, str]:
    return {
        "rates": "one chord a beat",
        "vocabulary": f"{config.num_clusters} → 25 chords",
        "architecture": f"{config.num_layers} dilated convolutions × {config.channels} over beats",
    }


def _describe_separator(config: HAFMSeparatorConfig) -> dict[str, str]:
    return {
        "rates": f"{config.sampling_rate} Hz, {config.sampling_rate / config.hop_length:g} spectra/s",
        "vocabulary": f"band → {', '.join(STEMS[1:])}",
        "architecture": f"{config.num_layers} dilated convolutions × {config.channels} over spectra, masks",
    }


def _vocal_space(config: HAFMSemanticTokenizerConfig) -> str:
    """What a vocal is clustered by, where that is not the features."""
    if not config.vocal_projection_size:
        return ""
    beat = " and the place in the beat" if config.rhythm_channels else ""
    return f" (vocals: of a projection to {config.vocal_projection_size}{beat})"


def _describe_codec(config: PreTrainedConfig) -> dict[str, str]:
    codec = codec_format(config)
    kbps = codec.num_codebooks * codec.frame_rate * math.log2(codec.codebook_size) / 1000
    encodec = isinstance(config, EncodecConfig)
    name, filters = ("EnCodec", config.num_filters) if encodec else ("DAC", config.encoder_hidden_size)
    channels = "" if codec.channels == 1 else f" × {codec.channels} channels"
    return {
        "rates": f"{codec.sampling_rate} Hz{channels} → {codec.frame_rate} frames/s",
        "vocabulary": f"up to {codec.num_codebooks} × {codec.codebook_size}",
        "architecture": f"{name}, {filters} filters, up to {kbps:g} kbps",
    }


def _vocabulary(sizes: list[int]) -> str:
    """[1024, 1024, 1024] → "3 × 1024"."""
    counted = Counter(sizes).items()
    return " + ".join(str(size) if count == 1 else f"{count} × {size}" for size, count in counted)
