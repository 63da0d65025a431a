# SPDX-License-Identifier: Apache-2.0
"""Decodes audio files of unknown origin; what is not audio, or incomplete, is rejected with a reason.

A corpus must never contain garbage, so a file that decodes to fewer samples than its header states is dropped rather
than repaired.
"""

import os

from ..audio import (
    LOST_SECONDS,
    MAX_CHANNELS,
    DamagedAudioError,
    HAFMAudioError,
    LongAudioError,
    NotFiniteAudioError,
    Samples,
    UnreadableAudioError,
    in_columns,
    read_recording,
)
from .tracks import Reason, TrackError

# why a track is dropped, by the error of its file
REASONS = {
    UnreadableAudioError: Reason.UNREADABLE,
    DamagedAudioError: Reason.DAMAGED,
    LongAudioError: Reason.TOO_LONG,
    NotFiniteAudioError: Reason.NOT_FINITE,
}


def decode(path: str | os.PathLike[str], max_seconds: float) -> tuple[Samples, int]:
    """Decodes all channels of an audio file.

    Args:
        path: the file; its name need not be UTF-8.
        max_seconds: longer files are rejected before they fill the memory.

    Returns:
        float32 [samples, channels] and the sampling rate in Hz.

    Raises:
        TrackError: the file can't be read, is not audio, damaged, too long, or not finite.
    """
    try:
        recording = read_recording(path, min_seconds=0.0, max_seconds=max_seconds, keep=MAX_CHANNELS)
    except HAFMAudioError as error:
        raise TrackError(REASONS.get(type(error), Reason.NOT_DECODABLE), str(error)) from error
    if recording.missing_seconds > LOST_SECONDS:
        raise TrackError(Reason.DAMAGED, recording.remarks[-1])
    return in_columns(recording.samples), recording.sampling_rate
