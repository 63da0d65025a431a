# SPDX-License-Identifier: Apache-2.0
"""Fréchet audio distance as a module of `evaluate`.

evaluate.load("<this folder>").compute(predictions=[samples, …], references=[samples, …], sampling_rate=24000)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hafm_hf.evaluation import modules
from hafm_hf.evaluation.frechet import frechet_audio_distance
from hafm_hf.evaluation.statistics import as_json

DESCRIPTION = """\
Fréchet distance between the embeddings of two sets of recordings, with its bootstrap interval over songs.
Refused where there are fewer embeddings than dimensions.
"""
INPUTS_DESCRIPTION = f"""\
Args:
{modules.EMBEDDER_INPUTS}\
    songs: names, one a prediction; each is a song of its own if not given.
    resamples: of the bootstrap; 0 leaves the interval out.
    seed: of the bootstrap.
Returns:
    frechet_audio_distance, low, high (None without resamples), n, n_references, embedder.
"""
CITATION = """\
@inproceedings{kilgour2019frechet, title={Fr\\'echet Audio Distance: A Reference-Free Metric for Evaluating Music
Enhancement Algorithms}, author={Kilgour, Kevin and Zuluaga, Mauricio and Roblek, Dominik and Sharifi, Matthew},
booktitle={Interspeech}, year={2019}}
"""


class FrechetAudioDistance(modules.DistanceMetric):
    """Compares the Gaussians of both sets."""

    description, inputs, citation = DESCRIPTION, INPUTS_DESCRIPTION, CITATION

    def distance(self, wanted: list[np.ndarray], made: list[np.ndarray], **options: Any) -> dict[str, Any]:
        """The distance by `songs`, `resamples` and `seed`."""
        found = frechet_audio_distance(wanted, made, **options)
        return {"frechet_audio_distance": found.distance} | as_json({"low": found.low, "high": found.high})
