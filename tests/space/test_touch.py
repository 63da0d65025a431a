# SPDX-License-Identifier: Apache-2.0
"""The studio under a finger: on phones and tablets, nothing that is being tapped moves away."""

import re
from typing import Any

import pytest

from space import studio
from space.studio import PHONE, Locator, Page, expect, summary
from vocals import EXAMPLE

TABLET = {"viewport": {"width": 1180, "height": 820}, "has_touch": True, "is_mobile": True}
on_phone = pytest.mark.parametrize("options", [PHONE], ids=["390 x 844"])
on_tablet = pytest.mark.parametrize("options", [TABLET], ids=["1180 x 820"])


def place(control: Locator) -> Any:
    """Where a control is: its x, y, width and height in pixels."""
    box = control.bounding_box()
    assert box is not None
    return box


def tap(page: Page, box: Any) -> None:
    """Taps the middle of a place, whatever is there."""
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def beats_menu(page: Page) -> None:
    """Opens the menu of tempo and beats."""
    page.locator("#timeline .tempo").tap()


@on_phone
def test_the_tap_button_does_not_move_during_ten_taps(ready: Page) -> None:
    beats_menu(ready)
    button = ready.locator("#timeline [data-do=tap]")
    finger = place(button)
    places = []
    for number in range(10):
        tap(ready, finger)
        expect(button).to_have_text(f"Tap ({number})" if number else "Tap on every beat")
        places.append(place(button))
        ready.wait_for_timeout(450)
    assert places == [finger] * 10
    assert button.evaluate("each => getComputedStyle(each).touchAction") == "manipulation"
    ready.locator("#timeline [data-do=taps]").tap()
    expect(summary(ready)).to_contain_text("beats per minute (given)")
    assert place(button) == finger


@on_phone
def test_too_few_taps_cannot_be_used(ready: Page) -> None:
    beats_menu(ready)
    button = ready.locator("#timeline [data-do=tap]")
    use = ready.get_by_role("button", name="Use the taps")
    expect(use).to_be_disabled()
    for _ in range(4):
        tap(ready, place(button))
        ready.wait_for_timeout(400)
    expect(button).to_have_text("Tap (3)")
    expect(use).to_be_disabled()
    tap(ready, place(button))
    expect(use).to_be_enabled()


@on_phone
@pytest.mark.parametrize("name", ["Half tempo", "Double tempo"])
def test_the_tempo_can_be_changed_again_and_again_at_one_place(ready: Page, name: str) -> None:
    beats_menu(ready)
    # to the other tempo, at which its button is of no use
    ready.get_by_role("button", name="Or is it 88 bpm?").tap()
    expect(summary(ready)).to_contain_text("87.8 beats per minute (given)")
    finger = place(ready.get_by_role("button", name=name))
    tap(ready, finger)
    expect(summary(ready)).to_contain_text(re.compile(r"^(43|44|175|176)\.\d beats per minute \(given\)"))
    assert place(ready.get_by_role("button", name=name)) == finger


@on_tablet
def test_a_likely_chord_stays_where_it_is_when_it_is_chosen(page: Page) -> None:
    studio.upload(page, EXAMPLE.with_name("quick_refrain.flac"))
    expect(summary(page)).to_contain_text("chords (estimated)")
    page.locator("#timeline .chords .unsure").first.tap()
    instead = page.locator("#timeline .next")
    expect(instead).to_be_visible()
    # no chord: there is no next most likely one instead of it
    chord = page.locator("#timeline .likely button").last
    finger = place(chord)
    tap(page, finger)
    expect(instead).not_to_be_visible()
    assert place(chord) == finger
    tap(page, finger)
    assert "–" in studio.chords(page)
