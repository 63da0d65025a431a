# SPDX-License-Identifier: Apache-2.0
"""A song's metre, estimated from its chords and notes."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .lead_sheet import LeadSheet
from .vocabulary import METRES, USUAL_METRE

# an event belongs to a beat if it is at most this share of a beat away from it
NEAR_BEAT = 0.3
# beats after which a bar may begin anew, as estimated beats can slip
STRETCH_BEATS = 96
# fewest beats, of a song or of its last stretch, from which a metre is estimated
LEAST_BEATS = 24
# nats by which three must be more probable than four
MARGIN = 4.0


def song_metre(sheet: LeadSheet, notes: Sequence[Sequence[float]] = ()) -> int:
    """Beats per bar (3 or 4) of a lead sheet with beats: its own, or else estimated from its chords and the melody.

    Args:
        sheet: the lead sheet.
        notes: the melody, (start s, stop s, …) each.
    """
    if sheet.beats_per_bar is not None:
        return sheet.beats_per_bar
    beats = sheet.beats or ()
    chords = sorted(sheet.chords)
    changes = []
    for (_, _, earlier_label), (start, _, label) in pairwise(chords):
        if label != earlier_label:
            changes.append(start)
    return estimate_metre(beats, changes, [note[0] for note in notes], long_notes(notes, beats))


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
    times_of_beats = np.asarray(beats, np.float64)
    if len(times_of_beats) < LEAST_BEATS:
        return USUAL_METRE
    # by how many nats three is more probable than four
    evidence = 0.0
    for times_of_events in (chords, notes, long_notes):
        on_beats = _on_beats(times_of_beats, times_of_events)
        if on_beats.any():
            evidence += _log_likelihood(on_beats, 3) - _log_likelihood(on_beats, USUAL_METRE)
    if evidence > MARGIN:
        return 3
    return USUAL_METRE


def long_notes(notes: Sequence[Sequence[float]], beats: Sequence[float]) -> list[float]:
    """Starts in seconds of the notes (start s, end s, ...) that last longer than a beat."""
    if len(beats) < 2:
        return []
    beat = float(np.median(np.diff(beats)))
    return [float(note[0]) for note in notes if note[1] - note[0] > beat]


def _on_beats(beats: NDArray[np.float64], events: ArrayLike) -> NDArray[np.bool_]:
    """Which beats an event falls on.

    Args:
        beats (float64 [beats]): in seconds, in order.
        events (float64 [events]): in seconds.

    Returns:
        bool [beats].
    """
    # in beats; −1 for events before the first beat and after the last
    positions = np.interp(np.asarray(events, np.float64), beats, np.arange(len(beats)), left=-1, right=-1)
    nearest = np.round(positions)
    near = (positions >= 0) & (np.abs(positions - nearest) <= NEAR_BEAT)
    on_beat = np.zeros(len(beats), bool)
    on_beat[nearest[near].astype(int)] = True
    return on_beat


def _log_likelihood(events: NDArray[np.bool_], metre: int) -> float:
    """Log-likelihood in nats of events on beats, with a fitted probability at each place of a bar.

    Args:
        events (bool [beats]): whether an event falls on each beat.
        metre: beats per bar. Bars begin anew every `STRETCH_BEATS` beats, wherever in a bar that is.
    """
    assert metre in METRES
    total = 0.0
    for start in range(0, len(events), STRETCH_BEATS):
        stretch = events[start : start + STRETCH_BEATS]
        # too few to fit probabilities to
        if start and len(stretch) < LEAST_BEATS:
            continue
        for place in range(metre):
            at_place = stretch[place::metre]
            with_event = at_place.sum()
            without_event = len(at_place) - with_event
            # half a count is added to either, so that no probability is 0 or 1
            probability = (with_event + 0.5) / (len(at_place) + 1)
            total += float(with_event * math.log(probability) + without_event * math.log(1 - probability))
    return total
