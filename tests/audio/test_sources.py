# SPDX-License-Identifier: Apache-2.0
"""Sources of a vocal: file objects at any position, paths of streamed data sets, file names of every system."""

import gzip
import io
import os
import socket
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import fsspec
import numpy as np
import pytest
import soundfile

from hafm_hf import audio
from hafm_hf.audio import HAFMAudioError, files
from vocals import CODEC_RATE, file_bytes, glide

SOUND = glide()
WAV = file_bytes(SOUND, subtype="FLOAT")


# The functions below return open files for one test; each is closed when it is garbage collected.


def at_its_end(_: Path) -> Any:
    """An open file whose end has been reached."""
    file = io.BytesIO()
    file.write(WAV)
    return file


def after_its_magic(_: Path) -> Any:
    """An open file of which the first bytes have been read."""
    file = io.BytesIO(WAV)
    assert file.read(4) == b"RIFF"
    return file


def opened_and_read(folder: Path) -> Any:
    """An open file on disk whose end has been reached."""
    (folder / "voice.wav").write_bytes(WAV)
    file = open(folder / "voice.wav", "rb")
    file.read()
    return file


def spooled(_: Path) -> Any:
    """An open temporary file in memory, whose end has been reached."""
    file = tempfile.SpooledTemporaryFile()
    file.write(WAV)
    return file


def in_a_zip(folder: Path) -> Any:
    """An open member of a zip archive, of which the first bytes have been read."""
    with zipfile.ZipFile(folder / "voices.zip", "w") as archive:
        archive.writestr("voice.wav", WAV)
    file = zipfile.ZipFile(folder / "voices.zip").open("voice.wav")
    file.read(4)
    return file


def gzipped(_: Path) -> Any:
    """An open file that is decompressed as it is read, and whose end has been reached."""
    file = gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(WAV)))
    file.read()
    return file


def pipe(_: Path) -> Any:
    """The reading end of a socket, which holds the whole sound and cannot seek."""
    reader, writer = socket.socketpair()
    writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * len(WAV))
    writer.sendall(WAV)
    writer.close()
    return reader.makefile("rb")


@pytest.mark.parametrize(
    "source",
    [at_its_end, after_its_magic, opened_and_read, spooled, in_a_zip, gzipped, pipe],
    ids=lambda source: source.__name__,
)
def test_file_objects_are_read_from_their_beginning(source: Callable[[Path], Any], tmp_path: Path) -> None:
    samples, rate = audio.read_audio(source(tmp_path))
    assert rate == CODEC_RATE
    np.testing.assert_array_equal(samples, SOUND)


def test_the_pipeline_reads_a_file_object_twice(accompany: Any) -> None:
    file = io.BytesIO(WAV)
    first, second = (accompany(file, seed=1, skip_fine=True) for _ in range(2))
    np.testing.assert_array_equal(first["audio"], second["audio"])


def test_a_closed_or_a_text_file_is_refused_in_one_sentence(tmp_path: Path) -> None:
    closed = io.BytesIO(WAV)
    closed.close()
    with pytest.raises(HAFMAudioError, match=r"^the vocal is a closed file; open it again\.$"):
        audio.read_audio(closed)
    (tmp_path / "voice.wav").write_bytes(WAV)
    with (
        open(tmp_path / "voice.wav", encoding="latin-1") as text,
        pytest.raises(HAFMAudioError, match=r'^voice.wav is a text file; open it with the mode "rb"\.$'),
    ):
        audio.read_audio(text)  # type: ignore[arg-type]


def test_a_pipe_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_MAX_BYTES", 1_000_000)
    with open("/dev/zero", "rb") as endless:
        # what a pipe holds is kept in memory only if it is small enough
        monkeypatch.setattr(files.io, "BytesIO", lambda *_: pytest.fail("all of it was read"))
        # an object with no other method than read
        unseekable: Any = type("Pipe", (), {"read": endless.read})()
        with pytest.raises(HAFMAudioError, match="larger than 0.001 GB; cut it first"):
            audio.read_audio(unseekable)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A zip of a vocal and of one that is not audio."""
    path = tmp_path / "voices.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train/voice.wav", WAV)
        archive.writestr("train/words.wav", b"words " * 99)
    return path


def remote(kind: str, archive: Path) -> str:
    """The path of the vocal as streamed data sets write it; for "memory", the vocal is written there first."""
    if kind == "memory":
        with fsspec.open("memory://voices/voice.wav", "wb") as file:
            file.write(WAV)
        return "memory://voices/voice.wav"
    if kind == "hf":
        return "hf://datasets/singers/voices@main/train/voice.wav"
    return {
        "zip": f"zip://train/voice.wav::{archive}",
        "zip in a file": f"zip://train/voice.wav::file://{archive}",
        "file": (archive.parent / "voice.wav").as_uri(),
    }[kind]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's file system, with one data set in memory: tests have no network."""
    from fsspec.implementations.memory import MemoryFileSystem
    from huggingface_hub import HfFileSystem

    def open_(self: Any, path: str, mode: str = "rb", **_: Any) -> Any:
        """Opens the vocal, the only file of the data set."""
        assert path == "datasets/singers/voices@main/train/voice.wav"
        memory = MemoryFileSystem()
        memory.pipe("/hub.wav", WAV)
        return memory.open("/hub.wav", mode)

    monkeypatch.setattr(HfFileSystem, "open", open_)


@pytest.mark.parametrize("kind", ["zip", "zip in a file", "file", "memory", "hf"])
def test_paths_of_streamed_data_sets_are_opened(kind: str, archive: Path, hub: None, accompany: Any) -> None:
    (archive.parent / "voice.wav").write_bytes(WAV)
    path = remote(kind, archive)
    samples, _ = audio.read_audio(path)
    np.testing.assert_array_equal(samples, SOUND)
    assert audio.source_name(path) == "voice.wav"
    # as a row of a data set that is not decoded
    song = accompany({"audio": {"path": path, "bytes": None}}, seed=1, skip_fine=True)
    np.testing.assert_array_equal(song["vocals"], SOUND)


def test_a_streamed_data_set_of_a_zip_is_accompanied(archive: Path, accompany: Any) -> None:
    table = {"audio": [f"zip://train/voice.wav::{archive}"] * 2}
    rows = datasets.Dataset.from_dict(table).cast_column("audio", datasets.Audio(decode=False)).to_iterable_dataset()
    songs = list(accompany((row for row in rows), seed=1, skip_fine=True))
    assert [len(song["audio"]) for song in songs] == [len(SOUND)] * 2


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("zip://train/other.wav::{}", "cannot be opened"),
        ("zip://train/words.wav::{}", "words.wav is not audio"),
        ("zip://voice.wav::/nowhere.zip", "cannot be opened"),
        ("nothing://voice.wav", "cannot be opened (Protocol not known: nothing); check the path."),
        ("memory://nowhere/voice.wav", "cannot be opened"),
    ],
)
def test_paths_that_cannot_be_opened_or_hold_no_audio_are_refused_in_one_sentence(
    path: str, said: str, archive: Path
) -> None:
    with pytest.raises(HAFMAudioError) as caught:
        audio.read_audio(path.format(archive))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fetching_a_file_that_is_too_large_or_too_slow_is_given_up(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"zip://train/voice.wav::{archive}"
    with pytest.raises(HAFMAudioError, match=r"is larger than 0.1 MB; cut it first"):
        files.fetch(path, max_bytes=100_000)
    with pytest.raises(HAFMAudioError, match=r"took longer than 0 s; download it yourself first"):
        files.fetch(path, timeout=0.0)


@pytest.mark.parametrize("name", ["voice.wav", "歌.wav", "a b's [1].wav"])
def test_soundfile_gets_names_as_text_which_windows_needs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[object] = []
    real = soundfile.SoundFile

    def watched(file: Any, *more: Any, **how: Any) -> Any:
        """SoundFile, which also notes the file that it is given."""
        given.append(file)
        return real(file, *more, **how)

    (tmp_path / name).write_bytes(WAV)
    monkeypatch.setattr(soundfile, "SoundFile", watched)
    audio.read_audio(tmp_path / name)
    assert given
    assert not [file for file in given if isinstance(file, bytes)]


def test_a_name_that_is_not_utf8_is_passed_as_bytes(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    path.write_bytes(WAV)
    assert audio.soundfile_name(path) == os.fsencode(path)
    np.testing.assert_array_equal(audio.read_audio(path)[0], SOUND)
