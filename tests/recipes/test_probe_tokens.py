# SPDX-License-Identifier: Apache-2.0
"""The recipe that asks what tokens know runs on a tokenizer like the bundled one, and tells it from labels."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from labelled_songs import song_of_roots
from programs import run_program
from tiny_models import CLUSTERS, tiny_rhythmic_tokenizer

pytest.importorskip("pyworld", reason="pyworld comes with the extra data")
pytest.importorskip("sklearn", reason="scikit-learn comes with the extra train")

RECIPE = Path(__file__).resolve().parents[2] / "recipes/probe_tokens.py"
RATE = 16_000


def write_song(folder: Path, seed: int) -> None:
    """A song of 32 s whose voice and band sing the root of each chord; they pause between notes."""
    labels = song_of_roots(seed)
    sound = 1e-3 * np.random.default_rng(seed).normal(size=round((labels["beats"][-1] + 0.2) * RATE))
    moment = np.arange(len(sound)) / RATE
    for start, end, pitch in labels["notes"]:
        inside = (moment >= start) & (moment < end)
        hertz = 440 * 2 ** ((pitch - 69) / 12)
        sound[inside] += sum(0.1 / k * np.sin(2 * np.pi * k * hertz * moment[inside]) for k in range(1, 6))
    folder.mkdir(parents=True)
    for stem in ("vocal", "instrumental"):
        soundfile.write(folder / f"{stem}.flac", sound, RATE)
    (folder / "labels.json").write_text(json.dumps(labels))


def test_probes_are_fitted_and_scored_by_the_labels(tmp_path: Path) -> None:
    tiny_rhythmic_tokenizer().save_pretrained(tmp_path / "tokenizer")
    for seed, split in enumerate(("train", "train", "test")):
        write_song(tmp_path / "songs" / split / f"{seed:03}_0", seed)
    out = tmp_path / "probe.json"
    words = [sys.executable, str(RECIPE), "--tokenizer", str(tmp_path / "tokenizer"), "--corpus"]
    words += [str(tmp_path / "songs"), "--out", str(out), "--clips", "8", "--seconds", "5"]
    run = run_program(words)
    assert run.returncode == 0, run.stderr
    report = json.loads(out.read_text())
    assert set(report["probes"]) == {"pitch class", "pitch", "onset", "quarter of the beat", "chord root"}
    assert 1 < report["used_clusters_on_test_songs"]["vocal"] <= CLUSTERS
    # four clips of 5 s, sung but for the pauses; one of six roots would be right by chance
    for name in ("pitch class", "chord root"):
        scores = report["probes"][name]["test songs"]
        assert 700 < scores["features"]["frames"] <= 1000
        assert scores["features"]["accuracy"] > 0.3, (name, scores)
