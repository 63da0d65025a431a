# SPDX-License-Identifier: Apache-2.0
"""Styles that suit a song, and the metre that its chords and notes recur in."""

from collections import Counter

import numpy as np
import pytest

from hafm_hf.lead_sheet.style_choice import (
    StyleRange,
    draw_style,
    estimate_metre,
    long_notes,
    sung_density,
    weigh_styles,
)

RANGES = {
    "waltz": StyleRange((3,), tempo=(80, 180)),
    "ballad": StyleRange(tempo=(50, 85), density=(1.0, 3.0)),
    "rock": StyleRange(tempo=(80, 160), density=(2.0, 5.0)),
}
BEAT = 0.5


def beats(count: int) -> list[float]:
    return [BEAT * number for number in range(count)]


def test_a_style_suits_fully_inside_its_ranges_and_less_outside() -> None:
    style = RANGES["rock"]
    assert style.suits(4, 120, 3.0) == 1.0
    assert 0.1 < style.suits(4, 70, 3.0) < 1.0
    assert style.suits(4, 50, 3.0) < style.suits(4, 70, 3.0)
    assert style.suits(4, 120, 1.2) < 1.0


def test_what_is_unknown_does_not_count() -> None:
    assert RANGES["rock"].suits() == 1.0
    assert weigh_styles(RANGES) == pytest.approx({"waltz": 1 / 3, "ballad": 1 / 3, "rock": 1 / 3})


def test_the_metre_excludes_styles_of_other_metres() -> None:
    assert weigh_styles(RANGES, metre=3, tempo=100) == {"waltz": 1.0, "ballad": 0.0, "rock": 0.0}
    assert weigh_styles(RANGES, metre=4, tempo=100)["waltz"] == 0.0


def test_a_metre_that_no_style_has_is_ignored() -> None:
    four = {name: style for name, style in RANGES.items() if name != "waltz"}
    assert weigh_styles(four, metre=3, tempo=150) == {"ballad": 0.0, "rock": 1.0}


def test_a_song_that_suits_nobody_gets_any_style_of_its_metre() -> None:
    assert weigh_styles(RANGES, metre=4, tempo=1_000) == {"waltz": 0.0, "ballad": 0.5, "rock": 0.5}


def test_no_styles_are_refused() -> None:
    with pytest.raises(ValueError, match="no styles"):
        weigh_styles({})


def test_styles_are_drawn_as_often_as_they_weigh() -> None:
    weights = {"a": 0.75, "b": 0.25, "c": 0.0}
    drawn = Counter(draw_style(weights, np.random.default_rng(seed)) for seed in range(400))
    assert set(drawn) == {"a", "b"}
    assert drawn["a"] == pytest.approx(300, abs=30)


def test_density_counts_notes_by_the_time_that_is_sung() -> None:
    assert sung_density([(0.0, 0.5), (10.0, 10.5)]) == 2.0
    assert sung_density([]) is None


@pytest.mark.parametrize("metre", [3, 4])
@pytest.mark.parametrize("downbeat", [0, 1])
def test_the_metre_is_what_chords_recur_in(metre: int, downbeat: int) -> None:
    chords = [BEAT * (downbeat + metre * bar) for bar in range(30)]
    assert estimate_metre(beats(96), chords) == metre


def test_the_metre_survives_missing_and_misplaced_chords() -> None:
    generator = np.random.default_rng(0)
    found = []
    for _ in range(20):
        chords = [BEAT * 3 * bar for bar in range(30) if generator.random() < 0.7]
        stray = BEAT * generator.integers(0, 90, 6)
        found.append(estimate_metre(beats(96), sorted([*chords, *stray])))
    assert found.count(3) >= 18


def test_long_notes_tell_the_metre_without_chords() -> None:
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
