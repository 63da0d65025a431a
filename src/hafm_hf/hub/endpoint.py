"""The handler of Hugging Face Inference Endpoints: audio bytes in, encoded audio out.

Behind the pipeline on the path of the data. A composite's repository holds a handler.py that imports `EndpointHandler`
from here; the endpoint's server finds it there by that name.
"""

import base64
import binascii
import io
from typing import Any

import numpy as np
import soundfile
import torch
import transformers

from ..audio import HAFMAudioError

MAX_SAMPLES = 4
CONTENT_TYPES = {"flac": "audio/flac", "wav": "audio/wav"}


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
                `public_parameters`, of which `beats` and `chords` name no files here, and "format", "flac" or "wav"}.

        Returns:
            For each sample, instrumental and mix as the hub's task audio-to-audio has it: {"label", "content-type",
            "blob" (base64)}; so `InferenceClient.audio_to_audio` reads it.

        Raises:
            HAFMAudioError: a vocal that cannot be used.
            ValueError: inputs of another kind, unknown parameters, a lead sheet that makes no sense or too many
                samples.
        """
        parameters = dict(data.get("parameters") or {})
        encoding = str(parameters.pop("format", "flac")).lower()
        unknown = sorted(set(parameters) - set(self.pipeline.public_parameters))
        if unknown or encoding not in CONTENT_TYPES:
            raise ValueError(
                f"Unknown parameter {unknown[0]!r}." if unknown else f"format is {encoding!r}; ask for flac or wav."
            )
        if int(parameters.get("num_samples", 1)) > MAX_SAMPLES:
            raise ValueError(f"num_samples is {parameters['num_samples']}; an endpoint gives at most {MAX_SAMPLES}.")
        songs = self.pipeline(_audio_bytes(data.get("inputs")), **parameters, files=False)
        songs = songs if isinstance(songs, list) else [songs]
        labels = [""] if len(songs) == 1 else [f" {number}" for number in range(1, len(songs) + 1)]
        return [
            {
                "label": name + label,
                "content-type": CONTENT_TYPES[encoding],
                "blob": _encode(song[key], song["sampling_rate"], encoding),
            }
            for song, label in zip(songs, labels, strict=True)
            for name, key in (("instrumental", "audio"), ("mix", "mix"))
        ]


def _audio_bytes(inputs: Any) -> bytes:
    # a string is never a path or URL here: a stranger's request must not read the server's files or network
    if isinstance(inputs, str):
        try:
            return base64.b64decode(inputs, validate=True)
        except (binascii.Error, ValueError) as error:
            raise HAFMAudioError("inputs is a text, but no base64; send the bytes of an audio file.") from error
    if isinstance(inputs, (bytes, bytearray)):
        return bytes(inputs)
    raise HAFMAudioError(
        f"inputs is a {type(inputs).__name__}; send the bytes of an audio file, as such or in base64."
    )


def _encode(samples: np.ndarray, sampling_rate: int, encoding: str) -> str:
    """float32 [N] → an audio file of 16 bits in base64."""
    file = io.BytesIO()
    soundfile.write(file, samples, sampling_rate, format=encoding.upper(), subtype="PCM_16")
    return base64.b64encode(file.getvalue()).decode("ascii")
