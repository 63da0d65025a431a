# SPDX-License-Identifier: Apache-2.0
"""Takes off by how much all clips of a recorded song have the voice before or behind its accompaniment.

Between the clips of a set and their measuring. In recordings of MIR-1K the two channels are apart by a constant that
differs from song to song, up to 0.2 s, which half of the clips of a song tell of the other half. Who hears the voice
only can be in time with it, and not with a channel that is not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..audio import resample
from ..audio.analysis import FRAME_RATE
from .datasets import Clip, Part
from .features import ANALYSIS_RATE, onset_strength
from .statistics import HAFMEvaluationError
from .timing import lag_curve, onset_curve

# lags that are looked for, either way; beyond half a beat another beat fits as well
LONGEST_SECONDS = 0.25


def align_songs(clips: Sequence[Clip]) -> tuple[list[Clip], dict[str, float]]:
    """The clips, each reference moved by as much as the others of its song are late or early.

    The lag is where the onsets of voice and reference agree best, on average over the song's other clips: a clip's own
    sound decides nothing about itself. A song of one clip stays as it is.

    Args:
        clips: whole, before they are cut.

    Returns:
        clips of the same names, whose references begin that much later (or earlier, with silence); and by song the
        mean lag of its clips in seconds, positive where the accompaniment is late.

    Raises:
        HAFMEvaluationError: no song has two clips with references, so that none can tell the lag of another.
        HAFMAudioError: a sound is missing or damaged.
    """
    songs: dict[str, list[int]] = defaultdict(list)
    for number, clip in enumerate(clips):
        songs[clip.song].append(number)
    aligned, lags = list(clips), {}
    for song, numbers in songs.items():
        references = {number: part for number in numbers if (part := clips[number].reference) is not None}
        if len(references) < 2:
            continue
        curves = {number: _agreement(clips[number].vocal, part) for number, part in references.items()}
        found = []
        for number, part in references.items():
            others = np.mean([curve for other, curve in curves.items() if other != number], axis=0)
            found.append((int(np.argmax(others)) - len(others) // 2) / FRAME_RATE)
            aligned[number] = replace(clips[number], reference=replace(part, start=part.start + found[-1]))
        lags[song] = float(np.mean(found))
    if not lags:
        raise HAFMEvaluationError(
            "The lag of a song is estimated from its other clips, and no song here has two; do not align."
        )
    return aligned, lags


def _agreement(vocal: Part, reference: Part) -> NDArray[np.float64]:
    """Correlation of the onsets of voice and reference at each lag of the reference: float64 [2 · L + 1]."""
    sounds = (resample(*part.read(), ANALYSIS_RATE) for part in (vocal, reference))
    sung, played = (onset_curve(onset_strength(sound)) for sound in sounds)
    frames = min(len(sung), len(played))
    return lag_curve(sung[:frames], played[:frames], round(LONGEST_SECONDS * FRAME_RATE))
