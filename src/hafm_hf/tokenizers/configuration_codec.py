# SPDX-License-Identifier: Apache-2.0
"""Configurations of codecs: the spectral codec's own, and what the package reads from any codec's before loading it.

EnCodec and DAC use transformers' configurations; that of the spectral codec (residual vector quantisation of
short-time Fourier spectra) validates itself on construction.
"""

import math
from dataclasses import dataclass

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, DacConfig, EncodecConfig, PreTrainedConfig

from ..pretrained.checks import MAX_LAYERS, MAX_SAMPLING_RATE, MAX_STREAMS, MAX_WIDTH, check_range
from ..pretrained.loading import CONFIG_CHECKS

# largest relative change of a sampling rate, a tenth of a semitone: a 44,100 Hz codec with 512 samples a frame is
# treated as one of 44,032 Hz and 86 frames a second
MAX_RETUNING = 0.006


@strict
class HAFMSpectralConfig(PreTrainedConfig):
    r"""Configuration of the STFT-domain codec: one latent vector a frame; no layer runs at the sampling rate.

    Args:
        sampling_rate (`int`): Samples a second.
        audio_channels (`int`): 1 for mono, 2 for stereo.
        hop_length (`int`): Samples per frame.
        window_length (`int`): Samples in the STFT's window; at least two hops, so that frames overlap.
        compression (`float`): Power to which the magnitudes of spectra are raised inside the networks.
        kernel_size (`int`): Kernel size in frames of the depthwise convolutions; odd.
        expansion (`int`): Width of the MLP in each block, as a multiple of its network's width.
        encoder_width, decoder_width (`int`): Channels of the networks.
        encoder_layers, decoder_layers (`int`): Numbers of ConvNeXt blocks.
        side_layers (`int`): Number of further blocks that compute the side, if the decoder plays stereo.
        num_codebooks (`int`): Codebooks of the residual quantiser.
        codebook_size (`int`): Codes per codebook.
        codebook_dim (`int`): Dimensions of the latent vectors.
        noise_bands (`int`): Bands for which the decoder predicts a level of additive noise; 0 for no noise.
        phase_jitter (`float`): RMS in radians of the random jitter of high-frequency phases in the decoder, 0 to 3.
        output_sampling_rate (`int`, *optional*): Samples a second of the decoder's output; as the input's by default.
            Hop and window last as long at both rates, so they must be whole numbers of samples at this one too.
        output_audio_channels (`int`, *optional*): Channels of the decoder's output; as the input's by default.
    """

    model_type = "hafm_spectral"

    sampling_rate: int = 24_000
    audio_channels: int = 1
    hop_length: int = 320
    window_length: int = 1280
    compression: float = 0.5
    kernel_size: int = 7
    expansion: int = 3
    encoder_width: int = 256
    encoder_layers: int = 4
    decoder_width: int = 256
    decoder_layers: int = 6
    side_layers: int = 4
    num_codebooks: int = 8
    codebook_size: int = 1024
    codebook_dim: int = 96
    noise_bands: int = 32
    phase_jitter: float = 0.0
    output_sampling_rate: int | None = None
    output_audio_channels: int | None = None

    @property
    def input_format(self) -> "SpectralFormat":
        """Format of the audio that the encoder reads, and of its spectra."""
        return SpectralFormat(self.sampling_rate, self.audio_channels, self.hop_length, self.window_length)

    @property
    def output_format(self) -> "SpectralFormat":
        """Format of the audio that the decoder returns, and of its spectra, whose bins are as wide as the input's."""
        rate = self.output_sampling_rate or self.sampling_rate
        hop = self.hop_length * rate // self.sampling_rate
        window = self.window_length * rate // self.sampling_rate
        return SpectralFormat(rate, self.output_audio_channels or self.audio_channels, hop, window)

    @property
    def num_bins(self) -> int:
        """Frequency bins of a spectrum that the encoder reads."""
        return self.input_format.num_bins

    @property
    def num_noise_bands(self) -> int:
        """Noise bands of each output channel: `noise_bands` up to the input's Nyquist frequency, more of them above.

        All are equally wide on the mel scale.
        """
        if not self.noise_bands:
            return 0
        # of the output's Nyquist frequency to the input's, in mel
        ratio = mel(self.output_format.sampling_rate / 2) / mel(self.sampling_rate / 2)
        return 1 + math.ceil(ratio * (self.noise_bands - 1))

    @property
    def window_reach(self) -> int:
        """Number of frames to each side whose STFT windows overlap a frame's own hop."""
        return math.ceil((self.window_length - self.hop_length) / (2 * self.hop_length))

    @property
    def blocks_reach(self) -> int:
        """Number of frames to each side that a frame's hidden states in the decoder depend on."""
        # the blocks, and the convolution before them
        layers = self.decoder_layers + 1
        # the side signal of stereo is computed from the hidden states of the mid
        if self.output_format.channels == 2:
            layers += self.side_layers
        return layers * (self.kernel_size // 2)

    def describe(self) -> dict[str, str]:
        """Rates, vocabulary and architecture in words, for `hafm info` and the model cards."""
        return describe_codec(self)

    def validate_sizes(self) -> None:
        """Raises ValueError for sizes that are not positive, are inconsistent, or are implausibly large."""
        check_range("codec sampling_rate", self.sampling_rate, MAX_SAMPLING_RATE)
        check_range("codec audio_channels", self.audio_channels, 2)
        # a codebook with a single code carries no information
        check_range("codec codebook_size", self.codebook_size, MAX_WIDTH, least=2)
        for name in ("hop_length", "window_length", "encoder_width", "decoder_width", "codebook_dim", "kernel_size"):
            check_range(f"codec {name}", getattr(self, name), MAX_WIDTH)
        for name in ("encoder_layers", "decoder_layers", "side_layers", "num_codebooks", "expansion"):
            check_range(f"codec {name}", getattr(self, name), MAX_LAYERS)
        check_range("codec noise_bands", self.noise_bands, self.num_bins, least=0)
        self._validate_output()
        if not 0 <= self.phase_jitter <= 3:
            raise ValueError(f"codec phase_jitter is {self.phase_jitter}; it must lie between 0 and 3.")
        # its lower limit, now that hop_length is known to be in range
        check_range("codec window_length", self.window_length, MAX_WIDTH, least=2 * self.hop_length)
        if (self.window_length - self.hop_length) % 2 or self.kernel_size % 2 == 0 or not 0 < self.compression <= 1:
            raise ValueError(
                f"codec window_length {self.window_length} and hop_length {self.hop_length} must differ by an even "
                f"number, kernel_size {self.kernel_size} must be odd, and compression {self.compression} must be "
                "above 0 and at most 1."
            )

    def _validate_output(self) -> None:
        """Raises ValueError for an output of another number of channels than 1 or 2, or an unsuitable rate.

        At the output's rate, hop and window must last as long as at the input's and be whole numbers of samples.
        """
        rate = self.output_sampling_rate
        channels = self.output_audio_channels
        if channels is not None:
            check_range("codec output_audio_channels", channels, 2)
        if rate is None:
            return
        check_range("codec output_sampling_rate", rate, MAX_SAMPLING_RATE)
        output = self.output_format
        hop_is_whole = self.hop_length * rate % self.sampling_rate == 0
        window_is_whole = self.window_length * rate % self.sampling_rate == 0
        # an even difference: frames are centred on their hop
        if not (hop_is_whole and window_is_whole) or (output.window_length - output.hop_length) % 2:
            raise ValueError(
                f"codec output_sampling_rate is {rate}; hop_length {self.hop_length} and window_length "
                f"{self.window_length} at {self.sampling_rate} Hz must be whole numbers of samples there, and differ "
                "by an even number."
            )


def mel(hertz: float) -> float:
    """A frequency on the mel scale, ln(1 + hertz / 700); one unit is 1127 mel."""
    return math.log1p(hertz / 700)


@dataclass(frozen=True)
class SpectralFormat:
    """Format of the audio, and of its spectra, that a spectral codec reads or returns.

    Attributes:
        sampling_rate (int): in Hz.
        channels (int): 1 for mono, 2 for stereo.
        hop_length (int): samples per frame.
        window_length (int): samples in the STFT's window.
    """

    sampling_rate: int
    channels: int
    hop_length: int
    window_length: int

    @property
    def num_bins(self) -> int:
        """Number of frequency bins of a channel's spectrum."""
        return self.window_length // 2 + 1


# AutoConfig reads the codec's configuration, as it may be of any family; registered here rather than with everything
# else, because the commands load models without that
AutoConfig.register(HAFMSpectralConfig.model_type, HAFMSpectralConfig, exist_ok=True)


@dataclass(frozen=True)
class CodecFormat:
    """What the package needs to know about a codec of any family before weights are loaded.

    Attributes:
        sampling_rate (int): in Hz, a multiple of `hop_length`.
        hop_length (int): samples per frame.
        num_codebooks (int): that the codec has; stages may use fewer.
        codebook_size (int): codes per codebook.
        channels (int): of the audio it encodes; 1 for mono, 2 for stereo.
        output_sampling_rate (int): of the audio it decodes, in Hz; `sampling_rate` if 0.
        output_channels (int): of the audio it decodes; `channels` if 0.
    """

    sampling_rate: int
    hop_length: int
    num_codebooks: int
    codebook_size: int
    channels: int
    output_sampling_rate: int = 0
    output_channels: int = 0

    def __post_init__(self) -> None:
        # `object.__setattr__`: the class is frozen
        if not self.output_sampling_rate:
            object.__setattr__(self, "output_sampling_rate", self.sampling_rate)
        if not self.output_channels:
            object.__setattr__(self, "output_channels", self.channels)

    @property
    def frame_rate(self) -> int:
        """Frames a second."""
        return self.sampling_rate // self.hop_length

    @property
    def output_hop_length(self) -> int:
        """Samples per frame of the audio that the codec decodes."""
        return self.output_sampling_rate // self.frame_rate


def codec_format(config: PreTrainedConfig) -> CodecFormat:
    """Reads rates, codebooks and channels from a codec's configuration.

    Stages need an integer frame rate. A codec whose sampling rate is not a multiple of its hop is treated as running
    at the nearest rate that is, an inaudible difference: DAC's 44,100 Hz become 44,032.

    Raises:
        ValueError: an unknown family, or a rate too far from a whole number of frames a second.
    """
    _check_codec_family(config)
    # sampling rate and channels of the output; 0 stands for the input's
    output = (0, 0)
    if isinstance(config, HAFMSpectralConfig):
        codebooks = config.num_codebooks
        channels = config.audio_channels
        hop = config.hop_length
        if config.output_format != config.input_format:
            output = (config.output_format.sampling_rate, config.output_format.channels)
    elif isinstance(config, EncodecConfig):
        codebooks = config.num_quantizers
        channels = config.audio_channels
        hop = math.prod(config.upsampling_ratios)
    else:
        # DAC is mono
        codebooks = config.n_codebooks
        channels = 1
        hop = math.prod(config.upsampling_ratios)
    rate = round(config.sampling_rate / hop) * hop
    if abs(rate / config.sampling_rate - 1) > MAX_RETUNING:
        raise ValueError(f"The codec's {config.sampling_rate} Hz are not a whole number of frames of {hop} samples.")
    return CodecFormat(rate, hop, codebooks, config.codebook_size, channels, *output)


def check_codec_config(config: PreTrainedConfig) -> None:
    """Checks the sizes in the configuration of a codec of any family, before anything is allocated by them.

    Raises:
        ValueError: a size is not positive, inconsistent with others, or implausibly large; it names the value and its
            range.
    """
    _check_codec_family(config)
    if isinstance(config, HAFMSpectralConfig):
        config.validate_sizes()
        return
    check_range("codec sampling_rate", config.sampling_rate, MAX_SAMPLING_RATE)
    # EnCodec divides by the bits of a code to get its number of codebooks; a single code has 0 bits
    check_range("codec codebook_size", config.codebook_size, MAX_WIDTH, least=2)
    check_range("codec codebook_dim", config.codebook_dim, MAX_WIDTH)
    check_range("number of codec upsampling_ratios", len(config.upsampling_ratios), MAX_STREAMS)
    for ratio in config.upsampling_ratios:
        check_range("codec upsampling_ratios", ratio, MAX_STREAMS)
    if isinstance(config, EncodecConfig):
        _check_encodec(config)
    else:
        for name in ("encoder_hidden_size", "decoder_hidden_size"):
            check_range(f"codec {name}", getattr(config, name), MAX_WIDTH)
    # the encoder doubles its width at each ratio
    if isinstance(config, EncodecConfig):
        filters = config.num_filters
    else:
        filters = config.encoder_hidden_size
    if filters * 2 ** len(config.upsampling_ratios) > MAX_WIDTH:
        raise ValueError(f"The codec's {filters} filters, doubled at each upsampling ratio, exceed {MAX_WIDTH}.")
    check_range("codec number of codebooks", codec_format(config).num_codebooks, MAX_LAYERS)


def _check_codec_family(config: PreTrainedConfig) -> None:
    """Raises ValueError for a configuration of an unknown family."""
    if not isinstance(config, EncodecConfig | DacConfig | HAFMSpectralConfig):
        raise ValueError(f"A codec of type {config.model_type!r} is not known; choose encodec, dac or hafm_spectral.")


def _check_encodec(config: EncodecConfig) -> None:
    """Raises ValueError for an EnCodec with sizes out of range, and for the one at 48 kHz.

    The latter normalises and encodes each chunk by itself, which `EncodecCodec` does not do.
    """
    for name in ("hidden_size", "num_filters", "kernel_size", "last_kernel_size", "residual_kernel_size", "compress"):
        check_range(f"codec {name}", getattr(config, name), MAX_WIDTH)
    for name in ("num_lstm_layers", "num_residual_layers", "dilation_growth_rate"):
        check_range(f"codec {name}", getattr(config, name), MAX_STREAMS)
    check_range("codec audio_channels", config.audio_channels, 2)
    if not config.target_bandwidths or not all(0 < bandwidth < math.inf for bandwidth in config.target_bandwidths):
        raise ValueError(f"The codec's target_bandwidths are {config.target_bandwidths}; they must be positive.")
    if config.chunk_length_s is not None or config.normalize or config.norm_type != "weight_norm":
        raise ValueError("The codec normalises chunks, as EnCodec at 48 kHz does; use EnCodec at 24 or 32 kHz.")


def describe_codec(config: PreTrainedConfig) -> dict[str, str]:
    """Rates, vocabulary and architecture of a codec of any family in words, for `hafm info` and the model cards."""
    codec = codec_format(config)
    kbps = codec.num_codebooks * codec.frame_rate * math.log2(codec.codebook_size) / 1000
    input_rate = _rate_in_words(codec.sampling_rate, codec.channels)
    output_rate = _rate_in_words(codec.output_sampling_rate, codec.output_channels)
    rates = f"{input_rate} → {codec.frame_rate} frames/s"
    if output_rate != input_rate:
        rates += f" → {output_rate}"
    if isinstance(config, HAFMSpectralConfig):
        blocks = f"{config.encoder_layers} × {config.encoder_width}, {config.decoder_layers} × {config.decoder_width}"
        if config.output_format.channels == 2:
            blocks += f", {config.side_layers} × {config.decoder_width}"
        name = f"spectral codec, ConvNeXt blocks {blocks}"
    elif isinstance(config, EncodecConfig):
        name = f"EnCodec, {config.num_filters} filters"
    else:
        name = f"DAC, {config.encoder_hidden_size} filters"
    return {
        "rates": rates,
        "vocabulary": f"up to {codec.num_codebooks} × {codec.codebook_size}",
        "architecture": f"{name}, up to {kbps:g} kbps",
    }


def _rate_in_words(sampling_rate: int, channels: int) -> str:
    """A sampling rate in Hz and a number of channels in words, such as "44100 Hz × 2 channels"."""
    return f"{sampling_rate} Hz" + ("" if channels == 1 else f" × {channels} channels")


CONFIG_CHECKS |= {EncodecConfig: check_codec_config, DacConfig: check_codec_config}
