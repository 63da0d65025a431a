# SPDX-License-Identifier: Apache-2.0
"""Whether the borders of windows are audible in a generated song: change of timbre across them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ..audio import Samples, rms_dbfs
from ..audio.analysis import FRAME_RATE
from ..audio.librosa_loading import load_librosa
from .features import ANALYSIS_RATE, ONSET_BANDS, ONSET_WINDOW, SILENT_DBFS
from .statistics import bootstrap_mean

# what is compared on both sides of a border: half a second of mean spectrum
SIDE_SECONDS = 0.5
# instants nearer to a border than this are neither at it nor inside a window
GAP_SECONDS = 0.5
LEAST_INSIDE = 4
# of the change at an instant: the spectrum of so much before it against so much after it
FRAME_SECONDS = 0.05
# a border is where its window's samples begin, give or take the frames of codec and spectrum
BORDER_SECONDS = 0.02
PERCENTILE = 95.0
# of the interval of a share
CONFIDENCE = 0.95


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
    librosa = load_librosa()
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


@dataclass(frozen=True)
class Seams:
    """Change of timbre at borders and elsewhere, pooled over songs.

    Attributes:
        borders (int): how many there were.
        at_borders, inside (float): 95th percentile of the change, dB per mel band.
        share (float): share of borders that change more than that percentile inside windows; 0.05 if borders are like
            any other instant.
        low, high (float): 95 % interval of the share: Wilson's over borders, or the bootstrap's over songs where it is
            wider, as borders of one song are alike.
    """

    borders: int
    at_borders: float
    inside: float
    share: float
    low: float
    high: float

    @property
    def audible(self) -> bool:
        """Whether borders stick out: more of them than chance explains change more than 19 of 20 other instants."""
        return self.low > 1 - PERCENTILE / 100


def timbre_changes(samples: Samples, borders: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Change of the log-mel spectrum at window borders, and at all other instants, in dB per mel band.

    Both are the largest change within the same few frames, so that they can be compared.

    Args:
        samples (float32 [N], at 16 kHz).
        borders: seconds at which one window ends and the next begins.

    Returns:
        float64 [borders inside the clip] and float64 [instants away from them]; empty for silence.
    """
    librosa = load_librosa()
    if rms_dbfs(samples) < SILENT_DBFS:
        return np.empty(0), np.empty(0)
    mel = librosa.feature.melspectrogram(
        y=samples, sr=ANALYSIS_RATE, n_fft=ONSET_WINDOW, hop_length=ANALYSIS_RATE // FRAME_RATE, n_mels=ONSET_BANDS
    )
    decibels = librosa.power_to_db(mel, ref=np.max, top_db=60.0)
    side, near = round(FRAME_SECONDS * FRAME_RATE), max(round(BORDER_SECONDS * FRAME_RATE), 1)
    means = np.lib.stride_tricks.sliding_window_view(decibels, side, axis=1).mean(axis=-1)
    # [f] is the change at frame f + side
    change = np.abs(means[:, side:] - means[:, :-side]).mean(axis=0)
    largest = np.lib.stride_tricks.sliding_window_view(change, 2 * near + 1).max(axis=-1)
    first = side + near
    frames = np.round(np.asarray(borders, dtype=float) * FRAME_RATE).astype(int)
    frames = frames[(frames >= first) & (frames < first + len(largest))]
    others = np.arange(first, first + len(largest), 2 * near + 1)
    away = np.ones(len(others), dtype=bool)
    for frame in frames:
        away &= np.abs(others - frame) > 2 * (side + near)
    return largest[frames - first].astype(float), largest[others[away] - first].astype(float)


def pool_seams(changes: Iterable[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> Seams | None:
    """The seams of songs by their `timbre_changes`; None where there is nothing to compare."""
    found = list(changes)
    at = np.concatenate([np.empty(0), *(borders for borders, _ in found)])
    inside = np.concatenate([np.empty(0), *(others for _, others in found)])
    if len(at) == 0 or len(inside) < LEAST_INSIDE:
        return None
    usual = float(np.percentile(inside, PERCENTILE))
    share = float((at > usual).mean())
    low, high = _wilson(share, len(at))
    songs = [str(song) for song, (borders, _) in enumerate(found) for _ in borders]
    if len(set(songs)) > 1:
        over_songs = bootstrap_mean((at > usual).astype(float), songs)
        low, high = min(low, over_songs.low), max(high, over_songs.high)
    return Seams(len(at), float(np.percentile(at, PERCENTILE)), usual, share, low, high)


def _wilson(share: float, count: int) -> tuple[float, float]:
    """Interval of a share of `count` (Wilson 1927)."""
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    middle = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max((middle - half) / scale, 0.0), min((middle + half) / scale, 1.0)
