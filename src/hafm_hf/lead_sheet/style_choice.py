# SPDX-License-Identifier: Apache-2.0
"""Which styles suit a song, by its metre, tempo and density; and a song's metre, estimated from its chords and notes.

Dimensions: N beats, E events.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .lead_sheet import METRES

# how far outside its ranges a style still suits: standard deviations in octaves of tempo and of density
TEMPO_OCTAVES = 0.2
DENSITY_OCTAVES = 0.4
# styles below this share of the best one's weight are not drawn
LEAST_SHARE = 0.02
COMMON_METRE = 4
# an event belongs to a beat if it is at most this share of a beat away from it
NEAR_BEAT = 0.3
# beats after which a bar may begin anew, as estimated beats can slip, and shortest end that counts as well
STRETCH_BEATS = 96
LEAST_BEATS = 24
# nats by which three must be more probable than four
MARGIN = 4.0


@dataclass(frozen=True)
class StyleRange:
    """The songs that a style suits.

    Attributes:
        metres (tuple of int): beats per bar.
        tempo ((float, float)): slowest and fastest, in beats a minute.
        density ((float, float)): fewest and most notes per second of singing.
    """

    metres: tuple[int, ...] = (COMMON_METRE,)
    tempo: tuple[float, float] = (0.0, math.inf)
    density: tuple[float, float] = (0.0, math.inf)

    def suits(self, metre: int | None = None, tempo: float | None = None, density: float | None = None) -> float:
        """How well the style suits a song, 0 to 1: 1 inside all ranges, less outside; what is None does not count."""
        if metre is not None and metre not in self.metres:
            return 0.0
        away = 0.0
        if tempo is not None:
            away += (_octaves_outside(tempo, self.tempo) / TEMPO_OCTAVES) ** 2
        if density is not None:
            away += (_octaves_outside(density, self.density) / DENSITY_OCTAVES) ** 2
        return math.exp(-away / 2)


def _octaves_outside(value: float, bounds: tuple[float, float]) -> float:
    low, high = bounds
    return max(math.log2(low / value) if low > value else 0.0, math.log2(value / high) if value > high else 0.0)


def weigh_styles(
    ranges: Mapping[str, StyleRange],
    metre: int | None = None,
    tempo: float | None = None,
    density: float | None = None,
) -> dict[str, float]:
    """Probability with which to draw each style for a song.

    If no style is in the song's metre, metre doesn't count; nor do tempo and density, if none suits them at all.

    Args:
        ranges: what each style suits; at least one.
        metre: the song's beats per bar, if known.
        tempo: in beats a minute, if known.
        density: notes per second of singing, if known.

    Returns:
        the styles in the same order, with probabilities that sum to 1; 0 for those that don't suit.

    Raises:
        ValueError: there are no styles.
    """
    if not ranges:
        raise ValueError("There are no styles to choose from.")
    if not any(metre in style.metres for style in ranges.values()):
        metre = None
    weights = {name: style.suits(metre, tempo, density) for name, style in ranges.items()}
    best = max(weights.values())
    if best < LEAST_SHARE:
        weights = {name: style.suits(metre) for name, style in ranges.items()}
        best = 1.0
    weights = {name: weight if weight >= LEAST_SHARE * best else 0.0 for name, weight in weights.items()}
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def draw_style(weights: Mapping[str, float], generator: np.random.Generator) -> str:
    """Draws a style by its probability, from `weigh_styles`."""
    names = list(weights)
    return names[int(generator.choice(len(names), p=list(weights.values())))]


def sung_density(notes: Sequence[Sequence[float]]) -> float | None:
    """Notes per second of singing, of notes (start s, end s, ...); None without notes."""
    seconds = sum(note[1] - note[0] for note in notes)
    return len(notes) / seconds if seconds > 0 else None


def estimate_metre(
    beats: Sequence[float],
    chords: Sequence[float],
    notes: Sequence[float] = (),
    long_notes: Sequence[float] = (),
) -> int:
    """Estimates whether bars have three or four beats, from what recurs every three or four of them.

    Chords change, and long notes begin, mostly at the same places of each bar. For each metre, the probability of an
    event at each place of the bar is fitted to the song; three wins if it makes the events more probable by a margin,
    although four has one place more to fit: where unsure, the answer is four.

    Args:
        beats: times of all beats in seconds, in order.
        chords: times of chord changes in seconds.
        notes: times in seconds at which notes begin.
        long_notes: those of them that last longer than a beat.

    Returns:
        3 or 4.
    """
    times = np.asarray(beats, np.float64)
    if len(times) < LEAST_BEATS:
        return COMMON_METRE
    evidence = sum(
        _log_likelihood(events, 3) - _log_likelihood(events, COMMON_METRE)
        for events in (_on_beats(times, kind) for kind in (chords, notes, long_notes))
        if events.any()
    )
    return 3 if evidence > MARGIN else COMMON_METRE


def long_notes(notes: Sequence[Sequence[float]], beats: Sequence[float]) -> list[float]:
    """Starts in seconds of the notes (start s, end s, ...) that last longer than a beat."""
    if len(beats) < 2:
        return []
    beat = float(np.median(np.diff(beats)))
    return [float(note[0]) for note in notes if note[1] - note[0] > beat]


def _on_beats(beats: NDArray[np.float64], events: ArrayLike) -> NDArray[np.bool_]:
    """Which beats an event falls on: bool [N]."""
    at = np.interp(np.asarray(events, np.float64), beats, np.arange(len(beats)), left=-1, right=-1)
    nearest = np.round(at)
    on = np.zeros(len(beats), bool)
    on[nearest[(at >= 0) & (np.abs(at - nearest) <= NEAR_BEAT)].astype(int)] = True
    return on


def _log_likelihood(events: NDArray[np.bool_], metre: int) -> float:
    """Log-likelihood in nats of events on beats (bool [N]) with a fitted probability at each place of a bar."""
    assert metre in METRES
    total = 0.0
    for start in range(0, len(events), STRETCH_BEATS):
        stretch = events[start : start + STRETCH_BEATS]
        if start and len(stretch) < LEAST_BEATS:
            continue
        for place in range(metre):
            here = stretch[place::metre]
            # one event and one beat without are added, so that a place that never had one still may
            share = (here.sum() + 0.5) / (len(here) + 1)
            total += float(here.sum() * math.log(share) + (len(here) - here.sum()) * math.log(1 - share))
    return total
