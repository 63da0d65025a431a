# SPDX-License-Identifier: Apache-2.0
"""What a singer should know of a recording before a band plays to it: no singing, a mix, too quiet, clipped.

`remarks` measures the pitch and level of a recording by simple rules. The limits were set on 4 recordings of singers
and 40 of MIR-1K, alone and mixed with their bands, and on synthetic speech.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hafm_hf import audio

Array = NDArray[np.floating[Any]]

# parts of a recording that are up to so many dB below its loud parts are not pauses
RANGE_DB = 25.0
# a note is held if it stays within a semitone for 0.15 s, in frames at 100 Hz
HELD_FRAMES = 15
HELD_SEMITONES = 1.0
# shares of the recording without its pauses. Held notes: mostly 0.42 and more of singing, 0.26 and less of mixes, 0.17
# and less of speech; pitch: noise has none
LEAST_HELD = 0.34
LEAST_HELD_WITH_PAUSES = 0.22
LEAST_PITCHED = 0.03
# share of the whole that is not pauses: 0.86 and less of speech, 0.97 and more of mixes
WITH_PAUSES = 0.93
# loud parts and blocks as in `audio.quiet_gain_db`
LOUD_QUANTILE = 0.95
BLOCK_SECONDS = 0.05
# clipped: this near the peak, at least three equal samples in a row (within a step of 16 bits), so often
NEAR_PEAK = 0.98
EQUAL = 5e-5
CLIPPED_SAMPLES = 3
CLIPPED_RUNS = 10

NO_SINGING = "No singing was found in this recording; check the microphone, or choose another one."
SPEECH = "This sounds like speech; a band follows held notes, so sing."
MIX = "This sounds like a finished mix; use a voice alone."
CLIPPED = "The recording is clipped: record again, further from the microphone or with a lower input level."


def remarks(samples: audio.Samples, rate: int, pitch: Array) -> list[str]:
    """Sentences for the singer; empty for most recordings of a voice alone.

    Args:
        samples (float32 [N]): the recording as it is in its file.
        rate: in Hz.
        pitch (float [T]): MIDI note numbers at 100 frames a second, NaN where there is no pitch.
    """
    sentences = [about_singing(samples, rate, pitch), about_level(samples, rate)]
    if is_clipped(samples):
        sentences.append(CLIPPED)
    return [sentence for sentence in sentences if sentence]


def about_singing(samples: audio.Samples, rate: int, pitch: Array) -> str:
    """A sentence if this is not a voice that sings alone; "" if it is. The arguments are those of `remarks`."""
    sounding = is_sounding(samples, rate, len(pitch))
    if not sounding.any():
        return NO_SINGING
    pitched = np.isfinite(pitch) & sounding
    if pitched.sum() / sounding.sum() < LEAST_PITCHED:
        return NO_SINGING
    held_share = (is_held(pitch) & sounding).sum() / sounding.sum()
    # of those who hold few notes, speakers pause and bands do not
    if sounding.mean() < WITH_PAUSES:
        return SPEECH if held_share < LEAST_HELD_WITH_PAUSES else ""
    return MIX if held_share < LEAST_HELD else ""


def about_level(samples: audio.Samples, rate: int) -> str:
    """A sentence if the voice is so quiet that it is raised; "" otherwise."""
    gain = audio.quiet_gain_db(samples, rate)
    if not gain:
        return ""
    return f"The voice is very quiet and was raised by {gain:.0f} dB; sing closer to the microphone."


def is_sounding(samples: audio.Samples, rate: int, frames: int) -> NDArray[np.bool_]:
    """Which parts of a recording are no pauses.

    Args:
        samples (float32 [N]): the recording.
        rate: in Hz.
        frames: number of equal parts that it is divided into.

    Returns:
        bool [frames]: less than `RANGE_DB` below the loud parts.
    """
    size = max(round(BLOCK_SECONDS * rate), 1)
    levels = [audio.rms_dbfs(samples[start : start + size]) for start in range(0, len(samples), size)]
    loud = float(np.quantile(levels, LOUD_QUANTILE, method="lower"))
    block_of_frame = np.arange(frames) * len(levels) // frames
    return np.array(levels)[block_of_frame] > loud - RANGE_DB


def is_held(pitch: Array) -> NDArray[np.bool_]:
    """Whether each frame of a pitch (float [T], MIDI note numbers or NaN) is part of a held note: bool [T]."""
    held = np.zeros(len(pitch), dtype=bool)
    if len(pitch) < HELD_FRAMES:
        return held
    windows = np.lib.stride_tricks.sliding_window_view(pitch, HELD_FRAMES)
    # comparisons with NaN are false
    steady = windows.max(axis=1) - windows.min(axis=1) < HELD_SEMITONES
    for offset in range(HELD_FRAMES):
        held[offset : offset + len(steady)] |= steady
    return held


def is_clipped(samples: audio.Samples) -> bool:
    """Whether the peaks of many waves are cut off in samples (float32 [N])."""
    peak = float(np.abs(samples).max(initial=0.0))
    near_peak = np.abs(samples) >= NEAR_PEAK * peak
    equal = np.abs(np.diff(samples)) <= EQUAL * peak
    # samples near the peak that the next one equals
    flat = near_peak[:-1] & equal
    # samples that begin a row of at least CLIPPED_SAMPLES equal ones
    runs = flat.copy()
    for offset in range(1, CLIPPED_SAMPLES - 1):
        runs[:-offset] &= flat[offset:]
        runs[-offset:] = False
    # a longer run counts once
    begins = runs[1:] & ~runs[:-1]
    return peak > 0.0 and int(begins.sum()) >= CLIPPED_RUNS
