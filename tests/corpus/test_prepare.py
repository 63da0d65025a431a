# SPDX-License-Identifier: Apache-2.0
"""The preparation as a whole: correct rows, bad input counted and skipped, changed options refused."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile
import torch

from chaos import digest_files
from corpus.karaoke import RATE, karaoke, write_karaoke
from hafm_hf import HAFMSemanticTokenizerModel
from hafm_hf.audio import resample
from hafm_hf.corpus.filtering import FilterOptions
from hafm_hf.corpus.manifest import report_path
from hafm_hf.corpus.prepare import PrepareOptions, ShardOptions, prepare
from hafm_hf.corpus.shards import noise_seed
from hafm_hf.corpus.stems import StemOptions
from hafm_hf.corpus.tokenizing import TokenizerOptions
from hafm_hf.corpus.tracks import HAFMCorpusError, SplitOptions
from hafm_hf.evaluation.datasets import load_pairs
from hafm_hf.tokenizers.codecs import load_codec
from hafm_hf.training.data import load_token_corpus
from make_card import make_card


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of nine three-second karaoke songs."""
    folder = tmp_path_factory.mktemp("songs")
    write_karaoke(folder, 9, seconds=3.0)
    return folder


def options_for(songs: Path, corpus: Path, tokenizers: dict[str, Any], **changes: Any) -> PrepareOptions:
    """Options that prepare short songs in segments of 1 to 2 s, two songs a shard.

    Args:
        songs: folder of the songs, karaoke with the voice on the right.
        corpus: folder to write.
        tokenizers: their paths, by argument of `TokenizerOptions`.
        changes: other options, of `ShardOptions` or of `PrepareOptions`.
    """
    shards = ShardOptions(
        audio=str(songs),
        corpus=str(corpus),
        stems=StemOptions(vocal_channel="right"),
        tokenizer=TokenizerOptions(**tokenizers, num_codebooks=5),
        segment_seconds=2.0,
        min_seconds=1.0,
        licence="CC0",
    )
    names = {field.name for field in dataclasses.fields(ShardOptions)}
    changes_of_shards = {name: changes.pop(name) for name in list(changes) if name in names}
    shards = dataclasses.replace(shards, **changes_of_shards)
    return PrepareOptions(shards, SplitOptions(validation=0.2, test=0.2), tracks_per_shard=2, **changes)


@pytest.fixture(scope="module")
def whole(songs: Path, tokenizers: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus prepared in one go."""
    corpus = tmp_path_factory.mktemp("whole") / "corpus"
    prepare(options_for(songs, corpus, tokenizers))
    return corpus


def test_every_track_and_segment_is_counted_and_loads(whole: Path, tmp_path: Path) -> None:
    manifest = json.loads((whole / "manifest.json").read_text())
    assert manifest["complete"]
    assert manifest["tracks"] == {"found": 9, "kept": 9, "dropped": {}}
    # 3.0 to 3.9 s are two segments each
    assert manifest["segments"] == {"found": 18, "kept": 18, "dropped": {}}
    assert sum(split["rows"] for split in manifest["splits"].values()) == 18
    loaded = datasets.load_dataset(str(whole), cache_dir=str(tmp_path / "cache"))
    streamed = datasets.load_dataset("parquet", data_files=str(whole / "train-*.parquet"), streaming=True)
    assert sum(len(split) for split in loaded.values()) == 18
    assert next(iter(streamed["train"]))["track"] == loaded["train"][0]["track"]
    split_of: dict[str, set[str]] = {}
    for name, split in loaded.items():
        for row in split:
            split_of.setdefault(row["track"], set()).add(name)
            assert row["split"] == name
            assert row["licence"] == "CC0"
            assert row["source"].startswith("songs")
            assert len(row["vocal_semantic"]) == len(row["instrumental_semantic"]) == round(50 * row["duration"])
            assert [len(codes) for codes in row["acoustic"]] == [round(75 * row["duration"])] * 5
            assert len(row["content_hash"]) == 64
    assert len(split_of) == 9
    assert all(len(splits) == 1 for splits in split_of.values())
    corpus, info = load_token_corpus(whole, "train", cache_dir=tmp_path / "cache")
    assert len(corpus) == len(loaded["train"])
    assert info.num_codebooks == 5
    card = (whole / "README.md").read_text()
    for name, split in manifest["splits"].items():
        assert f"| {name} | {split['rows']} | {split['tracks']} | 0.0" in card
    assert "| num_codebooks | 5 |" in card
    assert "`acoustic`" in card
    assert "CC0" in card
    with pytest.raises(ValueError, match="token corpus"):
        make_card(tmp_path)


def test_songs_with_long_names_are_kept_under_shorter_ones(
    songs: Path, tokenizers: dict[str, Any], tmp_path: Path
) -> None:
    first, second, third = sorted(songs.glob("*.wav"))[:3]
    # too long for the temporary folder, in one part and as two parts joined
    names = {f"{'a' * 250}.wav": first, f"{'b' * 150}/{'c' * 150}.wav": second, f"{'歌' * 80}.wav": third}
    for name, song in names.items():
        (tmp_path / "songs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "songs" / name).symlink_to(song)
    prepare(options_for(tmp_path / "songs", tmp_path / "corpus", tokenizers, keep_audio=str(tmp_path / "kept")))
    kept = [path.parent.name for path in (tmp_path / "kept").rglob("vocals.flac")]
    # without the hash at the end of a shortened name
    assert sorted(name.strip("_0123456789abcdef") or name[0] for name in kept) == ["a", "b", "歌" * 74]


def test_kept_audio_is_a_retrieval_bank_and_can_be_prepared_again_to_as_many_rows(
    songs: Path, tokenizers: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "songs").mkdir()
    for song in sorted(songs.glob("*.wav"))[:4]:
        (tmp_path / "songs" / song.name).symlink_to(song)
    options = options_for(tmp_path / "songs", tmp_path / "corpus", tokenizers, keep_audio=str(tmp_path / "kept"))
    manifest = prepare(options)
    kept = {path.relative_to(tmp_path / "kept").as_posix() for path in (tmp_path / "kept").rglob("*.flac")}
    plan = json.loads((tmp_path / "corpus" / "plan.json").read_text())
    roles = ("vocals", "accompaniment")
    assert kept == {f"{track['split']}/{name}/{role}.flac" for name, track in plan["tracks"].items() for role in roles}
    clip = load_pairs(tmp_path / "kept" / "train")[0]
    assert clip.reference is not None
    karaoke_song, _ = soundfile.read(songs / clip.song)
    band = karaoke_song[:, 0]
    assert np.allclose(clip.reference.read()[0], band, atol=1e-4)
    with pytest.raises(HAFMCorpusError, match="keep_audio was True and is False"):
        prepare(options_for(tmp_path / "songs", tmp_path / "corpus", tokenizers))
    # the kept audio is already separated and split
    again = options_for(tmp_path / "kept", tmp_path / "again", tokenizers, stems=StemOptions())
    manifest_again = prepare(dataclasses.replace(again, splits=SplitOptions("folder")))
    assert {name: split["rows"] for name, split in manifest_again["splits"].items()} == {
        name: split["rows"] for name, split in manifest["splits"].items()
    }


def test_the_tokens_of_a_row_are_those_of_its_part_of_the_song(
    whole: Path, songs: Path, tokenizers: dict[str, Any]
) -> None:
    semantic = HAFMSemanticTokenizerModel.from_pretrained(tokenizers["semantic_tokenizer"]).eval()
    codec = load_codec(tokenizers["codec"])
    rows = datasets.load_dataset("parquet", data_files=str(whole / "*.parquet"), split="train")
    for row in rows.select(range(4)):
        samples, _ = soundfile.read(songs / row["track"], dtype="float32")
        first = round(row["start"] * RATE)
        band, voice = torch.from_numpy(samples[first : first + round(row["duration"] * RATE)].T.copy())
        seed = noise_seed(row["content_hash"], row["start"])
        assert semantic.encode(band).tolist() == row["instrumental_semantic"]
        assert semantic.encode(voice, vocal=True, seed=seed).tolist() == row["vocal_semantic"]
        # the noise matters: a clean vocal has other tokens
        assert semantic.encode(voice).tolist() != row["vocal_semantic"]
        band_at_24_khz = torch.from_numpy(resample(band.numpy(), RATE, 24_000))
        assert codec.encode(band_at_24_khz[None, None], 5)[0].tolist() == row["acoustic"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"segment_seconds": 3.0}, "segment_seconds was 2.0 and is 3.0"),
        ({"filter": FilterOptions(min_instrumental_db=-30)}, "filter was .* and is .*"),
        ({"stems": StemOptions(vocal_channel="left")}, "stems was"),
        ({"source": "other"}, "source was"),
    ],
)
def test_a_changed_option_is_refused_by_name(
    whole: Path, songs: Path, tokenizers: dict[str, Any], change: dict[str, Any], named: str
) -> None:
    before = digest_files(whole, ignored=(".lock",))
    with pytest.raises(HAFMCorpusError, match=named):
        prepare(options_for(songs, whole, tokenizers, **change))
    assert digest_files(whole, ignored=(".lock",)) == before


def test_changed_tokenizer_weights_are_refused(
    songs: Path, tokenizers: dict[str, Any], whole: Path, tmp_path: Path
) -> None:
    other = HAFMSemanticTokenizerModel.from_pretrained(tokenizers["semantic_tokenizer"])
    other.centroids.mul_(1.5)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(HAFMCorpusError, match="tokenizer was"):
        prepare(options_for(songs, whole, {**tokenizers, "semantic_tokenizer": str(tmp_path / "other")}))


def test_new_songs_go_into_new_shards(songs: Path, tokenizers: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "songs"
    write_karaoke(folder, 5, seconds=3.0)
    options = options_for(folder, tmp_path / "corpus", tokenizers)
    prepare(options)
    before = digest_files(tmp_path / "corpus", ignored=(".lock",))
    soundfile.write(folder / "new.wav", karaoke(3.0, 77), RATE)
    assert prepare(options)["tracks"]["kept"] == 6
    after = digest_files(tmp_path / "corpus", ignored=(".lock",))
    changed = {name for name in after if before.get(name) != after[name]}
    assert len([name for name in changed if name.endswith(".parquet")]) == 1
    assert before.keys() < after.keys()


def bad_songs(folder: Path) -> dict[str, str]:
    """Writes two good songs and every kind of bad one.

    Returns:
        The reason that each bad one is dropped for, by its path.
    """
    write_karaoke(folder, 1, seconds=3.0)
    soundfile.write(folder / "torn.mp3", karaoke(6.0, 1), RATE)
    torn = (folder / "torn.mp3").read_bytes()
    (folder / "torn.mp3").write_bytes(torn[: len(torn) // 2])
    (folder / "zero.wav").touch()
    (folder / "text.wav").write_text("this is no sound\n" * 50)
    (folder / "copy.wav").write_bytes((folder / "000.wav").read_bytes())
    (folder / "loop").symlink_to(folder)
    (folder / "gone.wav").symlink_to("nowhere.wav")
    soundfile.write(folder / "mono.wav", karaoke(3.0, 2)[:, 0], RATE)
    soundfile.write(folder / "short.wav", karaoke(0.5, 3), RATE)
    soundfile.write(folder / "header.wav", np.zeros((0, 2), np.float32), RATE)
    soundfile.write(folder / "header.au", np.zeros((0, 2), np.float32), RATE)
    soundfile.write(folder / "silent.wav", karaoke(3.0, 4, voice=0.0001), RATE)
    soundfile.write(folder / "quiet.wav", karaoke(3.0, 5, band=0.01), RATE)
    soundfile.write(folder / "loud.wav", karaoke(3.0, 6, voice=0.3), RATE)
    soundfile.write(folder / "nan.wav", np.full((3 * RATE, 2), np.nan, np.float32), RATE, subtype="FLOAT")
    with open(os.path.join(os.fsencode(folder), b"odd\n\xff.wav"), "wb") as file:
        soundfile.write(file, karaoke(3.0, 8), RATE, format="WAV")
    return {
        "torn.mp3": "damaged", "zero.wav": "empty file", "text.wav": "not decodable", "copy.wav": "duplicate content",
        "loop": "cannot be read", "gone.wav": "cannot be read", "mono.wav": "no stems",
        "short.wav": "too short", "header.wav": "too short", "header.au": "too short", "silent.wav": "silent vocal",
        "quiet.wav": "quiet instrumental", "loud.wav": "vocal too loud",
        "nan.wav": "NaN or infinite samples",
    }  # fmt: skip


@pytest.mark.fault("bad songs in a corpus")
def test_bad_input_is_counted_named_and_skipped(tokenizers: dict[str, Any], tmp_path: Path) -> None:
    expected = bad_songs(tmp_path / "songs")
    manifest = prepare(options_for(tmp_path / "songs", tmp_path / "corpus", tokenizers, segment_seconds=4.0))
    assert {drop["track"]: drop["reason"] for drop in manifest["dropped"]} == expected
    assert manifest["tracks"]["kept"] == 2
    assert manifest["tracks"]["found"] == 2 + len(expected)
    assert sum(manifest["tracks"]["dropped"].values()) == len(expected)
    rows = datasets.load_dataset("parquet", data_files=str(tmp_path / "corpus/*.parquet"), split="train")
    assert set(rows["track"]) == {"000.wav", "odd\\n\\xff.wav"}


def test_a_song_that_changes_during_the_run_is_dropped(tokenizers: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "songs"
    write_karaoke(folder, 6, seconds=3.0)
    options = options_for(folder, tmp_path / "corpus", tokenizers)
    planned: list[str] = []

    def alter_last_shard(done: int, total: int) -> None:
        """Changes the first track of the last shard, and deletes its last, once they are planned."""
        if done == 0 and not planned:
            plan = json.loads((tmp_path / "corpus/plan.json").read_text())
            planned.extend(next(reversed(plan["shards"].values())))
            soundfile.write(folder / planned[0], karaoke(3.0, 99), RATE)
            if len(planned) > 1:
                (folder / planned[-1]).unlink()

    reasons = {drop["track"]: drop["reason"] for drop in prepare(options, alter_last_shard)["dropped"]}
    assert reasons[planned[0]] == "changed while preparing"
    assert all(reasons[name] == "cannot be read" for name in planned[1:])


def test_songs_whose_disk_disappears_during_the_run_are_not_dropped(
    tokenizers: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "songs"
    write_karaoke(folder, 6, seconds=3.0)
    options = options_for(folder, tmp_path / "corpus", tokenizers)

    def disconnect(done: int, total: int) -> None:
        """Empties the folder of songs after the first shard."""
        if done == 1:
            folder.rename(tmp_path / "elsewhere")
            folder.mkdir()

    with pytest.raises(HAFMCorpusError, match="can't be read any more .*connect its disk, and run the command again"):
        prepare(options, disconnect)
    folder.rmdir()
    (tmp_path / "elsewhere").rename(folder)
    manifest = prepare(options)
    assert manifest["complete"]
    assert manifest["tracks"] == {"found": 6, "kept": 6, "dropped": {}}


def test_a_corpus_that_is_not_finished_says_so(whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    corpus = Path(shutil.copytree(whole, tmp_path / "corpus"))
    load_token_corpus(corpus, "train", cache_dir=tmp_path / "cache")
    assert "is not finished" not in caplog.text
    report_path(corpus, "train-00000.parquet").unlink()
    load_token_corpus(corpus, "train", cache_dir=tmp_path / "cache")
    assert "is not finished (shards to be made: 1, such as train-00000.parquet)" in caplog.text


def test_a_corpus_among_the_songs_and_an_empty_folder_are_refused(
    songs: Path, tokenizers: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(HAFMCorpusError, match="choose a folder outside of it"):
        prepare(options_for(songs, songs / "corpus", tokenizers))
    (tmp_path / "empty").mkdir()
    with pytest.raises(HAFMCorpusError, match="holds no tracks with stems .* 0 that can't be used.; name"):
        prepare(options_for(tmp_path / "empty", tmp_path / "corpus", tokenizers))
    (tmp_path / "empty" / "song").symlink_to(songs)
    with pytest.raises(HAFMCorpusError, match="1 that can't be used, such as song: a link to a folder.; name"):
        prepare(options_for(tmp_path / "empty", tmp_path / "corpus", tokenizers))


def test_a_corpus_of_another_version_is_refused(songs: Path, tokenizers: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"train-00000.parquet": ["train/a"]}')
    with pytest.raises(HAFMCorpusError, match="made by another version"):
        prepare(options_for(songs, tmp_path, tokenizers))
