# SPDX-License-Identifier: Apache-2.0
"""Styles that suit a song, and the order in which seeds and samples get them."""

from collections import Counter

import pytest

from hafm_hf.lead_sheet.style_choice import (
    StyleRange,
    styles_in_order,
    sung_density,
    weigh_styles,
)

# tempo in BPM, density in notes sung per second
RANGES = {
    "waltz": StyleRange((3,), tempo=(80, 180)),
    "ballad": StyleRange(tempo=(50, 85), density=(1.0, 3.0)),
    "rock": StyleRange(tempo=(80, 160), density=(2.0, 5.0)),
}


def test_a_style_suits_fully_inside_its_ranges_and_less_outside() -> None:
    style = RANGES["rock"]
    assert style.suits(4, 120, 3.0) == 1.0
    assert 0.1 < style.suits(4, 70, 3.0) < 1.0
    assert style.suits(4, 50, 3.0) < style.suits(4, 70, 3.0)
    assert style.suits(4, 120, 1.2) < 1.0


def test_an_unknown_metre_tempo_or_density_does_not_count() -> None:
    assert RANGES["rock"].suits() == 1.0
    assert weigh_styles(RANGES) == pytest.approx({"waltz": 1 / 3, "ballad": 1 / 3, "rock": 1 / 3})


def test_the_metre_excludes_styles_of_other_metres() -> None:
    assert weigh_styles(RANGES, metre=3, tempo=100) == {"waltz": 1.0, "ballad": 0.0, "rock": 0.0}
    assert weigh_styles(RANGES, metre=4, tempo=100)["waltz"] == 0.0


def test_a_metre_that_no_style_has_is_ignored() -> None:
    four = {name: style for name, style in RANGES.items() if name != "waltz"}
    assert weigh_styles(four, metre=3, tempo=150) == {"ballad": 0.0, "rock": 1.0}


def test_a_song_that_suits_no_style_gets_any_of_its_metre() -> None:
    assert weigh_styles(RANGES, metre=4, tempo=1_000) == {"waltz": 0.0, "ballad": 0.5, "rock": 0.5}


def test_weighing_without_any_style_is_refused() -> None:
    with pytest.raises(ValueError, match="no styles"):
        weigh_styles({})


def test_density_counts_notes_by_the_time_that_is_sung() -> None:
    assert sung_density([(0.0, 0.5), (10.0, 10.5)]) == 2.0
    assert sung_density([]) is None


def test_consecutive_seeds_take_turns_among_styles_that_weigh_the_same() -> None:
    weights = {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}
    assert [styles_in_order(weights, seed) for seed in (30, 31)] == [("a", "b", "c"), ("b", "c", "a")]
    assert styles_in_order(weights, 2**62) == styles_in_order(weights, 2**62)


def test_each_style_comes_first_as_often_as_it_weighs_and_never_without_weight() -> None:
    weights = {"a": 0.6, "b": 0.3, "c": 0.0, "d": 0.1}
    orders = [styles_in_order(weights, seed) for seed in range(840)]
    first = Counter(order[0] for order in orders)
    assert first == {"a": 504, "b": 252, "d": 84}
    assert {frozenset(order) for order in orders} == {frozenset("abd")}


@pytest.mark.parametrize(
    ("ranges", "said"),
    [
        ({"metre": [3]}, "A style has no range 'metre'; it has metres, tempo and density."),
        ({"metres": [5]}, r"metres is \[5\]; it must be a list of 3 or 4"),
        ({"metres": 3}, "metres is 3; it must be a list of 3 or 4"),
        ({"metres": []}, r"metres is \[\]; it must be a list of 3 or 4"),
        ({"tempo": [90, 60]}, r"tempo is \[90, 60\]; it must be \[least, most\]"),
        ({"tempo": 90}, r"tempo is 90; it must be \[least, most\]"),
        ({"density": [1, 2, 3]}, r"density is \[1, 2, 3\]; it must be \[least, most\]"),
        ({"density": ["few", "many"]}, r"density is \['few', 'many'\]; it must be \[least, most\]"),
    ],
)
def test_malformed_ranges_are_refused(ranges: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        StyleRange.from_dict(ranges)


def test_ranges_are_read_from_json() -> None:
    assert StyleRange.from_dict({"metres": [3], "tempo": [80, 180]}) == RANGES["waltz"]
    assert StyleRange.from_dict({}).suits(3, 120, 2.0) == StyleRange.from_dict({}).suits(4, 60, 9.0) == 1.0
