# SPDX-License-Identifier: Apache-2.0
"""Places in the beat: how many beats have passed, where in the beat an instant lies, and that place on a circle.

Dimensions: T frames.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]
# of a lead sheet's tempo
BEATS_PER_MINUTE = (55.0, 185.0)


def wrapped(passed: Array) -> torch.Tensor:
    """Beats that have passed (float64 [T]) as places in the beat: float32 [T], 0 up to but not 1."""
    # what is nearly 1 rounds to 1 in float32
    return torch.from_numpy((passed % 1).astype(np.float32)) % 1


def beats_passed(beats: Sequence[float] | Array, times: Array) -> Array:
    """How many beats have passed at each instant, with shares of beats.

    Args:
        beats: seconds of at least two, in order; before the first and behind the last they go on evenly.
        times (float64 [T]): seconds.

    Returns:
        float64 [T], 0 at the first beat.
    """
    known = np.asarray(beats, dtype=np.float64)
    before = np.clip(np.searchsorted(known, times, side="right") - 1, 0, len(known) - 2)
    passed: Array = before + (times - known[before]) / (known[before + 1] - known[before])
    return passed


def seconds_at(beats: Sequence[float] | Array, passed: float) -> float:
    """The second at which so many beats have passed since the first; the inverse of `beats_passed`."""
    known = np.asarray(beats, dtype=np.float64)
    before = min(max(math.floor(passed), 0), len(known) - 2)
    return float(known[before] + (passed - before) * (known[before + 1] - known[before]))


def begins_beat(phase: torch.Tensor) -> torch.Tensor:
    """Whether a beat begins between each frame and the next, where the phase (float [T]) wraps: bool [T − 1]."""
    return phase.diff() < -0.5


def unwrapped(phase: torch.Tensor) -> torch.Tensor:
    """Beats that have passed at places in the beat (float [T]): float64 [T], counted from that of the first frame."""
    passed = phase.double()
    passed[1:] += begins_beat(phase).cumsum(0)
    return passed


def beat_points(phase: torch.Tensor) -> torch.Tensor:
    """Cosine and sine of the beat's phase (float [T], 0..1) and of twice that phase: float32 [T, 4]."""
    angle = 2 * math.pi * phase.float()
    return torch.stack([angle.cos(), angle.sin(), (2 * angle).cos(), (2 * angle).sin()], dim=-1)
