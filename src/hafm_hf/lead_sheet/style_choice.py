# SPDX-License-Identifier: Apache-2.0
"""Which styles suit a song, by its metre, tempo and density of notes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .vocabulary import METRES, USUAL_METRE

# how far outside its ranges a style still suits: standard deviations in octaves of tempo and of density
TEMPO_OCTAVES = 0.2
DENSITY_OCTAVES = 0.4
# styles below this share of the best one's weight are not drawn
LEAST_SHARE = 0.02
# number of consecutive seeds over which each style comes first as often as its weight says; a multiple of 1 to 8, so
# that up to eight equal weights come out even
CYCLE = 840


@dataclass(frozen=True)
class StyleRange:
    """The songs that a style suits.

    Attributes:
        metres (tuple of int): beats per bar.
        tempo ((float, float)): slowest and fastest, in beats a minute.
        density ((float, float)): fewest and most notes per second of singing.
    """

    metres: tuple[int, ...] = (USUAL_METRE,)
    tempo: tuple[float, float] = (0.0, math.inf)
    density: tuple[float, float] = (0.0, math.inf)

    @classmethod
    def from_dict(cls, ranges: Mapping[str, Any]) -> "StyleRange":
        """The ranges of a style from a dict of its attributes, such as one read from JSON.

        Any song suits a range that is missing.

        Raises:
            ValueError: for an unknown name, a metre other than 3 and 4, or ranges that are not (least, most).
        """
        if unknown := sorted(set(ranges) - {"metres", "tempo", "density"}):
            raise ValueError(f"A style has no range {unknown[0]!r}; it has metres, tempo and density.")
        metres = ranges.get("metres", METRES)
        if not isinstance(metres, (list, tuple)) or not metres or not all(metre in METRES for metre in metres):
            raise ValueError(f"metres is {metres!r}; it must be a list of 3 or 4 or both.")
        bounds = {}
        for name in ("tempo", "density"):
            bounds[name] = _range(name, ranges.get(name, (0.0, math.inf)))
        return cls(tuple(metres), **bounds)

    def suits(self, metre: int | None = None, tempo: float | None = None, density: float | None = None) -> float:
        """How well the style suits a song: 1 inside all ranges, less the further outside, 0 in another metre.

        An argument that is None is not known, and ignored.

        Args:
            metre: beats per bar.
            tempo: beats a minute.
            density: notes per second of singing.
        """
        if metre is not None and metre not in self.metres:
            return 0.0
        # a Gaussian of the distances from both ranges, in standard deviations
        squared_distance = 0.0
        if tempo is not None:
            squared_distance += (_octaves_outside(tempo, self.tempo) / TEMPO_OCTAVES) ** 2
        if density is not None:
            squared_distance += (_octaves_outside(density, self.density) / DENSITY_OCTAVES) ** 2
        return math.exp(-squared_distance / 2)


def _range(name: str, bounds: Any) -> tuple[float, float]:
    """The bounds (least, most) of the range called `name`, as floats; ValueError unless 0 ≤ least < most."""
    try:
        least, most = bounds
        if 0 <= least < most:
            return float(least), float(most)
    except (TypeError, ValueError):
        # not two numbers
        pass
    raise ValueError(f"{name} is {bounds!r}; it must be [least, most], with 0 <= least < most.")


def _octaves_outside(value: float, bounds: tuple[float, float]) -> float:
    """How many octaves (factors of two) a value above 0 lies outside `bounds`, (least, most); 0 within."""
    low, high = bounds
    if value < low:
        return math.log2(low / value)
    if value > high:
        return math.log2(value / high)
    return 0.0


def weigh_styles(
    ranges: Mapping[str, StyleRange],
    metre: int | None = None,
    tempo: float | None = None,
    density: float | None = None,
) -> dict[str, float]:
    """Probability with which to draw each style for a song.

    The metre is ignored if no style is in it; tempo and density are ignored if they suit no style.

    Args:
        ranges: what each style suits; at least one.
        metre: the song's beats per bar, if known.
        tempo: in beats a minute, if known.
        density: notes per second of singing, if known.

    Returns:
        The styles in the same order, with probabilities that sum to 1; 0 for those that don't suit.

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
        # by the metre alone, which suits at least one style fully
        weights = {name: style.suits(metre) for name, style in ranges.items()}
        best = 1.0
    weights = {name: weight if weight >= LEAST_SHARE * best else 0.0 for name, weight in weights.items()}
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def styles_in_order(weights: Mapping[str, float], seed: int) -> tuple[str, ...]:
    """The styles of weight above 0, in the order in which the variations of a seed get them.

    Over many seeds, each style comes first in proportion to its weight; consecutive seeds take turns between styles of
    equal weight.

    Args:
        weights: probability of each style (`weigh_styles`).
        seed: 0 or more.

    Returns:
        Names of styles, each once.
    """
    shares = {name: round(weight * CYCLE) for name, weight in weights.items()}
    total = sum(shares.values())
    # weighted round-robin: each step adds to every style's credit its share; the one whose turn it is pays all shares
    owed = dict.fromkeys(shares, 0)
    cycle = []
    for _ in range(CYCLE):
        for name, share in shares.items():
            owed[name] += share
        # the first of those that are owed most
        turn = max(owed, key=owed.__getitem__)
        owed[turn] -= total
        cycle.append(turn)
    # from the seed's step on, in the order in which styles first appear
    start = seed % CYCLE
    return tuple(dict.fromkeys(cycle[start:] + cycle[:start]))


def sung_density(notes: Sequence[Sequence[float]]) -> float | None:
    """Notes per second of singing, of notes (start s, end s, ...); None without notes."""
    seconds = sum(note[1] - note[0] for note in notes)
    if seconds <= 0:
        return None
    return len(notes) / seconds
