# SPDX-License-Identifier: Apache-2.0
"""Widens a trained spectral codec: a new decoder plays at a higher rate, or in stereo, from the same codes.

Encoder and codebooks are copied. So are the decoder's blocks, and those rows of its output layers that make mid (the
mean of left and right) up to the old bandwidth. Rows for higher frequencies, and the branch of side (half the
difference of left and right), are new.
"""

import torch

from hafm_hf import HAFMSpectralConfig, HAFMSpectralModel
from hafm_hf.tokenizers.modeling_spectral_codec import SpectralDecoder

# factor of the new rows' initial weights: they begin quiet, but not without gradient
NEW_ROWS_LEVEL = 0.25


@torch.no_grad()
def widened(codec: HAFMSpectralModel, sampling_rate: int, channels: int) -> HAFMSpectralModel:
    """A copy of a codec with a decoder for another output format, ready for training.

    Args:
        codec: a trained codec whose decoder plays mono.
        sampling_rate: rate of the new decoder's output in Hz, at least the old one's.
        channels: number of channels of the new decoder's output, 1 or 2.

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
    kept = {name: value for name, value in codec.state_dict().items() if not name.startswith("decoder.")}
    wide_codec.load_state_dict(kept, strict=False)
    for part in ("first", "blocks", "norm"):
        getattr(wide_codec.decoder.mid, part).load_state_dict(getattr(codec.decoder.mid, part).state_dict())
    for branch in wide_codec.decoder.branches:
        branch.last.weight.mul_(NEW_ROWS_LEVEL)
    _copy_output(codec.decoder, wide_codec.decoder)
    return wide_codec


def _copy_output(old: SpectralDecoder, new: SpectralDecoder) -> None:
    """Copies weights and levels of the frequencies that both decoders play: mid up to the old bandwidth.

    Args:
        old: plays mono.
        new: of the same codec, at least as wide; changed in place.
    """
    bins = old.spectrum.format.num_bins
    before = old.mid
    after = new.mid
    # magnitudes of spectra are proportional to the window's length
    scale = new.spectrum.format.window_length / old.spectrum.format.window_length
    # rows of the last layer are the real parts of all frequencies, then the imaginary parts
    for target, value in ((after.last.weight, before.last.weight), (after.last.bias, before.last.bias)):
        target.unflatten(0, (2, -1))[:, :bins] = value.unflatten(0, (2, bins))
    # mid comes first
    new.mean[:bins] = scale * old.mean
    new.spectrum.usual[:bins] = scale**new.config.compression * old.spectrum.usual
    if after.noise is not None and before.noise is not None:
        bands = before.noise.out_features
        after.noise.weight[:bands] = before.noise.weight
        after.noise.bias[:bands] = before.noise.bias
