"""The recipes that count where in the beat accompaniments change, and which codes sound there."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch

from hafm_hf.corpus.tokens import TokenCorpusInfo, TokenExcerpt, write_shard
from hafm_hf.hub.loading import BUNDLED_MODEL
from hafm_hf.lead_sheet.beats import beat_points
from hafm_hf.semantic_tokenizer import HAFMSemanticTokenizer
from hafm_hf.stages.modeling_hafm import HAFMCoarseForCausalLM
from programs import run_program

REPOSITORY = Path(__file__).resolve().parents[3]
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
    done = run_program([*words, "--weight", "0.7"])
    assert done.returncode == 0, done.stderr[-2000:]
    after = json.loads(config.read_text())
    profile = after.pop("beat_profile")
    assert len(profile) == 24 and 5 <= int(np.argmax(profile)) <= 7, "a quarter of the beat is part 6"
    assert after.pop("beat_guidance") == 0.7
    assert {k: v for k, v in before.items() if not k.startswith("beat")} == after, "nothing else has changed"


def song_of_codes(name: str, beats: np.ndarray) -> TokenExcerpt:
    """40 s, the second half of a song, whose first codebook says in which 48th of the beat a frame lies."""
    times = 40.0 + (np.arange(3000) + 0.5) / 75
    codes = np.full((8, 3000), 900, np.int16)
    codes[0] = (np.interp(times, beats, np.arange(len(beats))) * 48 % 48).astype(np.int16)
    still = np.zeros(2000, np.int16)
    return TokenExcerpt(f"folder/{name}", 40.0, 40.0, still, still, codes)


def test_the_recipe_counts_codes_at_the_true_beats(tmp_path: Path) -> None:
    stage, corpus, songs = (tmp_path / name for name in ("coarse", "corpus", "songs"))
    shutil.copytree(BUNDLED_MODEL / "coarse", stage)
    before = HAFMCoarseForCausalLM.from_pretrained(stage, dtype="auto").state_dict()
    corpus.mkdir()
    rows = []
    for name, tempo in (("a", 71.0), ("b", 104.0)):
        beats = np.arange(0.2, 79, 60 / tempo)
        (songs / "train" / name).mkdir(parents=True)
        (songs / "train" / name / "labels.json").write_text(json.dumps({"beats": beats.tolist()}))
        rows.append(song_of_codes(name, beats))
    write_shard(corpus / "train-00000.parquet", rows, INFO)
    words = [sys.executable, str(REPOSITORY / "recipes/fit_code_beats.py"), str(stage), str(corpus), str(songs)]
    done = run_program([*words, "--weight", "1.5"])
    assert done.returncode == 0, done.stderr[-2000:]
    after = HAFMCoarseForCausalLM.from_pretrained(stage, dtype="auto")
    scores = after.state_dict().pop("beat_scores").float()
    assert after.config.beat_parts == 48 and after.generation_config.beat_guidance == 1.5
    assert scores.argmax(1).tolist() == list(range(48)) and float(scores.max()) > 3
    assert float(scores[:, 900].abs().max()) < 0.1, "of a code that was never heard nothing is said"
    kept = {name: values for name, values in after.state_dict().items() if name != "beat_scores"}
    assert all(torch.equal(values, before[name]) for name, values in kept.items())
    shutil.rmtree(songs / "train" / "a")
    shutil.rmtree(songs / "train" / "b")
    done = run_program(words)
    assert done.returncode != 0 and "belong together" in done.stderr
