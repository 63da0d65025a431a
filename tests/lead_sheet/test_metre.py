# SPDX-License-Identifier: Apache-2.0
"""Estimating the metre of a song: the number of beats after which chord changes and long notes recur."""

import numpy as np
import pytest

from hafm_hf.lead_sheet.bars import with_bars_throughout
from hafm_hf.lead_sheet.lead_sheet import LeadSheet
from hafm_hf.lead_sheet.metre import estimate_metre, long_notes, song_metre

# seconds
BEAT = 0.5


def beats(count: int) -> list[float]:
    """Times of so many beats, in seconds."""
    return [BEAT * number for number in range(count)]


def chords_by_bar(metre: int, bars: int = 30) -> list[tuple[float, float, str]]:
    """One chord a bar, C and G in turn."""
    bar = metre * BEAT
    return [(bar * number, bar * (number + 1), "CG"[number % 2]) for number in range(bars)]


@pytest.mark.parametrize("metre", [3, 4])
@pytest.mark.parametrize("downbeat", [0, 1])
def test_the_metre_is_the_number_of_beats_between_chord_changes(metre: int, downbeat: int) -> None:
    chords = [BEAT * (downbeat + metre * bar) for bar in range(30)]
    assert estimate_metre(beats(96), chords) == metre


def test_the_metre_survives_missing_and_misplaced_chords() -> None:
    generator = np.random.default_rng(0)
    metres = []
    for _ in range(20):
        # 70 % of the changes, and six at random
        chords = [BEAT * 3 * bar for bar in range(30) if generator.random() < 0.7]
        stray = BEAT * generator.integers(0, 90, 6)
        metres.append(estimate_metre(beats(96), sorted([*chords, *stray])))
    assert metres.count(3) >= 18


def test_long_notes_tell_the_metre_without_chords() -> None:
    # bars of a long and a short note
    notes = [(BEAT * beat, BEAT * (beat + (2 if beat % 3 == 0 else 0.5)), 60) for beat in range(96) if beat % 3 < 2]
    starts = [note[0] for note in notes]
    assert estimate_metre(beats(96), [], starts, long_notes(notes, beats(96))) == 3


def test_without_evidence_the_metre_is_four() -> None:
    assert estimate_metre(beats(96), []) == 4
    assert estimate_metre(beats(10), [0.0, 1.5, 3.0]) == 4
    assert estimate_metre(beats(96), beats(96)) == 4
    generator = np.random.default_rng(0)
    scattered = [
        estimate_metre(beats(96), sorted((BEAT * generator.integers(0, 96, 30)).tolist())) for _ in range(100)
    ]
    assert scattered.count(4) >= 97


@pytest.mark.parametrize("metre", [3, 4])
def test_a_lead_sheet_without_a_metre_gets_that_of_its_chords(metre: int) -> None:
    sheet = LeadSheet(beats=beats(30 * metre), chords=chords_by_bar(metre))
    whole = with_bars_throughout(sheet, 30 * metre * BEAT)
    assert whole.beats_per_bar == metre
    assert whole.downbeat == 0
    assert "beats_per_bar" in whole.estimated


def test_a_metre_that_is_given_is_not_estimated() -> None:
    sheet = LeadSheet(beats=beats(90), chords=chords_by_bar(3), beats_per_bar=4)
    assert song_metre(sheet) == 4
    assert with_bars_throughout(sheet, 45.0).beats_per_bar == 4
    assert with_bars_throughout(LeadSheet(beats=beats(90), chords=chords_by_bar(3)), 45.0, metre=4).beats_per_bar == 4


def test_a_lead_sheet_without_chords_gets_the_metre_of_the_melody() -> None:
    # bars of a long and a short note
    notes = [(BEAT * beat, BEAT * (beat + (2 if beat % 3 == 0 else 0.5)), 60) for beat in range(96) if beat % 3 < 2]
    assert with_bars_throughout(LeadSheet(beats=beats(96)), 48.0, notes=notes).beats_per_bar == 3
    assert with_bars_throughout(LeadSheet(beats=beats(96)), 48.0).beats_per_bar == 4
