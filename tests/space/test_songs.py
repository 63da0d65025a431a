# SPDX-License-Identifier: Apache-2.0
"""What the Space does behind its page: reading, progress, cancelling, the files of a job, loudness."""

import queue
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hafm_hf import LeadSheet, audio
from hafm_hf.accompaniment.options import GenerationOptions
from vocals import CODEC_RATE, glide

pytest.importorskip("pyloudnorm", reason="needs the extra `space`")
import songs
import takes


@pytest.fixture
def offered(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(songs, "OFFERED", [str(tiny_model)])
    yield str(tiny_model)
    songs.load_pipeline.cache_clear()


def request(vocal: Path, model: str, length: float = 0, tempo: float = 0, **options: object) -> songs.Request:
    chosen = GenerationOptions.of(given={"seed": 1, "skip_fine": True, **options})
    return songs.Request(str(vocal), model, chosen, length, tempo)


def generating() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "(work)" in thread.name]


def test_remaining_time_is_that_of_all_stages_at_the_mean_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stages = songs.Stages(["semantic", "coarse"], totals={"semantic": 110, "coarse": 300}, pace={"coarse": 0.1})
    assert stages.remaining() is None
    stages.update("semantic", 10, 110)
    assert stages.remaining() is None
    now = 104.0
    stages.update("semantic", 30, 110)
    assert stages.remaining() == pytest.approx(80 * 0.2 + 300 * 0.1)
    # a stage that nobody has seen yet: a token of the first costs as much as three of the second
    unseen = songs.Stages(["semantic", "coarse"], stages.done, stages.began, stages.totals, {"semantic": 0.2})
    assert unseen.remaining() == pytest.approx(80 * 0.2 + 300 * 0.2 / 3)


def test_reports_come_together_up_to_a_result() -> None:
    reports: queue.SimpleQueue = queue.SimpleQueue()
    for report in (("semantic", 9, 9), ("coarse", 2, 9), ["songs"], "beyond"):
        reports.put(report)
    assert songs.reported(reports) == [("semantic", 9, 9), ("coarse", 2, 9), ["songs"]]
    assert songs.reported(queue.SimpleQueue()) == []


def test_an_option_that_is_left_empty_is_the_models_own_and_the_seed_is_drawn() -> None:
    values = {**{name: row.default for name, row in songs.CHOICES.items()}, "variations": 2.0, "top_k": 7}
    asked = songs.Request.of("a.wav", "m", *values.values(), 1.5, 0, 0)
    assert (asked.vocal, asked.model, asked.length, asked.tempo) == ("a.wav", "m", 1.5, 0)
    drawn = [asked.parameters() for _ in range(2)]
    assert drawn[0].pop("seed") != drawn[1].pop("seed")
    assert drawn[0] == {"num_samples": 2, "top_k": 7, "stems": False, "skip_fine": False}
    # what a browser makes of empty inputs
    empty = {**values, "seed": -1, "guidance_scale": 0, "temperature": 0, "top_k": 0}
    assert songs.Request.of("a.wav", "m", *empty.values(), 0, 0, 0).parameters().keys() == {
        "num_samples", "seed", "stems", "skip_fine"
    }  # fmt: skip
    assert songs.Request.of("a.wav", "m", *{**empty, "seed": 0}.values(), 0, 0, 0).parameters()["seed"] == 0
    with pytest.raises(ValueError, match="temperature is 0.001; it must be 0.01 or more"):
        songs.Request.of("a.wav", "m", *{**values, "temperature": 0.001}.values(), 0, 0, 0)


def test_a_tempo_is_known_to_the_model_and_one_that_no_line_has_is_refused(tmp_path: Path) -> None:
    assert request(tmp_path / "a.wav", "m", tempo=92).parameters()["lead_sheet"] == LeadSheet(tempo=92)
    with pytest.raises(ValueError, match="halve or double"):
        request(tmp_path / "a.wav", "m", tempo=240).parameters()


def test_progress_comes_stage_by_stage_and_ends_in_files(offered: str, voices: Path) -> None:
    *steps, job = songs.make_job(request(voices / "song.wav", offered, num_samples=2, length=1))
    assert isinstance(job, takes.Job)
    last = steps[-1]
    assert isinstance(last, songs.Stages)
    assert last.names == ["semantic", "coarse"] and last.done == {"semantic": (50, 50), "coarse": (300, 300)}
    assert sorted(path.name for path in job.folder.iterdir()) == [
        "song_1_instrumental.wav",
        "song_2_instrumental.wav",
        "song_stems.zip",
        "song_vocal.wav",
    ]
    mix = takes.mix_job(job, 2, takes.Channel(), takes.Channel(-6.0))
    assert mix.name == "song_2_mix.wav" and [set(each) for each in job.loudness] == [{"voice", "band"}] * 2
    with zipfile.ZipFile(job.path("stems", "zip")) as stems:
        assert stems.testzip() is None


def test_closing_stops_the_stage_that_runs_and_leaves_no_file(offered: str, voices: Path) -> None:
    before = set(takes.JOBS.iterdir())
    steps = songs.make_job(request(voices / "patience.wav", offered))
    for step in steps:
        assert isinstance(step, songs.Stages)
        if step.done.get("semantic", (0, 0))[0] > 5:
            break
    assert isinstance(step, songs.Stages)
    (worker,) = generating()
    steps.close()
    worker.join(timeout=30)
    done, total = step.done["semantic"]
    assert not worker.is_alive() and done < total
    assert set(takes.JOBS.iterdir()) == before


def test_selected_seconds_are_made_anew_and_all_other_samples_stay(offered: str, voices: Path) -> None:
    wanted = request(voices / "patience.wav", offered, length=6)
    *_, old = songs.make_job(wanted)
    assert isinstance(old, takes.Job)
    *_, new = songs.make_job(replace(wanted, remake=takes.Remake(old, 1, 2.0, 3.5)))
    assert isinstance(new, takes.Job) and (new.seed, new.source) == (1, old.source)
    (before, rate), (after, _) = old.read("instrumental", 1), new.read("instrumental", 1)
    changed = np.flatnonzero(before != after) / rate
    assert len(changed) > 0.5 * 1.5 * rate and changed.min() >= 2.0 and changed.max() < 3.5
    # no jump at the joins
    edges = np.abs(np.diff(after))[[round(2.0 * rate) - 1, round(3.5 * rate) - 1]]
    assert edges.max() <= 2 * np.abs(np.diff(before)).max()
    for start, stop in ((0.0, 6.0), (-1.0, 9.0), (7.0, 8.0)):
        with pytest.raises(ValueError, match="the whole song"):
            list(songs.make_job(replace(wanted, remake=takes.Remake(old, 1, start, stop))))


def test_a_band_that_goes_on_behind_the_voice_is_made_anew_in_parts_too(offered: str, voices: Path) -> None:
    wanted = replace(request(voices / "patience.wav", offered, length=3), tail=1.0)
    *_, old = songs.make_job(wanted)
    assert isinstance(old, takes.Job)
    (before, rate), (voice, _) = old.read("instrumental", 1), old.read("vocal")
    assert len(before) == len(voice) == 4 * rate and not voice[3 * rate :].any()
    *_, new = songs.make_job(replace(wanted, tail=0.0, remake=takes.Remake(old, 1, 1.0, 2.0)))
    assert isinstance(new, takes.Job) and new.tail == 1.0
    changed = np.flatnonzero(before != new.read("instrumental", 1)[0]) / rate
    assert changed.min() >= 1.0 and changed.max() < 2.0
    values = {name: row.default for name, row in songs.CHOICES.items()}.values()
    with pytest.raises(ValueError, match="tail is 99"):
        songs.Request.of("a.wav", "m", *values, 0, 0, 99.0)


def test_a_channel_keeps_its_level_in_the_middle_and_its_limits() -> None:
    sound = glide(0.5)
    np.testing.assert_array_equal(takes.Channel().place(sound), sound)
    assert not takes.Channel(muted=True).place(sound).any()
    right = takes.Channel(pan=1.0).place(sound)
    np.testing.assert_allclose(right, np.stack([0 * sound, 2**0.5 * sound], axis=1), atol=1e-6)
    np.testing.assert_allclose(takes.Channel(pan=1e-9).place(sound)[:, 0], sound, atol=1e-6)
    sent = {"db": 1000, "pan": -7, "muted": 1, "solo": True}
    assert takes.Channel.of(sent) == takes.Channel(24.0, -1.0, True)
    odds: list[object] = [None, [], {"db": "loud", "pan": float("nan")}]
    for odd in odds:
        assert takes.Channel.of(odd) == takes.Channel()


@pytest.mark.fault("paths and addresses sent to a Space")
def test_only_files_of_a_take_are_written(offered: str, voices: Path) -> None:
    *_, job = songs.make_job(request(voices / "song.wav", offered, length=1))
    assert isinstance(job, takes.Job)
    asked = {"ask": {"file": "instrumental", "format": "flac"}}
    assert takes.write_file(job, 1, asked).name == "song_instrumental.flac"
    for part, suffix in (("../../x", "wav"), ("mix", "../wav"), ("vocal", "py"), (None, None)):
        with pytest.raises(ValueError, match="There is no"):
            takes.write_file(job, 1, {"ask": {"file": part, "format": suffix}})
    with pytest.raises(ValueError, match="loudness is 3"):
        takes.write_file(job, 1, {"ask": {"file": "mix", "format": "wav"}, "loudness": 3})
    with pytest.raises(ValueError, match="generate them again"):
        takes.find([job], "../../etc/1")


def test_an_expired_job_says_what_to_do(tmp_path: Path) -> None:
    job = takes.Job(tmp_path / "gone", "song", 1, 1, 1.0, "song.wav", [])
    with pytest.raises(audio.HAFMAudioError, match="generate them again"):
        takes.mix_job(job, 1, takes.Channel(), takes.Channel())
    with pytest.raises(audio.HAFMAudioError, match="generate them again"):
        takes.find([job], "gone/1")
    assert takes.shelf([job]) == []


def test_length_makes_a_long_vocal_short_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(songs, "MAX_SECONDS", 2.0)
    path = audio.write_audio(tmp_path / "long.wav", glide(2.5), CODEC_RATE)
    with pytest.raises(audio.HAFMAudioError, match="longer than 2 s"):
        songs.read_vocal(str(path), 0)
    assert len(songs.read_vocal(str(path), 1.5)[0]) == 36_000


@pytest.mark.parametrize("model", ["/etc", "..", "a b/c", "org/name/extra", "", "https://example.org/a"])
def test_only_offered_models_and_hub_ids_are_loaded(model: str) -> None:
    with pytest.raises(ValueError, match="is no model"):
        songs.load_pipeline(model)


def test_the_bundled_models_own_name_is_loaded_whatever_is_offered(offered: str, bundled_model: Path) -> None:
    assert Path(songs.load_pipeline("hafm-tiny").model.name_or_path) == bundled_model


def test_a_folder_that_looks_like_a_hub_id_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="is no model"):
        songs.load_pipeline("org/name")


@pytest.mark.parametrize("band_db", [0.0, 24.0])
def test_pieces_that_are_heard_are_the_mix_and_change_no_file(offered: str, voices: Path, band_db: float) -> None:
    wanted = request(voices / "patience.wav", offered, length=6)
    *steps, job = songs.make_job(wanted, songs.LiveMix(band_db))
    assert isinstance(job, takes.Job)
    pieces = [audio.read_audio(step, min_seconds=0.0)[0] for step in steps if isinstance(step, bytes)]
    whole, rate = audio.read_audio(takes.mix_job(job, 1, takes.Channel(), takes.Channel(band_db)))
    assert sum(map(len, pieces)) == len(whole) == 6 * rate
    assert len(pieces) > 1
    heard = np.concatenate(pieces)
    assert audio.peak_dbfs(heard) <= audio.CEILING_DBFS + 0.01
    if band_db == 0.0:
        # nothing clips, so nothing is turned down; four files of 16 bits lie between, each half a step off at most
        # the mix fades in and out
        inner = slice(rate // 20, -rate // 20)
        np.testing.assert_allclose(heard[inner], whole[inner], atol=2 / 2**15)
    vocal, rate = songs.read_vocal(wanted.vocal, wanted.length)
    sound = {"array": vocal, "sampling_rate": rate}
    quiet = songs.load_pipeline(offered)(sound, **wanted.parameters())
    np.testing.assert_allclose(job.read("instrumental", 1)[0], quiet["audio"], atol=1.01 / 2**15)
