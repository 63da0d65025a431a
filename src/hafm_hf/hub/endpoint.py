# SPDX-License-Identifier: Apache-2.0
"""The handler of Hugging Face Inference Endpoints: audio bytes in, encoded audio out.

A composite's repository holds a handler.py that imports `EndpointHandler` from here; the endpoint's server finds it
there by that name.
"""

import base64
import binascii
import json
import reprlib
from typing import Any

import torch
import transformers

from ..audio import FILE_FORMATS, HAFMAudioError, encode_audio

MAX_SAMPLES = 4


class EndpointHandler:
    """Loads the model once and answers requests.

    Args:
        path: folder of the model repository on the endpoint's machine.
    """

    def __init__(self, path: str = "") -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.pipeline = transformers.pipeline(
            "vocal-accompaniment", model=path or None, device=device, trust_remote_code=False
        )

    def __call__(self, data: dict[str, Any]) -> list[dict[str, str]]:
        """Accompanies one vocal.

        Args:
            data: {"inputs": the bytes of an audio file, or the same in base64; "parameters" (optional): the pipeline's
                `public_parameters`, of which `beats` and `chords` name no files here; "format": "flac", "wav" or
                "mp3"; and "return_lead_sheet": true or false; null is as good as nothing}.

        Returns:
            For each sample, instrumental and mix as the hub's task audio-to-audio has it: {"label", "content-type",
            "blob" (base64)}; so `InferenceClient.audio_to_audio` reads it. With stems drums, bass, chords and colour
            follow them. With `return_lead_sheet` the lead sheets come last, as JSON.

        Raises:
            HAFMAudioError: a vocal that cannot be used.
            ValueError: inputs or parameters of another kind, a lead sheet that makes no sense, or too many samples.
        """
        if not isinstance(data, dict):
            raise ValueError(f"The body is {reprlib.repr(data)}; send an object with inputs.")
        given = data.get("parameters") or {}
        if not isinstance(given, dict):
            raise ValueError(f"parameters is {reprlib.repr(given)}; send an object of them by name.")
        parameters = {name: value for name, value in given.items() if value is not None}
        encoding = str(parameters.pop("format", "flac")).lower()
        if not isinstance(sheet_wanted := parameters.pop("return_lead_sheet", False), bool):
            raise ValueError(f"return_lead_sheet is {sheet_wanted!r}; send true or false.")
        unknown = sorted(set(parameters) - set(self.pipeline.public_parameters))
        if unknown:
            raise ValueError(f"Unknown parameter {unknown[0]!r}.")
        if encoding not in FILE_FORMATS:
            raise ValueError(f"format is {encoding!r}; ask for {' or '.join(FILE_FORMATS)}.")
        # the pipeline refuses what is no number
        if isinstance(count := parameters.get("num_samples"), int) and count > MAX_SAMPLES:
            raise ValueError(f"num_samples is {count}; an endpoint gives at most {MAX_SAMPLES}.")
        songs = self.pipeline(_audio_bytes(data.get("inputs")), **parameters, files=False)
        songs = songs if isinstance(songs, list) else [songs]
        labels = [""] if len(songs) == 1 else [f" {number}" for number in range(1, len(songs) + 1)]
        answer = [
            _element(name + label, FILE_FORMATS[encoding], encode_audio(sound, song["sampling_rate"], encoding))
            for song, label in zip(songs, labels, strict=True)
            for name, sound in {"instrumental": song["audio"], "mix": song["mix"], **song.get("stems", {})}.items()
        ]
        for song, label in zip(songs, labels, strict=True) if sheet_wanted else ():
            sheet = json.dumps(song["lead_sheet"].to_dict()).encode()
            answer.append(_element("lead sheet" + label, "application/json", sheet))
        return answer


def _audio_bytes(inputs: Any) -> bytes:
    # a string is never a path or URL here: a stranger's request must not read the server's files or network
    if isinstance(inputs, str):
        try:
            # encoders of MIME, and the command base64, break lines
            return base64.b64decode("".join(inputs.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise HAFMAudioError("inputs is a text, but no base64; send the bytes of an audio file.") from error
    if isinstance(inputs, (bytes, bytearray)):
        return bytes(inputs)
    raise HAFMAudioError(f"inputs is a {type(inputs).__name__}; send the bytes of an audio file, plain or in base64.")


def _element(label: str, content_type: str, content: bytes) -> dict[str, str]:
    """A part of an answer."""
    return {"label": label, "content-type": content_type, "blob": base64.b64encode(content).decode("ascii")}
