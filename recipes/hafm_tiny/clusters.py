# SPDX-License-Identifier: Apache-2.0
"""k-means in torch, for codebooks and for the clusters that a semantic tokenizer is trained to predict.

Dimensions: M vectors, D their width, K centroids.
"""

import torch


def nearest(vectors: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """Index of the centroid nearest to each vector, int64 [M].

    Args:
        vectors (float [M, D]): M vectors of width D.
        centroids (float [K, D]): K centroids.
    """
    # squared distances, but for the vectors' own norms, which do not matter
    return torch.argmin(centroids.pow(2).sum(1) - 2 * vectors @ centroids.T, dim=1)


def kmeans(vectors: torch.Tensor, num_clusters: int, iterations: int, generator: torch.Generator) -> torch.Tensor:
    """Lloyd's k-means, initialised with random vectors.

    Args:
        vectors (float [M, D]): M vectors of width D.
        num_clusters: number of clusters.
        iterations: number of iterations.
        generator: draws the vectors that become the initial centroids.

    Returns:
        Centroids, float [num_clusters, D].

    Raises:
        ValueError: there are fewer vectors than clusters.
    """
    if len(vectors) < num_clusters:
        raise ValueError(f"{len(vectors)} vectors cannot make {num_clusters} clusters: raise --start_batches.")
    centroids = vectors[torch.randperm(len(vectors), generator=generator)[:num_clusters].to(vectors.device)].clone()
    for _ in range(iterations):
        codes = nearest(vectors, centroids)
        counts = torch.bincount(codes, minlength=num_clusters)
        sums = torch.zeros_like(centroids).index_add_(0, codes, vectors)
        # a cluster without vectors stays where it is
        used = counts > 0
        centroids[used] = sums[used] / counts[used].unsqueeze(1)
    return centroids
