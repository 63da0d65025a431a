# SPDX-License-Identifier: Apache-2.0
"""Configuration of the spectral codec: residual vector quantisation of short-time Fourier spectra."""

import math

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from ..pretrained.checks import MAX_LAYERS, MAX_SAMPLING_RATE, MAX_WIDTH, check_range


@strict
class HAFMSpectralConfig(PreTrainedConfig):
    r"""A codec in the STFT domain: one latent vector a frame, and nothing that runs at the sampling rate.

    Args:
        sampling_rate (`int`): Samples a second.
        audio_channels (`int`): 1 for mono, 2 for stereo.
        hop_length (`int`): Samples a frame.
        window_length (`int`): Samples of the STFT's window; at least two hops, so that frames overlap.
        compression (`float`): Power to which the magnitudes of spectra are raised inside the networks.
        kernel_size (`int`): Frames that each depthwise convolution sees; odd.
        expansion (`int`): Width of the MLP in each block, in widths of its network.
        encoder_width, decoder_width (`int`): Channels of the networks.
        encoder_layers, decoder_layers (`int`): Their ConvNeXt blocks.
        num_codebooks (`int`): Of the residual quantiser.
        codebook_size (`int`): Codes of each.
        codebook_dim (`int`): Dimensions of the latent vectors.
        noise_bands (`int`): Bands in which the decoder adds noise of a level that it chooses; 0 for none.
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
    num_codebooks: int = 8
    codebook_size: int = 1024
    codebook_dim: int = 96
    noise_bands: int = 32

    @property
    def num_bins(self) -> int:
        """Frequencies of a spectrum."""
        return self.window_length // 2 + 1

    @property
    def window_reach(self) -> int:
        """Frames to each side whose windows overlap a frame's own samples."""
        return math.ceil((self.window_length - self.hop_length) / (2 * self.hop_length))

    def decoder_reach(self) -> int:
        """Frames to each side that a sample of the decoder's output depends on."""
        return self.window_reach + (self.decoder_layers + 1) * (self.kernel_size // 2)

    def describe(self) -> dict[str, str]:
        """Rates, vocabulary and architecture in words, for `hafm info` and the model cards."""
        rate = self.sampling_rate / self.hop_length
        kbps = self.num_codebooks * rate * math.log2(self.codebook_size) / 1000
        channels = "" if self.audio_channels == 1 else f" × {self.audio_channels} channels"
        blocks = f"{self.encoder_layers} × {self.encoder_width}, {self.decoder_layers} × {self.decoder_width}"
        return {
            "rates": f"{self.sampling_rate} Hz{channels} → {rate:g} frames/s",
            "vocabulary": f"up to {self.num_codebooks} × {self.codebook_size}",
            "architecture": f"spectral codec, ConvNeXt blocks {blocks}, up to {kbps:g} kbps",
        }

    def validate_sizes(self) -> None:
        """Refuses sizes that are not positive, do not fit each other, or can only be a mistake."""
        check_range("codec sampling_rate", self.sampling_rate, MAX_SAMPLING_RATE)
        check_range("codec audio_channels", self.audio_channels, 2)
        # of one code there would be no bits, by which codebooks are counted
        check_range("codec codebook_size", self.codebook_size, MAX_WIDTH, least=2)
        for name in ("hop_length", "window_length", "encoder_width", "decoder_width", "codebook_dim", "kernel_size"):
            check_range(f"codec {name}", getattr(self, name), MAX_WIDTH)
        for name in ("encoder_layers", "decoder_layers", "num_codebooks", "expansion"):
            check_range(f"codec {name}", getattr(self, name), MAX_LAYERS)
        check_range("codec noise_bands", self.noise_bands, self.num_bins, least=0)
        check_range("codec window_length", self.window_length, MAX_WIDTH, least=2 * self.hop_length)
        if (self.window_length - self.hop_length) % 2 or self.kernel_size % 2 == 0 or not 0 < self.compression <= 1:
            raise ValueError(
                f"codec window_length {self.window_length} and hop_length {self.hop_length} must differ by an even "
                f"number, kernel_size {self.kernel_size} must be odd, and compression {self.compression} must be "
                "above 0 and at most 1."
            )


# the codec of a composite may be of any family, so AutoConfig reads its configuration: also for commands, which load
# models without the registration of everything else
AutoConfig.register(HAFMSpectralConfig.model_type, HAFMSpectralConfig, exist_ok=True)
