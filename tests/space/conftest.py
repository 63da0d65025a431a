# SPDX-License-Identifier: Apache-2.0
"""A running Space with the bundled model, browsers, and voices to upload."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from space.serving import MAX_SECONDS, PATIENCE_SECONDS, Space, chromium, served
from vocals import file_bytes, glide

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="session")
def space(bundled_model: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    """A Space with the bundled model and a tiny one without styles; vocals may last `MAX_SECONDS`."""
    with served(f"hafm-tiny (bundled),{tiny_model}", tmp_path_factory.mktemp("space")) as space:
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
        "fake.zip": b"PK" + bytes(100),
        "notes.wav": b"These are words, not sounds.\n" * 20,
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def browser(voices: Path) -> "Iterator[Browser]":
    """Chromium whose microphone plays song.wav in a loop."""
    with chromium(voices / "song.wav") as browser:
        yield browser


@pytest.fixture
def options() -> dict[str, object]:
    """Options of the browser window; tests parametrise it."""
    return {}


@pytest.fixture
def page(browser: "Browser", space: Space, options: dict, request: pytest.FixtureRequest) -> "Iterator[Page]":
    """The page; a screenshot is saved after the test."""
    from space.studio import keep_screenshot, open_page

    page = open_page(browser, space, **options)
    yield page
    keep_screenshot(page, request.node.name)
    page.context.close()


@pytest.fixture
def ready(page: "Page") -> "Page":
    """The page after the example has been analysed: 96 beats per minute, F major."""
    from space.studio import expect, summary, upload
    from vocals import EXAMPLE

    upload(page, EXAMPLE)
    expect(summary(page)).to_contain_text("beats per minute (estimated), chords (estimated), F major")
    return page


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """axe-core in the version of package.json, fetched by npm."""
    if shutil.which("npm") is None:
        pytest.skip("no npm, which fetches axe-core; install Debian's package of that name")
    folder = Path(shutil.copy(Path(__file__).with_name("package.json"), tmp_path_factory.mktemp("axe"))).parent
    command = ["npm", "install", "--no-audit", "--no-fund", "--silent"]
    done = subprocess.run(command, cwd=folder, timeout=PATIENCE_SECONDS, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot fetch axe-core: {done.stderr.strip()[-200:]}")
    return folder / "node_modules" / "axe-core" / "axe.min.js"
