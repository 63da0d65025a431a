"""The sections of a song by the loudness of its voice: where a band that follows the singer plays less or more.

Beside the lead sheet on the path of the data, of which sections are a part.
"""

import numpy as np

from .lead_sheet import ENERGIES, Span

FRAME_SECONDS = 0.5
# rests between lines belong to the section around them
SMOOTHED_SECONDS = 8.0
SHORTEST_SECONDS = 4.0
# a frame that lies so far below the loudest is a rest, and says nothing of how loudly is sung
REST_DB = 40.0
# dB beside the median of the song, from which on a section is sparse or full
SPARSE_DB, FULL_DB = -3.0, 1.5


def sections_by_loudness(vocal: np.ndarray, sampling_rate: int) -> list[Span]:
    """Sections (start s, stop s, energy) of a mono vocal (float32 [N], N > 0), without gaps.

    The level of its surroundings is compared with the median of the song's.
    """
    hop = max(round(FRAME_SECONDS * sampling_rate), 1)
    power = np.square(np.pad(vocal, (0, -len(vocal) % hop)).reshape(-1, hop)).mean(axis=1)
    wide = np.ones(min(round(SMOOTHED_SECONDS / FRAME_SECONDS), len(power)))
    around = np.convolve(power, wide, "same") / np.convolve(np.ones_like(power), wide, "same")
    level = 10 * np.log10(around + 1e-10)
    sung = power > power.max() * 10 ** (-REST_DB / 10)
    level -= np.median(level[sung]) if sung.any() else level
    kinds = np.digitize(level, [SPARSE_DB, FULL_DB])
    starts = [0]
    for start in np.flatnonzero(np.diff(kinds)) + 1:
        if (start - starts[-1]) * FRAME_SECONDS >= SHORTEST_SECONDS:
            starts.append(int(start))
    stops = [*(start * FRAME_SECONDS for start in starts[1:]), len(vocal) / sampling_rate]
    # a section is called by what most of it is
    labels = [ENERGIES[int(np.median(part))] for part in np.split(kinds, starts[1:])]
    return [(start * FRAME_SECONDS, stop, label) for start, stop, label in zip(starts, stops, labels, strict=True)]
