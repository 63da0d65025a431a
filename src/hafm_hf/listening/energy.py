# SPDX-License-Identifier: Apache-2.0
"""The energy of a song's bars, from the level of a recording: sections that are sparse, normal or full."""

import itertools
from collections.abc import Sequence

import numpy as np

from ..audio import Samples, is_silent
from ..lead_sheet.lead_sheet import Span

# levels in dB relative to a song's mean, below which a bar is sparse and above which it is full
SPARSE_DB = -2.4
FULL_DB = 0.6
# number of neighbouring bars over which levels are smoothed, odd
BARS_TOGETHER = 3
# length of a bar if there are no beats
USUAL_BAR_SECONDS = 2.0


def energy_sections(samples: Samples, sampling_rate: int, bars: Sequence[float] = ()) -> list[Span]:
    """Divides a recording into sections of equal energy, by the level of each bar relative to the whole.

    Args:
        samples (float32 [N]), sampling_rate (Hz): the recording.
        bars: times in seconds at which bars begin; empty: a bar every 2 s.

    Returns:
        (start s, stop s, energy) each, from beginning to end, energy one of "sparse", "normal" and "full"; empty for
        silence.
    """
    if is_silent(samples):
        return []
    seconds = len(samples) / sampling_rate
    usual_starts = np.arange(USUAL_BAR_SECONDS, seconds, USUAL_BAR_SECONDS)
    # what is shorter than half a bar before the first bar or after the last is merged into that bar
    least_seconds = USUAL_BAR_SECONDS / 2
    bar_starts = [bar for bar in bars if least_seconds < bar < seconds - least_seconds] or list(usual_starts)
    # from the beginning of the recording to its end; bars lie between them
    edges = [0.0, *(round(float(bar), 3) for bar in bar_starts), round(seconds, 3)]

    # level of each bar in dB above the whole; 1e-12 stands for silence
    power = samples.astype(np.float64) ** 2
    means = []
    for first, last in itertools.pairwise(round(edge * sampling_rate) for edge in edges):
        # two downbeats may round to one sample
        means.append(power[first:last].mean() if last > first else 0.0)
    levels = 10 * np.log10(np.maximum(means, 1e-12) / power.mean())

    # the median of neighbouring bars
    padded_levels = np.pad(levels, BARS_TOGETHER // 2, mode="edge")
    smooth_levels = np.median(np.lib.stride_tricks.sliding_window_view(padded_levels, BARS_TOGETHER), axis=1)
    bar_energies = [_energy(level) for level in smooth_levels]

    # consecutive bars of equal energy make a section; bar n lies between edges n and n + 1
    sections = []
    for energy, run in itertools.groupby(range(len(bar_energies)), key=bar_energies.__getitem__):
        bars_of_section = list(run)
        sections.append((edges[bars_of_section[0]], edges[bars_of_section[-1] + 1], energy))
    return sections


def _energy(level: float) -> str:
    """The energy ("sparse", "normal" or "full") of a bar that is `level` dB louder than the whole recording."""
    if level < SPARSE_DB:
        return "sparse"
    if level > FULL_DB:
        return "full"
    return "normal"
