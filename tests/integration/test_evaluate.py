"""`hafm evaluate` end to end, from the command line as a user runs it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hafm_hf.cli import main
from little_band import RATE, song

REPOSITORY = Path(__file__).resolve().parents[2]
HAFM = [sys.executable, "-m", "hafm_hf.cli"]


def hafm(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*HAFM, *map(str, arguments)], capture_output=True, text=True, check=False)


Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`hafm evaluate` in this process: its exit code and what it said on stderr, progress bars apart."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["hafm", "evaluate", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        lines = [line for line in capsys.readouterr().err.splitlines() if "hafm: " in line]
        return int(ended.value.code or 0), "\n".join(lines)

    return run


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six songs of 5 s as a folder of pairs, and a training split of three others beside it."""
    folder = tmp_path_factory.mktemp("sets")
    for number in range(9):
        place = folder / ("test" if number < 6 else "train") / f"song{number}"
        place.mkdir(parents=True)
        for name, sound in zip(("vocal", "instrumental"), song(number, 5.0), strict=True):
            soundfile.write(place / f"{name}.wav", sound, RATE)
    return folder


@pytest.fixture(scope="module")
def outputs(pairs: Path) -> Path:
    """Accompaniments of somebody's system: the references, 120 ms late and at another rate, in stereo."""
    folder = pairs / "outputs"
    folder.mkdir()
    for place in sorted((pairs / "test").iterdir()):
        sound, rate = soundfile.read(place / "instrumental.wav")
        late = np.concatenate([np.zeros(round(0.12 * rate)), sound])
        soundfile.write(folder / f"{place.name}.flac", np.stack([late, late], axis=1), rate)
    return folder


@pytest.fixture(scope="module")
def report(pairs: Path, outputs: Path, tmp_path_factory: pytest.TempPathFactory, bundled_model: Path) -> Path:
    """The folder of a report on these outputs."""
    out = tmp_path_factory.mktemp("report")
    options = ["--pairs", pairs / "test", "--outputs", f"late={outputs}", "--retrieval-bank", pairs / "train"]
    result = hafm("evaluate", *options, "--out", out, "--players", 2, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == json.loads((out / "report.json").read_text())
    return out


def test_report_holds_system_baselines_and_fools(report: Path) -> None:
    found = json.loads((report / "report.json").read_text())
    assert list(found["systems"]) == [
        "late", "reference", "retrieval", "random retrieval", "silence", "click track", "sine doubling the voice",
        "the voice itself", "drone", "reference a semitone high",
    ]  # fmt: skip
    assert found["systems"]["late"]["readings"]["lag_ms"]["median"] == pytest.approx(120.0, abs=10.0)
    assert found["systems"]["late"]["scores"]["chord_changes_shared"]["follows"]
    assert found["systems"]["silence"]["scores"]["onsets_shared"]["matched"] == 0.0
    assert all(found["fools"].values())
    assert found["protocol"]["clips"] == 6
    assert found["protocol"]["retrieval_bank"] == 3
    distances = next(iter(found["systems"]["late"]["distances"].values()))
    # 6 clips of 9 windows each
    assert "54 embeddings of width 192 are too few" in distances["refused"]
    assert distances["kernel"] < 5.0


def test_page_needs_no_other_file_and_plays(report: Path) -> None:
    page = (report / "report.html").read_text()
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    # 2 clips: the voice, and reference and system alone and with it
    assert page.count("data:audio/mpeg;base64,") == 10
    assert "reference a semitone high" in page
    markdown = (report / "report.md").read_text()
    assert markdown.count("| late |") >= 3


def test_clip_scores_are_what_the_means_are_made_of(report: Path) -> None:
    rows = [json.loads(line) for line in (report / "clips.jsonl").read_text().splitlines()]
    assert len(rows) == 6 * 10
    drone = [row["matched"]["key_agreement"] for row in rows if row["system"] == "drone"]
    found = json.loads((report / "report.json").read_text())["systems"]["drone"]["scores"]["key_agreement"]
    assert np.mean(drone) == pytest.approx(found["matched"], abs=1e-6)


def test_any_number_of_workers_and_a_killed_run_give_the_same_report(
    report: Path, pairs: Path, outputs: Path, tmp_path: Path
) -> None:
    options = ["--pairs", pairs / "test", "--outputs", f"late={outputs}", "--retrieval-bank", pairs / "train"]
    command = [*HAFM, "evaluate", *map(str, options), "--out", str(tmp_path), "--players", "2"]
    killed = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("cache/features/*.npz"))) < 12:
        assert time.monotonic() < deadline and killed.poll() is None
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "report.json").exists()
    result = hafm("evaluate", *options, "--out", tmp_path, "--players", 2, "--workers", 2)
    assert result.returncode == 0, result.stderr
    for name in ("report.json", "report.md", "report.html", "clips.jsonl"):
        assert (tmp_path / name).read_bytes() == (report / name).read_bytes(), name


def test_a_model_is_rendered_once_over_seeds(command: Command, pairs: Path, tiny_model: Path, tmp_path: Path) -> None:
    options = ["--pairs", pairs / "test", "--model", tiny_model, "--seeds", 2, "--limit", 2, "--clip-seconds", 1]
    first = command(*options, "--out", tmp_path, "--players", 0)
    assert first == (0, "")
    songs = sorted(tmp_path.glob("rendered/*/*/*.wav"))
    assert len(songs) == 4
    stamps = [path.stat().st_mtime_ns for path in songs]
    written = (tmp_path / "report.json").read_bytes()
    again = command(*options, "--out", tmp_path, "--players", 0)
    assert again == (0, "")
    assert [path.stat().st_mtime_ns for path in songs] == stamps
    assert (tmp_path / "report.json").read_bytes() == written
    found = json.loads(written)["systems"]["tiny"]
    assert found["seeds"] == 2
    assert set(found["over_seeds"]["scores"]["onset_agreement"]) == {"mean", "std"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ((), "Name one set of vocals"),
        (("--pairs", "nowhere"), "nowhere is not a folder"),
        (("--pairs", "TEST", "--karaoke", "TEST"), "Name one set of vocals"),
        (("--pairs", "TEST", "--outputs", "late"), "is not NAME=FOLDER"),
        (("--pairs", "TEST", "--outputs", "late=TRAIN"), "lacks 6 of 6 accompaniments"),
        (("--pairs", "TEST", "--outputs", "late=OUT", "--retrieval-bank", "TEST"), "holds 6 songs of the test"),
        (("--pairs", "TEST", "--outputs", "late=OUT", "--embedder", "vggish-google"), "--vggish-weights"),
    ],
)
def test_what_cannot_be_evaluated_is_one_sentence(
    command: Command, pairs: Path, outputs: Path, tmp_path: Path, options: tuple[str, ...], sentence: str
) -> None:
    places = {"TEST": pairs / "test", "TRAIN": pairs / "train", "OUT": outputs}
    given = [str(places.get(option, option)) for option in options]
    given = [option.replace("TRAIN", str(pairs / "train")).replace("OUT", str(outputs)) for option in given]
    code, stderr = command(*given, "--out", tmp_path / "out")
    assert code == 1
    assert sentence in stderr
    assert stderr.count("\n") == 0
    assert not list(tmp_path.glob("out/report.*"))


def test_a_short_or_broken_rendering_is_named(command: Command, pairs: Path, outputs: Path, tmp_path: Path) -> None:
    shutil.copytree(outputs, tmp_path / "broken")
    soundfile.write(tmp_path / "broken" / "song2.flac", np.zeros(RATE), RATE)
    arguments = ["--pairs", pairs / "test", "--outputs", f"late={tmp_path / 'broken'}", "--out", tmp_path / "out"]
    code, stderr = command(*arguments)
    assert "The late accompaniment of song2 is 1.00 s long and its vocal 5.00 s" in stderr
    (tmp_path / "broken" / "song2.flac").write_bytes(b"no sound")
    code, stderr = command(*arguments)
    assert code == 1
    assert "The clip song2 cannot be measured: song2.flac is not audio" in stderr
