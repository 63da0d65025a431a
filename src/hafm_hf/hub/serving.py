# SPDX-License-Identifier: Apache-2.0
"""A resident server: the endpoint's requests and answers over HTTP, for those who call a model often.

Around the endpoint's handler on the path of the data. One model, one song at a time; the next ones wait in a queue.
"""

import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from transformers.utils import logging

from ..audio import HAFMAudioError
from ..pretrained.redaction import without_secrets
from .endpoint import EndpointHandler

logger = logging.get_logger(__name__)

# how often a waiting request looks whether its client is still there
LOOK_SECONDS = 0.25
# how long the rest of a refused body is taken in, so that its sender reads the refusal
DRAIN_SECONDS = 2.0
# what a client may take for its next bytes
IDLE_SECONDS = 60.0


class _Given(Exception):
    """A generation that nobody waits for any more."""


class AccompanimentServer(ThreadingHTTPServer):
    """Answers `POST /` as an Inference Endpoint does, and `GET /health`.

    Args:
        host, port: where to listen; port 0 takes a free one (`server_port`). On a loopback address requests for other
            host names are refused, so that no page of the web gets here by a name of its own.
        max_bytes: of a request's body.
        max_waiting: requests at once, the running one included; more are told to come back.

    Attributes:
        handler (`EndpointHandler`): to be set before `serve_forever`; an address that is taken is told before a model
            is loaded.

    Raises:
        OSError: it cannot listen there.
    """

    # server_close waits for them: the interpreter must not end under a thread that still frees tensors (SIGABRT)
    daemon_threads = False
    allow_reuse_address = True
    handler: EndpointHandler

    def __init__(self, host: str, port: int, max_bytes: int, max_waiting: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), RequestHandler)
        self.only_loopback, self.max_bytes, self.max_waiting = is_loopback(host), max_bytes, max_waiting
        self.waiting, self.counting = 0, threading.Lock()
        self.worker = ThreadPoolExecutor(1, "accompaniment")
        self.stopping = threading.Event()
        self.connections: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answers a connection in a thread of its own."""
        # before the thread begins, so that none that begins while the server stops is missed
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Ends a connection, whose thread has no more to do."""
        super().shutdown_request(request)
        self.connections.discard(request)

    @contextmanager
    def place(self) -> Iterator[bool]:
        """A place in the queue for the block, and whether there is one."""
        with self.counting:
            free = self.waiting < self.max_waiting
            self.waiting += free
        try:
            yield free
        finally:
            with self.counting:
                self.waiting -= free

    def accompany(self, data: dict[str, Any], client_left: Callable[[], bool]) -> Any:
        """The handler's answer, when it is this request's turn.

        Raises:
            CancelledError: the client has left or the server stops.
        """
        left = threading.Event()
        try:
            future = self.worker.submit(self._generate, data, left)
        except RuntimeError:
            if not self.stopping.is_set():
                raise
            # while the body was being read
            raise CancelledError from None
        while not wait([future], LOOK_SECONDS).done:
            if client_left():
                left.set()
                future.cancel()
        try:
            return future.result()
        except _Given:
            raise CancelledError from None

    def _generate(self, data: dict[str, Any], left: threading.Event) -> Any:
        def progress(stage: str, done: int, total: int) -> None:
            if left.is_set() or self.stopping.is_set():
                raise _Given

        # the default of this call; a request cannot set it
        self.handler.pipeline._forward_params["progress"] = progress
        return self.handler(data)

    def stop(self) -> None:
        """Ends the running generation, refuses the waiting ones, and lets go of the address; no thread is left."""
        self.stopping.set()
        self.worker.shutdown(cancel_futures=True)
        self._end_connections(socket.SHUT_RD)
        end = time.monotonic() + DRAIN_SECONDS
        while self.connections and time.monotonic() < end:
            time.sleep(0.01)
        # who has not taken the answer by now
        self._end_connections(socket.SHUT_RDWR)
        self.server_close()

    def _end_connections(self, how: int) -> None:
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(how)


class RequestHandler(BaseHTTPRequestHandler):
    """One connection; whatever it is answered is JSON."""

    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    server: AccompanimentServer

    def do_GET(self) -> None:
        """`/health`: {"status", "model", "waiting"}; who is being served counts as waiting."""
        if refusal := self._refusal("/health"):
            self.send_error(*refusal)
        else:
            model = self.server.handler.pipeline.model.name_or_path
            self._answer(200, {"status": "ok", "model": model, "waiting": self.server.waiting})

    def do_POST(self) -> None:
        """`/`: JSON as `EndpointHandler` takes it, or, under any other content type, the bytes of an audio file."""
        if refusal := self._refusal("/") or self._body_refusal():
            self._refuse_unread(*refusal)
            return
        with self.server.place() as free:
            if free:
                self._accompany()
            else:
                self._refuse_unread(503, f"{self.server.max_waiting} requests are waiting already; try again later.")

    def _accompany(self) -> None:
        try:
            answer = self.server.accompany(self._data(), self._client_left)
        except CancelledError:
            self.close_connection = True
            self.send_error(503, "The server is stopping.")
        except (HAFMAudioError, ValueError, TypeError) as error:
            self.send_error(400, str(error))
        except OSError:
            # the body did not come
            self.close_connection = True
        except Exception as error:
            logger.exception("A request failed.")
            self.send_error(500, f"This failed in the server ({type(error).__name__}); its log says more.")
        else:
            self._answer(200, answer)

    def handle_expect_100(self) -> bool:
        """Refuses before the body is sent what would be refused when it is there."""
        if refusal := self._body_refusal():
            self._refuse_unread(*refusal)
            return False
        return super().handle_expect_100()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """{"error": one sentence}."""
        said = " ".join(without_secrets(message or self.responses.get(code, ("Refused",))[0]).split())
        self._answer(code, {"error": said})

    def log_message(self, format: str, *args: Any) -> None:
        """One line a request, as any server's, where transformers' log level is info."""
        logger.info("%s %s", self.address_string(), format % args)

    def _refusal(self, path: str) -> tuple[int, str] | None:
        """What is wrong with a request, whatever its body is."""
        if self.path.partition("?")[0] != path:
            return 404, f"There is nothing at {self.path[:100]}; POST a vocal to /, or GET /health."
        name = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        if self.headers.get("Origin") or (self.server.only_loopback and not is_loopback(name)):
            return 403, "This server answers programs on its own machine, and no pages of the web."
        return None

    def _body_refusal(self) -> tuple[int, str] | None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            return 411, "The request has no Content-Length; send the body as a whole."
        if int(length) > self.server.max_bytes:
            return 413, f"The body has {int(length):,} bytes; at most {self.server.max_bytes:,} are taken."
        return None

    def _data(self) -> dict[str, Any]:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get_content_type() != "application/json":
            return {"inputs": body}
        try:
            data = json.loads(body)
        except ValueError as error:
            raise ValueError(f"The body is not JSON ({error}).") from error
        if not isinstance(data, dict) or not isinstance(data.get("parameters") or {}, dict):
            raise ValueError('The body must be an object: {"inputs": audio in base64, "parameters": {…}}.')
        return data

    def _answer(self, code: int, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if code == 503:
            self.send_header("Retry-After", "10")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def _refuse_unread(self, code: int, message: str) -> None:
        """Refuses, and takes in what is still being sent: else its sender would see a broken connection only."""
        self.close_connection = True
        self.send_error(code, message)
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(DRAIN_SECONDS)
        end = time.monotonic() + DRAIN_SECONDS
        try:
            while time.monotonic() < end and self.connection.recv(1 << 16):
                pass
        except OSError:
            pass

    def _client_left(self) -> bool:
        try:
            readable, _, _ = select.select([self.connection], [], [], 0)
            return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine, seen from itself only."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
