# SPDX-License-Identifier: Apache-2.0
"""Log-mel spectrogram and SI-SDR, to compare two sounds."""

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.audio_utils import spectrogram, window_function

from hafm_hf.audio import Samples
from hafm_hf.tokenizers.pitch_contour import FRAME_RATE, mel_filters

MEL_BANDS = 80
LOWEST_MEL_HZ = 40.0


def log_mel(
    samples: Samples, sampling_rate: int, hops_in_window: int = 8, bands: int = MEL_BANDS
) -> NDArray[np.float64]:
    """Log-mel spectrogram at 100 frames per second.

    Args:
        samples (float32 [N], at `sampling_rate` Hz).
        hops_in_window: window length in hops, rounded up to a power of 2; long windows resolve pitch, short ones time.
        bands: number of mel bands, up to half the sampling rate.

    Returns:
        float64 [`bands`, 1 + N // hop], dB below the loudest value, at least -80.
    """
    hop = sampling_rate // FRAME_RATE
    # the next power of 2
    size = 1 << (hop * hops_in_window - 1).bit_length()
    filters = mel_filters(size, sampling_rate, bands, LOWEST_MEL_HZ)
    # half a window on both sides, so that a clip shorter than a window has frames as well
    padded = np.pad(samples, size // 2)
    power = spectrogram(
        padded, window_function(size, "hann"), size, hop, power=2.0, center=False, mel_filters=filters
    ).astype(np.float64)
    decibels = 10.0 * np.log10(np.maximum(power, 1e-10))
    # at least −60 dB: near silence is not amplified
    loudest = max(decibels.max(), -60.0)
    return np.maximum(decibels - loudest, -80.0)


def scale_invariant_sdr(target: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """SI-SDR in dB (float [B]) of `output` for `target` (float [B, N] each; Le Roux et al. 2019, arXiv 1811.02508)."""
    target = target - target.mean(dim=-1, keepdim=True)
    output = output - output.mean(dim=-1, keepdim=True)
    scale = (output * target).sum(-1, keepdim=True) / target.pow(2).sum(-1, keepdim=True).clamp_min(1e-12)
    projection = scale * target
    ratio = projection.pow(2).sum(-1) / (output - projection).pow(2).sum(-1).clamp_min(1e-12)
    return 10 * ratio.clamp_min(1e-12).log10()
