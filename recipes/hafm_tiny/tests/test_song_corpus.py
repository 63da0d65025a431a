# SPDX-License-Identifier: Apache-2.0
"""The song corpus: vocal and band aligned, each song in one split, reproducible bytes, and no partial items."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

pytest.importorskip("pyworld", reason="pyworld is not installed", exc_type=ImportError)
pytest.importorskip("mir_eval", reason="mir_eval is not installed")

from typing import Any

from chaos import digest_files
from hafm_hf.corpus.lead_sheets import labelled_lead_sheet
from hafm_tiny.song_pool import load_song
from hafm_tiny.songs.song_corpus import SongCorpusOptions, build_corpus, draw_style, list_tasks, render_item
from hafm_tiny.songs.styles import STEMS, STYLES
from programs import RECIPES, Program, run_program, until

FILES = {"vocal.flac", "instrumental.flac", "labels.json"}
STEM_FILES = {f"{stem}.flac" for stem in STEMS}


@pytest.fixture()
def options(songs: Path, voices: Path, soundfont: Path, tmp_path: Path) -> SongCorpusOptions:
    """Options of a small corpus with one voice in training and another in the test."""
    return SongCorpusOptions(
        songs=songs,
        voices=voices,
        soundfonts=(soundfont,),
        output=tmp_path / "corpus",
        training_voices=("alto",),
        test_voices=("bass",),
        validation_songs=2,
        test_songs=1,
        seconds=(7.0, 9.0),
    )


def test_each_pass_keeps_songs_in_their_splits_and_starts_with_all_splits(options: SongCorpusOptions) -> None:
    first = list_tasks(options, 0)
    second = list_tasks(options, 1)
    assert {t.folder.name: t.split for t in first} == {t.folder.name: t.split for t in second}
    assert [t.folder.name for t in first] != [t.folder.name for t in second]
    assert {t.split for t in first[:5]} == {"train", "validation", "test"}
    assert len({t.name for t in (*first, *second)}) == 16, "eight songs in each of two passes"


def test_same_seed_gives_the_same_bytes_with_any_number_of_workers(options: SongCorpusOptions, tmp_path: Path) -> None:
    tasks = list_tasks(options, 0)[:2]
    again = dataclasses.replace(options, output=tmp_path / "again")
    other = dataclasses.replace(options, output=tmp_path / "other", seed=1)
    for run, workers in ((options, 1), (again, 2), (other, 1)):
        assert all(seconds > 5 for _, seconds in build_corpus(run, tasks, workers))
    first, same, different = (digest_files(run.output, ignored=()) for run in (options, again, other))
    assert first == same
    assert len(first) == 2 * len(FILES | STEM_FILES)
    assert all(different[name] != digest for name, digest in first.items())


def test_items_are_complete_labelled_and_within_the_level_range(options: SongCorpusOptions) -> None:
    tasks = list_tasks(options, 0)
    chosen = [next(t for t in tasks if t.split == split) for split in ("train", "test")]
    assert len(list(build_corpus(options, chosen))) == 2
    for task, voice in zip(chosen, ("alto", "bass"), strict=True):
        folder = options.output / task.split / task.name
        assert {path.name for path in folder.iterdir()} == FILES | STEM_FILES
        labels = json.loads((folder / "labels.json").read_text())
        vocal, rate = soundfile.read(folder / "vocal.flac")
        instrumental, _ = soundfile.read(folder / "instrumental.flac")
        assert rate == 24000
        assert vocal.shape == instrumental.shape == (round(labels["duration"] * rate),)
        assert labels["voice"] == voice
        assert labels["song"] == task.folder.name
        assert labels["split"] == task.split
        assert all(0 <= start < end <= labels["duration"] + 0.1 for start, end, _ in labels["notes"])
        for audio in (vocal, instrumental):
            assert np.abs(audio).max() < 0.995
            assert -30 < 20 * np.log10(np.sqrt(np.mean(audio**2))) < -12
        stems = [soundfile.read(folder / name)[0] for name in sorted(STEM_FILES)]
        # each of four stems is rounded to 16 bits
        assert np.abs(np.sum(stems, axis=0) - instrumental).max() < 4 / 32768
        sheet = labelled_lead_sheet(labels)
        assert sheet.style in STYLES
        assert sheet.beats_per_bar == 4
        assert sheet.sections
        assert sheet.chords
        assert sheet.key


def test_reharmonising_a_song_changes_its_chords_but_not_its_singing(options: SongCorpusOptions) -> None:
    # long enough that some bars are reharmonised
    long = dataclasses.replace(options, seconds=(25.0, 30.0))
    task = list_tasks(long, 0)[1]
    plain, moved = (render_item(task, dataclasses.replace(long, reharmonised=share)) for share in (0.0, 1.0))
    assert np.array_equal(plain.vocal, moved.vocal)
    assert plain.labels["notes"] == moved.labels["notes"]
    assert plain.labels["chords"] != moved.labels["chords"]
    assert plain.labels["beats"] == moved.labels["beats"]
    assert not plain.labels["reharmonised"]
    assert moved.labels["reharmonised"]
    correlations = {stem: np.corrcoef(plain.stems[stem], moved.stems[stem])[0, 1] for stem in ("drums", "bass")}
    assert correlations["drums"] > 0.95, correlations
    assert correlations["bass"] < 0.8, correlations


def test_a_killed_recipe_leaves_only_complete_items_and_resumes(options: SongCorpusOptions, tmp_path: Path) -> None:
    command: list[Any] = [RECIPES / "build_song_corpus.py", options.songs, options.voices, options.output]
    command += ["--soundfont", options.soundfonts[0], "--training-voice", "alto", "--test-voice", "bass"]
    command += ["--validation-songs", "2", "--test-songs", "1", "--limit", "3", "--workers", "1"]
    process = Program(command, tmp_path / "log", tmp_path / "log")
    until(lambda: list(options.output.glob("*/*_0")) or process.poll() is not None)
    process.kill()
    process.wait()
    finished = sorted(path for path in options.output.glob("*/*_0"))
    assert finished
    assert all({file.name for file in folder.iterdir()} == FILES | STEM_FILES for folder in finished)
    before = {folder: (folder / "vocal.flac").stat().st_mtime_ns for folder in finished}
    assert run_program(command).returncode == 0
    assert len(list(options.output.glob("*/*_0"))) == 3
    assert not list(options.output.rglob("*.partial"))
    assert {folder: (folder / "vocal.flac").stat().st_mtime_ns for folder in finished} == before


def test_a_stereo_corpus_has_the_same_mono_files_and_a_stereo_file_with_the_band_as_its_mean(
    options: SongCorpusOptions, tmp_path: Path
) -> None:
    task = list_tasks(options, 0)[0]
    wide = dataclasses.replace(options, output=tmp_path / "wide", stereo_rate=44_100)
    for run in (options, wide):
        assert all(seconds > 5 for _, seconds in build_corpus(run, [task]))
    folder = wide.output / task.split / task.name
    mono, both = (digest_files(run.output, ignored=("*/labels.json",)) for run in (options, wide))
    stereo_file = (folder / "stereo.flac").relative_to(wide.output)
    assert {name: digest for name, digest in both.items() if Path(name) != stereo_file} == mono
    song = load_song(folder, 24_000, stereo_rate=44_100)
    assert song.stereo is not None
    assert song.stereo.shape == (2, song.num_samples * 44_100 // 24_000)
    # 44.1 kHz to 24 kHz
    middle = resample_poly(song.stereo_scale * song.stereo.mean(axis=0), 80, 147)[: song.num_samples]
    correlation = np.corrcoef(middle, song.instrumental[: middle.size])[0, 1]
    assert correlation > 0.99
    assert np.std(middle) == pytest.approx(np.std(song.instrumental), rel=0.1)


def test_styles_are_drawn_in_proportion_to_their_weights() -> None:
    weights = {"a": 0.75, "b": 0.25, "c": 0.0}
    drawn = Counter(draw_style(weights, np.random.default_rng(seed)) for seed in range(400))
    assert set(drawn) == {"a", "b"}
    assert drawn["a"] == pytest.approx(300, abs=30)
