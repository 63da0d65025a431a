# SPDX-License-Identifier: Apache-2.0
"""Corrections bind: the key, the tempo and the grid, in every state; doubt is shown, and comes back with undo."""

from pathlib import Path

import numpy as np
import pytest

from hafm_hf import LeadSheet
from space.studio import (
    Page,
    chords,
    count_presses,
    expect,
    generated,
    in_both_windows,
    press,
    presses,
    push,
    skip_fine,
    summary,
    upload,
)
from space.test_timeline import evaluated, saved

# whether the timeline shows other chords than it did before
SHOWS_OTHER_CHORDS = """(before) => {
    const shown = [...document.querySelectorAll("#timeline .chords button")].map((each) => each.innerText);
    return String(shown) !== String(before);
}"""


def choose_key(page: Page, name: str) -> None:
    """Chooses a key, such as "G major"."""
    page.get_by_label("Key", exact=True).select_option(name)


def tempo_menu(page: Page) -> None:
    """Opens or closes the tempo menu."""
    push(page.locator("#timeline .tempo"))


def correct_tempo(page: Page, name: str) -> tuple[LeadSheet, LeadSheet]:
    """Opens the tempo menu and presses a button in it; asserts that this takes two presses.

    Returns:
        the lead sheets before and after.
    """
    before = saved(page)
    count_presses(page)
    tempo_menu(page)
    press(page, name)
    assert presses(page) == 2
    return before, saved(page)


def beats_of(sheet: LeadSheet) -> np.ndarray:
    """The beats of a lead sheet in seconds: float64 [beats]."""
    assert sheet.beats is not None
    return np.array(sheet.beats)


def set_chord(page: Page, bar: str, chord: str) -> None:
    """Selects a bar, such as "Bar 2", and sets its chord."""
    press(page, bar)
    page.get_by_label("Chord", exact=True).fill(chord)
    press(page, "Set")


@in_both_windows
def test_choosing_a_key_changes_the_chords_that_nobody_has_set_in_one_step(ready: Page) -> None:
    before = saved(ready)
    set_chord(ready, "Bar 2", "F#dim")
    (second,) = [span for span in saved(ready).chords if span[2] == "F#dim"]
    shown = chords(ready)
    count_presses(ready)
    choose_key(ready, "G major")
    assert presses(ready) == 1
    ready.wait_for_function(SHOWS_OTHER_CHORDS, arg=shown)
    after = saved(ready)
    assert after.key == "G:maj"
    assert after.beats == before.beats
    assert second in after.chords
    assert "chords" not in after.estimated


def test_a_set_chord_that_is_undone_follows_the_key_again_after_a_band(ready: Page) -> None:
    before = chords(ready)
    skip_fine(ready)
    generated(ready)
    set_chord(ready, "Bar 2", "F#dim")
    ready.keyboard.press("Control+z")
    assert chords(ready) == before
    choose_key(ready, "E♭ major")
    ready.wait_for_function(SHOWS_OTHER_CHORDS, arg=before)
    assert "F♯dim" not in chords(ready)
    # one step back undoes the key and the chords that followed it
    press(ready, "Undo")
    assert chords(ready) == before
    assert saved(ready).key == "F:maj"


@in_both_windows
def test_half_a_beat_later_takes_two_presses_and_moves_the_chords(ready: Page) -> None:
    before, later = correct_tempo(ready, "½ beat later")
    half = np.diff(beats_of(before)).mean() / 2
    first = np.searchsorted(beats_of(later), beats_of(before)[0])
    np.testing.assert_allclose(beats_of(later)[first : first + 8], beats_of(before)[:8] + half, atol=0.01)
    np.testing.assert_allclose(later.chords[1][0], before.chords[1][0] + half, atol=0.01)
    assert [label for *_, label in later.chords] == [label for *_, label in before.chords]
    press(ready, "½ beat earlier")
    again = saved(ready)
    np.testing.assert_allclose(again.downbeats[:3], before.downbeats[:3], atol=0.01)


@in_both_windows
def test_half_tempo_takes_two_presses(ready: Page) -> None:
    before, after = correct_tempo(ready, "Half tempo")
    expect(summary(ready)).to_contain_text("48 beats per minute (given)")
    np.testing.assert_allclose(np.diff(beats_of(after)), 2 * np.diff(beats_of(before)).mean(), atol=0.05)


@in_both_windows
def test_typing_a_tempo_takes_two_presses_and_puts_beats_on_those_of_the_voice(ready: Page) -> None:
    tempo_menu(ready)
    press(ready, "Double tempo")
    tempo_menu(ready)
    count_presses(ready)
    tempo_menu(ready)
    push(ready.get_by_label("Tempo in beats a minute"))
    ready.keyboard.type("96")
    ready.keyboard.press("Enter")
    assert presses(ready) == 2
    expect(summary(ready)).to_contain_text("96 beats per minute (given)")
    beats = beats_of(saved(ready))
    # recorded to a 96 BPM click from 0.2 s on
    clicks = 0.2 + 0.625 * np.arange(16)
    assert np.abs(np.subtract.outer(clicks, beats)).min(axis=1).max() < 0.04


def test_a_tempo_out_of_reach_is_refused_with_a_sentence(ready: Page) -> None:
    tempo_menu(ready)
    field = ready.get_by_label("Tempo in beats a minute")
    field.fill("300")
    field.press("Enter")
    expect(ready.locator("#timeline").get_by_role("alert")).to_contain_text("tempo is 300; halve or double it")
    expect(summary(ready)).to_contain_text("beats per minute (estimated)")


def test_a_tempo_above_120_can_be_doubled(ready: Page) -> None:
    tempo_menu(ready)
    field = ready.get_by_label("Tempo in beats a minute")
    field.fill("128")
    field.press("Enter")
    expect(summary(ready)).to_contain_text("128 beats per minute (given)")
    press(ready, "Double tempo")
    expect(summary(ready)).to_contain_text("256 beats per minute (given)")


def test_arrow_keys_nudge_the_beats_and_one_undo_takes_them_back(ready: Page) -> None:
    before = saved(ready)
    tempo_menu(ready)
    slider = ready.get_by_label("Move the beats, in seconds")
    slider.focus()
    slider.press("ArrowRight")
    expect(summary(ready)).to_contain_text("(given)")
    moved = saved(ready)
    np.testing.assert_allclose(beats_of(moved)[: len(beats_of(before))], beats_of(before) + 0.01, atol=1e-6)
    ready.keyboard.press("Control+z")
    assert saved(ready).beats == before.beats


def test_dragging_with_alt_moves_the_beats(ready: Page) -> None:
    before = saved(ready)
    lane = ready.locator("#timeline .sung canvas")
    box = lane.bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    ready.mouse.move(box["x"] + 300, y)
    ready.keyboard.down("Alt")
    ready.mouse.down()
    ready.mouse.move(box["x"] + 320, y, steps=4)
    ready.mouse.up()
    ready.keyboard.up("Alt")
    expect(summary(ready)).to_contain_text("(given)")
    # the lane shows 10.5 s, and the pointer moved by 20 pixels
    seconds = 20 * 10.5 / box["width"]
    moved = saved(ready)
    # distance from each expected beat to the nearest one; at the ends of the song a beat may be missing
    apart = np.abs(np.subtract.outer(beats_of(before) + seconds, beats_of(moved))).min(axis=1)
    assert apart[1:-1].max() < 0.03
    expect(ready.locator("#timeline .selection")).to_be_hidden()


def test_doubt_about_tempo_metre_and_key_is_shown_and_is_back_after_undo(page: Page, shared_data: Path) -> None:
    upload(page, shared_data / "real" / "vignesh.wav")
    expect(summary(page)).to_contain_text("beats per minute (estimated, unsure)")
    key = page.locator("#timeline [data-doubt=key]")
    metre = page.locator("#timeline [data-doubt=beats_per_bar]")
    expect(page.locator("#timeline .tempo")).to_contain_text("?")
    expect(key).to_be_visible()
    choose_key(page, "A major")
    expect(key).to_be_hidden()
    expect(summary(page)).to_contain_text("A major (given)")
    page.wait_for_function("document.querySelectorAll('#timeline .chords li').length > 0")
    press(page, "Undo")
    expect(key).to_be_visible()
    page.get_by_label("Metre", exact=True).select_option("3/4")
    expect(metre).to_be_hidden()


def test_a_confident_estimate_has_no_question_mark(ready: Page) -> None:
    expect(ready.locator("#timeline .tempo")).to_have_text("96 bpm")
    expect(ready.locator("#timeline [data-doubt=key]")).to_be_hidden()
    expect(ready.locator("#timeline [data-doubt=beats_per_bar]")).to_be_hidden()


def test_faders_reach_6_decibels(ready: Page) -> None:
    fader = ready.get_by_label("Voice, level in dB")
    fader.fill("6")
    expect(ready.locator("#timeline [data-channel=voice] output")).to_have_text("6 dB")


@pytest.mark.parametrize("direction", [-1, 1], ids=["earlier", "later"])
def test_beats_moved_by_half_a_beat_still_cover_the_song(page: Page, direction: int) -> None:
    # a beat every half second in a song of 6 s
    given = {"beats": [0.5 * n for n in range(13)], "beats_per_bar": 4, "chords": [[0, 2, "C"], [2, 6, "F"]]}
    move = "return JSON.parse(JSON.stringify(sheet.moveHalfBeat(values[0], values[1], 6)));"
    moved = evaluated(page, move, given, direction)
    # a field of the page's own
    del moved["set"]
    sheet = LeadSheet.given(moved)
    assert beats_of(sheet)[0] <= 0.25
    assert beats_of(sheet)[-1] >= 5.5
    # where the bar that began at 2 s begins now
    second_bar = 2.0 + 0.25 * direction
    assert sheet.chords == ((0.0, second_bar, "C"), (second_bar, 6.0, "F"))
    assert any(abs(downbeat - second_bar) < 1e-6 for downbeat in sheet.downbeats)
