# SPDX-License-Identifier: Apache-2.0
"""Decodes audio files of unknown origin; what is not audio, or incomplete, is rejected with a reason.

A corpus must never contain garbage, so a file that decodes to fewer samples than its header states is dropped rather
than repaired.
"""

import os

import numpy as np
import soundfile

from ..audio import MAX_SAMPLING_RATE, MIN_SAMPLING_RATE, Samples
from .tracks import Reason, TrackError

# MP3 decoders may cut off their delay (529 to 2,257 samples) at the ends of an intact file
LOST_SECONDS = 0.06


def decode(path: str | os.PathLike[str], max_seconds: float) -> tuple[Samples, int]:
    """Decodes all channels of an audio file.

    Args:
        path: opened by file descriptor, so its name may hold any bytes.
        max_seconds: longer files are rejected before they fill the memory.

    Returns:
        float32 [N, C] and the sampling rate in Hz.

    Raises:
        TrackError: the file can't be read, is not audio, damaged, too long, or not finite.
    """
    try:
        # unbuffered: libsndfile starts reading at the descriptor's position
        with open(path, "rb", buffering=0) as file, soundfile.SoundFile(file.fileno(), closefd=False) as sound:
            return _read(sound, max_seconds)
    except OSError as error:
        raise TrackError(Reason.UNREADABLE, error.strerror or "") from error
    except (soundfile.LibsndfileError, TypeError, ValueError) as error:
        raise TrackError(Reason.NOT_DECODABLE, getattr(error, "error_string", str(error))) from error


def _read(sound: soundfile.SoundFile, max_seconds: float) -> tuple[Samples, int]:
    rate, promised = sound.samplerate, sound.frames
    if not MIN_SAMPLING_RATE <= rate <= MAX_SAMPLING_RATE:
        raise TrackError(Reason.NOT_DECODABLE, f"a sampling rate of {rate} Hz")
    if promised > max_seconds * rate:
        raise TrackError(Reason.TOO_LONG, f"{promised / rate:.0f} s, at most {max_seconds:.0f}")
    try:
        samples = sound.read(dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise TrackError(Reason.DAMAGED, getattr(error, "error_string", str(error))) from error
    if promised - len(samples) > LOST_SECONDS * rate:
        raise TrackError(Reason.DAMAGED, f"{len(samples)} of {promised} samples can be decoded")
    if not np.isfinite(samples).all():
        raise TrackError(Reason.NOT_FINITE)
    return samples, rate
