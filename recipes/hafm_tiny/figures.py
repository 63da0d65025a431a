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
# levels below this one relative to the loudest value count as this one, in dB
FLOOR_DB = -80.0
# least level of the loudest value, so that near silence is not amplified
QUIETEST_DB = -60.0


def log_mel(
    samples: Samples, sampling_rate: int, hops_in_window: int = 8, bands: int = MEL_BANDS
) -> NDArray[np.float64]:
    """Log-mel spectrogram at 100 frames per second.

    Args:
        samples (float32 [N] at `sampling_rate` Hz): mono sound of N samples.
        sampling_rate: in Hz.
        hops_in_window: window length in hops of 10 ms, rounded up to a power of 2 samples; long windows resolve pitch,
            short ones time.
        bands: number of mel bands from LOWEST_MEL_HZ to half the sampling rate.

    Returns:
        float64 [bands, 1 + N // hop], dB relative to the loudest value, from FLOOR_DB to 0.
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
    loudest = max(decibels.max(), QUIETEST_DB)
    return np.maximum(decibels - loudest, FLOOR_DB)


def scale_invariant_sdr(target: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019, arXiv 1811.02508): float [...].

    Args:
        target (float [..., N]): true sounds of N samples.
        output (float [..., N]): estimates of them.
    """
    target = target - target.mean(dim=-1, keepdim=True)
    output = output - output.mean(dim=-1, keepdim=True)
    scale = (output * target).sum(-1, keepdim=True) / target.pow(2).sum(-1, keepdim=True).clamp_min(1e-12)
    projection = scale * target
    ratio = projection.pow(2).sum(-1) / (output - projection).pow(2).sum(-1).clamp_min(1e-12)
    return 10 * ratio.clamp_min(1e-12).log10()
