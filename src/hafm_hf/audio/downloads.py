# SPDX-License-Identifier: Apache-2.0
"""Fetching a URL that somebody has named: http(s) only, up to a size and a time, and never from the outside inwards.

Below `audio`, at the head of the path of the data.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_BLOCK = 1 << 16


class HAFMDownloadError(ValueError):
    """A URL that cannot be fetched; the message is one sentence that names it."""


def is_url(source: str) -> bool:
    """Whether `source` is an http(s) URL."""
    return source.lower().startswith(("http://", "https://"))


def download(url: str, *, max_bytes: int, timeout: float) -> bytes:
    """Fetches `url`, giving up beyond `max_bytes` or after `timeout` seconds in all.

    Redirects stay on http(s), and one that starts at a public address never ends at a private one: whoever offers a
    file must not make this machine ask its own neighbours. The address is that of the open connection, so a name that
    changes its meaning in between gains nothing; behind a proxy the decision is the proxy's.

    Raises:
        HAFMDownloadError: unreachable, not an http(s) URL, too large, too slow, or led astray.
    """
    if not is_url(url):
        raise HAFMDownloadError(f"{url} is not an http(s) URL.")
    guard = _Guard()
    try:
        with _time_limit(guard, timeout):
            received = _receive(guard.opener(), url, max_bytes, timeout)
    except HAFMDownloadError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        if not guard.expired:
            raise HAFMDownloadError(f"{url} cannot be fetched: {getattr(error, 'reason', error)}.") from error
    if guard.expired:
        # a connection that is cut looks like an end to whoever reads from it
        raise HAFMDownloadError(f"{url} took longer than {timeout:g} s; download it yourself first.")
    return received


def _receive(opener: urllib.request.OpenerDirector, url: str, max_bytes: int, timeout: float) -> bytes:
    too_large = f"{url} is larger than {max_bytes / 1e6:g} MB; cut it first."
    received = bytearray()
    with opener.open(url, timeout=timeout) as response:
        declared = response.headers.get("Content-Length", "")
        if declared.isdecimal() and int(declared) > max_bytes:
            raise HAFMDownloadError(too_large)
        while block := response.read1(_BLOCK):
            received += block
            if len(received) > max_bytes:
                raise HAFMDownloadError(too_large)
    return bytes(received)


class _Guard:
    """Watches over the connections of one download."""

    def __init__(self) -> None:
        self.expired = False
        self._public: bool | None = None
        self._socket: socket.socket | None = None

    def opener(self) -> urllib.request.OpenerDirector:
        """What opens http(s) URLs, and nothing else, under this guard."""
        opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            _Handler(self),
            urllib.request.HTTPRedirectHandler(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPDefaultErrorHandler(),
        ):
            opener.add_handler(handler)
        return opener

    def connected(self, connection: socket.socket) -> None:
        """Takes note of an open connection, or refuses it."""
        self._socket = connection
        address = ipaddress.ip_address(str(connection.getpeername()[0]).partition("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        if self._public is None:
            self._public = address.is_global
        elif self._public and not address.is_global:
            raise HAFMDownloadError(f"The address leads to {address}, which is private; name the file's own address.")

    def expire(self) -> None:
        """Ends the download from another thread."""
        self.expired = True
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                # closed meanwhile
                return


class _Handler(urllib.request.HTTPSHandler, urllib.request.HTTPHandler):
    """Opens connections that report to a guard."""

    def __init__(self, guard: _Guard) -> None:
        super().__init__()
        self.guard = guard

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_guarded(http.client.HTTPConnection, self.guard), req)

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_guarded(http.client.HTTPSConnection, self.guard), req)


def _guarded(connection_class: type[Any], guard: _Guard) -> Any:
    class Connection(connection_class):
        def connect(self) -> None:
            super().connect()
            guard.connected(self.sock)

    return Connection


@contextmanager
def _time_limit(guard: _Guard, seconds: float) -> Iterator[None]:
    """Cuts the connection after `seconds`: a server that sends a byte now and then never runs into a socket's own."""
    timer = threading.Timer(seconds, guard.expire)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
