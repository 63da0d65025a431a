# SPDX-License-Identifier: Apache-2.0
"""Songs become token shards, parts become a composite: what goes around training, through the command line."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from hafm_hf import HAFMForVocalAccompaniment
from hafm_hf.accompaniment.assemble import assemble_composite
from hafm_hf.corpus.tokens import read_info, shard_paths
from hafm_hf.pretrained.loading import codec_fingerprint, fingerprint
from hafm_hf.tokenizers.codecs import load_codec
from hafm_hf.tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel
from hafm_hf.training.data import load_token_corpus
from programs import run_program
from tiny_models import tiny_codec, tiny_semantic_tokenizer, tiny_stage

SECONDS = (3.0, 2.31, 0.7)


def run_hafm(*words: object) -> subprocess.CompletedProcess[str]:
    return run_program([sys.executable, "-m", "hafm_hf", *words])


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    tiny_semantic_tokenizer().save_pretrained(folder / "semantic_tokenizer")
    tiny_codec().save_pretrained(folder / "codec")
    for stage in ("semantic", "coarse", "fine"):
        tiny_stage(stage).save_pretrained(folder / stage)
    return folder


def write_songs(folder: Path, names: tuple[str, ...]) -> None:
    """Songs as recipes/build_song_corpus.py renders them, of SECONDS."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(names):
        song = folder / "train" / name
        song.mkdir(parents=True)
        for part in ("vocal", "instrumental", "drums"):
            samples = (rng.standard_normal(round(SECONDS[number] * 24_000)) * 0.1).astype(np.float32)
            soundfile.write(song / f"{part}.flac", samples, 24_000)
        (song / "labels.json").write_text('{"key": "F#:min", "tempo": 97.5, "licence": "MIT"}')


def prepare(songs: Path, tokens: Path, parts: Path) -> None:
    words = [songs, tokens, "--split-by", "folder", "--tracks-per-shard", 2, "--min-seconds", 1]
    words += ["--semantic-tokenizer", parts / "semantic_tokenizer", "--codec", parts / "codec"]
    words += ["--segment-seconds", 2, "--num-codebooks", len(tiny_codec().quantizer.layers)]
    run = run_hafm("prepare", *words)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "dropped: too short" in run.stdout and "decoded again" in run.stdout


def test_rendered_songs_become_shards_once_and_new_songs_are_added(parts: Path, tmp_path: Path) -> None:
    write_songs(tmp_path / "songs", ("a", "b", "c"))
    tokens = tmp_path / "tokens"
    prepare(tmp_path / "songs", tokens, parts)
    first = shard_paths(tokens, "train")
    info = read_info(first[0])
    rows = [row for path in first for row in pq.read_table(path).to_pylist()]
    # the song of 0.7 s is too short; 3 s are cut in two, 2.31 s too, each to whole 40 ms
    assert sorted(row["duration"] for row in rows) == pytest.approx([1.12, 1.12, 1.48, 1.48])
    for row in rows:
        assert len(row["vocal_semantic"]) == len(row["instrumental_semantic"]) == round(row["duration"] * 50)
        assert [len(codes) for codes in row["acoustic"]] == [round(row["duration"] * 75)] * info.num_codebooks
        # what is known of a rendered song is not estimated
        assert (row["key"], row["tempo"], row["licence"]) == ("F#:min", 97.5, "MIT")
    times = {path: path.stat().st_mtime_ns for path in first}
    more = tmp_path / "songs/train/d"
    more.mkdir()
    for part in ("vocal", "instrumental"):
        samples, rate = soundfile.read(tmp_path / f"songs/train/b/{part}.flac")
        soundfile.write(more / f"{part}.flac", samples[::-1], rate)
    prepare(tmp_path / "songs", tokens, parts)
    assert {path: path.stat().st_mtime_ns for path in first} == times
    plan = json.loads((tokens / "plan.json").read_text())
    planned = sorted(track for tracks in plan["shards"].values() for track in tracks)
    assert planned == [f"train/{name}" for name in "abcd"]
    corpus, _ = load_token_corpus(tokens, "train", cache_dir=tmp_path / "cache")
    assert len(corpus) == 6


def test_parts_that_fit_become_a_composite_that_loads(parts: Path, tmp_path: Path) -> None:
    words = [word for part in parts.iterdir() for word in (f"--{part.name.replace('_', '-')}", part)]
    run = run_hafm("assemble", tmp_path / "model", *words, "--dtype", "float32")
    assert run.returncode == 0, run.stderr[-3000:]
    composite = HAFMForVocalAccompaniment.from_pretrained(tmp_path / "model")
    assert composite.config.coarse_config.codebook_sizes == tiny_stage("coarse").config.codebook_sizes


def test_a_codec_that_a_stage_has_not_learnt_is_refused(parts: Path, tmp_path: Path) -> None:
    words = {part.name: str(part) for part in parts.iterdir()}
    model = load_codec(parts / "codec").model
    codec = codec_fingerprint(model)
    tiny_stage("coarse", tokenizers={"codec": codec}).save_pretrained(tmp_path / "coarse")
    tiny_stage("fine", tokenizers={"codec": "another"}).save_pretrained(tmp_path / "fine")
    # a decoder that has been trained further says the same codes in another sound
    with torch.no_grad():
        model.decoder.layers[-1].conv.bias.add_(0.1)
    model.save_pretrained(tmp_path / "codec")
    fitting = {**words, "coarse": str(tmp_path / "coarse"), "codec": str(tmp_path / "codec")}
    assert assemble_composite(fitting, tmp_path / "model", "float32") > 0
    assert codec_fingerprint(model) == codec != codec_fingerprint(model.decoder)
    message = f"the fine stage has learnt tokens of the codec another, but this one is {codec}"
    with pytest.raises(ValueError, match=message):
        assemble_composite({**words, "fine": str(tmp_path / "fine")}, tmp_path / "other")
    assert not list(tmp_path.glob("other*"))


def test_a_tokenizer_is_the_same_however_its_numbers_are_held(tmp_path: Path) -> None:
    tokenizer = tiny_semantic_tokenizer().half()
    tokenizer.save_pretrained(tmp_path)
    found = {fingerprint(tokenizer)}
    for dtype in (torch.float16, torch.float32, "auto"):
        found.add(fingerprint(HAFMSemanticTokenizerModel.from_pretrained(tmp_path, dtype=dtype)))
    assert len(found) == 1
    with torch.no_grad():
        tokenizer.centroids[0, 0] += 1
    assert fingerprint(tokenizer) not in found


def test_parts_with_other_vocabularies_are_refused_and_nothing_is_written(parts: Path, tmp_path: Path) -> None:
    size = tiny_stage("semantic").config.codebook_sizes[0] + 1
    tiny_stage("semantic", codebook_sizes=[size]).save_pretrained(tmp_path / "semantic")
    words = [
        word
        for part in parts.iterdir()
        for word in (
            f"--{part.name.replace('_', '-')}",
            tmp_path / "semantic" if part.name == "semantic" else part,
        )
    ]
    run = run_hafm("assemble", tmp_path / "model", *words)
    assert run.returncode != 0 and "do not fit" in run.stderr
    assert not (tmp_path / "model").exists()
