"""Fit the k-means of a semantic tokenizer on one layer of a HuBERT, over vocals and instrumentals together.

    python recipes/fit_kmeans.py --hubert RUN/hubert --layer 5 --corpus CORPUS --out TOKENIZER
    python recipes/fit_kmeans.py --hubert facebook/hubert-large-ll60k --layer 9 --corpus CORPUS --out TOKENIZER

The paper's tokens share one set of 500 centroids between the two kinds of audio; vocals get the noise that they get at
generation. Features of a random sample of clips fill a reservoir, MiniBatchKMeans (k-means++) is fitted to it, and
TOKENIZER is a folder that HAFMSemanticTokenizer.from_pretrained reads, with figures.json beside the weights.
"""

import argparse
import json
import logging
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import MiniBatchKMeans

from hafm_hf.semantic_tokenizer_hafm import HAFMSemanticTokenizer
from hafm_hf.training.songs import PCM_SCALE, SongPool

logger = logging.getLogger("fit_kmeans")


def parse_arguments() -> argparse.Namespace:
    """Command line of this recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hubert", required=True, help="hub id or folder of a HuBERT")
    parser.add_argument("--layer", type=int, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clusters", type=int, default=500)
    parser.add_argument("--clips", type=int, default=600, help="of each kind of audio")
    parser.add_argument("--seconds", type=float, default=12.0, help="of a clip")
    parser.add_argument("--frames-per-clip", type=int, default=200)
    parser.add_argument("--max-hours", type=float, default=12.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--half", action="store_true", help="save the weights in float16")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def fill_reservoir(tokenizer: HAFMSemanticTokenizer, pool: SongPool, options: argparse.Namespace) -> np.ndarray:
    """Features float32 [M, D] of randomly drawn frames of random clips, vocals and instrumentals in turn."""
    rng = np.random.default_rng(options.seed)
    num_samples = int(options.seconds * pool.sampling_rate)
    kept = []
    for index in range(options.clips):
        for is_vocal in (True, False):
            song, start = pool.draw(rng, num_samples)
            stem = song.vocal if is_vocal else song.instrumental
            samples = stem[start : start + num_samples] / np.float32(PCM_SCALE)
            waveform = torch.from_numpy(samples).to(tokenizer.device)
            features = tokenizer.extract_features(waveform, noise=is_vocal, seed=index).cpu().numpy()
            kept.append(features[rng.permutation(len(features))[: options.frames_per_clip]])
        if (index + 1) % 100 == 0:
            logger.info("%d of %d clips of each kind", index + 1, options.clips)
    return np.concatenate(kept)


def fit(features: np.ndarray, clusters: int, seed: int) -> tuple[np.ndarray, dict[str, float]]:
    """Centroids float32 [clusters, D], and inertia, used clusters and entropy on a tenth that was held out."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(features))
    held_out, fitted = features[order[: len(order) // 10]], features[order[len(order) // 10 :]]
    kmeans = MiniBatchKMeans(
        clusters,
        init="k-means++",
        batch_size=10_000,
        max_iter=60,
        n_init=3,
        reassignment_ratio=0.01,
        random_state=seed,
    ).fit(fitted)
    shares = np.bincount(kmeans.predict(held_out), minlength=clusters) / len(held_out)
    entropy = float(-np.sum(shares * np.log2(np.clip(shares, 1e-12, None))))
    distances = kmeans.transform(held_out).min(axis=1) ** 2
    variance = float(held_out.var(axis=0).sum())
    figures = {
        "frames": len(features),
        "inertia_per_frame": round(float(distances.mean()), 4),
        "inertia_share_of_variance": round(float(distances.mean()) / variance, 4),
        "used_clusters": int(np.sum(shares > 0)),
        "entropy_bits": round(entropy, 3),
        "entropy_bits_at_most": round(float(np.log2(clusters)), 3),
    }
    return kmeans.cluster_centers_.astype(np.float32), figures


def main() -> None:
    """Fit centroids and save the tokenizer."""
    options = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = HAFMSemanticTokenizer.from_hubert(options.hubert, layer=options.layer, num_clusters=options.clusters)
    tokenizer.to(device)
    pool = SongPool(options.corpus, "train", tokenizer.config.sampling_rate, options.max_hours)
    pool.refresh()
    pool.require(options.seconds)
    features = fill_reservoir(tokenizer, pool, options)
    centroids, figures = fit(features, options.clusters, options.seed)
    logger.info("%s", json.dumps(figures))
    tokenizer.set_centroids(torch.from_numpy(centroids))
    if options.half:
        tokenizer = tokenizer.half()
    tokenizer.save_pretrained(options.out)
    (options.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
