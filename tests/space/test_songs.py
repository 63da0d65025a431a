# SPDX-License-Identifier: Apache-2.0
"""The Space's server side: options, progress, cancelling, and the files of a job."""

import json
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import filelock
import numpy as np
import pytest

from hafm_hf import LeadSheet, audio
from hafm_hf.accompaniment.options import GenerationOptions
from hafm_hf.lead_sheet.vocabulary import STEMS
from vocals import CODEC_RATE, file_bytes, glide

pytest.importorskip("pyloudnorm", reason="needs the extra `space`")
import app
import projects
import songs
import takes

MODEL = "hafm-tiny"
# values of a request by the names of `songs.KINDS`, in its order, as a page sends them before anything is filled in
EMPTY = dict.fromkeys(songs.KINDS) | {name: row.default for name, row in songs.OPTIONS.items()} | {"model": "m"}


def request(vocal: Path, seconds: float = 0, ends: dict[str, float] | None = None, **options: object) -> songs.Request:
    """A request for a song of the bundled model without the fine stage.

    Args:
        vocal: the voice's file.
        seconds: how much of it is used; 0: all of it.
        ends: options of intro, outro and tail.
        options: generation options; by default seed 1.
    """
    chosen = GenerationOptions.of(given={"seed": 1, "skip_fine": True, **options})
    return songs.Request(str(vocal), MODEL, chosen, seconds, ends=ends or {})


def job_of(wanted: songs.Request) -> takes.Job:
    """Generates a song, and returns the finished take."""
    *_, job = songs.make_job(wanted)
    assert isinstance(job, takes.Job)
    return job


def test_empty_options_use_the_models_defaults_and_a_random_seed() -> None:
    # as browsers send them: whole numbers as floats, fields never filled in, and fields cleared again
    values = EMPTY | {"top_k": 7.0, "style": "", "guidance_scale": "", "temperature": None}
    values |= {"seconds": 1.5, "tempo": "", "intro_bars": None, "outro_bars": 2.0, "tail": 0}
    asked = songs.Request.of({"path": "a.wav"}, *values.values())
    assert (asked.vocal, asked.model, asked.seconds, asked.tempo) == ("a.wav", "m", 1.5, 0)
    assert asked.ends == {"outro_bars": 2}
    drawn = [asked.parameters() for _ in range(2)]
    assert drawn[0].pop("seed") != drawn[1].pop("seed")
    assert drawn[0] == {"top_k": 7, "style": "auto", "stems": False, "skip_fine": False, "outro_bars": 2}
    values = EMPTY | {"seed": 0, "top_k": 0, "seconds": 0, "tempo": 92, **dict.fromkeys(songs.ENDS, 0)}
    known = songs.Request.of({"path": "a.wav"}, *values.values()).parameters()
    assert (known["seed"], known["top_k"], known["lead_sheet"]) == (0, 0, LeadSheet(tempo=92))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"temperature": 0.001}, "temperature is 0.001; it must be 0.01 or more"),
        ({"seed": 1.5}, "seed is 1.5; it must be a whole number"),
        ({"seed": "<b>"}, "seed is '<b>'; it must be a whole number"),
        ({"energy": "loud"}, "energy is 'loud'; choose"),
        ({"tail": 99.0}, "tail is 99"),
        ({"intro_bars": 0.5}, "intro_bars is 0.5; it must be a whole number"),
        ({"seconds": -1}, "seconds is -1; it must be 0 or more"),
        ({"tempo": float("nan")}, "tempo is nan; it must be 0 or more"),
        ({"tempo": 240}, "halve or double"),
    ],
)
def test_an_option_out_of_range_is_refused_in_one_sentence(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        songs.Request.of({"path": "a.wav"}, *(EMPTY | given).values()).parameters()


def test_a_take_is_written_mixed_and_zipped(voices: Path) -> None:
    job = job_of(request(voices / "song.wav", seconds=1))
    assert sorted(path.name for path in job.folder.iterdir()) == ["song_instrumental.wav", "song_vocal.wav"]
    assert takes.mix_job(job, {"voice": takes.Channel(), "band": takes.Channel(-6.0)}).name == "song_mix.wav"
    with zipfile.ZipFile(takes.zip_stems(job)) as stems:
        assert stems.testzip() is None


def test_closing_a_generation_stops_the_running_stage_and_leaves_no_file(voices: Path) -> None:
    before = set(takes.JOBS.iterdir())
    steps = songs.make_job(request(voices / "patience.wav"))
    # no result for half a second: it is running
    for _ in range(10):
        assert next(steps) is None
    (worker,) = [thread for thread in threading.enumerate() if "(work)" in thread.name]
    steps.close()
    worker.join(timeout=30)
    assert not worker.is_alive()
    assert set(takes.JOBS.iterdir()) == before


@pytest.mark.parametrize(
    ("ends", "intro", "added", "stems"),
    # seconds before the voice, and seconds added in all, at 120 beats per minute
    [({}, 0.0, 0.0, None), ({"tail": 1.0}, 0.0, 1.0, True), ({"intro_bars": 1, "outro_bars": 1}, 2.1, 5.6, None)],
)
def test_only_the_selected_seconds_are_replaced(
    voices: Path, ends: dict[str, float], intro: float, added: float, stems: bool | None
) -> None:
    sheet = LeadSheet(beats=[0.0, 0.5], beats_per_bar=4)
    wanted = request(voices / "patience.wav", seconds=5, ends=ends, stems=stems, style="folk")
    old = job_of(replace(wanted, lead_sheet=sheet))
    parts = STEMS if stems else ()
    voice, rate = old.read("vocal")
    first, last = round(intro * rate), round((intro + 5) * rate)
    assert (old.stems, round(old.intro, 3), len(voice)) == (parts, intro, round((5 + added) * rate))
    assert old.added == pytest.approx(added)
    assert not voice[:first].any()
    assert not voice[last:].any()
    # the page's settings may have changed since
    other = request(voices / "patience.wav", seed=2, seconds=5)
    start, stop = intro + 2.0, intro + 3.5
    remade = replace(other, remake=takes.Remake(old, start, stop))
    moved = replace(remade, lead_sheet=sheet).parameters()["lead_sheet"]
    assert moved.beats == pytest.approx([intro, intro + 0.5])
    assert "lead_sheet" not in replace(remade, lead_sheet=LeadSheet(style="folk")).parameters()
    # only a style other than the take's is passed on
    for style, passed in (("folk", None), ("rock", "rock")):
        options = replace(other.options, style=style)
        assert replace(remade, options=options).parameters().get("style") == passed
    new = job_of(remade)
    assert (new.seed, new.source, new.intro, new.added, new.stems) == (2, old.source, old.intro, old.added, parts)
    for part in ("instrumental", *parts):
        (before, _), (after, _) = old.read(part), new.read(part)
        changed = np.flatnonzero((before != after).any(axis=1)) / rate
        assert len(changed) > 0.5 * 1.5 * rate, part
        assert changed.min() >= start, part
        assert changed.max() < stop, part
        # no discontinuity at the joins
        edges = np.abs(np.diff(after, axis=0))[[round(start * rate) - 1, round(stop * rate) - 1]]
        assert edges.max() <= 2 * np.abs(np.diff(before, axis=0)).max()
    for start, stop, said in ((0, 5 + added, "the whole song"), (-1, 99, "the whole song"), (11, 12, "ends before")):
        with pytest.raises(ValueError, match=said):
            job_of(replace(wanted, remake=takes.Remake(old, start, stop)))


def test_a_centred_channel_is_unchanged_and_settings_are_clamped() -> None:
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


def test_repacked_projects_and_those_of_newer_versions_are_read(voices: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.mkdir("0123")
        archive.writestr("project.json", '{"path": "song.wav", "takes": ["0123", "4567"]}')
        archive.write(voices / "song.wav", "song.wav")
        archive.writestr("0123/job.json", '{"name": "/a", "seed": 3, "elapsed": 2, "balance": 1, "stems": [], "x": 1}')
        archive.writestr("4567/job.json", '{"name": "a", "seed": "three"}')
    state = projects.read_project(tmp_path / "a.zip")
    assert state["path"].read_bytes() == (voices / "song.wav").read_bytes()
    assert [path.name for path in (takes.JOBS / state["takes"][0]).iterdir()] == ["job.json"]
    newer, odd = (takes.read_job(name, "song.wav") for name in state["takes"])
    assert newer is not None
    assert (newer.name, newer.seed, odd) == ("_a", 3, None)


def kept_project(folder: Path, voice: Path, sounds: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """A project of one take "0123" as a browser has kept it: the voice, and sounds of the take by file name."""
    about = {"name": "song", "seed": 3, "elapsed": 2, "balance": 1, "stems": [], "excess": 6.0}
    with zipfile.ZipFile(folder / "kept.zip", "w", compression) as archive:
        archive.writestr("project.json", json.dumps({"path": "song.wav", "takes": ["0123"]}))
        archive.write(voice, "song.wav")
        archive.writestr("0123/job.json", json.dumps(about))
        for name, content in sounds.items():
            archive.writestr(f"0123/{name}", content)
    return folder / "kept.zip"


def test_a_band_of_flac_pieces_is_restored_once_and_as_loud_after_another_reload(voices: Path, tmp_path: Path) -> None:
    # a browser that does not decode Opus has kept FLAC
    first = glide(0.7, 44_100)
    second = glide(0.5, 44_100)
    pieces = {
        "0000000_band.flac": file_bytes(first, 44_100, format="FLAC"),
        "0000700_band.flac": file_bytes(second, 44_100, format="FLAC"),
    }
    state = projects.read_project(kept_project(tmp_path, voices / "song.wav", pieces))
    job = takes.read_job(state["takes"][0], str(state["path"]))
    assert job is not None
    band, rate = job.read("instrumental")
    assert (len(band), rate) == (len(first) + len(second), 44_100)
    expected = np.concatenate([first, second]) * audio.decibels_to_gain(-6.0)
    np.testing.assert_allclose(band, expected, atol=2 / 2**15)
    # pieces that are made of the lossless files are as loud as those, now and later
    job.files_to_play()
    later = takes.read_job(state["takes"][0], str(state["path"]))
    assert later is not None
    assert later.excess == job.excess == 0.0


@pytest.mark.fault("projects that would fill memory or disk")
def test_projects_that_would_fill_memory_or_disk_are_refused(
    voices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    voice = voices / "song.wav"
    with pytest.raises(ValueError, match=r"kept.zip is not a project of this page"):
        projects.read_project(kept_project(tmp_path, voice, {"song_instrumental.flac": bytes(9)}, zipfile.ZIP_LZMA))
    hours = file_bytes(np.zeros(2 * 3_600 * 1_000, dtype=np.float32), 1_000, format="FLAC")
    assert len(hours) < 100_000
    with pytest.raises(ValueError, match=r"kept.zip is not a project of this page"):
        projects.read_project(kept_project(tmp_path, voice, {"song_instrumental.flac": hours}))
    monkeypatch.setattr(projects, "MOST_BYTES", 300_000)
    minute = file_bytes(np.zeros(60 * 4_000, dtype=np.float32), 4_000, format="FLAC")
    with pytest.raises(ValueError, match=r"kept.zip is too large: unpacked"):
        projects.read_project(kept_project(tmp_path, voice, {"song_instrumental.flac": minute}))


def test_a_zip_of_stems_that_could_not_be_written_is_not_offered(
    voices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(request(voices / "song.wav", seconds=1))
    job.path("instrumental").rename(job.folder / "moved")
    with pytest.raises(OSError, match="No such file"):
        takes.zip_stems(job)
    (job.folder / "moved").rename(job.path("instrumental"))
    with zipfile.ZipFile(takes.zip_stems(job)) as archive:
        assert set(archive.namelist()) == {"song_vocal.wav", "song_instrumental.wav"}


def test_folders_of_killed_processes_are_deleted_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {name: tmp_path / f"{takes.FOLDER_PREFIX}{name}" for name in ("own", "of_another", "killed")}
    for folder in folders.values():
        (folder / "job").mkdir(parents=True)
        (folder / takes.LOCK_FILE).touch()
    monkeypatch.setattr(takes, "JOBS", folders["own"])
    monkeypatch.setattr(takes, "LOCK", filelock.FileLock(folders["own"] / takes.LOCK_FILE))
    monkeypatch.setattr(threading.Thread, "start", lambda thread: None)
    with filelock.FileLock(folders["of_another"] / takes.LOCK_FILE):
        takes.keep_sweeping()
    assert {path.name for path in tmp_path.iterdir()} == {folders["own"].name, folders["of_another"].name}
    takes.LOCK.release()


def test_a_take_that_is_added_while_another_is_prepared_stays(
    voices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (job_of(request(voices / "song.wav", seconds=1)) for _ in range(2))
    jobs: list[takes.Job] = []
    shelf = takes.shelf

    def slowly(shown: list[takes.Job]) -> list[dict[str, object]]:
        """Meanwhile, a band ends."""
        if len(jobs) == 1:
            app.add_takes([second], jobs, None)
        return shelf(shown)

    monkeypatch.setattr(takes, "shelf", slowly)
    returned, mixer = app.add_takes([first], jobs, None)
    assert returned is jobs
    assert [job.folder for job in jobs] == [first.folder, second.folder]
    assert [take["id"] for take in mixer["takes"]] == [first.folder.name, second.folder.name]
    assert [job.number for job in jobs] == [1, 2]


@pytest.mark.fault("paths and addresses sent to a Space")
def test_only_a_takes_own_files_can_be_requested(voices: Path) -> None:
    job = job_of(request(voices / "song.wav", seconds=1))
    asked = {"ask": {"file": "instrumental", "format": "flac"}}
    assert takes.write_file(job, asked).name == "song_instrumental.flac"
    for part, suffix in (("../../x", "wav"), ("mix", "../wav"), ("vocal", "py"), (None, None)):
        with pytest.raises(ValueError, match="There is no"):
            takes.write_file(job, {"ask": {"file": part, "format": suffix}})
    with pytest.raises(ValueError, match="loudness is 3"):
        takes.write_file(job, {"ask": {"file": "mix", "format": "wav"}, "loudness": 3})
    with pytest.raises(ValueError, match="generate it again"):
        takes.find([job], "../../etc")


def test_an_expired_job_gives_a_remedy_and_is_left_out_of_projects(tmp_path: Path) -> None:
    job = takes.Job(tmp_path / "gone", "song", 1, 1.0, "song.wav", 0.0)
    for read in (lambda: takes.mix_job(job, {}), lambda: takes.find([job], "gone")):
        with pytest.raises(audio.HAFMAudioError, match="generate it again"):
            read()
    assert takes.shelf([job]) == []
    state = {"path": str(projects.EXAMPLES[0]), "takes": ["gone"]}
    with zipfile.ZipFile(projects.write_project([job], state)) as archive:
        assert archive.namelist() == ["project.json", projects.EXAMPLES[0].name]


def test_a_limit_in_seconds_admits_a_long_vocal_and_reading_it_renews_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(songs, "MAX_SECONDS", 2.0)
    path = audio.write_audio(tmp_path / "long.wav", glide(2.5), CODEC_RATE)
    with pytest.raises(audio.HAFMAudioError, match="longer than 2 s"):
        songs.read_vocal(str(path), 0)
    # reading touches the file, so that it expires later
    before = path.stat().st_ctime_ns
    time.sleep(0.1)
    assert len(songs.read_vocal(str(path), 1.5)[0]) == 1.5 * CODEC_RATE
    assert path.stat().st_ctime_ns > before


def test_the_page_says_what_is_odd_about_a_voice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "EXAMPLES", [tmp_path / "voice.wav"])
    voice = glide(2.0)
    whole = file_bytes(voice, CODEC_RATE)
    odd = {
        "cancel each other": file_bytes(np.stack([voice, -voice], axis=1), CODEC_RATE),
        "though its header says 2.0 s": whole[: len(whole) * 3 // 4],
        "it is turned down by": file_bytes(10 * voice, CODEC_RATE, subtype="FLOAT"),
    }
    for said, content in odd.items():
        (tmp_path / "voice.wav").write_bytes(content)
        announced, taken, *_ = app.take_voice({"path": str(tmp_path / "voice.wav")}, [], None, None)
        assert said in announced
        assert taken["path"] == str(tmp_path / "voice.wav")


@pytest.mark.parametrize("frames", [0, 1, 20])
def test_a_voice_is_read_to_its_end_whatever_its_first_frame_states(frames: int, tmp_path: Path) -> None:
    whole = file_bytes(glide(3.0), format="MP3", bitrate_mode="VARIABLE", compression_level=0.2)
    # the header's number of frames: 4 bytes, after its name and flags
    place = whole.find(b"Xing") + 8
    (tmp_path / "voice.mp3").write_bytes(whole[:place] + frames.to_bytes(4, "big") + whole[place + 4 :])
    samples, rate = songs.read_vocal(str(tmp_path / "voice.mp3"), 0)
    assert len(samples) == pytest.approx(3.0 * rate, abs=100)


@pytest.mark.parametrize("model", ["/etc", "..", "", "https://example.org/a", "org/name"])
def test_only_offered_models_are_loaded(model: str) -> None:
    with pytest.raises(ValueError, match="There is no model"):
        songs.load_pipeline(model)


def test_streamed_pieces_are_the_take_and_stopping_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # a band that is not turned down when it is complete
    quiet_vocal = audio.write_audio(tmp_path / "quiet.wav", np.float32(0.2) * glide(12.0), CODEC_RATE)
    wanted = request(quiet_vocal, style="ballad")
    live = takes.LiveTake()
    *steps, job = songs.make_job(wanted, live)
    assert isinstance(job, takes.Job)
    assert job.excess == 0
    updates = [step for step in steps if isinstance(step, dict)]
    # as they are for browsers that do not decode Opus
    paths = [Path(path).with_suffix(".flac") for path in updates[-1]["files"]["band"]]
    pieces = [audio.read_audio(path, min_seconds=0.0, mono=False)[0] for path in paths]
    band, rate = job.read("instrumental")
    assert len(updates) == len(pieces) > 1
    assert updates[-1]["until"] == updates[-1]["seconds"] == 12
    assert [round(at * rate) for at in updates[-1]["at"]] == [sum(map(len, pieces[:n])) for n in range(len(pieces))]
    np.testing.assert_array_equal(np.concatenate(pieces), band)
    assert updates[-1]["balance"] == pytest.approx(job.balance - job.excess, abs=0.01)
    (shelved,) = takes.shelf([job])
    assert shelved["files"] == updates[-1]["files"]
    assert shelved["at"] == updates[-1]["at"]
    vocal, rate = songs.read_vocal(wanted.vocal, wanted.seconds)
    quiet = songs.load_pipeline(MODEL)({"array": vocal, "sampling_rate": rate}, **wanted.parameters())
    np.testing.assert_allclose(band, quiet["audio"], atol=1.01 / 2**15)
    # when stopped while a piece is sent, the take has the pieces sent before
    add = takes.LiveTake.add
    monkeypatch.setattr(takes.LiveTake, "add", lambda *piece: app.stop_run("a ticket") and add(*piece))
    *_, (*_, (_, job), _) = app.run(lambda *_: wanted, "a ticket", [], None)
    begun = job.read("instrumental")[0]
    assert 0 < len(begun) < len(band)
    np.testing.assert_array_equal(begun, band[: len(begun)])
    # but not if the voice has not begun
    early = replace(wanted, ends={"intro_bars": 4}, lead_sheet=LeadSheet(beats=[0.0, 1.0], beats_per_bar=4))
    live = takes.LiveTake()
    made = list(songs.make_job(early, live, lambda: bool(live.chunks)))
    assert live.chunks
    assert not any(isinstance(each, takes.Job) for each in made)
