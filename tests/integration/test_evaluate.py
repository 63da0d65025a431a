# SPDX-License-Identifier: Apache-2.0
"""`hafm evaluate` end to end, from the command line as a user runs it."""

import io
import json
import re
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from hafm_hf.cli import app, main
from little_band import RATE, given_song, song
from programs import ForkedWork, hafm, until


def run(*arguments: object) -> tuple[int, str, str]:
    """Runs `hafm evaluate` in this process; returns its exit code, stdout, and the "hafm: …" lines of stderr."""
    out = io.StringIO()
    err = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["hafm", "evaluate", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
    lines = [line for line in err.getvalue().splitlines() if "hafm: " in line]
    return int(ended.value.code or 0), out.getvalue(), "\n".join(lines)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with six songs of 5 s as pairs in test/, and three others in train/."""
    folder = tmp_path_factory.mktemp("sets")
    for number in range(9):
        place = folder / ("test" if number < 6 else "train") / f"song{number}"
        place.mkdir(parents=True)
        for name, sound in zip(("vocal", "instrumental"), song(number, 5.0), strict=True):
            soundfile.write(place / f"{name}.wav", sound, RATE)
    return folder


@pytest.fixture(scope="module")
def outputs(pairs: Path) -> Path:
    """Folder of a third-party system's outputs: the references, 120 ms late, as stereo FLAC; and of their scores."""
    folder = pairs / "outputs"
    folder.mkdir()
    # another tool's scores of the files, by clip or by path
    lines = [{"path": f"/elsewhere/song{number}.wav", "PQ": 6.0 + number % 2, "model": "v1"} for number in range(5)]
    lines += [{"clip": "song5", "PQ": 7.0, "CE": 3.0}]
    (folder / "scores.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for place in sorted((pairs / "test").iterdir()):
        sound, rate = soundfile.read(place / "instrumental.wav")
        late = np.concatenate([np.zeros(round(0.12 * rate)), sound])
        soundfile.write(folder / f"{place.name}.flac", np.stack([late, late], axis=1), rate)
    return folder


def test_known_beats_and_chords_are_scored_where_labels_exist(pairs: Path, outputs: Path, tmp_path: Path) -> None:
    for number in range(3):
        shutil.copytree(pairs / "test" / f"song{number}", tmp_path / "songs" / f"song{number}")
        labels = given_song(number, 5.0)[2].to_dict()
        (tmp_path / "songs" / f"song{number}" / "labels.json").write_text(json.dumps(labels))
    options = ["--pairs", tmp_path / "songs", "--outputs", f"late={outputs}", "--no-model", "--no-baselines"]
    code, printed, error = run(*options, "--out", tmp_path / "out", "--json")
    assert code == 0, error
    printed_report = json.loads(printed)
    reference, late = (printed_report["systems"][name]["scores"] for name in ("reference", "late"))
    assert reference["followed_chords"]["matched"] > reference["followed_chords"]["control"] + 0.1
    assert reference["followed_beats"]["matched"] > late["followed_beats"]["matched"]


def late(pairs: Path, outputs: Path) -> list[object]:
    """Options that evaluate `outputs` as a system called "late", and no model."""
    options = ["--pairs", pairs / "test", "--outputs", f"late={outputs}", "--retrieval-bank", pairs / "train"]
    return [*options, "--no-model"]


@pytest.fixture(scope="module")
def report(pairs: Path, outputs: Path, tmp_path_factory: pytest.TempPathFactory, bundled_model: Path) -> Path:
    """The folder of a report on `outputs`."""
    out = tmp_path_factory.mktemp("report")
    code, printed, error = run(*late(pairs, outputs), "--out", out, "--json")
    assert code == 0, error
    assert json.loads(printed) == json.loads((out / "report.json").read_text())
    return out


def test_the_report_has_the_system_baselines_and_fools(report: Path) -> None:
    written_report = json.loads((report / "report.json").read_text())
    assert list(written_report["systems"]) == [
        "late", "reference", "shuffled reference", "retrieval", "random retrieval", "silence", "click track",
        "sine doubling the voice", "the voice itself", "drone", "reference a semitone high",
    ]  # fmt: skip
    assert written_report["systems"]["late"]["scores"]["chord_changes_shared"]["follows"]
    assert written_report["systems"]["silence"]["scores"]["onsets_shared"]["matched"] == 0.0
    assert all(written_report["fools"].values())
    assert written_report["protocol"]["clips"] == 6
    assert written_report["protocol"]["generation"] is None
    assert not (report / "rendered").exists()
    assert written_report["protocol"]["retrieval_bank"] == {"used": 3, "of": 3, "seconds": 40.0}
    distances = next(iter(written_report["systems"]["late"]["distances"].values()))
    # 6 clips of 9 windows each
    assert "54 embeddings of width 192 are too few" in distances["refused"]
    assert distances["kernel"] < 50.0
    assert distances["coverage"] > 0.5
    # of three songs
    assert "27 embeddings of width 192 are too few" in distances["adherence_refused"]


def test_the_report_page_is_self_contained(report: Path) -> None:
    page = (report / "report.html").read_text()
    assert not re.search(r'(?:src|href)="', page)
    assert "reference a semitone high" in page
    assert page.count("<td>late</td>") >= 2


def test_scores_of_other_tools_beside_the_outputs_are_in_the_report_with_intervals(report: Path) -> None:
    systems = json.loads((report / "report.json").read_text())["systems"]
    quality = systems["late"]["other_scores"]["PQ"]
    assert quality["value"] == 6.5
    assert (quality["n"], quality["songs"]) == (6, 6)
    assert 6.0 <= quality["low"] < 6.5 < quality["high"] <= 7.0
    assert systems["late"]["other_scores"]["CE"]["n"] == 1
    assert "other_scores" not in systems["reference"]
    assert "Scores of other tools" in (report / "report.html").read_text()


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ('{"clip": "song77", "PQ": 1.0}\n', "has no score of song0 or another of the 6 clips"),
        ('{"clip": "song0", "PQ": 1.0}\n[7]\n', "scores.jsonl, line 2 is not a JSON object"),
    ],
)
def test_scores_that_name_no_clip_or_are_no_objects_are_refused(
    pairs: Path, outputs: Path, tmp_path: Path, lines: str, sentence: str
) -> None:
    copied = shutil.copytree(outputs, tmp_path / "outputs")
    (copied / "scores.jsonl").write_text(lines)
    options = ["--pairs", pairs / "test", "--outputs", f"late={copied}", "--no-model", "--no-baselines"]
    code, _, error = run(*options, "--out", tmp_path / "out")
    assert code == 1
    assert sentence in error


def test_the_means_are_those_of_the_clip_scores(report: Path) -> None:
    rows = [json.loads(line) for line in (report / "clips.jsonl").read_text().splitlines()]
    # six clips, eleven systems
    assert len(rows) == 6 * 11
    drone = [row["matched"]["key_agreement"] for row in rows if row["system"] == "drone"]
    reported = json.loads((report / "report.json").read_text())["systems"]["drone"]["scores"]["key_agreement"]
    assert np.mean(drone) == pytest.approx(reported["matched"], abs=1e-6)


@pytest.mark.fault("killed evaluate")
def test_any_number_of_workers_and_a_killed_run_give_the_same_report(
    report: Path, pairs: Path, outputs: Path, tmp_path: Path
) -> None:
    options = late(pairs, outputs)
    command = [*map(str, ["evaluate", *options, "--out", tmp_path])]
    killed = ForkedWork(hafm, command, log=tmp_path.with_suffix(".log"))
    # until 12 sounds are measured, for at most 120 s
    assert until(lambda: killed.poll() is not None or len(list(tmp_path.glob("cache/features/*.npz"))) >= 12, 120)
    assert killed.poll() is None
    killed.kill()
    assert not (tmp_path / "report.json").exists()
    code, _, error = run(*options, "--out", tmp_path, "--workers", 2)
    assert code == 0, error
    for name in ("report.json", "report.html", "clips.jsonl"):
        assert (tmp_path / name).read_bytes() == (report / name).read_bytes(), name


def test_a_model_is_rendered_once_for_each_seed(pairs: Path, tiny_model: Path, tmp_path: Path) -> None:
    options = ["--pairs", pairs / "test", "--model", tiny_model, "--seeds", 2, "--limit", 2, "--clip-seconds", 1]
    code, _, error = run(*options, "--out", tmp_path)
    assert code == 0, error
    songs = sorted(tmp_path.glob("rendered/*/*/*.wav"))
    # two clips, two seeds
    assert len(songs) == 4
    stamps = [path.stat().st_mtime_ns for path in songs]
    written = (tmp_path / "report.json").read_bytes()
    code, printed, error = run(*options, "--out", tmp_path)
    assert code == 0, error
    assert "matched minus shuffled pairs" in printed, error
    assert "report.html" in printed, error
    assert [path.stat().st_mtime_ns for path in songs] == stamps
    assert (tmp_path / "report.json").read_bytes() == written
    assert json.loads(written)["systems"]["tiny"]["seeds"] == 2


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        ((), 2, "name one set of vocals"),
        (("--pairs", "TEST", "--karaoke", "TEST"), 2, "name one set of vocals"),
        (("--pairs", "TEST", "--outputs", "late"), 2, "is not NAME=FOLDER"),
        (("--pairs", "TEST", "--no-model", "--model", "hafm-tiny"), 2, "contradict each other"),
        (("--pairs", "TEST", "--no-model", "--given", "beats"), 2, "contradict each other"),
        (("--pairs", "TEST", "--retrieval-bank", "TRAIN", "--no-baselines"), 2, "that --no-baselines leaves out"),
        (("--pairs", "TEST", "--separation", "demucs"), 2, "--separation is only for --protocol"),
        (("--pairs", "TEST", "--no-model", "--guidance-scale", "0"), 2, "contradict each other"),
        (("--pairs", "TEST/song0", "--clip-seconds", "1"), 1, "the shuffled control needs at least 2 songs"),
        (("--pairs", "TEST", "--clip-seconds", "1", "--embedder", "vggish"), 1, "--vggish-weights"),
        (("--pairs", "TEST", "--vggish-weights", "nowhere.pth"), 2, "there is no file nowhere.pth"),
        (("--no-model", "--pairs", "nowhere"), 1, "nowhere is not a folder"),
        (("--no-model", "--pairs", "TEST", "--outputs", "late=TRAIN"), 1, "lacks 6 of 6 accompaniments"),
        (("--no-model", "--pairs", "TEST", "--retrieval-bank", "TEST"), 1, "holds 6 songs of the test"),
        (("--no-model", "--pairs", "TEST", "--outputs", "late=OUT", "--embedder", "vggish"), 1, "--vggish-weights"),
    ],
)
def test_invalid_evaluations_are_refused_in_one_sentence(
    pairs: Path, outputs: Path, tmp_path: Path, options: tuple[str, ...], code: int, sentence: str
) -> None:
    given = list(options)
    for name, place in (("TEST", pairs / "test"), ("TRAIN", pairs / "train"), ("OUT", outputs)):
        given = [option.replace(name, str(place)) for option in given]
    done = CliRunner().invoke(app, ["evaluate", *given, "--out", str(tmp_path / "out")], env={"COLUMNS": "200"})
    assert done.exit_code == code
    assert sentence in done.output + str(done.exception)
    assert "\n" not in str(done.exception)
    assert not list(tmp_path.glob("out/report.*"))
    assert not list(tmp_path.glob("out/rendered/**/*.wav"))


def test_a_short_or_damaged_output_is_named(pairs: Path, outputs: Path, tmp_path: Path) -> None:
    shutil.copytree(outputs, tmp_path / "broken")
    soundfile.write(tmp_path / "broken" / "song2.flac", np.zeros(RATE), RATE)
    arguments = ["--pairs", pairs / "test", "--outputs", f"late={tmp_path / 'broken'}", "--no-model", "--out"]
    arguments += [tmp_path / "out"]
    code, _, error = run(*arguments)
    assert "The late accompaniment of song2 is 1.00 s long and its vocal 5.00 s" in error
    (tmp_path / "broken" / "song2.flac").write_bytes(b"no sound")
    code, _, error = run(*arguments)
    assert code == 1
    assert "The clip song2 cannot be measured: song2.flac is not audio" in error


@pytest.mark.slow
def test_a_ray_cluster_gives_the_same_report(report: Path, pairs: Path, outputs: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    options = late(pairs, outputs)
    shutil.copytree(report / "cache" / "features", tmp_path / "cache" / "features")
    code, _, error = run(*options, "--out", tmp_path, "--engine", "ray", "--workers", 1)
    assert code == 0, error
    assert (tmp_path / "report.json").read_bytes() == (report / "report.json").read_bytes()
