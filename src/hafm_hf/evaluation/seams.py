"""Whether a song that was generated window by window can be heard to be: change of timbre across the borders."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..analysis import FRAME_RATE
from ..audio import Samples, rms_dbfs
from .features import ANALYSIS_RATE, ONSET_BANDS, ONSET_WINDOW, SILENT_DBFS

# what is compared on both sides of a border: half a second of mean spectrum
SIDE_SECONDS = 0.5
# instants nearer to a border than this are neither at it nor inside a window
GAP_SECONDS = 0.5
LEAST_INSIDE = 4


def seam_excess_db(samples: Samples, borders: Sequence[float]) -> float:
    """Change of mean spectrum across window borders minus the same change inside windows, in dB per mel band.

    0: borders are like any other instant. Needs the candidate and the times of its borders only.

    Fooled by: a song that never changes (0) and a cut at every border that the song itself has (a new verse).

    Args:
        samples (float32 [N], at 16 kHz).
        borders: seconds at which one window ends and the next begins.

    Returns:
        dB; NaN without borders inside the clip, without room between them, or for silence.
    """
    import librosa

    seconds = len(samples) / ANALYSIS_RATE
    at = [border for border in borders if SIDE_SECONDS <= border <= seconds - SIDE_SECONDS]
    if not at or rms_dbfs(samples) < SILENT_DBFS:
        return math.nan
    mel = librosa.feature.melspectrogram(
        y=samples, sr=ANALYSIS_RATE, n_fft=ONSET_WINDOW, hop_length=ANALYSIS_RATE // FRAME_RATE, n_mels=ONSET_BANDS
    )
    decibels = librosa.power_to_db(mel, ref=np.max, top_db=60.0)
    side = round(SIDE_SECONDS * FRAME_RATE)

    def change(second: float) -> float:
        frame = round(second * FRAME_RATE)
        before, after = decibels[:, max(frame - side, 0) : frame], decibels[:, frame : frame + side]
        return float(np.abs(after.mean(axis=1) - before.mean(axis=1)).mean())

    instants = np.arange(SIDE_SECONDS, seconds - SIDE_SECONDS, SIDE_SECONDS / 2)
    inside = [t for t in instants if min(abs(t - border) for border in borders) >= GAP_SECONDS]
    if len(inside) < LEAST_INSIDE:
        return math.nan
    return float(np.mean([change(t) for t in at]) - np.mean([change(t) for t in inside]))
