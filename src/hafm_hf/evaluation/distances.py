# SPDX-License-Identifier: Apache-2.0
"""Distances between two sets of embeddings: Fréchet and kernel distance, density and coverage, prompt adherence.

The Fréchet distance, and prompt adherence, which is made of it, refuse sets that are too small; the kernel distance,
an unbiased squared maximum mean discrepancy (MMD²), need not. Dimensions: n embeddings of width D.
Everything is computed in float64.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .statistics import HAFMEvaluationError, Interval, bootstrap_statistic

# of kernel distances, so that they are easy to read; the tables of the KAD paper have × 100
SCALE = 1000.0
# number of embeddings from which the kernel's bandwidth is estimated, at most
BANDWIDTH_SAMPLES = 2000
# neighbours whose distance is the radius of a reference embedding, as in the paper on density and coverage
NEIGHBOURS = 5
# memory for a block of pairwise distances, in MiB
BLOCK_MIB = 64

Array = NDArray[np.float64]
# mean (float64 [D]) and unbiased covariance (float64 [D, D])
Gaussian = tuple[Array, Array]


def fit_gaussian(embeddings: NDArray[np.floating]) -> Gaussian:
    """Fits a Gaussian to embeddings.

    Args:
        embeddings (float [n, D]): n embeddings of width D.

    Returns:
        Mean (float64 [D]) and unbiased covariance (float64 [D, D]).

    Raises:
        HAFMEvaluationError: n ≤ D, so that the covariance is singular and a Fréchet distance meaningless; or some
            embeddings are NaN or infinite.
    """
    values = np.asarray(embeddings, np.float64)
    count, width = values.shape
    if count <= width:
        raise HAFMEvaluationError(
            f"{count} embeddings of width {width} are too few for a Fréchet distance, which needs more than {width}; "
            "take more or longer clips, a smaller embedder, or the kernel distance."
        )
    if not np.isfinite(values).all():
        raise HAFMEvaluationError("There are NaN or infinite embeddings; check the audio and the embedder's weights.")
    return values.mean(axis=0), np.cov(values, rowvar=False)


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """Fréchet distance between two Gaussians, each (mean μ, float64 [D]; covariance Σ, float64 [D, D]).

    |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁^½ Σ₂ Σ₁^½)^½) (Dowson and Landau, 1982).

    The product under the root is symmetric, so its eigenvalues are real, and negative ones are rounding errors. The
    usual formula takes the root of Σ₁Σ₂, which is not symmetric, and fails on nearly singular covariances.

    Raises:
        HAFMEvaluationError: the widths differ.
    """
    if len(first[0]) != len(second[0]):
        raise HAFMEvaluationError(
            f"The embeddings are of width {len(first[0])} and {len(second[0])}; use one embedder for both sets."
        )
    first_mean, first_covariance = first
    second_mean, second_covariance = second
    # Σ₁^½
    values, vectors = np.linalg.eigh(first_covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    product = root @ second_covariance @ root
    # made exactly symmetric, as it is but for rounding
    eigenvalues = np.linalg.eigvalsh((product + product.T) / 2)
    trace_of_root = np.sqrt(np.maximum(eigenvalues, 0.0)).sum()
    difference = first_mean - second_mean
    total = difference @ difference + np.trace(first_covariance) + np.trace(second_covariance) - 2 * trace_of_root
    return max(float(total), 0.0)


def frechet_audio_distance(
    reference: Sequence[NDArray[np.floating]],
    evaluated: Sequence[NDArray[np.floating]],
    songs: Sequence[str],
    *,
    seed: int = 0,
    resamples: int = 0,
) -> Interval:
    """Fréchet distance between two sets of clips, with its 95 % bootstrap interval over songs.

    Args:
        reference, evaluated: the embeddings of each clip, float [embeddings, width].
        songs: the song of each evaluated clip.
        seed: seed of the bootstrap.
        resamples: bootstrap resamples of the evaluated songs; 0 skips the interval, whose ends are then NaN.
            Resampling leaves fewer distinct songs, which increases the distance, so the interval is shifted back by
            the resamples' median minus the distance.

    Raises:
        HAFMEvaluationError: too few embeddings in either set.
    """
    fitted = fit_gaussian(np.concatenate(list(reference)))
    distance = frechet_distance(fitted, fit_gaussian(np.concatenate(list(evaluated))))
    low = float("nan")
    high = float("nan")
    count = len(set(songs))
    if resamples and count > 1:
        clips = [np.asarray(clip, np.float64) for clip in evaluated]

        def statistic(drawn: list[Array]) -> float:
            """Distance of the drawn clips (float64 [embeddings, width] each) from the reference."""
            # without fit_gaussian's check of n: a resampled set repeats clips, and only the spread matters
            values = np.concatenate(drawn)
            return frechet_distance(fitted, (values.mean(axis=0), np.cov(values, rowvar=False)))

        low, high, median = bootstrap_statistic(clips, songs, statistic, seed, resamples)
        low = max(low - median + distance, 0.0)
        high = max(high - median + distance, 0.0)
    return Interval(distance, low, high, len(evaluated), count)


def median_bandwidth(reference: NDArray[np.floating], seed: int = 0) -> float:
    """The usual bandwidth σ for `kernel_audio_distance`: the median distance between reference embeddings.

    Args:
        reference (float [n, D]): n embeddings of width D.
        seed: of the choice of 2000 of them, if there are more.

    Returns:
        At least 1e-6.
    """
    from scipy.spatial.distance import pdist

    values = np.asarray(reference, np.float64)
    if len(values) > BANDWIDTH_SAMPLES:
        values = values[np.random.default_rng(seed).choice(len(values), BANDWIDTH_SAMPLES, replace=False)]
    # equal embeddings have distance 0, and the kernel divides by the bandwidth
    return max(float(np.median(pdist(values))), 1e-6)


def kernel_audio_distance(reference: NDArray[np.floating], evaluated: NDArray[np.floating], bandwidth: float) -> float:
    """Unbiased MMD² × 1000 with the Gaussian kernel exp(−|x − y|² / 2σ²) (Chung et al., "KAD", 2025; Gretton, 2012).

    Being unbiased, it needs no extrapolation in n and works for n ≤ D; it may be negative if the sets are alike.

    Args:
        reference, evaluated: n and m embeddings of width D, float [n, D] and [m, D]; at least two each.
        bandwidth: σ, such as `median_bandwidth` of the reference.
    """
    first = np.asarray(reference, np.float64)
    second = np.asarray(evaluated, np.float64)
    within = 0.0
    for values in (first, second):
        # without the pairs of an embedding with itself, whose kernel is 1
        pairs = _kernel_sum(values, values, bandwidth) - len(values)
        within += pairs / (len(values) * (len(values) - 1))
    between = _kernel_sum(first, second, bandwidth) / (len(first) * len(second))
    return SCALE * float(within - 2 * between)


def _kernel_sum(first: Array, second: Array, sigma: float) -> float:
    """Sum of the Gaussian kernel of bandwidth `sigma` over all pairs of embeddings (float64 [n, D] and [m, D]).

    It goes block by block, so that memory grows with n, not with n · m.
    """
    from sklearn.metrics import pairwise_distances_chunked

    blocks = pairwise_distances_chunked(first, second, metric="sqeuclidean", working_memory=BLOCK_MIB)
    return float(sum(np.exp(-block / (2 * sigma**2)).sum() for block in blocks))


def density_and_coverage(
    reference: NDArray[np.floating], evaluated: NDArray[np.floating], neighbours: int = NEIGHBOURS
) -> tuple[float, float]:
    """Density and coverage (Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative Models", 2020).

    Each reference embedding has a ball that reaches to its `neighbours`-th nearest reference embedding. Density is how
    many balls hold an evaluated embedding, on average, divided by `neighbours`: about 1 for the reference's own
    distribution, more where only its densest parts are met. Coverage is the share of balls that hold at least one.

    Args:
        reference, evaluated: n and m embeddings of width D, float [n, D] and [m, D].
        neighbours: which nearest neighbour a ball reaches to; the paper's k.

    Returns:
        Density (0 or more), and coverage (0 to 1).

    Raises:
        HAFMEvaluationError: n ≤ `neighbours`, or m = 0.
    """
    from sklearn.metrics import pairwise_distances_chunked
    from sklearn.neighbors import NearestNeighbors

    references = np.asarray(reference, np.float64)
    candidates = np.asarray(evaluated, np.float64)
    if len(references) <= neighbours or not len(candidates):
        raise HAFMEvaluationError(
            f"{len(references)} reference and {len(candidates)} evaluated embeddings are too few for density and "
            f"coverage, which need more than {neighbours} and at least one; take more clips."
        )
    # without an argument, kneighbors leaves out each point itself
    distances, _ = NearestNeighbors(n_neighbors=neighbours).fit(references).kneighbors()
    radii = distances[:, -1]
    # how many evaluated embeddings each ball holds, [n]
    points_in_balls = np.zeros(len(references), dtype=np.int64)
    # block by block, [evaluated embeddings of the block, n], so that memory grows with n, not with n · m
    for block in pairwise_distances_chunked(candidates, references, working_memory=BLOCK_MIB):
        points_in_balls += (block < radii).sum(axis=0)
    density = float(points_in_balls.sum() / (neighbours * len(candidates)))
    coverage = float((points_in_balls > 0).mean())
    return density, coverage


def prompt_adherence(mixes: Gaussian, matched: Gaussian, shuffled: Gaussian) -> float:
    """Accompaniment prompt adherence: 1 for mixes as coherent as `matched`, 0 for mixes like `shuffled`.

    ½ + (d(C, R′) − d(C, R)) / (2 d(R, R′)), clipped to 0 … 1, with the Fréchet distance d (Grachten and Nistal,
    "Accompaniment Prompt Adherence", arXiv 2503.06346).

    Args:
        mixes: C, of voices with their candidates.
        matched: R, of voices with the accompaniments of their songs.
        shuffled: R′, of voices with accompaniments of other songs.

    Returns:
        0 to 1; NaN where `matched` and `shuffled` don't differ.

    Raises:
        HAFMEvaluationError: the widths differ.
    """
    span = frechet_distance(matched, shuffled)
    if span == 0.0:
        return float("nan")
    nearer = frechet_distance(mixes, shuffled) - frechet_distance(mixes, matched)
    return float(np.clip(0.5 + nearer / (2 * span), 0.0, 1.0))
