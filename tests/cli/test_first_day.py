# SPDX-License-Identifier: Apache-2.0
"""The commands as a new user meets them: run twice, in pipes, interrupted, with a mistyped folder."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from commands import hafm, said
from hafm_hf.cli import app
from vocals import file_bytes, glide

# the module: as an attribute of the package, `accompany` is the function
accompany_module = sys.modules["hafm_hf.cli.accompany"]


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a voice of about a second."""
    folder = tmp_path_factory.mktemp("voices")
    (folder / "voice.wav").write_bytes(file_bytes(glide(1.1, 24_000), 24_000))
    return folder / "voice.wav"


def test_an_earlier_take_is_not_overwritten_and_its_drawn_seed_reproduces_it(
    voice: Path, tiny_model: Path, tmp_path: Path
) -> None:
    words = ("accompany", voice, "--model", tiny_model, "--skip-fine", "--out", tmp_path)
    assert hafm(*words).exit_code == 0
    first = (tmp_path / "voice_mix.wav").read_bytes()
    again = hafm(*words)
    assert again.exit_code == 2
    assert "voice_instrumental.wav exists already; add --overwrite" in said(again)
    assert (tmp_path / "voice_mix.wav").read_bytes() == first
    take = json.loads((tmp_path / "voice_take_wav.json").read_text())
    assert hafm(*words, "--seconds", 1, "--format", "flac").exit_code == 0
    other = json.loads((tmp_path / "voice_take_flac.json").read_text())
    assert (other["seconds"], other["lead_sheet"]) == (1, None)
    assert other["seed"] != take["seed"]
    assert json.loads((tmp_path / "voice_take_wav.json").read_text()) == take
    assert hafm(*words, "--overwrite").exit_code == 0
    assert (tmp_path / "voice_mix.wav").read_bytes() != first
    assert hafm(*words, "--overwrite", "--seed", take["seed"]).exit_code == 0
    assert (tmp_path / "voice_mix.wav").read_bytes() == first
    assert take["skip_fine"] is True
    assert not (tmp_path / "voice_take_wav.json").exists(), "it would describe another song"


def test_the_seed_of_several_songs_is_kept_when_one_more_is_made(
    voice: Path, tiny_model: Path, tmp_path: Path
) -> None:
    words = ("accompany", voice, "--model", tiny_model, "--skip-fine", "--out", tmp_path)
    assert hafm(*words, "--num-samples", 2).exit_code == 0
    record = tmp_path / "voice_1_to_2_take_wav.json"
    take = json.loads(record.read_text())
    assert hafm(*words, "--seed", 7).exit_code == 0
    assert json.loads(record.read_text()) == take


def test_an_unwritable_folder_is_reported_before_a_model_is_loaded(
    voice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(accompany_module, "load_pipeline", lambda *_: pytest.fail("a model was loaded"))
    result = hafm("accompany", voice, "--out", tmp_path / "file" / "songs")
    assert result.exit_code == 2
    assert "file is a file; name a folder" in said(result)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    result = hafm("accompany", voice, "--out", tmp_path / "songs")
    assert result.exit_code == 1
    assert "songs cannot be written to; choose another" in str(result.exception)


def test_a_vocal_may_come_from_standard_input(voice: Path, tiny_model: Path, tmp_path: Path) -> None:
    words = ("--model", tiny_model, "--skip-fine", "--seed", 1)
    hafm("accompany", "-", *words, "--out", tmp_path, input=voice.read_bytes(), check=True)
    hafm("accompany", voice, *words, "--out", tmp_path)
    assert (tmp_path / "stdin_mix.wav").read_bytes() == (tmp_path / "voice_mix.wav").read_bytes()


def test_a_name_that_is_not_utf8_is_read_written_and_printed(voice: Path, tiny_model: Path, tmp_path: Path) -> None:
    vocal = tmp_path / os.fsdecode(b"caf\xe9.wav")
    vocal.write_bytes(voice.read_bytes())
    for words in (("--out", tmp_path), ("--out", tmp_path / "json", "--json")):
        result = hafm("accompany", vocal, "--model", tiny_model, "--skip-fine", "--seed", 1, *words)
        assert result.exit_code == 0, result.output
        assert r"caf\udce9_mix.wav" in result.stdout, result.output


def test_a_file_and_a_folder_print_the_same_json_and_file_names(voice: Path, tiny_model: Path, tmp_path: Path) -> None:
    words = ("--model", tiny_model, "--skip-fine", "--seed", 1, "--num-samples", 2, "--json", "--out")
    lines = {}
    for name, source in (("list", voice), ("folder", voice.parent)):
        result = hafm("accompany", source, *words, tmp_path / name, check=True)
        lines[name] = [json.loads(line) for line in result.stdout.splitlines()]
    for one, many in zip(lines["list"], lines["folder"], strict=True):
        for part in ("instrumental", "mix"):
            assert Path(one[part]).name == Path(many[part]).name
        # of a single vocal, JSON has more
        assert one.keys() - many.keys() == {"elapsed_seconds", "real_time_factor", "vocal_start", "style"}
        assert not many.keys() - one.keys()
        for name in ("sample", "sampling_rate", "seconds", "seed"):
            assert one[name] == many[name]


@pytest.mark.parametrize("source", ["file", "folder", "files"])
def test_lead_sheets_are_written_for_one_vocal_or_many_and_bad_ones_named(
    bundled_model: Path, voice: Path, tmp_path: Path, source: str
) -> None:
    songs = tmp_path / "songs"
    (songs / "verse").mkdir(parents=True)
    for name in ("one", "verse/two"):
        (songs / f"{name}.wav").write_bytes(voice.read_bytes())
    (songs / "bad.wav").write_text("words")
    files = [songs / "one.wav", songs / "bad.wav", songs / "verse"]
    vocals = {"file": files[:1], "folder": [songs], "files": files}[source]
    words = ("lead-sheet", *vocals, "--tempo", 120, "--click")
    done = hafm(*words, "--out", tmp_path / "out")
    written = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")}
    names = {"file": ["one"], "folder": ["one", "verse/two"], "files": ["one", "two"]}[source]
    assert written == {f"{name}_{part}" for name in names for part in ("beats.txt", "chords.lab", "click.wav")}
    assert done.exit_code == (source != "file")
    assert source == "file" or "bad.wav is not audio" in said(done)
    lines = [json.loads(line) for line in hafm(*words, "--json").stdout.splitlines()]
    assert sum("beats" in line for line in lines) == len(names)
    assert all("vocal" in line for line in lines)
    assert hafm("lead-sheet", songs, "--chords", "C | F").exit_code == 2
    twice = hafm("lead-sheet", voice, voice)
    assert twice.exit_code == 2
    assert "have the same name, voice;" in said(twice)


def test_chords_given_per_bar_change_at_bar_lines(bundled_model: Path, tmp_path: Path) -> None:
    (tmp_path / "song.wav").write_bytes(file_bytes(glide(8.0, 24_000), 24_000))
    words = ("--tempo", 96, "--metre", "3/4", "--chords", "C | G", "--json")
    sheet = json.loads(hafm("lead-sheet", tmp_path / "song.wav", *words).stdout)
    changes = [start for start, *_ in sheet["chords"][1:]]
    bars = sheet["beats"][sheet["downbeat"] :: 3]
    assert len(changes) > 1
    assert all(min(abs(change - bar) for bar in bars) < 0.03 for change in changes)


def test_a_folder_of_vocals_is_accompanied_without_pyarrow(
    voice: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    words = ("--model", tiny_model, "--skip-fine", "--seed", 1, "--out", tmp_path)
    assert hafm("accompany", voice.parent, *words).exit_code == 0
    assert (tmp_path / "voice_mix.wav").is_file()


def test_after_ctrl_c_the_seed_of_the_song_is_printed(
    voice: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        """Stands for Ctrl+C during the generation."""
        raise KeyboardInterrupt

    monkeypatch.setattr(accompany_module, "accompany_one", interrupt)
    result = hafm("accompany", voice, "--model", tiny_model, "--seed", 5, "--out", tmp_path)
    assert result.exit_code == 130
    assert "--seed 5 makes the same song" in said(result)


def test_a_corrected_lead_sheet_is_not_overwritten_and_json_is_printed(
    bundled_model: Path, voice: Path, tmp_path: Path
) -> None:
    words = ("lead-sheet", voice, "--tempo", 120, "--out", tmp_path)
    assert hafm(*words).exit_code == 0
    chords = tmp_path / "voice_chords.lab"
    chords.write_text("0 1 C\n")
    refused = hafm(*words)
    assert refused.exit_code == 2
    assert "exists already; add --overwrite" in said(refused)
    assert chords.read_text() == "0 1 C\n"
    sheet = json.loads(hafm("lead-sheet", "-", "--tempo", 120, "--json", input=voice.read_bytes()).stdout)
    assert len(sheet["beats"]) >= 2
    assert sheet["estimated"]
    assert sheet["chords"][0][0] == 0.0


def test_every_option_has_a_panel_and_help() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert list(commands) == ["accompany", "lead-sheet", "prepare", "assemble", "evaluate", "info"]
    options = [each for command in commands.values() for each in command.params if each.param_type_name == "option"]
    for each in options:
        assert each.rich_help_panel in ("Basic", "Lead sheet", "Mix", "Folder", "Advanced"), each.name
        assert each.opts[0].startswith("--"), each.name
        assert each.help.endswith("."), each.name
