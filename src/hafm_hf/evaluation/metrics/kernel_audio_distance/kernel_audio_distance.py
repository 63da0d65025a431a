# SPDX-License-Identifier: Apache-2.0
"""Kernel audio distance as a module of `evaluate`.

evaluate.load("<this folder>").compute(predictions=[samples, …], references=[samples, …], sampling_rate=24000)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hafm_hf.evaluation import modules
from hafm_hf.evaluation.embedders import EmbedderOptions, make_embedder
from hafm_hf.evaluation.kernel import kernel_audio_distance, median_bandwidth

DESCRIPTION = """\
Unbiased squared maximum mean discrepancy × 100 between the embeddings of two sets of recordings, Gaussian kernel.
"""
INPUTS_DESCRIPTION = """\
Args:
    predictions: list of recordings, float [N] each.
    references: list of recordings; their number may differ.
    sampling_rate: Hz of all of them.
    embedder: tokenizer (the bundled one, offline), vggish-original, vggish-port, vggish-torchvggish, vggish-audioset,
        or a transformers audio model.
    vggish_weights, vggish_pca: files of VGGish's weights.
    bandwidth: of the kernel; the median distance within the references if not given.
Returns:
    kernel_audio_distance, bandwidth, n, n_references, embedder.
"""
CITATION = """\
@article{chung2025kad, title={KAD: No More FAD! An Effective and Efficient Evaluation Metric for Audio Generation},
author={Chung, Yoonjin and Eu, Pilsun and Lee, Junwon and Choi, Keunwoo and Nam, Juhan and Chon, Ben Sangbae},
journal={arXiv:2502.15602}, year={2025}}
"""


class KernelAudioDistance(modules.RecordingsMetric):
    """Embeds both sets and compares them by a kernel."""

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
        bandwidth: float | None = None,
    ) -> dict[str, Any]:
        loaded = make_embedder(EmbedderOptions(embedder, weights=vggish_weights, pca=vggish_pca))

        def embed(recordings: Any) -> np.ndarray:
            sounds = modules.at_rate(recordings, sampling_rate, loaded.sampling_rate)
            return np.concatenate([loaded.embed(sound) for sound in sounds])

        wanted, found = embed(references), embed(predictions)
        sigma = median_bandwidth(wanted) if bandwidth is None else bandwidth
        return {
            "kernel_audio_distance": kernel_audio_distance(wanted, found, sigma),
            "bandwidth": sigma,
            "n": len(found),
            "n_references": len(wanted),
            "embedder": loaded.name,
        }
