# SPDX-License-Identifier: Apache-2.0
"""Runs the Space on loopback in its own process, as a user would."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from programs import REPOSITORY

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = os.environ.get("HAFM_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
# Screenshots for inspection; HAFM_TEST_ARTEFACTS names another folder.
ARTEFACTS = Path(os.environ.get("HAFM_TEST_ARTEFACTS", REPOSITORY / "build" / "test-artefacts")) / "space"
# Far longer than anything takes on an idle machine, for busy ones.
PATIENCE_SECONDS = float(os.environ.get("HAFM_TEST_PATIENCE", "120"))
# For a vocal of this length, generation takes far longer than a test needs to see progress and to cancel.
MAX_SECONDS = 140
QUEUE_SIZE = 2
BROWSER_FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --use-fake-device-for-media-stream --use-fake-ui-for-media-stream"
).split()


@dataclass
class Space:
    """A Space: its URL, its folder of temporary files, its settings, and its process while it runs."""

    url: str
    temporary: Path
    settings: dict[str, str]
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        """Starts the process, and waits until it answers."""
        # in a new interpreter: a fork of the tests would share their imported modules
        with (self.temporary / "log.txt").open("ab") as log:
            command = [sys.executable, str(REPOSITORY / "space" / "app.py")]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **self.settings})
        wait_until_served(self)

    def kill(self) -> None:
        """Sends SIGKILL to the process, and waits for its end."""
        self.process.kill()
        self.process.wait()


@contextmanager
def chromium(microphone: Path, *flags: str) -> "Iterator[Browser]":
    """Chromium, with more command-line flags, whose microphone plays the file `microphone` in a loop."""
    from playwright.sync_api import sync_playwright

    flags = (*BROWSER_FLAGS, f"--use-file-for-fake-audio-capture={microphone}", *flags)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags, timeout=1000 * PATIENCE_SECONDS)
        yield browser
        browser.close()


@contextmanager
def served(models: str, temporary: Path, **settings: str) -> Iterator[Space]:
    """Runs space/app.py during the block, and waits until it answers.

    Args:
        models: the offered models, separated by commas.
        temporary: folder of its temporary files and of its log.txt.
        settings: environment variables, which overrule those below.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    settings = {
        "HAFM_SPACE_MODELS": models,
        "HAFM_SPACE_MAX_SECONDS": str(MAX_SECONDS),
        "HAFM_SPACE_QUEUE_SIZE": str(QUEUE_SIZE),
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "TMPDIR": str(temporary),
        **settings,
    }
    space = Space(f"http://127.0.0.1:{port}", temporary, settings)
    try:
        space.start()
        yield space
    finally:
        if hasattr(space, "process"):
            space.kill()


def wait_until_served(space: Space) -> None:
    """Waits until the Space answers; fails with its log if it ends before, or after `PATIENCE_SECONDS`."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and space.process.poll() is None:
        try:
            urllib.request.urlopen(space.url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail("the Space does not start:\n" + (space.temporary / "log.txt").read_text())
