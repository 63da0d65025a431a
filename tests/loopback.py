# SPDX-License-Identifier: Apache-2.0
"""HTTP servers on the loopback interface."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Quiet(BaseHTTPRequestHandler):
    """A request handler that does not log requests."""

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing."""

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Sends a complete response; to a HEAD request, without its body."""
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], /, **attributes: Any) -> Iterator[str]:
    """Yields the URL of a server that runs during the block; `attributes` are set on its handler class."""
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (handler,), attributes)) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
