# SPDX-License-Identifier: Apache-2.0
"""Audio embedders for the Fréchet and kernel distances; the name of each states its network and windows.

Dimensions: N samples at the embedder's own rate, n windows, B of them in a batch, D width, T frames.
"""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..audio import Samples
from ..pretrained.loading import BUNDLED_MODEL, fingerprint, load_strictly
from ..pretrained.redaction import first_line
from . import vggish
from .statistics import HAFMEvaluationError

Embeddings = NDArray[np.float32]

WINDOW_SECONDS = 1.0
HOP_SECONDS = 0.5
# VGGish's input is divided by its peak, or by this if the peak is lower
LEAST_PEAK = 0.1
# batch size
WINDOWS_AT_ONCE = 16


@dataclass(frozen=True)
class EmbedderOptions:
    """Which embedder to use; a worker loads it from these options.

    Args:
        kind: "tokenizer", "vggish", or the hub id or folder of an audio model.
        weights: file of VGGish's weights; downloaded if None.
    """

    kind: str = "tokenizer"
    weights: str | None = None


class Embedder(ABC):
    """Base class of embedders.

    Args:
        network: the network that embeds.
        name: states the network and its windows; for reports.
        sampling_rate: rate of the input in Hz.
    """

    def __init__(self, network: Any, name: str, sampling_rate: int) -> None:
        self.network = network.eval()
        self.name = name
        self.sampling_rate = sampling_rate

    @cached_property
    def identity(self) -> str:
        """Hash of name and weights, the cache key of embeddings; computed once, as it is slower than embedding."""
        return hashlib.sha256(f"{self.name}/{fingerprint(self.network)}".encode()).hexdigest()[:32]

    @abstractmethod
    def embed(self, samples: Samples) -> Embeddings:
        """Embeddings of a sound's n windows: float32 [N] at `sampling_rate` → float32 [n, D], of width D."""


def make_embedder(options: EmbedderOptions) -> Embedder:
    """Loads the embedder named in the options.

    Raises:
        HAFMEvaluationError: there is no such model, or its weights are not available.
    """
    if options.kind == "tokenizer":
        return TokenizerEmbedder()
    if options.kind == "vggish":
        return VGGishEmbedder(vggish.load_vggish(options.weights))
    return TransformersEmbedder(options.kind)


class VGGishEmbedder(Embedder):
    """VGGish as used by google-research's frechet_audio_distance, so that distances are comparable with it.

    Windows of 1 s every 0.5 s; audio divided by max(0.1, peak); embeddings before the last ReLU.
    """

    def __init__(self, network: vggish.VGGish) -> None:
        name = (
            f"VGGish ({WINDOW_SECONDS:g} s windows every {HOP_SECONDS:g} s, sound divided by "
            f"max({LEAST_PEAK:g}, peak), before the last ReLU; as google-research's frechet_audio_distance)"
        )
        super().__init__(network, name, vggish.SAMPLING_RATE)

    @torch.no_grad()
    def embed(self, samples: Samples) -> Embeddings:
        """Embeddings of windows of 1 s every 0.5 s: float32 [N] at 16 kHz → float32 [windows, 128].

        A clip shorter than a window has none.
        """
        samples = samples / max(LEAST_PEAK, float(np.abs(samples).max(initial=0.0)))
        windows = cut_windows(samples, self.sampling_rate)
        # so that a clip without windows can be concatenated
        empty = np.empty((0, vggish.EXAMPLE_FRAMES, vggish.MEL_BANDS), np.float32)
        # the first example (0.96 s) of each window
        examples = np.concatenate([empty, *(vggish.log_mel_examples(window)[:1] for window in windows)])
        batches = torch.from_numpy(examples).split(WINDOWS_AT_ONCE)
        return torch.cat([self.network(batch) for batch in batches]).numpy()


class TokenizerEmbedder(Embedder):
    """The bundled semantic tokenizer's hidden states, averaged over 1 s every 0.5 s; it works offline.

    It was trained on the bundled model's song corpus, so its distances can rank systems, but are not comparable with
    VGGish's or another tokenizer's.
    """

    def __init__(self) -> None:
        from ..tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel

        tokenizer: Any = load_strictly(
            HAFMSemanticTokenizerModel, BUNDLED_MODEL, subfolder="semantic_tokenizer", dtype=torch.float32
        )
        name = (
            f"semantic tokenizer of {BUNDLED_MODEL.name}, layer {tokenizer.config.layer}, "
            f"mean over {WINDOW_SECONDS:g} s every {HOP_SECONDS:g} s"
        )
        super().__init__(tokenizer, name, int(tokenizer.config.sampling_rate))

    @torch.no_grad()
    def embed(self, samples: Samples) -> Embeddings:
        """Hidden states, averaged over 1 s every 0.5 s: float32 [N] at 16 kHz → float32 [windows, width].

        A clip shorter than a window gives one embedding.
        """
        features = self.network.extract_features(torch.from_numpy(samples)).numpy()
        # window and hop in frames
        rate = self.network.config.frame_rate
        size = round(WINDOW_SECONDS * rate)
        hop = round(HOP_SECONDS * rate)
        starts = range(0, max(len(features) - size, 0) + 1, hop)
        return np.stack([features[start : start + size].mean(axis=0) for start in starts])


class TransformersEmbedder(Embedder):
    """Any audio model of transformers: windows of 1 s every 0.5 s, the mean of the last hidden state of each.

    Models with `get_audio_features` (CLAP) give those instead.

    Args:
        name: hub id or folder.
    """

    def __init__(self, name: str) -> None:
        from transformers import AutoFeatureExtractor, AutoModel

        try:
            self.extractor: Any = AutoFeatureExtractor.from_pretrained(name, trust_remote_code=False)
            model: Any = AutoModel.from_pretrained(name, use_safetensors=True, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise HAFMEvaluationError(
                f"The embedder {name} cannot be loaded ({first_line(error)}); give a folder or the id of an "
                "audio model with safetensors, or use --embedder tokenizer, which needs no download."
            ) from error
        # of a local folder only the name is shown
        model_name = Path(name).name if Path(name).is_dir() else name
        described = f"{model_name}, last layer, {WINDOW_SECONDS:g} s windows every {HOP_SECONDS:g} s"
        super().__init__(model, described, int(self.extractor.sampling_rate))

    @torch.no_grad()
    def embed(self, samples: Samples) -> Embeddings:
        """Embeddings of windows of 1 s every 0.5 s: float32 [N] at `sampling_rate` → float32 [windows, width].

        A clip shorter than a window gives one embedding.
        """
        windows = cut_windows(samples, self.sampling_rate) or [samples]
        embeddings = []
        for start in range(0, len(windows), WINDOWS_AT_ONCE):
            batch = windows[start : start + WINDOWS_AT_ONCE]
            inputs = self.extractor(batch, sampling_rate=self.sampling_rate, return_tensors="pt")
            embeddings.append(self._embed_batch(inputs).float().numpy())
        return np.concatenate(embeddings)

    def _embed_batch(self, inputs: Any) -> torch.Tensor:
        """One embedding for each of a batch's B windows: float [B, D].

        Args:
            inputs: the batch as the feature extractor returns it.
        """
        if hasattr(self.network, "get_audio_features"):
            output = self.network.get_audio_features(**inputs)
            if isinstance(output, torch.Tensor):
                return output
            return output.pooler_output
        states = self.network(**inputs).last_hidden_state
        # networks over spectrograms return [B, D, height, width], others [B, frames, D]
        if states.ndim > 3:
            return states.flatten(2).mean(dim=2)
        return states.mean(dim=1)


def cut_windows(samples: Samples, rate: int) -> list[Samples]:
    """Windows of 1 s every 0.5 s of float32 [N] at `rate` Hz; a remainder at the end is dropped."""
    size = round(WINDOW_SECONDS * rate)
    step = round(HOP_SECONDS * rate)
    return [samples[start : start + size] for start in range(0, len(samples) - size + 1, step)]
