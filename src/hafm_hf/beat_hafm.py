"""The singer's beat, followed through a whole song, and what it says of the next token of the accompaniment.

Inside the semantic tokenizer, behind the rhythm network, and before the semantic stage on the path of the data. Frames
of a vocal say by themselves where in the beat they probably lie; one line of beats through all of them is surer.
It is found as the likeliest path of a bar-pointer model (Whiteley, Cemgil and Godsill 2006) in the state space of
Krebs, Böck and Widmer (2015): states are places in beats of each length, and only at a beat may the length change.
Dimensions: T frames, N states, L lengths of a beat.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
BEATS_PER_MINUTE = (55.0, 185.0)
# tempo that is likeliest before anything is heard, and the standard deviation around it in octaves
LIKELIEST_TEMPO, TEMPO_OCTAVES = 115.0, 0.6
# log-probability that is lost when a beat is twice as long as the one before
CHANGE_PENALTY = 200.0
# states a frame: at 50 frames a second a beat's length is known to 10 ms
STATES_A_FRAME = 2


def beat_phase(places: torch.Tensor, frame_rate: int) -> torch.Tensor:
    """Where in the beat each frame of a song lies.

    Args:
        places (float [T, 4]): cosine and sine of the beat's phase and of twice that phase, the longer the surer
            (`HAFMSemanticTokenizer.beat_places`).
        frame_rate: in Hz.

    Returns:
        float32 [T], 0 on a beat and towards 1 before the next, on the CPU.
    """
    heard = places.detach().double().cpu().numpy()
    if not len(heard):
        return torch.zeros(0)
    fine = np.linspace(0, len(heard) - 1, (len(heard) - 1) * STATES_A_FRAME + 1)
    columns = [np.interp(fine, np.arange(len(heard)), column) for column in heard.T]
    path = _likeliest_path(np.stack(columns, axis=1) / STATES_A_FRAME, frame_rate * STATES_A_FRAME)
    return torch.from_numpy(path[::STATES_A_FRAME].astype(np.float32))


def beat_points(phase: torch.Tensor) -> torch.Tensor:
    """Cosine and sine of the beat's phase (float [T], 0..1) and of twice that phase: float32 [T, 4]."""
    angle = 2 * math.pi * phase.float()
    return torch.stack([angle.cos(), angle.sin(), (2 * angle).cos(), (2 * angle).sin()], dim=-1)


def _likeliest_path(evidence: Array, rate: int) -> Array:
    """Phase 0..1 (float64 [T]) along the likeliest path through states that evidence (float64 [T, 4]) speaks for."""
    slowest, fastest = (rate * 60 / tempo for tempo in BEATS_PER_MINUTE)
    lengths: Indices = np.arange(int(np.ceil(fastest)), int(slowest) + 1, dtype=np.int64)
    last: Indices = np.cumsum(lengths, dtype=np.int64) - 1
    first = last - lengths + 1
    phase = np.concatenate([np.arange(length) / length for length in lengths])
    angle = 2 * np.pi * phase
    directions = np.stack([np.cos(angle), np.sin(angle), np.cos(2 * angle), np.sin(2 * angle)]).astype(np.float32)
    # from the column's length to the row's
    change = -CHANGE_PENALTY * np.abs(lengths[:, None] / lengths - 1)
    change -= np.log(np.exp(change).sum(axis=0))
    prior = -0.5 * (np.log2(rate * 60 / lengths / LIKELIEST_TEMPO) / TEMPO_OCTAVES) ** 2
    score = np.repeat(prior, lengths) + evidence[0] @ directions
    before = np.zeros((len(evidence), len(lengths)), np.int16)
    for frame in range(1, len(evidence)):
        arriving = change + score[last]
        before[frame] = arriving.argmax(axis=1)
        score[1:] = score[:-1].copy()
        score[first] = arriving.max(axis=1)
        score += evidence[frame] @ directions
        score -= score.max()
    return _trace_back(int(score.argmax()), before, first, last, phase)


def _trace_back(state: int, before: NDArray[np.int16], first: Indices, last: Indices, phase: Array) -> Array:
    """The phases of a path that ends in `state`; before [T, L] has the length that a beat beginning there follows."""
    path = np.zeros(len(before))
    length = int(np.searchsorted(last, state))
    for frame in range(len(before) - 1, -1, -1):
        path[frame] = phase[state]
        if state == first[length]:
            length = int(before[frame, length])
            state = int(last[length])
        else:
            state -= 1
    return path


def profile_at(phase: torch.Tensor, profile: Sequence[float]) -> torch.Tensor:
    """A profile over equal parts of the beat, read between their middles at phases float [T]: float32 [T]."""
    values = torch.tensor(profile, dtype=torch.float32)
    place = phase.float() * len(values) - 0.5
    left = place.floor()
    low, high = (left.long() + step for step in (0, 1))
    return torch.lerp(values[low % len(values)], values[high % len(values)], place - left)
