# SPDX-License-Identifier: Apache-2.0
"""File names that are too long for their outputs or look like markup or emoji codes; and output that nobody reads."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from commands import hafm, said
from hafm_hf.cli.console import print_table, progress_bars
from programs import ForkedWork, unread_hafm
from vocals import file_bytes, glide

# so long that the names of outputs exceed 255 bytes
LONG = "a" * 240
# characters of three bytes each
WIDE = "歌" * 80
VOICE = file_bytes(glide(1.1))


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    """A folder of vocals, two of which have names of almost 255 bytes."""
    folder = tmp_path / "songs"
    (folder / "deep").mkdir(parents=True)
    for name in ("one", LONG, "two", f"deep/{WIDE}"):
        (folder / f"{name}.wav").write_bytes(VOICE)
    return folder


def written(folder: Path, ending: str = "_mix.wav") -> list[str]:
    """The sorted relative paths of the files with that ending in a folder and below it, without the ending."""
    return sorted(str(path.relative_to(folder)).removesuffix(ending) for path in folder.rglob(f"*{ending}"))


def test_a_vocal_with_too_long_a_name_is_left_out_and_the_others_are_accompanied(
    songs: Path, tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    vocals = [songs / "one.wav", songs / f"{LONG}.wav", songs / "deep" / f"{WIDE}.wav", songs / "two.wav"]
    result = hafm("accompany", *vocals, "--model", tiny_model, "--skip-fine", "--out", out)
    assert result.exit_code == 1
    assert written(out) == ["one", "two"]
    for name in (LONG, WIDE):
        assert f"{name}_instrumental.wav has 257 bytes, and 255 is the longest name here); rename it." in said(result)


def test_a_long_name_is_refused_before_the_model_is_loaded(songs: Path, tmp_path: Path) -> None:
    result = hafm("accompany", songs / f"{LONG}.wav", "--model", "nowhere", "--out", tmp_path, "--json")
    assert result.exit_code == 1
    assert "rename it" in json.loads(result.stdout)["error"]


@pytest.mark.parametrize("more", [(), ("--format", "musicxml"), ("--click",)])
def test_a_lead_sheet_with_too_long_a_name_is_left_out(
    songs: Path, bundled_model: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    vocals = [songs / f"{'a' * 245}.wav", songs / "one.wav"]
    vocals[0].write_bytes(VOICE)
    result = hafm("lead-sheet", *vocals, "--tempo", 120, "--out", tmp_path / "out", *more)
    assert result.exit_code == 1
    assert {path.name.partition("_")[0] for path in (tmp_path / "out").iterdir()} == {"one"}
    assert "bytes, and 255 is the longest name here); rename it." in said(result)
    printed = hafm("lead-sheet", *vocals, "--tempo", 120, "--json")
    assert printed.exit_code == 0


def test_in_a_folder_only_vocals_with_too_long_a_name_are_left_out(
    songs: Path, tiny_model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = hafm("accompany", songs, "--model", tiny_model, "--skip-fine", "--out", out)
    assert result.exit_code == 1
    assert written(out) == ["one", "two"]
    assert "2 vocals accompanied" in said(result)
    assert said(result).count("rename it.") == 2
    again = hafm("accompany", songs, "--model", tiny_model, "--skip-fine", "--out", out)
    assert said(again).count("rename it.") == 2


def test_a_path_that_is_too_long_as_a_whole_is_refused(songs: Path, tmp_path: Path) -> None:
    deep = Path(tmp_path, *["b" * 200] * 20, "c" * 100)
    result = hafm("accompany", songs / "one.wav", "--model", "nowhere", "--out", deep)
    assert result.exit_code == 1
    assert "and 4095 is the longest path here); rename it." in said(result)


@pytest.mark.parametrize("more", [(), ("--json",), ("--num-samples", "2")])
def test_songs_are_written_even_if_the_reader_of_the_output_is_gone(
    songs: Path, tiny_model: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    words = [
        "accompany",
        songs / "one.wav",
        songs / "two.wav",
        "--model",
        tiny_model,
        "--skip-fine",
        "--out",
        out,
        *more,
    ]
    work = ForkedWork(unread_hafm, list(map(str, words)), log=tmp_path / "log")
    assert work.wait(300) == 0, work.log.read_text()
    assert {path.name.partition("_")[0] for path in out.glob("*_mix.wav")} == {"one", "two"}
    # of a single song, or of several
    numbers = "_1_to_2" if "--num-samples" in more else ""
    assert {path.name for path in out.glob("*.json")} == {f"{name}{numbers}_take_wav.json" for name in ("one", "two")}
    assert "Traceback" not in work.log.read_text()


@pytest.mark.parametrize("more", [("--json",), ()])
def test_a_folder_is_accompanied_even_if_the_reader_of_the_output_is_gone(
    songs: Path, tiny_model: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    (songs / f"{LONG}.wav").unlink()
    shutil.rmtree(songs / "deep")
    words = ["accompany", songs, "--model", tiny_model, "--skip-fine", "--out", tmp_path / "out", *more]
    work = ForkedWork(unread_hafm, list(map(str, words)), log=tmp_path / "log")
    assert work.wait(300) == 0, work.log.read_text()
    assert written(tmp_path / "out") == ["one", "two"]


@pytest.mark.parametrize("more", [(), ("--click", "--format", "midi"), ("--format", "json")])
def test_lead_sheets_are_written_even_if_the_reader_of_the_output_is_gone(
    songs: Path, bundled_model: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    words = ["lead-sheet", songs / "one.wav", songs / "two.wav", "--tempo", "120", "--out", out, *more]
    work = ForkedWork(unread_hafm, list(map(str, words)), log=tmp_path / "log")
    assert work.wait(300) == 0, work.log.read_text()
    files = {name: sorted(path.name.removeprefix(name) for path in out.glob(f"{name}_*")) for name in ("one", "two")}
    assert files["one"]
    assert files["one"] == files["two"]


# names with codes of emoji, of rich's markup and of terminals
ODD = ("a:smile:b", "[bold]x", "[red]y[red]", "tab\tz", "c\\[d]", "é :+1:", "\x1b[1mloud")


def test_names_are_printed_as_they_are(bundled_model: Path, tiny_model: Path, tmp_path: Path) -> None:
    vocals = [tmp_path / f"{name}.wav" for name in ODD]
    for vocal in vocals:
        vocal.write_bytes(VOICE)
    songs = hafm("accompany", *vocals, "--model", tiny_model, "--skip-fine", "--out", tmp_path)
    sheets = hafm("lead-sheet", *vocals, "--tempo", 120, "--out", tmp_path)
    for name in ODD:
        assert f"wrote {tmp_path}/{name}_mix.wav\n" in songs.stdout
        assert f"\n{name}: " in f"\n{sheets.stdout}"


@pytest.mark.parametrize("name", ["a:smile:b", "[bold]x", "[red]y[/red]", "c\\[d]", "é :+1:"])
def test_a_name_is_shown_as_it_is_in_errors_tables_and_beside_bars(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = hafm("accompany", tmp_path / f"{name}.wav", "--out", tmp_path)
    assert f"hafm: {tmp_path}/{name}.wav does not exist" in refused.stderr
    print_table(name, ("system",), [(f"{name} (2)",)])
    table = capsys.readouterr().out
    assert table.splitlines()[0].strip() == name
    assert f" {name} (2) " in table
    with progress_bars(quiet=False) as bars:
        bars.add_task(name)
        label: Any = bars.columns[0]
    assert label(bars.tasks[0]).plain == name
