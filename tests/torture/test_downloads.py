# SPDX-License-Identifier: Apache-2.0
"""URLs that strangers name: http(s) only, up to a size and a time, and never from the outside inwards."""

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from hafm_hf.audio import downloads
from hafm_hf.audio.downloads import HAFMDownloadError, download

LIMITS: dict[str, Any] = {"max_bytes": 100_000, "timeout": 5.0}
PRIVATE = ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "::ffff:192.168.0.1", "fe80::1%2"]


class Handler(http.server.BaseHTTPRequestHandler):
    """/here, redirects to whatever follows /to/, a /huge declared length, and a /drip of headers."""

    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path[len("/to/") :])
        elif self.path == "/drip":
            self.send_response(200)
            self.flush_headers()
            while True:
                try:
                    self.wfile.write(b"x-a: b\r\n")
                except OSError:
                    return
                time.sleep(0.1)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(1 << 40 if self.path == "/huge" else 4))
        self.end_headers()
        self.wfile.write(b"here")

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.daemon_threads = True
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


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
    ],
)
def test_where_a_url_may_not_lead_is_refused(server: str, path: str, said: str) -> None:
    with pytest.raises(HAFMDownloadError, match=said):
        download(server + path, **LIMITS)


@pytest.mark.fault("hostile URLs")
def test_a_server_that_never_ends_its_headers_is_left_in_time(server: str) -> None:
    began = time.monotonic()
    with pytest.raises(HAFMDownloadError, match="took longer than 0.6 s"):
        download(f"{server}/drip", max_bytes=100_000, timeout=0.6)
    assert time.monotonic() - began < 3.0


@pytest.mark.fault("hostile URLs")
@pytest.mark.parametrize(
    "address", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "::ffff:192.168.0.1", "fe80::1%2"]
)
def test_a_public_server_cannot_lead_to_a_private_address(address: str) -> None:
    guard = downloads._Guard()
    guard.connected(Connected("1.1.1.1"))
    guard.connected(Connected("2606:4700::1111"))
    with pytest.raises(HAFMDownloadError, match="which is private"):
        guard.connected(Connected(address))


class Connected(socket.socket):
    """A socket whose other end says it is at an address: no public one can be reached from here."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address

    def getpeername(self) -> tuple[str, int]:
        return self.address, 80
