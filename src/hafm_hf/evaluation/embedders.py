# SPDX-License-Identifier: Apache-2.0
"""Sound becomes the embeddings whose distributions are compared. Which embedder, and over which windows, is stated.

Dimensions: N samples at the embedder's own rate, n windows, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..audio import Samples
from ..pretrained.loading import fingerprint
from . import vggish
from .statistics import HAFMEvaluationError

Embeddings = NDArray[np.float32]

WINDOW_SECONDS, HOP_SECONDS = 1.0, 0.5
# VGGish's sound is divided by its peak, or by this where the peak is lower
LEAST_PEAK = 0.1
# windows in a batch
WINDOWS_AT_ONCE = 16


@dataclass(frozen=True)
class EmbedderOptions:
    """Which embedder to use; small enough to send to a worker.

    Args:
        kind: "tokenizer", "vggish", or the hub id or folder of an audio model.
        layer: of a transformers model, the hidden state to take; the last if None.
        weights: file of VGGish's weights; downloaded if None.
    """

    kind: str = "tokenizer"
    layer: int | None = None
    weights: str | None = None


class Embedder(Protocol):
    """What the distances need of an embedder."""

    name: str
    sampling_rate: int

    @property
    def identity(self) -> str:
        """Changes whenever embeddings would: the key of the cache."""

    def embed(self, samples: Samples) -> Embeddings:
        """float32 [N] at `sampling_rate` → float32 [n, D]."""


def make_embedder(options: EmbedderOptions) -> Embedder:
    """Loads the embedder that the options name.

    Raises:
        HAFMEvaluationError: its weights cannot be had, or there is no such model.
    """
    if options.kind == "tokenizer":
        return TokenizerEmbedder()
    if options.kind == "vggish":
        return VGGishEmbedder(vggish.load_vggish(options.weights))
    return TransformersEmbedder(options.kind, options.layer)


class VGGishEmbedder:
    """VGGish as google-research's frechet_audio_distance uses it, with which its numbers compare.

    Windows of 1 s every 0.5 s of sound divided by max(0.1, peak); embeddings before the last ReLU.
    """

    sampling_rate = vggish.SAMPLING_RATE

    def __init__(self, network: vggish.VGGish) -> None:
        self.network = network
        self.name = (
            f"VGGish ({WINDOW_SECONDS:g} s windows every {HOP_SECONDS:g} s, sound divided by "
            f"max({LEAST_PEAK:g}, peak), before the last ReLU; as google-research's frechet_audio_distance)"
        )

    @property
    def identity(self) -> str:
        """Way of use and weights."""
        return f"vggish-{fingerprint(self.network)}"

    @torch.no_grad()
    def embed(self, samples: Samples) -> Embeddings:
        """float32 [N] at 16 kHz → float32 [n, 128]; a clip shorter than a window has none."""
        samples = samples / max(LEAST_PEAK, float(np.abs(samples).max(initial=0.0)))
        windows = cut_windows(samples, self.sampling_rate, WINDOW_SECONDS, HOP_SECONDS)
        empty = np.empty((0, vggish.EXAMPLE_FRAMES, vggish.MEL_BANDS), np.float32)
        examples = np.concatenate([empty, *(vggish.log_mel_examples(window)[:1] for window in windows)])
        return torch.cat([self.network(batch) for batch in torch.from_numpy(examples).split(WINDOWS_AT_ONCE)]).numpy()


class TokenizerEmbedder:
    """The bundled semantic tokenizer's hidden states, averaged over 1 s every 0.5 s: the embedder that runs offline.

    It was trained on the song corpus of the bundled model, so its distances rank systems; they are not comparable
    with VGGish's, nor with those of another tokenizer.
    """

    def __init__(self) -> None:
        from ..pretrained.loading import BUNDLED_MODEL, load_strictly
        from ..tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel

        loaded = load_strictly(
            HAFMSemanticTokenizerModel, BUNDLED_MODEL, subfolder="semantic_tokenizer", dtype=torch.float32
        )
        self.tokenizer: Any = loaded.eval()
        self.sampling_rate = int(self.tokenizer.config.sampling_rate)
        self.name = (
            f"semantic tokenizer of {BUNDLED_MODEL.name}, layer {self.tokenizer.config.layer}, "
            f"mean over {WINDOW_SECONDS:g} s every {HOP_SECONDS:g} s"
        )

    @property
    def identity(self) -> str:
        """Weights and windows."""
        return f"tokenizer-{WINDOW_SECONDS:g}-{HOP_SECONDS:g}-{fingerprint(self.tokenizer)}"

    @torch.no_grad()
    def embed(self, samples: Samples) -> Embeddings:
        """float32 [N] at 16 kHz → float32 [n, D]; a clip shorter than a window gives one embedding."""
        features = self.tokenizer.extract_features(torch.from_numpy(samples)).numpy()
        rate = self.tokenizer.config.frame_rate
        size, hop = round(WINDOW_SECONDS * rate), round(HOP_SECONDS * rate)
        starts = range(0, max(len(features) - size, 0) + 1, hop)
        return np.stack([features[start : start + size].mean(axis=0) for start in starts])


class TransformersEmbedder:
    """Any audio model of transformers: each second, every half second, by itself; its hidden state averaged over time.

    Args:
        name: hub id or folder.
        layer: hidden state; the last if None. Models with audio features of their own (CLAP) give those.
    """

    def __init__(self, name: str, layer: int | None = None) -> None:
        from transformers import AutoFeatureExtractor, AutoModel

        try:
            self.extractor: Any = AutoFeatureExtractor.from_pretrained(name, trust_remote_code=False)
            self.model: Any = AutoModel.from_pretrained(name, use_safetensors=True, trust_remote_code=False).eval()
        except (OSError, ValueError) as error:
            raise HAFMEvaluationError(
                f"The embedder {name} cannot be loaded ({str(error).splitlines()[0]}); give a folder or the id of an "
                "audio model with safetensors, or use --embedder tokenizer, which needs no download."
            ) from error
        self.layer = layer
        self.sampling_rate = int(self.extractor.sampling_rate)
        shown = "last layer" if layer is None else f"layer {layer}"
        called = Path(name).name if Path(name).is_dir() else name
        self.name = f"{called}, {shown}, {WINDOW_SECONDS:g} s windows every {HOP_SECONDS:g} s"

    @property
    def identity(self) -> str:
        """Weights, layer and windows."""
        return f"transformers-{self.layer}-{WINDOW_SECONDS:g}-{HOP_SECONDS:g}-{fingerprint(self.model)}"

    @torch.no_grad()
    def embed(self, samples: Samples) -> Embeddings:
        """float32 [N] at `sampling_rate` → float32 [n, D]; a clip shorter than a window gives one embedding."""
        windows = cut_windows(samples, self.sampling_rate, WINDOW_SECONDS, HOP_SECONDS) or [samples]
        parts = []
        for start in range(0, len(windows), WINDOWS_AT_ONCE):
            batch = windows[start : start + WINDOWS_AT_ONCE]
            inputs = self.extractor(batch, sampling_rate=self.sampling_rate, return_tensors="pt")
            parts.append(self._states(inputs).float().numpy())
        return np.concatenate(parts)

    def _states(self, inputs: Any) -> torch.Tensor:
        if hasattr(self.model, "get_audio_features"):
            output = self.model.get_audio_features(**inputs)
            return output if isinstance(output, torch.Tensor) else output.pooler_output
        output = self.model(**inputs, output_hidden_states=self.layer is not None)
        states = output.last_hidden_state if self.layer is None else output.hidden_states[self.layer]
        return states.flatten(2).mean(dim=2) if states.ndim > 3 else states.mean(dim=1)


def cut_windows(samples: Samples, rate: int, seconds: float, hop: float) -> list[Samples]:
    """Whole windows of float32 [N] at `rate` Hz; a remnant at the end is left out."""
    size, step = round(seconds * rate), round(hop * rate)
    return [samples[start : start + size] for start in range(0, len(samples) - size + 1, step)]
