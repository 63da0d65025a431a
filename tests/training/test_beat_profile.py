"""The recipe that counts on a token corpus where in the beat accompaniments change."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from hafm_hf.accompaniment_hafm import BUNDLED_MODEL
from hafm_hf.beat_hafm import beat_points
from hafm_hf.corpus.tokens import TokenCorpusInfo, TokenExcerpt, write_shard
from hafm_hf.semantic_tokenizer_hafm import HAFMSemanticTokenizer

REPOSITORY = Path(__file__).resolve().parents[2]
INFO = TokenCorpusInfo(50, 75, num_clusters=500, codebook_size=1024, num_codebooks=8)


def song_on_the_beat(tokenizer: HAFMSemanticTokenizer, tempo: float, late: float) -> TokenExcerpt:
    """40 s sung in tokens that say the beat; the accompaniment changes `late` of a beat behind it."""
    phase = torch.arange(2000) / 50 * tempo / 60
    places = tokenizer.beat_places(torch.arange(500))
    vocal = torch.cdist(beat_points(phase % 1), places).argmin(dim=1)
    instrumental = (phase - late + 1).floor().long() % 500
    return TokenExcerpt(
        f"song {tempo:g}", 0.0, 40.0, vocal.numpy().astype(np.int16), instrumental.numpy().astype(np.int16),
        np.zeros((8, 3000), np.int16),
    )  # fmt: skip


def test_the_recipe_writes_the_profile_beside_what_was_there(tmp_path: Path) -> None:
    tokenizer = HAFMSemanticTokenizer.from_pretrained(BUNDLED_MODEL, subfolder="semantic_tokenizer")
    model, corpus = tmp_path / "model", tmp_path / "corpus"
    corpus.mkdir()
    for part in ("semantic_tokenizer", "semantic"):
        shutil.copytree(BUNDLED_MODEL / part, model / part)
    rows = [song_on_the_beat(tokenizer, tempo, late=0.25) for tempo in (84.0, 101.0, 126.0)]
    write_shard(corpus / "train-00000.parquet", rows, INFO)
    config = model / "semantic/generation_config.json"
    before = json.loads(config.read_text())
    words = [sys.executable, str(REPOSITORY / "recipes/fit_beat_profile.py"), str(model), str(corpus)]
    done = subprocess.run([*words, "--weight", "0.7"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    after = json.loads(config.read_text())
    profile = after.pop("beat_profile")
    assert len(profile) == 24 and 5 <= int(np.argmax(profile)) <= 7, "a quarter of the beat is part 6"
    assert after.pop("beat_guidance") == 0.7
    assert {k: v for k, v in before.items() if not k.startswith("beat")} == after, "nothing else has changed"
