# SPDX-License-Identifier: Apache-2.0
"""`hafm prepare --stems`: a row for each part of the band beside that of the mix, and what reads such a corpus."""

import dataclasses
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile

from corpus.karaoke import RATE, sing
from corpus.test_prepare import digests, options_for
from hafm_hf.audio import resample
from hafm_hf.corpus.prepare import PrepareOptions, prepare
from hafm_hf.corpus.separation import make_separator
from hafm_hf.corpus.stems import SeparatorOptions
from hafm_hf.corpus.tracks import HAFMCorpusError, SplitOptions
from hafm_hf.evaluation.datasets import load_corpus_split
from hafm_hf.tokenizers.codecs import load_codec
from hafm_hf.training.arguments import StageArguments, stage_config
from hafm_hf.training.data import TokenCrops, load_token_corpus
from training.toy_corpus import SIZES

PARTS = ("drums", "bass", "chords", "colour")


def write_songs(folder: Path) -> None:
    """Two rendered songs with four parts, one of MUSDB18's layout, and one without parts; drums rest for 2 s."""
    for number in range(4):
        sounds = {name: sing(4.0, 10 * number + at, 0.06) for at, name in enumerate(("vocal", *PARTS))}
        sounds["drums"][: 2 * RATE] = 0.0
        band = np.sum([sounds[name] for name in PARTS], axis=0)
        if number == 2:
            names = {"vocals": "vocal", "drums": "drums", "bass": "bass", "other": "chords"}
            sounds = {name: sounds[old] for name, old in names.items()}
        elif number == 3:
            sounds = {"vocal": sounds["vocal"], "instrumental": band}
        else:
            sounds["instrumental"] = band
        (folder / f"song{number}").mkdir(parents=True)
        for name, sound in sounds.items():
            soundfile.write(folder / f"song{number}" / f"{name}.wav", sound, RATE, subtype="FLOAT")


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("songs")
    write_songs(folder)
    return folder


def asked(songs: Path, corpus: Path, tokenizers: dict[str, Any], stems: bool = True) -> PrepareOptions:
    options = options_for(songs, corpus, tokenizers, separator=SeparatorOptions(stems=stems))
    return dataclasses.replace(options, splits=SplitOptions(validation=0.0, test=0.0))


@pytest.fixture(scope="module")
def corpus(songs: Path, tokenizers: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stems") / "corpus"
    manifest = prepare(asked(songs, folder, tokenizers))
    assert manifest["stems"] == {"bass": 6, "chords": 6, "colour": 4, "drums": 6, "mix": 8}
    assert manifest["segments"]["kept"] == 8 and manifest["splits"]["train"]["rows"] == 30
    assert manifest["hours"]["kept"] == round(16 / 3600, 4)
    return folder


def rows_of(corpus: Path) -> list[dict[str, Any]]:
    return datasets.load_dataset("parquet", data_files=str(corpus / "*.parquet"), split="train").to_list()


def test_stems_share_instants_and_plan_and_have_their_own_codes(
    corpus: Path, songs: Path, tokenizers: dict[str, Any]
) -> None:
    rows = rows_of(corpus)
    codec = load_codec(tokenizers["codec"])
    mixes = {(row["track"], row["start"]): row for row in rows if not row["stem"]}
    for row in rows:
        mix = mixes[row["track"], row["start"]]
        alike = mix.keys() - {"acoustic", "loudness", "stem"}
        assert {name: row[name] for name in alike} == {name: mix[name] for name in alike}
        if not row["stem"]:
            continue
        # MUSDB18's other is what plays the chords
        name = "other" if row["track"] == "song2" and row["stem"] == "chords" else row["stem"]
        sound, _ = soundfile.read(songs / row["track"] / f"{name}.wav", dtype="float32")
        first = round(row["start"] * RATE)
        heard = resample(sound[first : first + round(row["duration"] * RATE)], RATE, 24_000)
        assert codec.encode(codec_input(heard), 5)[0].tolist() == row["acoustic"]
        rests = row["stem"] == "drums" and row["start"] == 0
        assert np.isnan(row["loudness"]) if rests else -40 < row["loudness"] < mix["loudness"] - 2
    assert {row["stem"] for row in rows if row["track"] == "song3"} == {""}
    assert [row["stem"] for row in rows if row["track"] == "song0"][:5] == ["", *PARTS]


def codec_input(samples: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(samples)[None, None]


def test_the_mix_is_the_same_row_without_stems(
    corpus: Path, songs: Path, tokenizers: dict[str, Any], tmp_path: Path
) -> None:
    prepare(asked(songs, tmp_path / "plain", tokenizers, stems=False))
    mixes = [row for row in rows_of(corpus) if not row["stem"]]
    plain = rows_of(tmp_path / "plain")
    assert mixes == plain and len(plain) == 8


def test_stages_learn_the_mixes_alone(corpus: Path, tmp_path: Path) -> None:
    rows, info = load_token_corpus(corpus, "train", cache_dir=tmp_path / "cache")
    config = stage_config(StageArguments("coarse", fine_codebooks=1, **SIZES), info, 1.0)  # type: ignore[arg-type]
    crops = TokenCrops(rows, info, config, 1.0)
    assert {str(crops.corpus[at].column("stem")[0]) for at in range(len(crops.corpus))} == {""}


def test_an_excerpt_is_evaluated_once(corpus: Path, songs: Path, tmp_path: Path) -> None:
    shutil.copytree(songs, tmp_path / "songs")
    soundfile.write(tmp_path / "songs/song2/instrumental.wav", sing(4.0, 5), RATE)
    assert len(load_corpus_split(corpus, "train", tmp_path / "songs")) == 8


def test_killed_with_stems_it_ends_with_the_same_bytes(
    corpus: Path, songs: Path, tokenizers: dict[str, Any], tmp_path: Path
) -> None:
    options = asked(songs, tmp_path / "corpus", tokenizers)
    process = multiprocessing.get_context("fork").Process(target=prepare, args=(options,))
    process.start()
    deadline = time.monotonic() + 60
    while not list((tmp_path / "corpus").glob("reports/*.json")) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    prepare(options)
    assert digests(tmp_path / "corpus") == digests(corpus)


def test_kept_stems_are_a_corpus_with_stems_again(tokenizers: dict[str, Any], songs: Path, tmp_path: Path) -> None:
    shutil.copytree(songs / "song0", tmp_path / "songs/song0")
    options = asked(tmp_path / "songs", tmp_path / "corpus", tokenizers)
    kept = dataclasses.replace(options.shards, keep_audio=str(tmp_path / "kept"))
    prepare(dataclasses.replace(options, shards=kept))
    names = {path.stem for path in (tmp_path / "kept/train/song0").iterdir()}
    assert names == {"vocals", "accompaniment", *PARTS}
    manifest = prepare(asked(tmp_path / "kept", tmp_path / "again", tokenizers))
    assert manifest["stems"] == {**dict.fromkeys(PARTS, 2), "mix": 2}


def test_a_part_that_changed_is_noticed(tokenizers: dict[str, Any], songs: Path, tmp_path: Path) -> None:
    shutil.copytree(songs / "song0", tmp_path / "songs/song0")
    options = asked(tmp_path / "songs", tmp_path / "corpus", tokenizers)
    prepare(options)
    soundfile.write(tmp_path / "songs/song0/bass.wav", sing(4.0, 99), RATE)
    with pytest.raises(HAFMCorpusError, match="song0 has changed"):
        prepare(options)


def test_no_stems_at_all_are_refused_in_a_sentence(tokenizers: dict[str, Any], songs: Path, tmp_path: Path) -> None:
    shutil.copytree(songs / "song3", tmp_path / "songs/song3")
    with pytest.raises(HAFMCorpusError, match="No song has stems .*leave --stems out"):
        prepare(asked(tmp_path / "songs", tmp_path / "corpus", tokenizers))
    with pytest.raises(HAFMCorpusError, match="take demucs for stems"):
        make_separator(SeparatorOptions("audio-separator", stems=True))
