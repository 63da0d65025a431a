# SPDX-License-Identifier: Apache-2.0
"""Songs of which only labels and tokens are there, and the recipe that learns chords from them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from hafm_hf.corpus.tokens import TokenCorpusInfo, TokenExcerpt, write_shard
from programs import run_program
from tiny_models import CLUSTERS, tiny_rhythmic_tokenizer

RECIPE = Path(__file__).resolve().parents[1] / "recipes/fit_harmony.py"
ROOTS = ["C", "D", "E", "F", "G", "A"]
ROOT_PITCHES = [60, 62, 64, 65, 67, 69]


def song_of_roots(seed: int, beats: int = 64, beat: float = 0.5) -> dict[str, Any]:
    """Labels of a song that sings in every beat the root of its chord, which is minor in every other beat."""
    drawn = np.random.default_rng(seed).integers(len(ROOTS), size=beats)
    times = np.arange(beats + 1) * beat + 0.1
    return {
        "beats": times.tolist(),
        "notes": [[times[i], times[i + 1] - 0.05, ROOT_PITCHES[root]] for i, root in enumerate(drawn)],
        "chords": [[times[i], times[i + 1], f"{ROOTS[root]}:maj"] for i, root in enumerate(drawn)],
    }


def run_recipe(folder: Path, *further: str) -> subprocess.CompletedProcess[str]:
    """Runs recipes/fit_harmony.py for a few steps on two songs for training and one for validation, into RUN."""
    tokenizer, corpus, tokens = folder / "tokenizer", folder / "corpus", folder / "tokens"
    tiny_rhythmic_tokenizer().save_pretrained(tokenizer)
    tokens.mkdir()
    rows, drawn = [], np.random.default_rng(0)
    for seed, split in enumerate(("train", "train", "validation")):
        song = corpus / split / f"{seed:03}_1"
        song.mkdir(parents=True)
        (song / "labels.json").write_text(json.dumps(song_of_roots(seed)))
        vocal, band = drawn.integers(CLUSTERS, size=(2, 1000)).astype(np.int16)
        codes = np.zeros((8, 1500), np.int16)
        rows.append((split, TokenExcerpt(f"{split}/{song.name}", 0.0, 20.0, vocal, band, codes)))
    info = TokenCorpusInfo(50, 75, num_clusters=CLUSTERS, codebook_size=16, num_codebooks=8)
    for split in ("train", "validation"):
        write_shard(tokens / f"{split}-00000.parquet", [row for each, row in rows if each == split], info)
    words = [sys.executable, str(RECIPE), "--tokenizer", str(tokenizer), "--corpus", str(corpus)]
    words += ["--tokens", str(tokens), "--out", str(folder / "run"), "--steps", "12", "--channels", "8"]
    words += ["--layers", "2", "--beats_a_step", "128", *further]
    return run_program(words)
