# SPDX-License-Identifier: Apache-2.0
"""Fréchet distance between two sets of embeddings, with bootstrap intervals; sets that are too small are rejected.

Dimensions: n embeddings of width D. Everything is computed in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .statistics import HAFMEvaluationError, bootstrap_statistic

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Gaussian:
    """Mean (float64 [D]) and unbiased covariance (float64 [D, D]) of `n` embeddings."""

    mean: Array
    covariance: Array
    n: int


def fit_gaussian(embeddings: NDArray[np.floating]) -> Gaussian:
    """Mean and covariance of embeddings (float [n, D]).

    Raises:
        HAFMEvaluationError: n ≤ D, so that the covariance is singular and the distance meaningless; NaN or infinite.
    """
    values = np.asarray(embeddings, np.float64)
    if values.ndim != 2:
        raise HAFMEvaluationError(f"Embeddings have shape {values.shape}; they must be [embeddings, width].")
    count, width = values.shape
    if count <= width:
        raise HAFMEvaluationError(
            f"{count} embeddings of width {width} are too few for a Fréchet distance, which needs more than {width}; "
            "take more or longer clips, a smaller embedder, or the kernel distance."
        )
    if not np.isfinite(values).all():
        raise HAFMEvaluationError("There are NaN or infinite embeddings; check the audio and the embedder's weights.")
    return Gaussian(values.mean(axis=0), np.cov(values, rowvar=False), count)


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """|μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁^½ Σ₂ Σ₁^½)^½) (Dowson and Landau, 1982).

    The product under the root is symmetric, so its eigenvalues are real, and negative ones are rounding errors. The
    usual formula takes the root of Σ₁Σ₂, which is not symmetric, and fails on nearly singular covariances.

    Raises:
        HAFMEvaluationError: the widths differ.
    """
    if first.mean.shape != second.mean.shape:
        raise HAFMEvaluationError(
            f"The embeddings are of width {len(first.mean)} and {len(second.mean)}; use one embedder for both sets."
        )
    values, vectors = np.linalg.eigh(first.covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    product = root @ second.covariance @ root
    eigenvalues = np.linalg.eigvalsh((product + product.T) / 2)
    shared = np.sqrt(np.maximum(eigenvalues, 0.0)).sum()
    difference = first.mean - second.mean
    total = difference @ difference + np.trace(first.covariance) + np.trace(second.covariance) - 2 * shared
    return max(float(total), 0.0)


@dataclass(frozen=True)
class FrechetResult:
    """A Fréchet distance with its uncertainty.

    Args:
        distance: distance over all embeddings.
        low, high: 95 % bootstrap interval of `distance` over songs; NaN if not computed.
    """

    distance: float
    low: float
    high: float


def frechet_audio_distance(
    reference: Sequence[NDArray[np.floating]],
    evaluated: Sequence[NDArray[np.floating]],
    *,
    seed: int = 0,
    resamples: int = 0,
    songs: Sequence[str] | None = None,
) -> FrechetResult:
    """Fréchet distance between two sets of clips.

    Args:
        reference, evaluated: the embeddings of each clip, float [n_i, D].
        seed: seed of the bootstrap.
        resamples: bootstrap resamples of the evaluated songs; 0 skips the interval. Resampling leaves fewer distinct
            songs, which increases the distance, so the interval is shifted by the difference between the resamples'
            median and the distance.
        songs: the song of each evaluated clip; by default, each clip is its own song.

    Raises:
        HAFMEvaluationError: too few embeddings in either set.
    """
    if not len(reference) or not len(evaluated):
        raise HAFMEvaluationError("There are no clips to compare; check the folder.")
    wanted = fit_gaussian(np.concatenate(list(reference)))
    distance = frechet_distance(wanted, fit_gaussian(np.concatenate(list(evaluated))))
    low = high = float("nan")
    whose = [str(index) for index in range(len(evaluated))] if songs is None else songs
    if resamples and len(set(whose)) > 1:
        clips = [np.asarray(clip, np.float64) for clip in evaluated]

        def statistic(drawn: list[Array]) -> float:
            # without fit_gaussian's check of n: a resampled set repeats clips, and only the spread matters
            values = np.concatenate(drawn)
            return frechet_distance(wanted, Gaussian(values.mean(axis=0), np.cov(values, rowvar=False), len(values)))

        *ends, median = bootstrap_statistic(clips, whose, statistic, seed, resamples)
        low, high = (max(end - median + distance, 0.0) for end in ends)
    return FrechetResult(distance, low, high)
