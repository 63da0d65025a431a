# SPDX-License-Identifier: Apache-2.0
"""Untrusted URLs: only http(s), with limits on size and time."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from hafm_hf.audio.errors import HAFMAudioError
from hafm_hf.audio.files import download
from loopback import Quiet, serving

# bytes, and seconds
LIMITS: dict[str, Any] = {"max_bytes": 100_000, "timeout": 5.0}


class Handler(Quiet):
    """Serves /here, redirects to whatever follows /to/, an endless /huge body, and a slow /drip of bytes."""

    def do_GET(self) -> None:
        """Redirects, answers, drips, or sends without end, by the path."""
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path[len("/to/") :])
        else:
            self.send_response(404 if self.path == "/absent" else 200)
        self.end_headers()
        try:
            self.wfile.write(b"here")
            while self.path in ("/drip", "/huge"):
                self.wfile.write(b"x" if self.path == "/drip" else bytes(1 << 16))
                time.sleep(0.1 if self.path == "/drip" else 0)
        except OSError:
            return


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of a running `Handler`."""
    with serving(Handler) as url:
        yield url


def test_a_redirect_among_private_addresses_is_followed(server: str) -> None:
    assert download(f"{server}/to/{server}/here", **LIMITS) == b"here"


@pytest.mark.fault("hostile URLs")
@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/to/file:///etc/passwd", "cannot be fetched"),
        ("/to/ftp://127.0.0.1/vocal.wav", "cannot be fetched"),
        ("/to/gopher://127.0.0.1/", "cannot be fetched"),
        ("/huge", "larger than 0.1 MB"),
        ("/absent", "cannot be fetched: .*404 Not Found"),
    ],
)
def test_forbidden_redirects_large_bodies_and_missing_files_are_refused(server: str, path: str, said: str) -> None:
    with pytest.raises(HAFMAudioError, match=said):
        download(server + path, **LIMITS)


@pytest.mark.fault("hostile URLs")
def test_an_endless_slow_response_is_aborted_in_time(server: str) -> None:
    began = time.monotonic()
    with pytest.raises(HAFMAudioError, match="took longer than 0.6 s"):
        download(f"{server}/drip", max_bytes=100_000, timeout=0.6)
    # far more than the limit of 0.6 s, for busy machines
    assert time.monotonic() - began < 3.0
