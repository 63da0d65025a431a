# SPDX-License-Identifier: Apache-2.0
"""Accompanying a folder: any number of workers, engine or interruption gives the files of one undisturbed run."""

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile
import transformers

from commands import hafm
from hafm_hf import audio
from hafm_hf.cli.accompany_folder import _batched, accompany_all
from hafm_hf.cli.options import Outcome, Request
from hafm_hf.corpus.locks import HAFMBusyError, locked
from hafm_hf.corpus.tracks import HAFMCorpusError
from programs import Program, group_lives, run_program, until
from vocals import CODEC_RATE, file_bytes, glide

HAFM = Path(sys.executable).with_name("hafm")
PARTS = ("instrumental", "mix")
# of each vocal
SECONDS = {"a.wav": 1.0, "verse/b.flac": 1.3, "verse/deep/a.wav": 1.1, "verse/deep/a.flac": 1.2}
# the folder of its output, and the outcome of each vocal
QuietRun = tuple[Path, list[Outcome]]


def request(vocals: Path, out: Path, model: Path, **parameters: object) -> Request:
    """A request to accompany a folder; without `parameters`, with seed 3 and without the fine stage."""
    return Request(str(vocals), str(out), str(model), parameters=parameters or {"seed": 3, "skip_fine": True})


def accompany(asked: Request, *how: Any) -> list[Outcome]:
    """The outcome of every vocal, sorted by path; `how` are batch size and engine, as for `accompany_all`."""
    return sorted((outcome for outcome, *_ in accompany_all(asked, *how)), key=lambda outcome: outcome.vocal)


def contents(out: Path) -> dict[str, bytes]:
    """The WAV files in a folder and below it, by their relative paths."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.wav"))}


@pytest.fixture(scope="module")
def vocals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four vocals in nested folders, two with the same stem, and one file that is not audio."""
    folder = tmp_path_factory.mktemp("batch") / "vocals"
    for name, seconds in SECONDS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file_bytes(glide(seconds), format=path.suffix[1:].upper()))
    (folder / "verse" / "notes.wav").write_text("These are words, not sounds.\n" * 20)
    (folder / "verse" / "lyrics.txt").write_text("la la la")
    return folder


@pytest.fixture(scope="module")
def quiet_run(vocals: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> QuietRun:
    """The output of a single process that nothing interrupts."""
    out = tmp_path_factory.mktemp("batch") / "quiet"
    return out, accompany(request(vocals, out, tiny_model), 2)


def test_names_and_lengths_are_kept_and_a_bad_vocal_does_not_stop_others(quiet_run: QuietRun) -> None:
    out, outcomes = quiet_run
    errors = {outcome.vocal: outcome.error for outcome in outcomes if outcome.error}
    assert list(errors) == ["verse/notes.wav"]
    assert "notes.wav is not audio" in errors["verse/notes.wav"]
    names = {"a.wav": "a", "verse/b.flac": "verse/b"}
    # two vocals that differ only in their suffix
    names |= {"verse/deep/a.flac": "verse/deep/a_flac", "verse/deep/a.wav": "verse/deep/a_wav"}
    assert sorted(contents(out)) == sorted(f"{name}_{part}.wav" for name in names.values() for part in PARTS)
    for key, name in names.items():
        for part in PARTS:
            assert soundfile.info(out / f"{name}_{part}.wav").frames == round(SECONDS[key] * CODEC_RATE)


@pytest.mark.fault("killed accompany FOLDER")
def test_a_killed_run_leaves_only_complete_files_and_resumes_to_the_same_bytes(
    vocals: Path, tiny_model: Path, quiet_run: QuietRun, tmp_path: Path
) -> None:
    expected = contents(quiet_run[0])
    words = ["accompany", vocals, "--out", tmp_path, "--model", tiny_model, "--seed", 3, "--skip-fine"]
    command = [str(HAFM), *map(str, [*words, "--workers", 2, "--batch-size", 2])]
    run = Program(command, Path(os.devnull), Path(os.devnull))
    until(lambda: contents(tmp_path) or run.poll() is not None)
    os.kill(run.pid, signal.SIGKILL)
    survived = contents(tmp_path)
    assert survived
    assert survived.items() <= expected.items()
    written = {name: (tmp_path / name).stat().st_mtime_ns for name in survived}
    # workers end with the killed command
    until(lambda: not group_lives(run.pid))
    outcomes = accompany(request(vocals, tmp_path, tiny_model), 2)
    assert contents(tmp_path) == expected
    assert outcomes[0].files
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in survived} == written
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.slow
def test_ray_writes_the_same_files_as_one_process(
    vocals: Path, tiny_model: Path, quiet_run: QuietRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="needs the extra `ray`")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    outcomes = accompany(request(vocals, tmp_path / "ray", tiny_model), 2, {"engine": "ray", "workers": 2})
    assert contents(tmp_path / "ray") == contents(quiet_run[0])
    assert [outcome.error for outcome in outcomes] == [outcome.error for outcome in quiet_run[1]]


def test_only_a_changed_vocal_is_accompanied_again(tiny_model: Path, tmp_path: Path) -> None:
    vocals = tmp_path / "vocals"
    vocals.mkdir()
    for name, seconds in (("one", 1.0), ("two", 1.1)):
        (vocals / f"{name}.wav").write_bytes(file_bytes(glide(seconds)))
    # without a seed, one is drawn once and kept
    asked = request(vocals, tmp_path / "out", tiny_model, skip_fine=True)
    accompany(asked, 1)
    before = contents(tmp_path / "out")
    (vocals / "one.wav").write_bytes(file_bytes(glide(1.2)))
    accompany(asked, 1)
    after = contents(tmp_path / "out")
    assert soundfile.info(tmp_path / "out" / "one_mix.wav").frames == round(1.2 * CODEC_RATE)
    assert after["two_mix.wav"] == before["two_mix.wav"]
    assert after.keys() == before.keys()


def test_another_vocal_of_the_same_name_is_accompanied_anew(tiny_model: Path, tmp_path: Path) -> None:
    vocals = tmp_path / "vocals"
    vocals.mkdir()
    for name in ("one", "two"):
        (vocals / f"{name}.wav").write_bytes(file_bytes(glide(1.0)))
    asked = request(vocals, tmp_path / "out", tiny_model)
    accompany(asked, 1)
    (vocals / "one.wav").unlink()
    accompany(asked, 1)
    (vocals / "one.wav").write_bytes(file_bytes(glide(1.2)))
    accompany(asked, 1)
    assert soundfile.info(tmp_path / "out" / "one_mix.wav").frames == round(1.2 * CODEC_RATE)


def test_files_of_another_command_are_not_taken_for_a_runs_own(tiny_model: Path, tmp_path: Path) -> None:
    vocals = tmp_path / "vocals"
    vocals.mkdir()
    for name in ("one", "two"):
        (vocals / f"{name}.wav").write_bytes(file_bytes(glide(1.0)))
    out = tmp_path / "out"
    out.mkdir()
    (out / "one_mix.wav").write_bytes(b"mine")
    outcomes = accompany(request(vocals, out, tiny_model), 2)
    assert outcomes[0].error == f"one.wav: {out / 'one_mix.wav'} exists already; move it, or choose another --out."
    assert (out / "one_mix.wav").read_bytes() == b"mine"
    assert (out / "two_mix.wav").exists()


def test_a_vocal_is_accompanied_with_the_lead_sheet_next_to_it(bundled_model: Path, tmp_path: Path) -> None:
    vocals = tmp_path / "vocals"
    vocals.mkdir()
    sound = file_bytes(glide(1.5))
    for name in ("one", "two", "bad"):
        (vocals / f"{name}.wav").write_bytes(sound)
    (vocals / "one_beats.txt").write_text("0.2\n0.7\n1.2\n")
    (vocals / "one_chords.lab").write_text("0 1.5 Gm\n")
    (vocals / "bad_chords.lab").write_text("0 1.5 Gm\n1 H\n")
    asked = request(vocals, tmp_path / "out", bundled_model, seed=3, skip_fine=True, tempo=100.0)
    outcomes = {outcome.vocal: outcome for outcome in accompany(asked)}
    assert "bad_chords.lab, line 2" in outcomes["bad.wav"].error
    assert not outcomes["one.wav"].error
    assert not outcomes["two.wav"].error
    written = contents(tmp_path / "out")

    # lead sheets from files equal those given to the pipeline
    pipeline = transformers.pipeline("vocal-accompaniment", model=str(bundled_model))
    given = {"beats": [0.2, 0.7, 1.2], "chords": [(0.0, 1.5, "Gm")]}
    # "two" has no files, so the tempo of the request counts
    for name, known in (("one", given), ("two", {"tempo": 100.0})):
        song = pipeline(str(vocals / f"{name}.wav"), seed=3, skip_fine=True, **known)
        expected = audio.write_audio(tmp_path / f"{name}.wav", song["audio"], song["sampling_rate"]).read_bytes()
        assert written[f"{name}_instrumental.wav"] == expected
    assert written["one_instrumental.wav"] != written["two_instrumental.wav"]

    (vocals / "one_chords.lab").unlink()
    (vocals / "bad_chords.lab").unlink()
    assert not any(outcome.error for outcome in accompany(asked))
    again = contents(tmp_path / "out")
    assert again["two_mix.wav"] == written["two_mix.wav"]
    assert again["one_mix.wav"] != written["one_mix.wav"]


def test_changed_options_a_second_run_and_bad_folders_are_refused(
    vocals: Path, tiny_model: Path, quiet_run: QuietRun, tmp_path: Path
) -> None:
    out, _ = quiet_run
    asked = request(vocals, out, tiny_model)
    with pytest.raises(HAFMCorpusError, match=r"begun with other options \(batch_size was 2 and is 3\)"):
        accompany(asked, 3)
    with locked(out), pytest.raises(HAFMBusyError, match="in use by another process; wait for it, stop it"):
        accompany(asked)
    with pytest.raises(HAFMCorpusError, match="choose a folder outside of it"):
        accompany(request(vocals, vocals / "out", tiny_model))
    with pytest.raises(HAFMCorpusError, match="can't be listed"):
        accompany(request(tmp_path / "nowhere", tmp_path / "out", tiny_model))
    (tmp_path / "empty").mkdir()
    with pytest.raises(HAFMCorpusError, match="contains no vocals"):
        accompany(request(tmp_path / "empty", tmp_path / "out", tiny_model))
    for name in ("a.wav", "a.flac", "a_wav.wav"):
        shutil.copy(vocals / "a.wav", tmp_path / "empty" / name)
    with pytest.raises(HAFMCorpusError, match="Two vocals would be written as a_wav; rename one of them"):
        accompany(request(tmp_path / "empty", tmp_path / "out", tiny_model))


def test_batches_have_similar_lengths_and_the_longest_come_first(tmp_path: Path) -> None:
    lengths = {f"{seconds}.wav": seconds for seconds in (1.0, 30.0, 9.0, 28.0, 8.0, 27.0)}
    expected = [["30.0.wav", "28.0.wav"], ["27.0.wav"], ["9.0.wav", "8.0.wav"], ["1.0.wav"]]
    assert _batched(tmp_path, lengths, 2) == expected
    # a vocal with its own lead sheet shares no batch
    (tmp_path / "28.0_beats.txt").write_text("0 0.5")
    expected = [["30.0.wav"], ["28.0.wav"], ["27.0.wav"], ["9.0.wav", "8.0.wav"], ["1.0.wav"]]
    assert _batched(tmp_path, lengths, 3) == expected


def test_the_command_exits_with_1_and_names_what_was_left_out(
    vocals: Path, tiny_model: Path, quiet_run: QuietRun, tmp_path: Path
) -> None:
    # nothing is left to do in the quiet run's folder
    words = ["accompany", vocals, "--out", quiet_run[0], "--model", tiny_model, "--seed", 3, "--skip-fine"]
    command = [str(HAFM), *map(str, [*words, "--batch-size", 2])]
    for wrong in ([str(vocals / "a.wav")], ["--out", "."], ["--overwrite"]):
        assert hafm(*command[1:], *wrong).exit_code == 2
    for wrong in (["--workers", "2"], ["--batch-size", "8"]):
        assert hafm("accompany", vocals / "a.wav", *wrong).exit_code == 2
    # invalid options are refused before anything is planned
    fresh = ["accompany", str(vocals), "--model", str(tiny_model), "--out", str(tmp_path / "out")]
    for wrong, code in ((["--style", "jazz"], 1), (["--tempo", "20"], 2)):
        assert hafm(*fresh, *wrong).exit_code == code
        assert not (tmp_path / "out").exists()
    done = run_program(command, {**os.environ, "NO_COLOR": "1"})
    assert done.returncode == 1
    assert "hafm: verse/notes.wav is not audio that HAFM can read" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == f"4 vocals accompanied in {quiet_run[0]}, 1 left out\n"
