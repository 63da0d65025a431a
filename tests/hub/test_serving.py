# SPDX-License-Identifier: Apache-2.0
"""`hafm serve`, the real command in its own process, asked over HTTP."""

import base64
import http.client
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import InferenceClient

from hafm_hf.hub.endpoint import EndpointHandler
from hafm_hf.hub.serving import AccompanimentServer
from programs import Program, run_program
from vocals import file_bytes, glide

HAFM = Path(sys.executable).with_name("hafm")
AUDIO = {"Content-Type": "audio/wav"}
JSON = {"Content-Type": "application/json"}


class Server:
    """A `hafm serve` with room for two requests of a megabyte, and what it answers."""

    def __init__(self, model: Path, folder: Path) -> None:
        words = ["serve", "--model", model, "--port", 0, "--max-megabytes", 1, "--queue", 2]
        out, self.log = folder / "out", folder / "log"
        self.process = Program([HAFM, *words], out, self.log)
        while not (out.exists() and out.read_text().endswith("\n")):
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)
        line = out.read_text()
        assert line.startswith("listening on http://127.0.0.1:"), (line, self.log.read_text())
        self.url = line.split()[2]
        self.port = int(self.url.rpartition(":")[2])

    def ask(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        assert answer.getheader("Content-Type") == "application/json"
        found = answer.status, json.loads(answer.read())
        connection.close()
        return found

    def waiting(self) -> int:
        return self.ask("GET", "/health")[1]["waiting"]

    def until(self, waiting: int) -> None:
        deadline = time.monotonic() + 120
        while self.waiting() != waiting:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tiny_model, tmp_path_factory.mktemp("server"))
    yield server
    server.process.kill()


def test_audio_and_json_get_what_the_endpoint_answers(server: Server, tiny_model: Path) -> None:
    content = file_bytes(glide())
    encoded = base64.b64encode(content).decode()
    wanted = EndpointHandler(str(tiny_model))({"inputs": content, "parameters": {"seed": 3}})
    body = json.dumps({"inputs": encoded, "parameters": {"seed": 3}}).encode()
    assert server.ask("POST", "/", body, JSON) == (200, wanted)
    status, answer = server.ask("POST", "/", content, AUDIO)
    assert status == 200 and [each["label"] for each in answer] == ["instrumental", "mix"]
    # who has read an answer may be counted for a moment yet
    server.until(0)
    assert server.ask("GET", "/health") == (200, {"status": "ok", "model": str(tiny_model), "waiting": 0})


def test_the_hubs_own_client_hears_the_song(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    (tmp_path / "vocal.wav").write_bytes(file_bytes(glide()))
    answer = InferenceClient(model=server.url).audio_to_audio(str(tmp_path / "vocal.wav"))
    assert [each.label for each in answer] == ["instrumental", "mix"]


def test_two_clients_at_once_both_get_their_own_song(server: Server) -> None:
    found: dict[float, tuple[int, Any]] = {}

    def ask(seconds: float) -> None:
        body = {"inputs": base64.b64encode(file_bytes(glide(seconds))).decode(), "parameters": {"seed": 1}}
        found[seconds] = server.ask("POST", "/", json.dumps(body).encode(), JSON)

    clients = [threading.Thread(target=ask, args=(seconds,)) for seconds in (1.0, 2.0)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert {status for status, _ in found.values()} == {200}
    alone = {**found}
    for seconds in found:
        ask(seconds)
    assert found == alone, "each song is as it is alone"


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "said"),
    [
        ("POST", "/", b"words", AUDIO, 400, "not audio"),
        ("POST", "/", b"{", JSON, 400, "not JSON"),
        ("POST", "/", b"[]", JSON, 400, "must be an object"),
        ("POST", "/", b'{"inputs": "/etc/passwd"}', JSON, 400, "base64"),
        ("POST", "/", b'{"inputs": "", "parameters": {"progress": 1}}', JSON, 400, "progress"),
        ("POST", "/", b'{"inputs": "", "parameters": [1]}', JSON, 400, "must be an object"),
        ("POST", "/", b"0" * 1_000_001, AUDIO, 413, "at most 1,000,000"),
        ("POST", "/", b"0" * 1_000_001, {"Expect": "100-continue"}, 413, "at most 1,000,000"),
        ("POST", "/song", b"", {}, 404, "/song"),
        ("GET", "/", b"", {}, 404, "GET /health"),
        ("PUT", "/", b"", {}, 501, "PUT"),
        ("GET", "/health", b"", {"Host": "evil.example:80"}, 403, "its own machine"),
        ("POST", "/", b"", {"Origin": "https://evil.example"}, 403, "its own machine"),
    ],
)
def test_what_it_cannot_use_is_refused_in_a_sentence(
    server: Server, method: str, path: str, body: bytes, headers: dict[str, str], status: int, said: str
) -> None:
    found, answer = server.ask(method, path, body, headers)
    assert found == status and list(answer) == ["error"] and said in answer["error"] and "\n" not in answer["error"]
    assert server.ask("GET", "/health")[0] == 200


def test_a_body_without_its_length_is_refused(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 411 ")


def test_a_full_queue_refuses_and_who_leaves_makes_room(server: Server) -> None:
    # at 8 kHz, 50 s have less than a megabyte
    long = file_bytes(glide(50.0, 8_000), 8_000)
    clients = [http.client.HTTPConnection("127.0.0.1", server.port) for _ in range(2)]
    for number, client in enumerate(clients):
        client.request("POST", "/", long, AUDIO)
        server.until(number + 1)
    status, answer = server.ask("POST", "/", file_bytes(glide()), AUDIO)
    assert status == 503 and "2 requests are waiting" in answer["error"]
    began = time.monotonic()
    for client in clients:
        client.close()
    server.until(0)
    assert time.monotonic() - began < 10, "nobody computes on for them"
    assert server.ask("POST", "/", file_bytes(glide()), AUDIO)[0] == 200


def test_ctrl_c_ends_it_at_once_with_130(tiny_model: Path, tmp_path: Path) -> None:
    server = Server(tiny_model, tmp_path)
    client = http.client.HTTPConnection("127.0.0.1", server.port)
    client.request("POST", "/", file_bytes(glide(50.0, 8_000), 8_000), AUDIO)
    server.until(1)
    os.kill(server.process.pid, signal.SIGINT)
    assert server.process.wait(timeout=60) == 130 and "Traceback" not in server.log.read_text()


def test_a_request_whose_body_comes_while_the_server_stops_is_given_up() -> None:
    server = AccompanimentServer("127.0.0.1", 0, 1_000, 1)
    server.stop()
    with pytest.raises(CancelledError):
        server.accompany({"inputs": b""}, lambda: False)


def test_no_thread_is_left_of_clients_that_neither_send_nor_read() -> None:
    """A thread that the interpreter's end meets while it frees tensors makes the process abort."""
    before = {*threading.enumerate()}
    server = AccompanimentServer("127.0.0.1", 0, 1_000, 1)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    address = ("127.0.0.1", server.server_address[1])
    with socket.create_connection(address) as silent, socket.create_connection(address) as halfway:
        halfway.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nonly this")
        while threading.active_count() < len(before) + 3:
            time.sleep(0.01)
        start = time.monotonic()
        server.shutdown()
        server.stop()
        assert time.monotonic() - start < 10 and {*threading.enumerate()} - {serving} == before
        halfway.settimeout(10)
        assert b" 503 " in halfway.recv(100) and silent.recv(1) == b""


def test_a_taken_port_is_told_before_a_model_is_loaded() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        run = run_program([HAFM, "serve", "--model", "no/such-model", "--port", port])
    assert run.returncode == 1 and f"127.0.0.1:{port}" in run.stderr and len(run.stderr.splitlines()) == 1
