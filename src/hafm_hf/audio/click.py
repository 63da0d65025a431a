# SPDX-License-Identifier: Apache-2.0
"""Click tracks: to sing to, or to check a beat track by ear."""

from collections.abc import Collection, Sequence

import numpy as np

from .samples import Samples

# pitch and amplitude of the clicks on downbeats (accent) and on all other beats; length of a click
ACCENT_HZ = 1500.0
CLICK_HZ = 1000.0
ACCENT_LEVEL = 0.7
CLICK_LEVEL = 0.4
CLICK_SECONDS = 0.04


def click_track(beats: Sequence[float], downbeats: Collection[float], seconds: float, sampling_rate: int) -> Samples:
    """Renders a click on each beat, higher and louder on downbeats: float32 [round(seconds · sampling_rate)].

    Args:
        beats: beat times in seconds; those outside the track are left out.
        downbeats: the beats that begin a bar, in seconds.
        seconds: length of the click track.
        sampling_rate: in Hz.
    """
    track = np.zeros(round(seconds * sampling_rate), np.float32)
    time = np.arange(round(CLICK_SECONDS * sampling_rate)) / sampling_rate
    for beat in beats:
        if beat in downbeats:
            frequency, level = ACCENT_HZ, ACCENT_LEVEL
        else:
            frequency, level = CLICK_HZ, CLICK_LEVEL
        # starts at once, and decays by 69 dB (e⁻⁸) to its end
        click = level * np.sin(2 * np.pi * frequency * time) * np.exp(-8 * time / CLICK_SECONDS)
        first = round(beat * sampling_rate)
        if first >= 0:
            # a view, shorter than the click at the end of the track and empty after it
            span = track[first:][: len(click)]
            span += click[: len(span)].astype(np.float32)
    return track
