# SPDX-License-Identifier: Apache-2.0
"""The handler of an Inference Endpoint, loaded from the model repository as an endpoint does, called over HTTP."""

import base64
import importlib.util
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from huggingface_hub import InferenceClient

from loopback import Quiet, serving
from vocals import CODEC_RATE, file_bytes, glide


@pytest.fixture(scope="module")
def handler(tiny_model: Path) -> Any:
    """The EndpointHandler of the repository's own handler.py."""
    spec = importlib.util.spec_from_file_location("handler", tiny_model / "handler.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EndpointHandler(str(tiny_model))


def decode(element: dict[str, str]) -> np.ndarray:
    """The sound in an element of an answer: float32 [N] at CODEC_RATE."""
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(element["blob"])), dtype="float32")
    assert rate == CODEC_RATE
    return samples


def test_bytes_and_base64_give_the_pipelines_song(handler: Any) -> None:
    content = file_bytes(glide(), subtype="FLOAT")
    song = handler.pipeline(content, seed=1)
    for inputs in (content, base64.b64encode(content).decode(), base64.encodebytes(content).decode()):
        answer = handler({"inputs": inputs, "parameters": {"seed": 1, "num_samples": None, "format": None}})
        assert [each["label"] for each in answer] == ["instrumental", "mix"]
        assert {each["content-type"] for each in answer} == {"audio/flac"}
        assert np.allclose(decode(answer[0]), song["audio"], atol=1e-4)
        assert np.allclose(decode(answer[1]), song["mix"], atol=1e-4)
        json.dumps(answer)


def test_mp3_out_of_a_pipe_is_accompanied_to_its_end(handler: Any) -> None:
    whole = file_bytes(glide(3.0), format="MP3", bitrate_mode="VARIABLE", compression_level=0.2)
    # the first frame states the number of frames (four bytes behind the tag and its flags), which an encoder that
    # writes to a pipe cannot go back to fill in
    count_at = whole.find(b"Xing") + 8
    content = whole[:count_at] + bytes(4) + whole[count_at + 4 :]
    answer = handler({"inputs": content, "parameters": {"seed": 1, "skip_fine": True}})
    assert len(decode(answer[0])) == pytest.approx(3.0 * CODEC_RATE, abs=100)


def test_samples_are_numbered_and_the_format_can_be_chosen(handler: Any) -> None:
    parameters = {"seed": 1, "num_samples": 2, "skip_fine": True, "seconds": 1.0, "format": "wav"}
    parameters["return_lead_sheet"] = True
    answer = handler({"inputs": file_bytes(glide()), "parameters": parameters})
    labels = "instrumental 1, mix 1, instrumental 2, mix 2, lead sheet 1, lead sheet 2".split(", ")
    assert [each["label"] for each in answer] == labels
    assert answer[0]["content-type"] == "audio/wav"
    # the first second
    assert decode(answer[0]).shape == (24_000,)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"inputs": "/etc/passwd"}, "base64"),
        ({"inputs": "http://127.0.0.1/vocal.wav"}, "base64"),
        ({"inputs": {"path": "/etc/passwd"}}, "dict"),
        ({}, "NoneType"),
        ([1], "send an object with inputs"),
        ({"inputs": b"", "parameters": {"return_lead_sheet": "false"}}, "send true or false"),
        ({"inputs": b"words"}, "not audio"),
        ({"inputs": b"", "parameters": {"progress": "print"}}, "progress"),
        ({"inputs": b"", "parameters": [1]}, r"parameters is \[1\]; send an object"),
        ({"inputs": b"", "parameters": {"num_samples": 100}}, "at most 4"),
        ({"inputs": b"", "parameters": {"format": "exe"}}, "ask for wav or flac or mp3"),
        ({"inputs": file_bytes(glide()), "parameters": {"lead_sheet": {"tempo": 92}}}, "no beat line"),
        ({"inputs": b"", "parameters": {"lead_sheet": {"tempo": "92"}}}, "tempo is '92'; it must be a number"),
        ({"inputs": b"", "parameters": {"beats": "/etc/passwd"}}, "beats is '/etc/passwd'; give seconds"),
        ({"inputs": b"", "parameters": {"tempo": 92, "chords": "/etc/passwd"}}, "'/etc/passwd' is not a chord"),
        ({"inputs": b"", "parameters": {"files": True}}, "Unknown parameter 'files'"),
        ({"inputs": b"", "parameters": {"lead_sheet": {"mood": "calm"}}}, "lead_sheet has no .mood."),
        ({"inputs": b"", "parameters": {"lead_sheet": ["C"]}}, "a LeadSheet or a dict"),
        (
            {"inputs": b"", "parameters": {"lead_sheet": {"chords": [[0, 1]]}}},
            "chords must be .start s, stop s, label. each, not .0, 1.",
        ),
    ],
)
@pytest.mark.fault("paths and addresses sent to an endpoint")
def test_requests_for_files_or_with_invalid_parameters_are_refused(handler: Any, data: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        handler(data)


class Server(Quiet):
    """A minimal endpoint server: passes an audio body to the handler as {"inputs": bytes}, and answers with JSON."""

    handler: Any

    def do_POST(self) -> None:
        """Answers with what the handler returns for the body."""
        content = self.rfile.read(int(self.headers["Content-Length"]))
        answer = json.dumps(type(self).handler({"inputs": content})).encode()
        self.reply(200, answer, {"Content-Type": "application/json"})


@pytest.fixture
def endpoint(handler: Any) -> Iterator[str]:
    """The URL of a server of the handler."""
    with serving(Server, handler=handler) as url:
        yield url


def test_the_hubs_own_client_receives_the_song(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    instrumental, mix = InferenceClient(model=endpoint, token="hf_nothing").audio_to_audio(file_bytes(glide()))
    assert (instrumental.label, mix.label) == ("instrumental", "mix")
    samples, rate = soundfile.read(io.BytesIO(mix.blob))
    assert rate == CODEC_RATE
    assert samples.shape == glide().shape
