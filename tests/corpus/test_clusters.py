"""k-means of the semantic tokenizer: the sample is fair and bounded, and tokens are scikit-learn's."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import MiniBatchKMeans
from transformers import HubertModel

from corpus.karaoke import write_karaoke
from hafm_hf import HAFMSemanticTokenizer
from hafm_hf.corpus.clusters import Reservoir, fit_clusters
from hafm_hf.corpus.tracks import HAFMCorpusError
from tiny_models import tiny_semantic_tokenizer

REPOSITORY = Path(__file__).resolve().parents[2]


def test_every_row_of_a_long_stream_is_kept_equally_often_and_no_more_than_fit() -> None:
    counts = np.zeros(40)
    for seed in range(600):
        reservoir = Reservoir(8, seed)
        for begin in range(0, 40, 7):
            reservoir.add(np.arange(begin, min(begin + 7, 40), dtype=np.float32)[:, None])
        assert reservoir.rows.shape == (8, 1) and len(set(reservoir.rows[:, 0])) == 8 and reservoir.seen == 40
        counts[reservoir.rows[:, 0].astype(int)] += 1
    # 8 of 40 are a fifth: 120 of 600, and 4 standard deviations are 39
    assert np.abs(counts - 120).max() < 40


def test_the_sample_does_not_depend_on_how_the_stream_is_cut() -> None:
    whole = np.random.default_rng(0).standard_normal((100, 3)).astype(np.float32)
    short = Reservoir(200)
    short.add(whole)
    np.testing.assert_array_equal(short.rows, whole)
    with pytest.raises(HAFMCorpusError, match="No frames were sampled"):
        _ = Reservoir(3).rows


def test_clusters_that_are_there_are_found_and_figures_tell_so() -> None:
    generator = np.random.default_rng(0)
    centres = 10 * generator.standard_normal((6, 4))
    features = (np.repeat(centres, 200, axis=0) + 0.1 * generator.standard_normal((1200, 4))).astype(np.float32)
    centroids, figures = fit_clusters(features, 6)
    assert np.linalg.norm(centres[:, None] - centroids[None], axis=2).min(axis=1).max() < 0.1
    assert figures["used_clusters"] == 6 and figures["entropy_bits"] == pytest.approx(np.log2(6), abs=0.05)
    assert figures["inertia_share_of_variance"] < 0.01
    with pytest.raises(HAFMCorpusError, match="can't make 2000 clusters"):
        fit_clusters(features, 2000)


def test_tokens_are_scikit_learns_predictions() -> None:
    tokenizer = tiny_semantic_tokenizer()
    features = np.random.default_rng(1).standard_normal((2000, 12)).astype(np.float32)
    kmeans = MiniBatchKMeans(len(tokenizer.centroids), n_init=1, random_state=0).fit(features[:1000])
    tokenizer.set_centroids(kmeans.cluster_centers_.astype(np.float32))
    tokens = tokenizer.quantize(torch.from_numpy(features))
    np.testing.assert_array_equal(tokens.numpy(), kmeans.predict(features))
    assert len(tokens.unique()) == len(tokenizer.centroids)


@pytest.mark.parametrize("separate", [False, True])
def test_the_recipe_makes_a_tokenizer_that_uses_its_clusters(tmp_path: Path, separate: bool) -> None:
    write_karaoke(tmp_path / "songs", 4, seconds=3.0)
    HubertModel(tiny_semantic_tokenizer().config.hubert_config).save_pretrained(tmp_path / "hubert")
    words = [tmp_path / "songs", tmp_path / "out", "--hubert", tmp_path / "hubert", "--layer", 1, "--clusters", 9]
    words += ["--vocal-channel", "right", "--frames", 300, "--validation", 0, "--test", 0]
    words += ["--separate"] if separate else []
    run = subprocess.run(
        [sys.executable, str(REPOSITORY / "recipes/fit_kmeans.py"), *map(str, words)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    figures = json.loads(run.stdout)
    assert figures == json.loads((tmp_path / "out/figures.json").read_text())
    assert figures["tracks"] == 4
    for name in ("vocal_", "instrumental_") if separate else ("",):
        assert figures[f"{name}frames"] == 300 < figures[f"{name}frames_seen"]
        assert figures[f"{name}used_clusters"] > 4
    tokenizer = HAFMSemanticTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.config.num_clusters == 9 and bool(tokenizer.centroids.any())
    assert tokenizer.config.separate_centroids == separate
