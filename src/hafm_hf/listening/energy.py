# SPDX-License-Identifier: Apache-2.0
"""The energy of a song's bars, from the level of a recording: sections that are sparse, normal or full."""

import itertools
from collections.abc import Sequence

import numpy as np

from ..audio import Samples, is_silent
from ..lead_sheet.lead_sheet import Span

# levels in dB relative to a song's mean, below which a bar is sparse and above which it is full; bars to smooth over
SPARSE_DB = -2.4
FULL_DB = 0.6
BARS_TOGETHER = 3
# length of a bar if there are no beats
USUAL_BAR_SECONDS = 2.0


def energy_sections(samples: Samples, sampling_rate: int, bars: Sequence[float] = ()) -> list[Span]:
    """Sections of a recording (float32 [N]), from the level of each bar relative to the whole.

    Args:
        samples (float32 [N]), sampling_rate (Hz): the recording.
        bars: times in seconds at which bars begin; every 2 s if none are known.

    Returns:
        (start s, stop s, energy) from beginning to end; empty for silence.
    """
    if is_silent(samples):
        return []
    seconds = len(samples) / sampling_rate
    usual_starts = np.arange(USUAL_BAR_SECONDS, seconds, USUAL_BAR_SECONDS)
    # remainders shorter than half a bar before the first bar and after the last are merged into these
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

    # bars of equal energy that follow one another make a section
    sections = []
    for energy, run in itertools.groupby(range(len(bar_energies)), key=bar_energies.__getitem__):
        run_of_bars = list(run)
        sections.append((edges[run_of_bars[0]], edges[run_of_bars[-1] + 1], energy))
    return sections


def _energy(level: float) -> str:
    """The energy of a bar whose level lies `level` dB above that of the whole recording."""
    if level < SPARSE_DB:
        return "sparse"
    if level > FULL_DB:
        return "full"
    return "normal"
