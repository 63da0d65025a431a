# SPDX-License-Identifier: Apache-2.0
"""What the package needs to know of a codec before any weight is loaded: its format, and that its sizes make sense.

EnCodec's and DAC's configurations are transformers' own; the spectral codec's checks itself when it is made.
"""

import math
from dataclasses import dataclass

from transformers import DacConfig, EncodecConfig, PreTrainedConfig

from ..pretrained.checks import (
    MAX_LAYERS,
    MAX_SAMPLING_RATE,
    MAX_STREAMS,
    MAX_WIDTH,
    check_list,
    check_range,
)
from ..pretrained.loading import CONFIG_CHECKS
from .configuration_spectral_codec import HAFMSpectralConfig

# a tenth of a semitone: a codec of 44,100 Hz and 512 samples a frame counts as one of 44,032 Hz and 86 frames a second
MAX_RETUNING = 0.006


@dataclass(frozen=True)
class CodecFormat:
    """What the package needs to know of a codec, of whatever family, before any weight is loaded.

    Attributes:
        sampling_rate (int): samples a second and channel, a whole number of frames.
        hop_length (int): samples a frame.
        num_codebooks (int): that there are; stages may use fewer.
        codebook_size (int): codes of each.
        channels (int): 1 for mono, 2 for stereo.
    """

    sampling_rate: int
    hop_length: int
    num_codebooks: int
    codebook_size: int
    channels: int

    @property
    def frame_rate(self) -> int:
        """Frames a second."""
        return self.sampling_rate // self.hop_length


def codec_format(config: PreTrainedConfig) -> CodecFormat:
    """Rates, codebooks and channels of a codec by its configuration.

    Stages count whole frames a second. A codec whose rate is no whole number of frames is taken to run at the next
    rate that is, inaudibly beside its own: DAC's 44,100 Hz become 44,032.

    Raises:
        ValueError: an unknown family, or a rate too far from a whole number of frames a second.
    """
    _check_codec_family(config)
    if isinstance(config, HAFMSpectralConfig):
        codebooks, channels, hop = config.num_codebooks, config.audio_channels, config.hop_length
    else:
        encodec, hop = isinstance(config, EncodecConfig), math.prod(config.upsampling_ratios)
        codebooks, channels = (config.num_quantizers, config.audio_channels) if encodec else (config.n_codebooks, 1)
    rate = round(config.sampling_rate / hop) * hop
    if abs(rate / config.sampling_rate - 1) > MAX_RETUNING:
        raise ValueError(
            f"The codec's {config.sampling_rate} Hz are no whole number of frames of {hop} samples a second."
        )
    return CodecFormat(rate, hop, codebooks, config.codebook_size, channels)


def check_codec_config(config: PreTrainedConfig) -> None:
    """Refuses a codec whose sizes are not positive, do not divide, or can only be a mistake, before any allocation.

    Raises:
        ValueError: naming the value and its range.
    """
    _check_codec_family(config)
    if isinstance(config, HAFMSpectralConfig):
        config.validate_sizes()
        return
    check_range("codec sampling_rate", config.sampling_rate, MAX_SAMPLING_RATE)
    # of one code there would be no bits, by which codebooks are counted
    check_range("codec codebook_size", config.codebook_size, MAX_WIDTH, least=2)
    check_range("codec codebook_dim", config.codebook_dim, MAX_WIDTH)
    check_list("codec upsampling_ratios", config.upsampling_ratios, MAX_STREAMS)
    if isinstance(config, EncodecConfig):
        _check_encodec(config)
    else:
        for name in ("encoder_hidden_size", "decoder_hidden_size"):
            check_range(f"codec {name}", getattr(config, name), MAX_WIDTH)
    # every ratio halves the width
    filters = config.num_filters if isinstance(config, EncodecConfig) else config.encoder_hidden_size
    if filters * 2 ** len(config.upsampling_ratios) > MAX_WIDTH:
        raise ValueError(f"The codec's {filters} filters, doubled for each ratio, exceed {MAX_WIDTH}.")
    check_range("codec number of codebooks", codec_format(config).num_codebooks, MAX_LAYERS)


def _check_codec_family(config: PreTrainedConfig) -> None:
    if not isinstance(config, EncodecConfig | DacConfig | HAFMSpectralConfig):
        raise ValueError(
            f"A codec of type {config.model_type!r} is not known; choose one of encodec, dac and hafm_spectral."
        )


def _check_encodec(config: EncodecConfig) -> None:
    for name in ("hidden_size", "num_filters", "kernel_size", "last_kernel_size", "residual_kernel_size", "compress"):
        check_range(f"codec {name}", getattr(config, name), MAX_WIDTH)
    for name in ("num_lstm_layers", "num_residual_layers", "dilation_growth_rate"):
        check_range(f"codec {name}", getattr(config, name), MAX_STREAMS)
    check_range("codec audio_channels", config.audio_channels, 2)
    if not config.target_bandwidths or not all(0 < each < math.inf for each in config.target_bandwidths):
        raise ValueError(f"The codec's target_bandwidths are {config.target_bandwidths}; they must be positive.")
    if config.chunk_length_s is not None or config.normalize or config.norm_type != "weight_norm":
        raise ValueError(
            "The codec normalises chunks, as EnCodec at 48 kHz does; use EnCodec at 24 or 32 kHz instead."
        )


def describe_codec(config: PreTrainedConfig) -> dict[str, str]:
    """Rates, vocabulary and architecture of a codec in words, as the `describe` of our own configurations."""
    if isinstance(config, HAFMSpectralConfig):
        return config.describe()
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


CONFIG_CHECKS |= {EncodecConfig: check_codec_config, DacConfig: check_codec_config}
