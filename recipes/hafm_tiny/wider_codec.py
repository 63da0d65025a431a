# SPDX-License-Identifier: Apache-2.0
"""A spectral codec whose decoder plays a wider format, from a trained one: another rate, and left and right.

Encoder, codebooks and the decoder's blocks are the trained ones. So is what the decoder plays in the middle up to the
old bandwidth: its output layers' rows are copied. Rows for higher frequencies and for the side are new.
"""

import torch
from torch import nn

from hafm_hf import HAFMSpectralConfig, HAFMSpectralModel
from hafm_hf.tokenizers.modeling_spectral_codec import SpectralDecoder

# of the new rows' outputs, relative to each frequency's usual level: quiet, but not without gradient
NEW_ROWS_LEVEL = 0.25


@torch.no_grad()
def widened(codec: HAFMSpectralModel, sampling_rate: int, channels: int) -> HAFMSpectralModel:
    """The codec with a decoder of another output format.

    Args:
        codec: a trained codec whose decoder plays mono.
        sampling_rate: of the new decoder's output in Hz, at least the old one's.
        channels: of the new decoder's output.

    Raises:
        ValueError: the codec's decoder plays stereo, or at a higher rate.
    """
    old = codec.config.output_format
    if old.channels != 1 or old.sampling_rate > sampling_rate:
        raise ValueError(
            f"The codec's decoder plays {old.channels} channel(s) at {old.sampling_rate} Hz; only mono at up to "
            f"{sampling_rate} Hz can be widened."
        )
    options = codec.config.to_dict() | {"output_sampling_rate": sampling_rate, "output_audio_channels": channels}
    wide_codec = HAFMSpectralModel(HAFMSpectralConfig.from_dict(options)).to(codec.device, codec.dtype)
    kept = {name: value for name, value in codec.state_dict().items() if not _belongs_to_output(name)}
    wide_codec.load_state_dict(kept, strict=False)
    _copy_output(codec.decoder, wide_codec.decoder)
    return wide_codec


def _belongs_to_output(name: str) -> bool:
    """Whether the weight of this name depends on the decoder's output format."""
    return name.startswith(("decoder.last.", "decoder.noise.", "decoder.mean", "decoder.spectrum."))


def _copy_output(old: SpectralDecoder, new: SpectralDecoder) -> None:
    """Copies the rows of what both decoders play, the middle up to the old bandwidth, and makes the others quieter.

    Args:
        old: plays mono.
        new: changed in place.
    """
    channels = new.spectrum.format.channels
    bins = old.spectrum.format.num_bins
    # magnitudes of spectra are proportional to the window's length
    scale = new.spectrum.format.window_length / old.spectrum.format.window_length
    new.last.weight.mul_(NEW_ROWS_LEVEL)
    for target, value in ((new.last.weight, old.last.weight), (new.last.bias, old.last.bias)):
        target.unflatten(0, (2, channels, -1))[:, 0, :bins] = value.unflatten(0, (2, bins))
    new.mean.unflatten(0, (channels, -1))[0, :bins] = scale * old.mean
    new.spectrum.usual.unflatten(0, (channels, -1))[0, :bins] = scale**new.config.compression * old.spectrum.usual
    if isinstance(new.noise, nn.Linear) and isinstance(old.noise, nn.Linear):
        bands = old.noise.out_features
        for target, value in ((new.noise.weight, old.noise.weight), (new.noise.bias, old.noise.bias)):
            target.unflatten(0, (channels, -1))[0, :bands] = value
