# SPDX-License-Identifier: Apache-2.0
"""Files by the rules of Windows, imitated: folders that can't be opened, names and paths, and text in UTF-8."""

import ast
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hafm_hf import LeadSheet, atomic_files, audio
from hafm_hf.cli.options import vocal_name
from hafm_hf.corpus.tracks import find_audio, read_tags
from hafm_hf.lead_sheet.files import write_lead_sheet
from programs import REPOSITORY
from vocals import CODEC_RATE, file_bytes, glide

WRITERS: dict[str, Callable[[Path], object]] = {
    "song.wav": lambda path: audio.write_audio(path, glide(), CODEC_RATE),
    "song.json": lambda path: atomic_files.write_json(path, {"seed": 1}),
    "song_beats.txt": lambda path: write_lead_sheet(LeadSheet(beats=[0.5, 1.0]), path.parent, "song", ["beats"]),
}


@pytest.fixture
def closed_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders can't be opened, as on Windows, or where one may write into a folder but not list it."""
    real = os.open

    def refusing(path: Any, flags: int, *more: Any, **how: Any) -> int:
        """Opens files but no folders, as on some systems."""
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", path)
        return real(path, flags, *more, **how)

    monkeypatch.setattr(os, "open", refusing)


@pytest.mark.parametrize("name", WRITERS)
def test_files_are_written_into_folders_that_cannot_be_opened(name: str, tmp_path: Path, closed_folders: None) -> None:
    for _ in range(2):
        WRITERS[name](tmp_path / name)
        assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).stat().st_size > 0


def test_a_rename_that_cannot_be_synced_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []

    def full(descriptor: int) -> None:
        """Fails at the second call, as on a full disk."""
        synced.append(descriptor)
        if len(synced) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        atomic_files.write_json(tmp_path / "song.json", {})


def test_a_names_length_is_in_bytes_on_unix_and_in_utf16_units_on_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = tmp_path / f"{'歌' * 100}.wav"
    assert atomic_files.too_long(wide).endswith("has 304 bytes, and 255 is the longest name here")
    monkeypatch.setattr(atomic_files, "ON_WINDOWS", True)
    monkeypatch.delattr(os, "pathconf")
    assert atomic_files.too_long(wide) == ""
    assert atomic_files.too_long(tmp_path / f"{'歌' * 252}.wav").startswith("歌")
    # two UTF-16 units each
    emoji = tmp_path / ("🎤" * 130)
    assert atomic_files.too_long(emoji).endswith("has 260 characters, and 255 is the longest name here")


@pytest.mark.parametrize(
    ("text", "most", "short"),
    [("song", 255, "song"), ("歌歌歌", 7, "歌歌"), ("é" * 200, 255, "é" * 127), ("🎤a", 3, "")],
)
def test_names_are_cut_between_characters(text: str, most: int, short: str) -> None:
    assert atomic_files.shortened(text, most) == short


@pytest.mark.parametrize(
    ("url", "name", "on_windows"),
    [
        ("https://a.org/take%3A1.wav", "take:1", "take_1"),
        ("https://a.org/what%3F%20%22ever%22.mp3", 'what? "ever"', "what_ _ever_"),
        ("hf://datasets/a/b/x|y<z>.flac", "x|y<z>", "x_y_z_"),
        ("song.wav", "song", "song"),
    ],
)
def test_song_names_from_urls_avoid_what_windows_forbids_in_names(
    url: str, name: str, on_windows: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert vocal_name(url) == name
    monkeypatch.setattr(atomic_files, "ON_WINDOWS", True)
    assert vocal_name(url) == on_windows


def test_paths_in_a_folder_have_forward_slashes_on_every_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pop/song/vocals", "pop/song/accompaniment", "top"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.wav").write_bytes(file_bytes(glide()))
    real = os.path.relpath
    monkeypatch.setattr(os.path, "relpath", lambda path, start: real(path, start).replace("/", "\\"))
    monkeypatch.setattr(os, "sep", "\\")
    paths, drops, _ = find_audio(tmp_path)
    assert paths == ["pop/song/accompaniment.wav", "pop/song/vocals.wav", "top.wav"]
    assert not drops


def test_tags_are_read_without_opening_a_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import soundfile

    with soundfile.SoundFile(tmp_path / "歌.flac", "w", CODEC_RATE, 1) as file:
        file.artist = "Anna"
        file.write(glide())
    # its descriptors would be in text mode on Windows
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("os.open"))
    assert read_tags(tmp_path / "歌.flac")["artist"] == "Anna"


def test_text_is_read_and_written_as_utf8_on_every_system() -> None:
    without = []
    for path in [*REPOSITORY.glob("src/**/*.py"), *REPOSITORY.glob("space/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            # open(path, mode)
            binary = any(isinstance(word, ast.Constant) and "b" in str(word.value) for word in node.args[1:2])
            opens = isinstance(node.func, ast.Name) and name == "open" and not binary
            named = any(word.arg == "encoding" for word in node.keywords)
            # read_text's first argument is the encoding
            named |= name == "read_text" and bool(node.args)
            if (opens or name in ("read_text", "write_text")) and not named:
                without.append(f"{path.name}:{node.lineno}")
    assert without == []
