# SPDX-License-Identifier: Apache-2.0
"""Fréchet audio distance as a module of `evaluate`.

evaluate.load("<this folder>").compute(predictions=[samples, …], references=[samples, …], sampling_rate=24000)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hafm_hf.evaluation import modules
from hafm_hf.evaluation.embedders import EmbedderOptions, make_embedder
from hafm_hf.evaluation.frechet import frechet_audio_distance

DESCRIPTION = """\
Fréchet distance between the embeddings of two sets of recordings, with its extrapolation to infinitely many embeddings
and its bootstrap interval over songs. Refused where there are fewer embeddings than dimensions.
"""
INPUTS_DESCRIPTION = """\
Args:
    predictions: list of recordings, float [N] each.
    references: list of recordings; their number may differ.
    sampling_rate: Hz of all of them.
    embedder: tokenizer (the bundled one, offline), vggish-original, vggish-port, vggish-torchvggish, vggish-audioset,
        or a transformers audio model.
    vggish_weights, vggish_pca: files of VGGish's weights.
    songs: names, one a prediction; each is a song of its own if not given.
    resamples: of the bootstrap; 0 leaves the interval out.
    seed: of the bootstrap and the extrapolation.
Returns:
    frechet_audio_distance, frechet_audio_distance_infinite, low, high (None without resamples), n, n_references,
    embedder.
"""
CITATION = """\
@inproceedings{kilgour2019frechet, title={Fr\\'echet Audio Distance: A Reference-Free Metric for Evaluating Music
Enhancement Algorithms}, author={Kilgour, Kevin and Zuluaga, Mauricio and Roblek, Dominik and Sharifi, Matthew},
booktitle={Interspeech}, year={2019}}
"""


class FrechetAudioDistance(modules.RecordingsMetric):
    """Embeds both sets and compares their Gaussians."""

    description, inputs, citation = DESCRIPTION, INPUTS_DESCRIPTION, CITATION

    def _compute(
        self,
        *,
        predictions: Any,
        references: Any,
        sampling_rate: int,
        embedder: str = "tokenizer",
        vggish_weights: str | None = None,
        vggish_pca: str | None = None,
        songs: list[str] | None = None,
        resamples: int = 0,
        seed: int = 0,
    ) -> dict[str, Any]:
        loaded = make_embedder(EmbedderOptions(embedder, weights=vggish_weights, pca=vggish_pca))

        def embed(recordings: Any) -> list[np.ndarray]:
            return [loaded.embed(each) for each in modules.at_rate(recordings, sampling_rate, loaded.sampling_rate)]

        found = frechet_audio_distance(
            embed(references), embed(predictions), seed=seed, resamples=resamples, songs=songs
        )
        return {
            "frechet_audio_distance": found.distance,
            "frechet_audio_distance_infinite": found.infinite,
            "low": None if math.isnan(found.low) else found.low,
            "high": None if math.isnan(found.high) else found.high,
            "n": found.n,
            "n_references": found.n_reference,
            "embedder": loaded.name,
        }
