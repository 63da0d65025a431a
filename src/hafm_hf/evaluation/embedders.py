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
# keeps silence from being divided by zero
TINY = 1e-12
# windows in a batch
WINDOWS_AT_ONCE = 16


@dataclass(frozen=True)
class VGGishMode:
    """A way in which VGGish is used: numbers of different ways do not compare.

    Args:
        stands_for: whose numbers it gives.
        window_seconds, hop_seconds: from one example to the next.
        least_peak: sound is divided by its peak, or by this where the peak is lower; None leaves it as it is.
        rectified: whether embeddings are taken behind the last ReLU.
        postprocessed: whether they are whitened and quantised to 8 bits.
    """

    stands_for: str
    window_seconds: float = 0.96
    hop_seconds: float = 0.96
    least_peak: float | None = None
    rectified: bool = False
    postprocessed: bool = False

    def __str__(self) -> str:
        level = "" if self.least_peak is None else f", sound divided by max({self.least_peak:g}, peak)"
        kind = f"{'behind' if self.rectified else 'before'} the last ReLU"
        kind = "whitened and quantised" if self.postprocessed else f"embeddings {kind}"
        return f"{self.window_seconds:g} s windows every {self.hop_seconds:g} s{level}, {kind}; {self.stands_for}"


VGGISH_MODES = {
    "original": VGGishMode("google-research's frechet_audio_distance", 1.0, 0.5, least_peak=0.1),
    "port": VGGishMode("the package frechet_audio_distance as it comes"),
    "torchvggish": VGGishMode("torchvggish without post-processing", rectified=True),
    "audioset": VGGishMode("AudioSet's released embeddings", 1.0, 0.5, 0.0, rectified=True, postprocessed=True),
}


@dataclass(frozen=True)
class EmbedderOptions:
    """Which embedder to use; small enough to send to a worker.

    Args:
        kind: "tokenizer", "vggish-" and a mode of `VGGISH_MODES`, or the hub id or folder of an audio model.
        layer: of a transformers model, the hidden state to take; the last if None.
        weights, pca: files of VGGish's weights and post-processing; downloaded if None.
        model: composite whose semantic tokenizer is used; the bundled one if None.
    """

    kind: str = "tokenizer"
    layer: int | None = None
    weights: str | None = None
    pca: str | None = None
    model: str | None = None


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
        return TokenizerEmbedder(options.model)
    if options.kind.startswith("vggish"):
        mode = options.kind.partition("-")[2] or "original"
        if mode not in VGGISH_MODES:
            known = ", ".join(f"vggish-{name}" for name in VGGISH_MODES)
            raise HAFMEvaluationError(f"VGGish has no mode {mode!r}; choose one of {known}.")
        postprocess = VGGISH_MODES[mode].postprocessed
        return VGGishEmbedder(mode, *vggish.load_vggish(options.weights, options.pca, postprocess))
    return TransformersEmbedder(options.kind, options.layer)


class VGGishEmbedder:
    """VGGish in one of the ways in which it is used (`VGGISH_MODES`)."""

    sampling_rate = vggish.SAMPLING_RATE

    def __init__(self, mode: str, network: vggish.VGGish, postprocessor: vggish.Postprocessor | None = None) -> None:
        self.mode, self.network, self.postprocessor = VGGISH_MODES[mode], network, postprocessor
        self.name = f"VGGish, mode {mode} ({self.mode})"

    @property
    def identity(self) -> str:
        """Mode and weights."""
        modules = [self.network, *([self.postprocessor] if self.postprocessor else [])]
        return f"{self.name} {'-'.join(map(fingerprint, modules))}"

    @torch.no_grad()
    def embed(self, samples: Samples) -> Embeddings:
        """float32 [N] at 16 kHz → float32 [n, 128]; a clip shorter than a window has none."""
        if self.mode.least_peak is not None:
            samples = samples / max(self.mode.least_peak, float(np.abs(samples).max(initial=0.0)), TINY)
        if self.mode.window_seconds == vggish.EXAMPLE_SECONDS:
            examples = vggish.log_mel_examples(samples)
        else:
            windows = cut_windows(samples, self.sampling_rate, self.mode.window_seconds, self.mode.hop_seconds)
            empty = np.empty((0, vggish.EXAMPLE_FRAMES, vggish.MEL_BANDS), np.float32)
            examples = np.concatenate([empty, *(vggish.log_mel_examples(window)[:1] for window in windows)])
        batches = torch.from_numpy(examples).split(WINDOWS_AT_ONCE)
        embeddings = torch.cat([self.network(batch, self.mode.rectified) for batch in batches])
        return (self.postprocessor(embeddings) if self.postprocessor else embeddings).numpy()


class TokenizerEmbedder:
    """The bundled semantic tokenizer's hidden states, averaged over 1 s every 0.5 s: the embedder that runs offline.

    It was trained on the song corpus of the bundled model, so its distances rank systems; they are not comparable
    with VGGish's, nor with those of another tokenizer.
    """

    def __init__(self, model: str | None = None) -> None:
        from ..pretrained.loading import BUNDLED_MODEL, load_strictly
        from ..tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel

        source = BUNDLED_MODEL if model is None else model
        try:
            loaded = load_strictly(
                HAFMSemanticTokenizerModel, source, subfolder="semantic_tokenizer", dtype=torch.float32
            )
        except OSError as error:
            raise HAFMEvaluationError(f"No semantic tokenizer can be loaded from {source} ({error}).") from error
        self.tokenizer: Any = loaded.eval()
        self.sampling_rate = int(self.tokenizer.config.sampling_rate)
        self.name = (
            f"semantic tokenizer of {Path(source).name}, layer {self.tokenizer.config.layer}, "
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
