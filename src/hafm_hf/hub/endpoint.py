# SPDX-License-Identifier: Apache-2.0
"""The handler for Hugging Face Inference Endpoints: audio bytes in, encoded audio out.

A composite's repository contains a handler.py that imports `EndpointHandler` from here; the endpoint's server looks it
up there by name.
"""

import base64
import json
import reprlib
from typing import Any

import torch
import transformers

from ..audio import FILE_FORMATS, HAFMAudioError, encode_audio

# largest `num_samples` of a request
MAX_SAMPLES = 4


class EndpointHandler:
    """Loads the model once and answers requests.

    Args:
        path: folder of the model repository on the endpoint's machine; empty for the bundled model.
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
                `public_parameters` (`beats` and `chords` cannot name files here), "format": "flac", "wav" or "mp3",
                and "return_lead_sheet": true or false; null counts as not given}.

        Returns:
            For each sample, instrumental and mix in the format of the hub's audio-to-audio task: {"label",
            "content-type", "blob" (base64)}, as `InferenceClient.audio_to_audio` expects. With stems, drums, bass,
            chords and pads follow each mix. With `return_lead_sheet` the lead sheets come last, as JSON.

        Raises:
            HAFMAudioError: if the vocal cannot be used.
            ValueError: for invalid inputs, parameters or lead sheet, or too many samples.
        """
        if not isinstance(data, dict):
            raise ValueError(f"The body is {reprlib.repr(data)}; send an object with inputs.")
        given = data.get("parameters") or {}
        if not isinstance(given, dict):
            raise ValueError(f"parameters is {reprlib.repr(given)}; send an object with parameters by name.")

        parameters = {name: value for name, value in given.items() if value is not None}
        file_format = str(parameters.pop("format", "flac")).lower()
        if not isinstance(with_lead_sheet := parameters.pop("return_lead_sheet", False), bool):
            raise ValueError(f"return_lead_sheet is {with_lead_sheet!r}; send true or false.")
        unknown = sorted(set(parameters) - set(self.pipeline.public_parameters))
        if unknown:
            names = ", ".join((*self.pipeline.public_parameters, "format", "return_lead_sheet"))
            raise ValueError(f"Unknown parameter {unknown[0]!r}; the parameters are {names}.")
        if file_format not in FILE_FORMATS:
            raise ValueError(f"format is {file_format!r}; ask for {' or '.join(FILE_FORMATS)}.")
        # what is no integer is refused by the pipeline
        if isinstance(count := parameters.get("num_samples"), int) and count > MAX_SAMPLES:
            raise ValueError(f"num_samples is {count}; an endpoint returns at most {MAX_SAMPLES}.")

        songs = self.pipeline(_audio_bytes(data.get("inputs")), **parameters, files=False)
        if not isinstance(songs, list):
            songs = [songs]
        if len(songs) == 1:
            labels = [""]
        else:
            labels = [f" {number}" for number in range(1, len(songs) + 1)]
        answer = []
        for song, label in zip(songs, labels, strict=True):
            sounds = {"instrumental": song["audio"], "mix": song["mix"], **song.get("stems", {})}
            for name, sound in sounds.items():
                file = encode_audio(sound, song["sampling_rate"], file_format)
                answer.append(_element(name + label, FILE_FORMATS[file_format], file))
        if with_lead_sheet:
            for song, label in zip(songs, labels, strict=True):
                sheet = json.dumps(song["lead_sheet"].to_dict()).encode()
                answer.append(_element("lead sheet" + label, "application/json", sheet))
        return answer


def _audio_bytes(inputs: Any) -> bytes:
    """The bytes of an audio file in a request, plain or in base64; raises HAFMAudioError for anything else."""
    # a string is never a path or URL here: a request must not make the server read its files or network
    if isinstance(inputs, str):
        try:
            # MIME encoders and the base64 command insert line breaks
            return base64.b64decode("".join(inputs.split()), validate=True)
        except ValueError as error:
            raise HAFMAudioError("inputs is text but not base64; send the bytes of an audio file.") from error
    if isinstance(inputs, (bytes, bytearray)):
        return bytes(inputs)
    raise HAFMAudioError(f"inputs is a {type(inputs).__name__}; send the bytes of an audio file, plain or in base64.")


def _element(label: str, content_type: str, content: bytes) -> dict[str, str]:
    """An element of the response: a file's bytes in base64, with a label such as "mix 2" and its MIME type."""
    return {"label": label, "content-type": content_type, "blob": base64.b64encode(content).decode("ascii")}
