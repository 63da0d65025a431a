# SPDX-License-Identifier: Apache-2.0
"""Kernel audio distance: unbiased squared maximum mean discrepancy (MMD²) between two sets of embeddings."""

import numpy as np
from numpy.typing import NDArray

from .statistics import HAFMEvaluationError

# as in the tables of the KAD paper, so that distances are easy to read
SCALE = 100.0
BANDWIDTH_SAMPLES = 2000


def median_bandwidth(reference: NDArray[np.floating], seed: int = 0) -> float:
    """Median distance between reference embeddings (float [n, D], at most 2000 are used), the usual choice of σ."""
    from scipy.spatial.distance import pdist

    values = np.asarray(reference, np.float64)
    if len(values) > BANDWIDTH_SAMPLES:
        values = values[np.random.default_rng(seed).choice(len(values), BANDWIDTH_SAMPLES, replace=False)]
    distances = pdist(values)
    return max(float(np.median(distances)), 1e-6) if len(distances) else 1.0


def kernel_audio_distance(
    reference: NDArray[np.floating], evaluated: NDArray[np.floating], bandwidth: float | None = None
) -> float:
    """Unbiased MMD² × 100 with the Gaussian kernel exp(−|x − y|² / 2σ²) (Chung et al., "KAD", 2025; Gretton, 2012).

    Being unbiased, it needs no extrapolation in n and works for n ≤ D; it may be negative if the sets are alike.

    Args:
        reference, evaluated: float [n, D] and [m, D].
        bandwidth: σ; the median distance within the reference if None.

    Raises:
        HAFMEvaluationError: fewer than two embeddings, or different widths.
    """
    first, second = np.asarray(reference, np.float64), np.asarray(evaluated, np.float64)
    if len(first) < 2 or len(second) < 2:
        raise HAFMEvaluationError(
            f"The sets have {len(first)} and {len(second)} embeddings; the kernel distance needs 2 each."
        )
    if first.shape[1] != second.shape[1]:
        raise HAFMEvaluationError(
            f"The embeddings are of width {first.shape[1]} and {second.shape[1]}; use one embedder for both sets."
        )
    sigma = median_bandwidth(first) if bandwidth is None else bandwidth
    within = sum((_kernel_sum(x, x, sigma) - len(x)) / (len(x) * (len(x) - 1)) for x in (first, second))
    between = _kernel_sum(first, second, sigma) / (len(first) * len(second))
    return SCALE * float(within - 2 * between)


def _kernel_sum(first: NDArray[np.float64], second: NDArray[np.float64], sigma: float) -> float:
    """Sum of the kernel over all pairs, block by block, so that memory grows with n, not with n²."""
    from sklearn.metrics import pairwise_distances_chunked

    blocks = pairwise_distances_chunked(first, second, metric="sqeuclidean", working_memory=64)
    return float(sum(np.exp(-block / (2 * sigma**2)).sum() for block in blocks))
