# SPDX-License-Identifier: Apache-2.0
"""The `hafm prepare` command: a corpus from real singing, killed and restarted runs, exit codes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from corpus.karaoke import karaoke_options, shards, write_karaoke
from hafm_hf.audio import resample
from hafm_hf.corpus.prepare import PrepareOptions, prepare
from hafm_hf.corpus.reading import decode
from hafm_hf.corpus.tokenizing import fit_rate
from hafm_hf.tokenizers.codecs import load_codec
from hafm_tiny.figures import scale_invariant_sdr
from programs import Program, group_lives, run_program, until

COMMAND = [sys.executable, "-m", "hafm_hf", "prepare"]
# Hz, at which bands are compared
BAND_RATE = 24_000


def hafm_prepare(*words: object, check: bool = False) -> subprocess.CompletedProcess[str]:
    """Runs `hafm prepare` with these words to its end; with `check`, it must exit with 0."""
    return run_program([*COMMAND, *words], check=check)


def test_real_karaoke_becomes_a_corpus_that_decodes_to_its_bands_again(shared_data: Path, tmp_path: Path) -> None:
    clips = sorted((shared_data / "mir1k_dev").glob("*.flac"))[::20]
    if not clips:
        pytest.skip(f"no karaoke clips in {shared_data / 'mir1k_dev'}")
    (tmp_path / "songs").mkdir()
    for clip in clips:
        (tmp_path / "songs" / clip.name).symlink_to(clip)
    # three tenths of the songs for validation
    words = ["--vocal-channel", "right", "--validation", 0.3, "--json"]
    run = hafm_prepare(tmp_path / "songs", tmp_path / "corpus", *words, check=True)
    printed = json.loads(run.stdout)
    assert printed["tracks"]["found"] == len(clips)
    assert printed["tracks"]["kept"] + sum(printed["tracks"]["dropped"].values()) == len(clips)
    corpus = datasets.load_dataset("parquet", data_files=str(tmp_path / "corpus/*.parquet"), split="train")
    assert len(corpus) == printed["segments"]["kept"] > len(clips) // 2
    from hafm_hf.pretrained.loading import BUNDLED_MODEL

    codec = load_codec(BUNDLED_MODEL, subfolder="codec")
    ratios = []
    for row in corpus.select(range(4)):
        samples, rate = decode(shared_data / "mir1k_dev" / row["track"], 60.0)
        # the vocal is on the right, so the band is on the left
        band = torch.from_numpy(fit_rate(samples[:, 0].copy(), rate, BAND_RATE, row["start"] + row["duration"]))
        band = band[round(row["start"] * BAND_RATE) :]
        decoded = codec.decode(torch.tensor(row["acoustic"])[None])[0].mean(0).numpy()
        decoded = resample(decoded, codec.format.output_sampling_rate, BAND_RATE)[: len(band)]
        ratios.append(float(scale_invariant_sdr(band[None], torch.from_numpy(decoded)[None])))
    # in dB; the bundled codec was not trained on these bands; noise or a shifted band gives less than -10 dB
    assert min(ratios) > 2.0


@pytest.mark.fault("killed prepare")
def test_two_killed_and_restarted_workers_give_the_bytes_of_one(tokenizers: dict[str, Any], tmp_path: Path) -> None:
    write_karaoke(tmp_path / "songs", 16, seconds=6.0)
    prepare(PrepareOptions(karaoke_options(tmp_path, "whole", tokenizers), tracks_per_shard=1))
    words = [tmp_path / "songs", tmp_path / "killed", "--vocal-channel", "right", "--tracks-per-shard", 1]
    words += ["--semantic-tokenizer", tokenizers["semantic_tokenizer"], "--codec", tokenizers["codec"]]
    words += ["--workers", 2]
    killed = Program([*COMMAND, *words], tmp_path / "log", tmp_path / "log")
    reports = tmp_path / "killed/reports"
    until(lambda: list(reports.glob("*.json")) or killed.poll() is not None)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    # a half-written song, as another kill may leave it
    (tmp_path / "killed/audio/.hafm.song.part").mkdir(parents=True)
    times_before = {path: path.stat().st_mtime_ns for path in reports.glob("*.json")}
    assert len(times_before) < 16, "the command was killed before it had prepared all songs"
    again = hafm_prepare(*words, check=True)
    assert "tracks and segments" in again.stdout
    assert "kept" in again.stdout
    write_karaoke(tmp_path / "one", 1, seconds=6.0)
    alone = hafm_prepare(tmp_path / "one", tmp_path / "alone", *words[2:])
    assert "Only two or more validation tracks" in alone.stderr
    assert "this corpus has 0" not in again.stderr
    assert shards(tmp_path / "killed") == shards(tmp_path / "whole")
    assert times_before == {path: path.stat().st_mtime_ns for path in times_before}, "finished work is not repeated"
    # workers end with the killed command
    assert until(lambda: not group_lives(killed.pid), 20)


def test_usage_errors_exit_with_2_and_others_with_1(tmp_path: Path) -> None:
    assert hafm_prepare(tmp_path).returncode == 2
    run = hafm_prepare(tmp_path / "missing", tmp_path / "corpus")
    assert run.returncode == 1
    assert run.stdout == ""
    assert run.stderr.splitlines()[-1].endswith("is not a folder; name one that holds songs.")
