"""A served Space and voices to give to it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from space.serving import MAX_SECONDS, Space, served
from vocals import file_bytes, glide


@pytest.fixture(scope="session")
def space(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    """A Space that offers the tiny model and takes vocals of `MAX_SECONDS`."""
    with served(tiny_model, tmp_path_factory.mktemp("space")) as space:
        yield space


@pytest.fixture(scope="session")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of vocals, good and bad."""
    folder = tmp_path_factory.mktemp("voices")
    contents = {
        "song.wav": file_bytes(glide(1.2, 44_100), 44_100),
        "long.wav": file_bytes(glide(MAX_SECONDS + 1.0, 8_000), 8_000),
        "patience.wav": file_bytes(glide(MAX_SECONDS - 0.5, 8_000), 8_000),
        "short.wav": file_bytes(glide(0.3)),
        "silent.wav": file_bytes(glide(1.5) * 0),
        "notes.wav": b"These are words, not sounds.\n" * 20,
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder
