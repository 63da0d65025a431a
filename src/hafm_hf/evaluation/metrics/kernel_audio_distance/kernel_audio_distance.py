# SPDX-License-Identifier: Apache-2.0
"""Kernel audio distance as a module of `evaluate`.

evaluate.load("<this folder>").compute(predictions=[samples, …], references=[samples, …], sampling_rate=24000)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hafm_hf.evaluation import modules
from hafm_hf.evaluation.kernel import kernel_audio_distance, median_bandwidth

DESCRIPTION = """\
Unbiased squared maximum mean discrepancy × 100 between the embeddings of two sets of recordings, Gaussian kernel.
"""
INPUTS_DESCRIPTION = f"""\
Args:
{modules.EMBEDDER_INPUTS}\
    bandwidth: of the kernel; the median distance within the references if not given.
Returns:
    kernel_audio_distance, bandwidth, n, n_references, embedder.
"""
CITATION = """\
@article{chung2025kad, title={KAD: No More FAD! An Effective and Efficient Evaluation Metric for Audio Generation},
author={Chung, Yoonjin and Eu, Pilsun and Lee, Junwon and Choi, Keunwoo and Nam, Juhan and Chon, Ben Sangbae},
journal={arXiv:2502.15602}, year={2025}}
"""


class KernelAudioDistance(modules.DistanceMetric):
    """Compares both sets by a kernel."""

    description, inputs, citation = DESCRIPTION, INPUTS_DESCRIPTION, CITATION

    def distance(  # type: ignore[override]
        self, wanted: list[np.ndarray], made: list[np.ndarray], bandwidth: float | None = None
    ) -> dict[str, Any]:
        """The distance by `bandwidth`."""
        references, predictions = np.concatenate(wanted), np.concatenate(made)
        sigma = median_bandwidth(references) if bandwidth is None else bandwidth
        return {"kernel_audio_distance": kernel_audio_distance(references, predictions, sigma), "bandwidth": sigma}
