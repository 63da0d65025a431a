# SPDX-License-Identifier: Apache-2.0
"""Fifty users of one Space: all get their own songs in order, and neither memory nor files accumulate."""

import io
import json
import os
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from faults import Tally
from hafm_hf import HAFMForVocalAccompaniment, audio
from programs import until
from space.serving import PATIENCE_SECONDS, Space, served
from vocals import file_bytes

pytest.importorskip("gradio", reason="needs the extra `space`")
import takes

httpx = pytest.importorskip("httpx", reason="needs the extra `space`")
# long enough for a busy machine
HTTP = httpx.Client(timeout=PATIENCE_SECONDS, limits=httpx.Limits(max_connections=None))

TOKEN = "hf_TokenThatNobodyMaySee"
CLIENTS = 50
RATE = 24_000
# memory that 450 further requests may add after the first fifty
GROWTH_MB = 64
# how long the Space keeps files: longer than fifty users wait, and short enough to see their files expire
KEEP_SECONDS = 240


def request(vocal: dict[str, Any], model: str) -> list[Any]:
    """The endpoint's parameters in its order: seed 7, without the fine stage, all else by default."""
    return [vocal, model, 7, None, None, None, "", "", None, True, None, None, 0, 0, 0, None, 0]


@dataclass
class Client:
    """One user: a unique voice, and the Space's answer."""

    number: int
    path: str = ""
    answer: dict[str, Any] | None = None

    @property
    def voice(self) -> np.ndarray:
        """A tone with this user's own pitch and length: int16 [N]."""
        times = np.arange(RATE + 120 * self.number) / RATE
        return np.round(9000 * np.sin(2 * np.pi * (150 + 7 * self.number) * times)).astype(np.int16)

    @property
    def name(self) -> str:
        """Name of the uploaded file; one user tries a path."""
        return "../../etc/passwd.wav" if self.number == 1 else f"voice {self.number}.wav"

    def join(self, url: str, function: int, model: str) -> None:
        """Uploads the voice and joins the queue.

        Args:
            url: of the Space.
            function: Gradio's number of the endpoint /accompany.
            model: a model that the Space offers.
        """
        sound = file_bytes(self.voice, RATE)
        self.path = HTTP.post(f"{url}/gradio_api/upload", files={"files": (self.name, sound)}).json()[0]
        vocal = {"path": self.path, "meta": {"_type": "gradio.FileData"}}
        asked = {"data": request(vocal, model), "fn_index": function, "session_hash": f"client{self.number}"}
        assert "event_id" in HTTP.post(f"{url}/gradio_api/queue/join", json=asked).json()

    def listen(self, url: str) -> None:
        """Waits for the Space's answer, and keeps it in `answer`."""
        address = f"{url}/gradio_api/queue/data?session_hash=client{self.number}"
        with HTTP.stream("GET", address) as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data: ") or "{}")
                if message.get("msg") == "process_completed":
                    self.answer = message

    def complaint(self, url: str) -> str:
        """What is wrong with the answer; empty if it is this user's song."""
        if self.answer is None or not self.answer["success"]:
            return f"{self.name}: {self.answer}"
        mix, instrumental, stems, _ = self.answer["output"]["data"]
        with zipfile.ZipFile(io.BytesIO(HTTP.get(stems["url"]).content)) as archive:
            names = archive.namelist()
            vocal, _ = audio.read_audio(archive.read(names[0]))
            band, _ = audio.read_audio(archive.read(names[1]))
        mixed, _ = audio.read_audio(HTTP.get(mix["url"]).content)
        if names[0] != f"{Path(self.name).stem.replace(' ', '_')}_vocal.wav":
            return f"{self.name} got {names}"
        if not np.array_equal(np.round(vocal * 2**15).astype(np.int16), self.voice):
            return f"{self.name} got another's voice"
        expected = audio.fade_edges(audio.mix_audio(vocal, band), RATE)
        return "" if np.abs(mixed - expected).max() < 1e-3 else f"{self.name} got another's mix"


@pytest.fixture(scope="module")
def space(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Space]:
    """A Space with a working model, one that fails during generation, and a secret token."""
    folder = tmp_path_factory.mktemp("load")
    model = HAFMForVocalAccompaniment.from_pretrained(tiny_model)
    model.semantic_tokenizer.centroids.zero_()
    model.save_pretrained(folder / "broken")
    settings = {"HAFM_SPACE_MODELS": f"{tiny_model},{folder / 'broken'}", "HAFM_SPACE_QUEUE_SIZE": str(2 * CLIENTS)}
    if request.config.getoption("--torture"):
        settings["HAFM_SPACE_KEEP_SECONDS"] = str(KEEP_SECONDS)
    (folder / "temporary").mkdir()
    with served(str(tiny_model), folder / "temporary", **settings, HF_TOKEN=TOKEN) as space:
        yield space


def memory_mb(space: Space) -> float:
    """Memory of the Space's process in MiB."""
    return psutil.Process(space.process.pid).memory_info().rss / 2**20


@pytest.mark.fault("requests to a Space under load", cut=16, full=500)
def test_fifty_clients_get_their_own_songs_in_turn(tally: Tally, space: Space, tiny_model: Path) -> None:
    config = HTTP.get(f"{space.url}/config").json()
    (function,) = [each["id"] for each in config["dependencies"] if each["api_name"] == "accompany"]
    # (label, value) of each entry of each menu; the first menu is that of the models
    choices = [each["props"].get("choices", []) for each in config["components"] if each["type"] == "dropdown"]
    (broken,) = [value for _, value in choices[0] if value.endswith("broken")]
    size = min(CLIENTS, tally.tries // 2)
    after_first = 0.0
    while tally.made < tally.tries:
        clients = [Client(number) for number in range(size)]
        failing = clients[size // 2]
        for client in clients:
            client.join(space.url, function, broken if client is failing else str(tiny_model))
        listeners = [threading.Thread(target=client.listen, args=(space.url,)) for client in clients]
        for listener in listeners:
            listener.start()
        for listener in listeners:
            listener.join()
        served_clients = [client for client in clients if client is not failing]
        for client in served_clients:
            complaint = client.complaint(space.url)
            tally.lose(complaint) if complaint else tally.survived()
        assert failing.answer is not None
        assert not failing.answer["success"]
        assert "no centroids" in failing.answer["output"]["error"]
        tally.survived()
        if not tally.lost:
            answers = [client.answer or {} for client in served_clients]
            moments = [os.stat(each["output"]["data"][0]["path"]).st_mtime_ns for each in answers]
            assert moments == sorted(moments), "songs are made in the queue's order"
        after_first = after_first or memory_mb(space)
    growth = memory_mb(space) - after_first
    tally.measured = f"{after_first:.0f} MB after {size}, {growth:+.0f} MB after all"
    assert growth < GROWTH_MB
    if tally.tries > CLIENTS:
        (folder,) = space.temporary.glob("hafm_space_*")
        gone = until(
            lambda: not any(path.is_file() and path.name != takes.LOCK_FILE for path in folder.rglob("*")),
            2 * KEEP_SECONDS,
            pause=1.0,
        )
        assert gone, "files remain"
    pages = [HTTP.get(space.url + path).text for path in ("/", "/config", "/gradio_api/info")]
    log = (space.temporary / "log.txt").read_text()
    assert TOKEN not in log + json.dumps([client.answer for client in clients]) + "".join(pages)
    assert not list(Path("/etc").glob("passwd*.wav"))


@pytest.mark.fault("paths and addresses sent to a Space")
@pytest.mark.parametrize(
    "path", ["/etc/passwd", "http://127.0.0.1:1/vocal.wav", "http://169.254.169.254/latest", "file:///etc/passwd"]
)
def test_files_and_internal_addresses_of_the_server_cannot_be_read(path: str, space: Space, tiny_model: Path) -> None:
    config = HTTP.get(f"{space.url}/config").json()
    (function,) = [each["id"] for each in config["dependencies"] if each["api_name"] == "accompany"]
    client = Client(200)
    for name in ("path", "url"):
        vocal = {"path": path, "url": path if name == "url" else None, "meta": {"_type": "gradio.FileData"}}
        asked = {"data": request(vocal, str(tiny_model)), "fn_index": function, "session_hash": "client200"}
        answer = HTTP.post(f"{space.url}/gradio_api/queue/join", json=asked)
        if answer.status_code != httpx.codes.OK:
            continue
        client.answer = None
        client.listen(space.url)
        assert client.answer is not None
        assert not client.answer["success"]
        assert "root:" not in json.dumps(client.answer)
