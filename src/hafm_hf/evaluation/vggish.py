# SPDX-License-Identifier: Apache-2.0
"""VGGish (Hershey et al., 2017): the log-mel front end and network that the published weights require.

Dimensions: N samples at 16 kHz, n examples of 96 frames × 64 mel bands (0.96 s), embeddings of width 128.
"""

import os
import pickle
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn
from transformers.audio_utils import mel_filter_bank, window_function

from ..audio import Samples, is_url
from ..pretrained.redaction import first_line
from .statistics import HAFMEvaluationError

SAMPLING_RATE = 16_000
# window, hop and FFT in samples
WINDOW = 400
HOP = 160
FFT_SIZE = 512
MEL_BANDS = 64
LOWEST_HZ = 125.0
HIGHEST_HZ = 7500.0
LOG_OFFSET = 0.01
EXAMPLE_FRAMES = 96
# of the fully connected layers, and of embeddings
HIDDEN_WIDTH = 4096
WIDTH = 128
# channels of the convolutions; None is a pooling that halves both axes (frames and mel bands)
LAYERS = (64, None, 128, None, 256, 256, None, 512, 512, None)
WEIGHTS_URL = "https://github.com/harritaylor/torchvggish/releases/download/v0.1/vggish-10086976.pth"


class VGGish(nn.Module):
    """The network, with the parameter names of the usual PyTorch port, so that its weights load unchanged."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for wanted in LAYERS:
            if wanted is None:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(channels, wanted, 3, padding=1), nn.ReLU()]
            channels = wanted
        self.features = nn.Sequential(*layers)
        # four poolings halve each axis
        halvings = 2 ** LAYERS.count(None)
        flat = channels * (EXAMPLE_FRAMES // halvings) * (MEL_BANDS // halvings)
        self.embeddings = nn.Sequential(
            nn.Linear(flat, HIDDEN_WIDTH),
            nn.ReLU(),
            nn.Linear(HIDDEN_WIDTH, HIDDEN_WIDTH),
            nn.ReLU(),
            nn.Linear(HIDDEN_WIDTH, WIDTH),
            nn.ReLU(),
        )

    def forward(self, examples: torch.Tensor) -> torch.Tensor:
        """Log-mel examples (float [n, 96 frames, 64 mel bands]) → embeddings (float [n, 128]) before the last ReLU."""
        # channels last before flattening: the weights come from TensorFlow
        flat = self.features(examples[:, None]).permute(0, 2, 3, 1).flatten(1)
        return self.embeddings[:-1](flat)


def log_mel_examples(samples: Samples) -> NDArray[np.float32]:
    """Consecutive log-mel examples of a sound, without overlap.

    Args:
        samples (float32 [N] at 16 kHz): the sound, in mono.

    Returns:
        float32 [n, 96 frames, 64 mel bands]; n is 0 if the sound is shorter than one example (0.975 s).
    """
    if len(samples) < WINDOW + (EXAMPLE_FRAMES - 1) * HOP:
        return np.empty((0, EXAMPLE_FRAMES, MEL_BANDS), np.float32)
    # [frames, WINDOW]
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), WINDOW)[::HOP]
    spectra = np.abs(np.fft.rfft(frames * window_function(WINDOW, "hann"), FFT_SIZE))
    log_mel = np.log(spectra @ _mel_filters() + LOG_OFFSET)
    count = len(log_mel) // EXAMPLE_FRAMES
    return log_mel[: count * EXAMPLE_FRAMES].reshape(count, EXAMPLE_FRAMES, MEL_BANDS).astype(np.float32)


@cache
def _mel_filters() -> NDArray[np.float64]:
    """Triangular filters on HTK's mel scale for magnitude spectra: float64 [257 bins, 64 bands]; none covers bin 0."""
    bank = mel_filter_bank(
        num_frequency_bins=FFT_SIZE // 2 + 1,
        num_mel_filters=MEL_BANDS,
        min_frequency=LOWEST_HZ,
        max_frequency=HIGHEST_HZ,
        sampling_rate=SAMPLING_RATE,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
    bank[0] = 0.0
    return bank


def load_vggish(weights: str | os.PathLike[str] | None = None) -> VGGish:
    """Loads VGGish with the published weights.

    Args:
        weights: file (.safetensors, or .pth, of which only tensors are read) or URL; `WEIGHTS_URL` if None.

    Raises:
        HAFMEvaluationError: the file is missing or holds other weights, or the download fails.
    """
    source = str(weights or WEIGHTS_URL)
    network = VGGish()
    try:
        if is_url(source):
            if os.environ.get("HF_HUB_OFFLINE") == "1":
                raise OSError("HF_HUB_OFFLINE=1 forbids downloads")
            state = torch.hub.load_state_dict_from_url(source, map_location="cpu", progress=False, weights_only=True)
        elif source.endswith(".safetensors"):
            state = load_file(source)
        else:
            state = torch.load(source, map_location="cpu", weights_only=True)
        network.load_state_dict(state)
    except (OSError, ValueError, RuntimeError, TypeError, pickle.UnpicklingError) as error:
        reason = first_line(error).split(". ")[0]
        raise HAFMEvaluationError(
            f"VGGish's weights cannot be loaded from {source} ({reason}); give a file that holds them "
            "(--vggish-weights), or use --embedder tokenizer, which needs no download."
        ) from error
    return network.eval().requires_grad_(False)
