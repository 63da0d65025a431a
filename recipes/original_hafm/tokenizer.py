# SPDX-License-Identifier: Apache-2.0
"""The semantic tokenizer of a k-means: which HuBERT, which layer, and whether its input is normalised.

Centroids are nearest to the features that they were fitted to: of all candidates, the right one leaves the least of
the variance of real pairs' features. The k-means also knows how far its own frames were from their centroids. Songs
differ by more in that than neighbouring layers do, so it only says whether any candidate is the right one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fit_kmeans import tokenizer_from_hubert
from hafm_hf.corpus.tokenizing import fit_rate
from hafm_hf.tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel

from .evidence import SEGMENT_SECONDS, STANDARD_ERRORS
from .kmeans import KMeans

# HuBERTs by the width of their features
PROPOSED = {768: "facebook/hubert-base-ls960", 1024: "facebook/hubert-large-ll60k"}
# hidden states to try; the paper's first
LAYERS = (9, 8, 10)
# largest ratio of the distances of real pairs to those that the k-means was fitted with: songs differ
MOST_RATIO = 1.5
MOST_SEGMENTS = 8
# noise added to vocals by the authors' inference
NOISE = 0.01


@dataclass
class ChosenTokenizer:
    """A semantic tokenizer with its centroids.

    Args:
        model: the tokenizer.
        hubert: hub id or folder of its HuBERT.
        evidence: what speaks for it, one line for each candidate.
        decided: whether the distances distinguish it from the other candidates.
    """

    model: HAFMSemanticTokenizerModel
    hubert: str
    evidence: list[str]
    decided: bool = True

    @property
    def description(self) -> str:
        """HuBERT, layer and normalisation in words."""
        return _described(self.hubert, self.model)


def proposed_hubert(kmeans: KMeans) -> str:
    """The HuBERT that a k-means of this width suggests.

    Raises:
        ValueError: none is known.
    """
    width = kmeans.centroids.shape[1]
    if width not in PROPOSED:
        known = " or ".join(map(str, PROPOSED))
        raise ValueError(f"The k-means has {width} dimensions, not {known}; name its HuBERT by --hubert.")
    return PROPOSED[width]


def tokenizer_of(kmeans: KMeans, hubert: str, layer: int, normalize: bool | None = None) -> HAFMSemanticTokenizerModel:
    """The tokenizer of a HuBERT's layer and the centroids.

    Args:
        kmeans: the k-means.
        hubert: hub id or folder.
        layer: number of the hidden state.
        normalize: whether input is normalised; None: as the HuBERT was trained.

    Raises:
        ValueError: the HuBERT has another width, or lacks the layer.
        OSError: it cannot be loaded.
    """
    clusters, width = kmeans.centroids.shape
    fields = {}
    if normalize is not None:
        fields = {"do_normalize": normalize}
    model = tokenizer_from_hubert(hubert, layer=layer, num_clusters=clusters, noise_std=NOISE, **fields)
    if model.centroids.shape[1] != width:
        raise ValueError(
            f"The k-means has {width} dimensions, and {hubert} has {model.centroids.shape[1]}; name another HuBERT by "
            "--hubert."
        )
    model.centroids.copy_(torch.from_numpy(kmeans.centroids))
    return model


def choose_tokenizer(
    kmeans: KMeans,
    huberts: Sequence[str],
    layers: Sequence[int],
    segments: Sequence[tuple[str, np.ndarray, np.ndarray, int]],
    progress: Callable[[str], object] = lambda _: None,
) -> ChosenTokenizer:
    """Chooses HuBERT, layer and normalisation by the distance of real frames to the centroids.

    Args:
        kmeans: with the distance that it was fitted with, where its file says.
        huberts: hub ids or folders; the first is preferred.
        layers: hidden states; the first is preferred.
        segments: of real pairs (`evidence.read_pairs`).
        progress: called with a sentence before each HuBERT.

    Raises:
        ValueError: no candidate is near the distance to expect, or a HuBERT has another width than the k-means.
    """
    # evenly over all of them
    indices = torch.linspace(0, len(segments) - 1, min(MOST_SEGMENTS, len(segments))).long()
    measured_segments = [segments[index] for index in indices]
    candidates: list[tuple[str, int, bool, Distances]] = []
    for hubert in huberts:
        for layer in layers:
            progress(f"Distances to the centroids of {hubert}, layer {layer}")
            model = tokenizer_of(kmeans, hubert, layer)
            # as the HuBERT was trained, which is preferred, and the other way round
            usual = model.config.do_normalize
            for normalize in (usual, not usual):
                model.config.do_normalize = normalize
                candidates.append((hubert, layer, normalize, _distances(model, measured_segments)))
    # by logarithms: one quiet segment with ten times the share of the others must not outweigh them
    best = min(
        (distances for *_, distances in candidates), key=lambda distances: float(np.log(distances.share).mean())
    )
    # those that cannot be distinguished from the best; the first is preferred
    indistinct = []
    for candidate in candidates:
        *_, distances = candidate
        if distances is best or not _differ(np.log(distances.share / best.share)):
            indistinct.append(candidate)
    hubert, layer, normalize, distances = indistinct[0]
    expected = kmeans.distance
    expectation = ""
    if expected is not None:
        expectation = f", {expected:.4g} expected"
    evidence = []
    for tried_hubert, tried_layer, normalized, measured in candidates:
        evidence.append(
            f"{tried_hubert}, layer {tried_layer}, {_input(normalized)}: {measured.share.mean():.1%} of the variance "
            f"is left ({measured.squared.mean():.4g} per frame{expectation})"
        )
    if expected is not None and abs(math.log(float(distances.squared.mean()) / expected)) > math.log(MOST_RATIO):
        raise ValueError(
            f"The k-means was fitted to frames {expected:.4g} from their centroids, and the best candidate gives "
            f"{distances.squared.mean():.4g}: another HuBERT or another k-means is meant; name it by --hubert, or its "
            "--layer.\n" + "\n".join(evidence)
        )
    model = tokenizer_of(kmeans, hubert, layer, normalize)
    return ChosenTokenizer(model, hubert, evidence, decided=len(indistinct) == 1)


@dataclass(frozen=True)
class Distances:
    """Squared distances of the frames of N waveforms to their centroids.

    Args:
        squared (float64 [N]): the mean of each waveform.
        share (float64 [N]): that mean divided by the variance of the waveform's frames.
    """

    squared: np.ndarray
    share: np.ndarray


def _distances(
    model: HAFMSemanticTokenizerModel, segments: Sequence[tuple[str, np.ndarray, np.ndarray, int]]
) -> Distances:
    """How far the features of segments are from a tokenizer's centroids.

    Args:
        model: the tokenizer.
        segments: (name, vocal, instrumental, rate in Hz) of each (`evidence.read_pairs`).

    Returns:
        For each segment, first of its vocal, with noise added (seeded by the segment's index), then of
        its instrumental: the mean squared distance of its frames' features to the nearest centroid, and that as a
        share of the features' variance.
    """
    squared = []
    share = []
    for number, (_, vocal, instrumental, rate) in enumerate(segments):
        for sound, noise in ((vocal, True), (instrumental, False)):
            waveform = torch.from_numpy(fit_rate(sound, rate, model.config.sampling_rate, SEGMENT_SECONDS))
            features = model.extract_features(waveform, noise=noise, seed=number if noise else None)
            nearest = torch.cdist(features, model.centroids).min(1).values
            squared_distance = float(nearest.pow(2).mean())
            squared.append(squared_distance)
            share.append(squared_distance / float(features.var(dim=0).sum()))
    return Distances(np.array(squared), np.array(share))


def _differ(differences: np.ndarray) -> bool:
    """Whether the mean of paired differences (float64 [N]) is more than `STANDARD_ERRORS` from zero."""
    error = differences.std(ddof=1) / math.sqrt(len(differences))
    return bool(abs(differences.mean()) > STANDARD_ERRORS * error)


def _input(normalize: bool) -> str:
    """In words, whether waveforms are normalised."""
    return "normalised input" if normalize else "input as it is"


def _described(hubert: str, model: HAFMSemanticTokenizerModel) -> str:
    """HuBERT, layer and normalisation of a tokenizer in words."""
    return f"{hubert}, layer {model.config.layer}, {_input(model.config.do_normalize)}"
