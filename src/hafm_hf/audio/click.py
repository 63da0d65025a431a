# SPDX-License-Identifier: Apache-2.0
"""Click tracks to sing to: the beats of the take are then known."""

from __future__ import annotations

import numpy as np

from .files import Samples

# of the first beat of a bar and of the others
ACCENT_HZ, CLICK_HZ = 1500.0, 1000.0
ACCENT_LEVEL, CLICK_LEVEL, CLICK_SECONDS = 0.7, 0.4, 0.04


def click_track(tempo: float, bars: int, metre: int, sampling_rate: int) -> tuple[Samples, list[float]]:
    """Bars of clicks, the first of each bar higher and louder.

    Args:
        tempo: beats a minute.
        bars: how many.
        metre: beats of a bar.
        sampling_rate: in Hz.

    Returns:
        float32 [N], and the seconds of the beats; the first one is at 0.
    """
    beats = [number * 60 / tempo for number in range(bars * metre)]
    track = np.zeros(round(len(beats) * 60 / tempo * sampling_rate), np.float32)
    time = np.arange(round(CLICK_SECONDS * sampling_rate)) / sampling_rate
    for number, second in enumerate(beats):
        hertz, level = (CLICK_HZ, CLICK_LEVEL) if number % metre else (ACCENT_HZ, ACCENT_LEVEL)
        # it begins with the beat, to the sample, and ends in silence
        sound = level * np.sin(2 * np.pi * hertz * time) * np.exp(-8 * time / CLICK_SECONDS)
        place = track[round(second * sampling_rate) :][: len(sound)]
        place += sound[: len(place)].astype(np.float32)
    return track, beats
