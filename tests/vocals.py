# SPDX-License-Identifier: Apache-2.0
"""Vocals for tests: the example, and a gliding tone in any length, rate and file format."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

CODEC_RATE = 24_000
EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "vocal.wav"


def glide(seconds: float = 1.2, rate: int = CODEC_RATE, amplitude: float = 0.4) -> np.ndarray:
    """A tone with vibrato that rises from 220 to 440 Hz: float32 [seconds · rate]."""
    time = np.arange(round(seconds * rate)) / rate
    glide_hertz = 220.0 * 2.0 ** (time / max(seconds, 1e-6))
    vibrato = 1.0 + 0.01 * np.sin(2 * np.pi * 5.5 * time)
    phase = 2 * np.pi * np.cumsum(glide_hertz * vibrato) / rate
    return (amplitude * np.sin(phase)).astype(np.float32)


def file_bytes(samples: np.ndarray, rate: int = CODEC_RATE, **format_options: Any) -> bytes:
    """Samples (float [N] or [N, channels] at `rate` Hz) as an audio file, by default WAV.

    Args:
        samples, rate: the sound.
        format_options: `format`, `subtype` and other options of soundfile.write.
    """
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, **{"format": "WAV", **format_options})
    return buffer.getvalue()
