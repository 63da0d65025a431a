# SPDX-License-Identifier: Apache-2.0
"""VGGish (Hershey et al., 2017): log-mel front end, network and post-processing, as the published weights want them.

Dimensions: N samples at 16 kHz, n examples of 96 frames × 64 mel bands (0.96 s), 128 numbers an embedding.
"""

from __future__ import annotations

import os
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..audio import Samples, is_url
from .statistics import HAFMEvaluationError

SAMPLING_RATE = 16_000
WINDOW, HOP, FFT_SIZE = 400, 160, 512
MEL_BANDS, LOWEST_HZ, HIGHEST_HZ = 64, 125.0, 7500.0
LOG_OFFSET = 0.01
EXAMPLE_FRAMES = 96
EXAMPLE_SECONDS = EXAMPLE_FRAMES * HOP / SAMPLING_RATE
WIDTH = 128
# what the post-processed embeddings are clipped to and spread over 0 … 255
CLIP = 2.0
# channels of the convolutions; None halves both axes
LAYERS = (64, None, 128, None, 256, 256, None, 512, 512, None)
WEIGHTS_URL = "https://github.com/harritaylor/torchvggish/releases/download/v0.1/vggish-10086976.pth"
PCA_URL = "https://github.com/harritaylor/torchvggish/releases/download/v0.1/vggish_pca_params-970ea276.pth"
PCA_VECTORS, PCA_MEANS = "pca_eigen_vectors", "pca_means"


class VGGish(nn.Module):
    """The network, with the parameter names of the usual PyTorch port, so that its weights load as they are."""

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
        flat = channels * (EXAMPLE_FRAMES // 16) * (MEL_BANDS // 16)
        self.embeddings = nn.Sequential(
            nn.Linear(flat, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, WIDTH), nn.ReLU()
        )

    def forward(self, examples: torch.Tensor, rectified: bool = True) -> torch.Tensor:
        """Log-mel examples (float [n, 96, 64]) → embeddings (float [n, 128]), behind the last ReLU or before it."""
        # channels last before flattening: the weights come from TensorFlow
        flat = self.features(examples[:, None]).permute(0, 2, 3, 1).flatten(1)
        return (self.embeddings if rectified else self.embeddings[:-1])(flat)


class Postprocessor(nn.Module):
    """Whitening and 8-bit quantisation, as the released AudioSet embeddings have it.

    Args:
        vectors (float [128, 128]), means (float [128] or [128, 1]): of the principal components.
    """

    vectors: torch.Tensor
    means: torch.Tensor

    def __init__(self, vectors: torch.Tensor, means: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.as_tensor(vectors).float())
        self.register_buffer("means", torch.as_tensor(means).float().reshape(-1))

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """float [n, 128] → whole numbers 0 … 255 (float [n, 128])."""
        whitened = (embeddings - self.means) @ self.vectors.T
        return torch.round((whitened.clamp(-CLIP, CLIP) + CLIP) * (255.0 / (2 * CLIP)))


def log_mel_examples(samples: Samples, hop_frames: int = EXAMPLE_FRAMES) -> NDArray[np.float32]:
    """Log-mel examples of one stretch of sound.

    Args:
        samples (float32 [N], at 16 kHz).
        hop_frames: from one example to the next, of 10 ms.

    Returns:
        float32 [n, 96, 64]; none where there is less than an example.
    """
    if len(samples) < WINDOW + (EXAMPLE_FRAMES - 1) * HOP:
        return np.empty((0, EXAMPLE_FRAMES, MEL_BANDS), np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), WINDOW)[::HOP]
    # periodic, not symmetric
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    log_mel = np.log(np.abs(np.fft.rfft(frames * hann, FFT_SIZE)) @ _mel_filters() + LOG_OFFSET)
    count = 1 + (len(log_mel) - EXAMPLE_FRAMES) // hop_frames
    return np.stack([log_mel[i * hop_frames : i * hop_frames + EXAMPLE_FRAMES] for i in range(count)]).astype(
        np.float32
    )


@cache
def _mel_filters() -> NDArray[np.float64]:
    """Triangles on HTK's mel scale over magnitudes, float64 [257, 64]; the zeroth frequency counts nowhere."""
    from transformers.audio_utils import mel_filter_bank

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


def load_vggish(
    weights: str | os.PathLike[str] | None = None, pca: str | os.PathLike[str] | None = None, postprocess: bool = False
) -> tuple[VGGish, Postprocessor | None]:
    """Loads the published weights.

    Args:
        weights: a file (.safetensors, or .pth, of which only tensors are read) or URL; the published ones if None.
        pca: the same for the parameters of the post-processing.
        postprocess: whether those are wanted.

    Raises:
        HAFMEvaluationError: the file is missing or something else, or the network does not allow the download.
    """
    network = VGGish()
    try:
        network.load_state_dict(_load(weights or WEIGHTS_URL, "weights"))
    except RuntimeError as error:
        raise HAFMEvaluationError(f"{weights or WEIGHTS_URL} does not hold VGGish's weights: {error}") from error
    network.eval().requires_grad_(False)
    if not postprocess:
        return network, None
    tensors = _load(pca or PCA_URL, "post-processing parameters")
    if PCA_VECTORS not in tensors or PCA_MEANS not in tensors:
        raise HAFMEvaluationError(f"{pca or PCA_URL} lacks {PCA_VECTORS} or {PCA_MEANS} of VGGish's post-processing.")
    return network, Postprocessor(tensors[PCA_VECTORS], tensors[PCA_MEANS])


def _load(source: str | os.PathLike[str], what: str) -> dict[str, torch.Tensor]:
    path = Path(source)
    try:
        if is_url(str(source)):
            path = _fetched(str(source))
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        # the published parameters of the post-processing are NumPy arrays; nothing but arrays is let through
        with torch.serialization.safe_globals(_numpy_globals()):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise HAFMEvaluationError(
            f"VGGish's {what} cannot be loaded from {source} ({reason}); give a file that holds them "
            "(--vggish-weights, --vggish-pca), or use --embedder tokenizer, which needs no download."
        ) from error
    return {name: torch.as_tensor(value) for name, value in loaded.items()}


def _numpy_globals() -> list[Any]:
    from numpy._core import multiarray

    return [multiarray._reconstruct, np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in ("f4", "f8"))]  # type: ignore[attr-defined]


def _fetched(url: str) -> Path:
    """The file behind a URL, downloaded once into torch's folder of checkpoints."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if not path.exists():
        if os.environ.get("HF_HUB_OFFLINE") == "1":
            raise OSError("HF_HUB_OFFLINE=1 forbids downloads")
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), progress=False)
    return path
