# SPDX-License-Identifier: Apache-2.0
"""The real `hafm` command, mostly in its own process: results, refusals and exit codes."""

import json
import os
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import typer

from commands import hafm
from hafm_hf import audio
from hafm_hf.cli.options import read_lead_sheet
from programs import Program, run_program, until
from vocals import CODEC_RATE, EXAMPLE, file_bytes, glide

HAFM = Path(sys.executable).with_name("hafm")


def run_hafm(*words: object, check: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the `hafm` command to its end, without colours and with more environment variables if given.

    With `check`, it must exit with 0.
    """
    return run_program([HAFM, *words], os.environ | {"NO_COLOR": "1", "COLUMNS": "200", **environment}, check=check)


def test_samples_have_different_styles_which_are_printed(tmp_path: Path) -> None:
    words = ("--num-samples", 4, "--seed", 1, "--seconds", 2, "--skip-fine", "--out", tmp_path)
    said = run_hafm("accompany", EXAMPLE, *words).stdout.strip().rpartition("seed 1, ")[2]
    styles = set(said.split(", "))
    assert len(styles) == 4
    # the voice is in 4/4, so there is no waltz
    assert styles < {"ballad", "folk", "pop", "rock", "soul", "electronic"}


def files_in(folder: Path) -> list[str]:
    """Names in a folder, sorted; none if there is no folder."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.fixture(scope="module")
def vocal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a voice of about a second, 24 bits at 44.1 kHz."""
    path = tmp_path_factory.mktemp("vocals") / "vocal.wav"
    path.write_bytes(file_bytes(glide(1.1, 44_100), 44_100, subtype="PCM_24"))
    return path


def test_equal_seeds_give_equal_files_and_other_seeds_others(tiny_model: Path, vocal: Path, tmp_path: Path) -> None:
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        words = ("--model", tiny_model, "--out", tmp_path / folder, "--seed", seed)
        done = run_hafm("accompany", vocal, *words, check=True)
        assert "real-time factor" in done.stdout
        assert f"seed {seed}" in done.stdout
    names = ["vocal_instrumental.wav", "vocal_mix.wav"]
    for name in names:
        assert str(tmp_path / "c" / name) in done.stdout
        a, b, c = ((tmp_path / folder / name).read_bytes() for folder in "abc")
        assert a == b
        assert a != c
        info = soundfile.info(tmp_path / "a" / name)
        assert (info.samplerate, info.channels, info.frames) == (44_100, 1, 48_510)
        assert audio.peak_dbfs(audio.read_audio(tmp_path / "a" / name)[0]) < -0.9
    assert files_in(tmp_path / "a") == names
    assert "coarse codebooks" in done.stderr


@pytest.fixture(scope="module")
def mixed_run(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[subprocess.CompletedProcess[str], dict[str, tuple[int, int, int]], Path]:
    """One run over a missing, a silent and four other vocals, with two samples of each.

    Returns:
        the finished process; by path of an existing vocal, the frames, rate in Hz and channels of its songs; the
        output folder.
    """
    folder = tmp_path_factory.mktemp("mixed")
    stereo = np.stack([glide(1.0, 96_000), glide(1.0, 96_000) / 2], axis=1)
    vocals = {
        "quiet.wav": (file_bytes(np.zeros(24_000)), (24_000, CODEC_RATE, 1)),
        "low.wav": (file_bytes(glide(1.0, 8_000), 8_000), (24_000, CODEC_RATE, 1)),
        "high.flac": (file_bytes(stereo, 96_000, format="FLAC", subtype="PCM_24"), (96_000, 96_000, 2)),
        "deep.wav": (file_bytes(glide(1.05, 48_000), 48_000, subtype="PCM_32"), (50_400, 48_000, 1)),
        "pressed.mp3": (file_bytes(glide(1.0, 44_100), 44_100, format="MP3"), (44_100, 44_100, 1)),
    }
    for name, (content, _) in vocals.items():
        (folder / name).write_bytes(content)
    paths = [folder / name for name in ("absent.wav", *vocals)]
    options = "--num-samples 2 --seed 5 --skip-fine --json".split()
    done = run_hafm("accompany", *paths, "--model", tiny_model, "--out", folder / "out", *options)
    return done, {str(folder / name): form for name, (_, form) in vocals.items()}, folder / "out"


def test_songs_have_their_vocals_length_rate_and_channels(mixed_run: Any) -> None:
    done, forms, _ = mixed_run
    absent, *results = [json.loads(line) for line in done.stdout.splitlines()]
    assert absent["vocal"].endswith("absent.wav")
    assert "does not exist" in absent["error"]
    assert [result["vocal"] for result in results] == [path for path in forms for _ in range(2)]
    for result in results:
        frames, rate, channels = forms[result["vocal"]]
        for kind, kept_channels in (("instrumental", 1), ("mix", channels)):
            info = soundfile.info(result[kind])
            assert (info.frames, info.samplerate, info.channels) == (frames, rate, kept_channels)


def test_json_is_one_object_a_line_on_stdout_and_nothing_else(mixed_run: Any) -> None:
    done, forms, out = mixed_run
    _, *results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == 2 * len(forms)
    assert len(files_in(out)) == 4 * len(forms)
    for number, result in enumerate(results[:2], start=1):
        values = [result[name] for name in ("sample", "seed", "sampling_rate", "seconds")]
        assert values == [number, 5, 24_000, 1.0]
        assert result["elapsed_seconds"] > 0
        assert result["real_time_factor"] > 0
        assert result["instrumental"] == str(out / f"quiet_{number}_instrumental.wav")
        assert result["mix"] == str(out / f"quiet_{number}_mix.wav")
    first, second = (Path(result["instrumental"]).read_bytes() for result in results[2:4])
    assert first != second


def test_silence_is_accompanied_with_a_warning(mixed_run: Any) -> None:
    done, _, out = mixed_run
    assert "quiet.wav is silent" in done.stderr
    assert "low.wav is silent" not in done.stderr
    assert "quiet_1_mix.wav" in files_in(out)


@pytest.mark.fault("bad vocals among good ones")
def test_one_bad_vocal_does_not_stop_the_good_ones(mixed_run: Any) -> None:
    done, _, out = mixed_run
    assert done.returncode == 1
    assert "absent.wav does not exist" in done.stderr
    assert "pressed_1_mix.wav" in files_in(out)
    assert "Traceback" not in done.stderr


def bad_vocals(folder: Path) -> dict[str, str]:
    """Writes bad vocals into a folder; returns what the error message says, by file name."""
    with_nan = glide()
    with_nan[50] = np.nan
    (folder / "short.wav").write_bytes(file_bytes(glide(0.3)))
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("A poem.\n" * 99)
    (folder / "nan.wav").write_bytes(file_bytes(with_nan, subtype="FLOAT"))
    return {
        "short.wav": "short.wav is 0.3 s long; HAFM needs at least 1 s.",
        "empty.wav": "empty.wav is empty",
        "text.wav": "text.wav is not audio",
        "nan.wav": "nan.wav has NaN or infinite samples",
        "missing.wav": "missing.wav does not exist",
    }


def test_bad_vocals_end_in_one_sentence_and_write_nothing(tmp_path: Path) -> None:
    for name, said in bad_vocals(tmp_path).items():
        done = run_hafm("accompany", tmp_path / name, "--out", tmp_path / "out", "--json")
        assert done.returncode == 1, name
        assert said in json.loads(done.stdout)["error"]
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert "Traceback" not in done.stderr
        assert files_in(tmp_path / "out") == []


def test_a_model_that_cannot_be_loaded_is_named(vocal: Path, tmp_path: Path) -> None:
    (tmp_path / "hollow").mkdir()
    play = ("accompany", vocal, "--model", "nobody/nothing", "--out", tmp_path / "out")
    commands = (
        (play, "nobody/nothing"),
        (("info", "nobody/nothing"), "nobody/nothing"),
        (("info", tmp_path / "hollow"), "hollow"),
    )
    for arguments, model in commands:
        done = run_hafm(*arguments)
        assert done.returncode == 1
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        assert "cannot be loaded" in done.stderr
        assert model in done.stderr
    assert files_in(tmp_path / "out") == []


def test_debugging_shows_the_traceback(tmp_path: Path) -> None:
    assert "Traceback" in run_hafm("info", tmp_path, HAFM_DEBUG="1").stderr
    done = run_hafm("accompany", tmp_path / "missing.wav", HAFM_DEBUG="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "missing.wav does not exist" in done.stderr.splitlines()[-1]


def test_the_version_is_that_of_the_package() -> None:
    for command in ([str(HAFM)], [sys.executable, "-m", "hafm_hf"]):
        done = subprocess.run([*command, "--version"], capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"hafm-hf {version('hafm-hf')}\n", "")


@pytest.mark.parametrize(
    "options",
    [
        ("--num-samples", "0"),
        ("--no-such-option",),
        ("--device", "abacus"),
        ("--out", EXAMPLE),
        (EXAMPLE,),
        ("--tempo", "300"),
        ("--chords", "C | F", "another.wav"),
        ("--chords", EXAMPLE),
        ("--beats", "there-is-no-such-file"),
    ],
)
def test_invalid_and_conflicting_options_are_usage_errors(options: tuple[object, ...], tmp_path: Path) -> None:
    done = hafm("accompany", EXAMPLE, "--out", tmp_path / "out", *options)
    assert done.exit_code == 2
    assert not files_in(tmp_path / "out")


@pytest.mark.parametrize("words", [(), ("accompany",), ("evaluate", "--out", "report"), ("sing", EXAMPLE)])
def test_incomplete_and_unknown_commands_are_usage_errors(words: tuple[object, ...]) -> None:
    assert hafm(*words).exit_code == 2


def test_unreadable_beats_and_chords_are_named_with_file_and_line(tmp_path: Path) -> None:
    beats = tmp_path / "beats.txt"
    chords = tmp_path / "chords.lab"
    beats.write_text("0.5\n1.0\n# late\n0.9\n")
    chords.write_text("0 1 C\n\n1 2 H7\n2 3 C\n")
    for options, said in (
        ((None, beats, None), r"beats\.txt, line 4: beats must be increasing times"),
        ((None, None, chords), r"chords\.lab, line 3: 'H7' is not a chord"),
        ((None, tmp_path / "absent.txt", None), r"absent\.txt cannot be read \(No such file or directory\)\.$"),
        ((None, None, EXAMPLE), r"vocal\.wav is not UTF-8 text; give a file with START STOP LABEL in it\.$"),
    ):
        with pytest.raises(typer.BadParameter, match=said):
            read_lead_sheet(*options)


def test_a_silent_lead_sheet_gets_a_warning_and_no_progress_bars(bundled_model: Path, tmp_path: Path) -> None:
    (tmp_path / "quiet.wav").write_bytes(file_bytes(np.zeros(36_000)))
    done = run_hafm("lead-sheet", tmp_path / "quiet.wav", "--model", "hafm-tiny", "--out", tmp_path, check=True)
    assert done.stderr == "quiet.wav is silent; its beats and chords are arbitrary.\n"
    assert run_hafm("lead-sheet", EXAMPLE, "--seconds", 1, "--out", tmp_path).stderr == ""


def processor_seconds(process: int) -> float:
    """Processor time in seconds that a process has used so far."""
    # user and system time, in clock ticks; the name in parentheses may contain spaces
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_ctrl_c_ends_a_generation_at_once_without_partial_file(tiny_model: Path, vocal: Path, tmp_path: Path) -> None:
    patience = tmp_path / "patience.wav"
    out = tmp_path / "out"
    log = tmp_path / "log"
    patience.write_bytes(file_bytes(glide(90.0, 8_000), 8_000))
    run = Program([HAFM, "accompany", vocal, patience, "--model", tiny_model, "--out", out, "--seed", 1], log, log)
    # wait until the first song is written, and the second has been generating for a while
    assert until(lambda: run.poll() is not None or len(files_in(out)) >= 2, 1800)
    begun = processor_seconds(run.pid)
    assert until(lambda: run.poll() is not None or processor_seconds(run.pid) >= begun + 1.0, 1800)
    assert run.poll() is None
    first = files_in(out)
    used = processor_seconds(run.pid)
    os.kill(run.pid, signal.SIGINT)
    # the generation has ended when this is printed; torch and Python then take a while to shut down
    assert until(lambda: "stopped at" in log.read_text(), 1800, pause=0.001)
    used = processor_seconds(run.pid) - used
    assert run.wait() in (1, 130)
    assert "Traceback" not in log.read_text()
    assert files_in(out) == first
    # processor seconds
    assert used < 0.25, "a tenth of a second, and the time to notice it"
