# SPDX-License-Identifier: Apache-2.0
"""From what a listener hears to the beats, chords and key of a lead sheet.

Behind `modeling_listener` on the path of the data. The listener says how fast a song goes; where its beats lie at that
speed, the tokenizer's rhythm network does. A beat has one chord. Dimensions: T frames at 50 Hz, K tempi.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from ..lead_sheet.beats import BEATS_PER_MINUTE, begins_beat
from ..lead_sheet.chords import chord_class, chord_label
from .beat_line import HAFMBeatLine, tempo_prior
from .pitch_line import LINE_RATE

# share by which a beat may be longer or shorter than those of the song's tempo
TEMPO_RANGE = 0.1
# of a chord: start s, stop s, label, how likely it is against the next likeliest one, label of that one
ChordChoice = tuple[float, float, str, float, str]
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


def chord_choices(
    likely: torch.Tensor, chords: Sequence[tuple[float, float, str]], frame_rate: int
) -> list[ChordChoice]:
    """How sure a listener is of each chord of a song, and what it would choose instead.

    Args:
        likely (float [T, 25]): how likely each chord is at each frame (`HAFMListenerModel.chords`).
        chords: of the song, (start s, stop s, label) each.
        frame_rate: in Hz.

    Returns:
        for each chord that lasts for a frame its start, stop and label, the label of the likeliest other one, and
        before that how likely it is if it is one of the two, 0 to 1.
    """
    found = []
    for start, stop, label in chords:
        frames = likely[max(round(start * frame_rate), 0) : max(round(stop * frame_rate), 0)]
        if len(frames):
            mean, own = frames.mean(0), chord_class(label)
            others = mean.clone()
            # silence is no other chord
            others[[0, own]] = 0.0
            sure = float(mean[own] / (mean[own] + others.max()).clamp_min(1e-9))
            found.append((start, stop, label, sure, chord_label(int(others.argmax()))))
    return found
