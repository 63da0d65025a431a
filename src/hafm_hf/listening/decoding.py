# SPDX-License-Identifier: Apache-2.0
"""From what a listener hears to the beats, chords and key of a lead sheet.

Behind `modeling_listener` on the path of the data. The listener says how fast a song goes; where its beats lie at that
speed, the tokenizer's rhythm network does. A beat has one chord. Dimensions: T frames at 50 Hz, K tempi.
"""

import numpy as np
import torch
from torch.nn import functional as F

from ..lead_sheet.beats import BEATS_PER_MINUTE, begins_beat
from .beat_line import HAFMBeatLine, tempo_prior
from .pitch_line import LINE_RATE

# share by which a beat may be longer or shorter than those of the song's tempo
TEMPO_RANGE = 0.1
# a band that plays nothing is no accompaniment: what "no chord" costs
NO_CHORD_COST = 1.0


def follow_beats(places: torch.Tensor, tempi: torch.Tensor, tempo: torch.Tensor) -> torch.Tensor:
    """Where in the beat each frame lies: the likeliest tempo, and a line through the song that keeps near to it.

    Args:
        places (float [T, 4]): where beats seem to lie (`HAFMRhythmNetwork.place`).
        tempi (float [K]): beats a minute.
        tempo (float [K]): logits of each.

    Returns:
        float32 [T], 0 to 1.
    """
    best = likeliest_tempo(tempi, tempo)
    slowest, fastest = (float(np.clip(best * (1 + by), *BEATS_PER_MINUTE)) for by in (-TEMPO_RANGE, TEMPO_RANGE))
    return HAFMBeatLine(LINE_RATE, (slowest, fastest)).follow(places)


def likeliest_tempo(tempi: torch.Tensor, tempo: torch.Tensor) -> float:
    """Beats a minute: what a listener's logits (float [K], of tempi float [K]) and what is usual speak for."""
    known, heard = (each.double().cpu().numpy() for each in (tempi, tempo))
    likely = heard + tempo_prior(known)
    likely[(known < BEATS_PER_MINUTE[0]) | (known > BEATS_PER_MINUTE[1])] = -np.inf
    return float(known[likely.argmax()])


def chords_of_beats(chords: torch.Tensor, phase: torch.Tensor, each: int) -> torch.Tensor:
    """How likely each chord is in the beat of each frame.

    Args:
        chords (float [H, 25]): logits in cells of `each` frames.
        phase (float [T]): where in the beat each frame lies, from 0 to 1.

    Returns:
        float32 [T, 25].
    """
    cells = (torch.arange(len(phase)) // each).clamp_max(len(chords) - 1)
    frames = chords.float().log_softmax(-1)[cells]
    frames[:, 0] -= NO_CHORD_COST
    beat = F.pad(begins_beat(phase).cumsum(0), (1, 0))
    count = torch.bincount(beat)
    sums = frames.new_zeros(len(count), frames.shape[1]).index_add_(0, beat, frames)
    return (sums / count[:, None]).softmax(-1)[beat]
