# SPDX-License-Identifier: Apache-2.0
"""The cards of the styles: one is chosen, each is heard, by mouse and keyboard, and a silent one has no button."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from parts import finished_songs
from space.browsing import PHONE, expect, findings, keep_screenshot, open_page
from space.serving import Space, served
from tiny_models import tiny_band
from vocals import file_bytes, glide

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# which card's sound is heard: the names of the buttons that are pressed, while exactly the page's one player plays
HEARD = """() => [
    [...document.querySelectorAll('audio')].filter(each => !each.paused).length,
    ...[...document.querySelectorAll('#style_sounds button[aria-pressed=true]')].map(each => each.dataset.style),
]"""
# of all cards and buttons, on the page
PLACES = """() => [...document.querySelectorAll('#style label, #style_sounds button')]
    .map(each => each.getBoundingClientRect()).map(at => [at.x, at.y + scrollY, at.width, at.height])"""


@pytest.fixture(scope="module")
def heard_styles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    """A Space whose model plays folk and rock, which can be heard, and whose other has no sounds of them."""
    folder = tmp_path_factory.mktemp("styles")
    for name in ("heard", "silent"):
        band = tiny_band()
        if name == "heard":
            band.style_sounds = {style: file_bytes(glide(20.0), format="OGG") for style in band.styles}
        band.save_pretrained(folder / name)
    models = ",".join(str(folder / name) for name in ("heard", "silent"))
    with served(folder, tmp_path_factory.mktemp("space"), HAFM_SPACE_MODELS=models) as space:
        yield space


@pytest.fixture(scope="module")
def page(browser: "Browser", heard_styles: Space) -> "Iterator[Page]":
    """One page for all tests of this file."""
    page = open_page(browser, heard_styles)
    expect(page.locator("#style").get_by_role("radio")).to_have_count(3)
    yield page
    page.context.close()


def expect_heard(page: "Page", playing: int, *pressed: str) -> None:
    wanted = json.dumps([playing, *pressed], separators=(",", ":"))
    page.wait_for_function(f"wanted => JSON.stringify(({HEARD})()) === wanted", arg=wanted)


def test_styles_are_heard_one_at_a_time_and_nothing_moves(page: "Page") -> None:
    folk, rock = (page.get_by_role("button", name=f"Hear {style}") for style in ("folk", "rock"))
    before = page.evaluate(PLACES)
    folk.click()
    expect_heard(page, 1, "folk")
    assert page.evaluate(PLACES) == before and len(before) == 5
    rock.click()
    expect_heard(page, 1, "rock")
    # hearing is not choosing
    expect(page.get_by_role("radio", name="As it comes").first).to_be_checked()
    song = page.get_by_label("Finished song: Vocal")
    song.evaluate("audio => audio.play()")
    expect_heard(page, 1)
    folk.click()
    expect_heard(page, 1, "folk")
    assert song.evaluate("audio => audio.paused")
    folk.click()
    expect_heard(page, 0)


def test_the_keyboard_hears_and_chooses(page: "Page") -> None:
    page.get_by_role("radio", name="rock").focus()
    page.keyboard.press("Space")
    expect(page.get_by_role("radio", name="rock")).to_be_checked()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Hear folk")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect_heard(page, 1, "rock")
    page.keyboard.press("Enter")
    expect_heard(page, 0)


@pytest.mark.parametrize("width", [1280, PHONE["width"]])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_cards_fit_every_page_and_axe_finds_nothing(page: "Page", axe: Path, scheme: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": PHONE["height"]})
    page.evaluate("dark => document.body.classList.toggle('dark', dark)", scheme == "dark")
    page.wait_for_function("width => document.documentElement.scrollWidth <= width", arg=width)
    keep_screenshot(page, f"style cards {scheme} {width}")
    assert findings(page, axe) == []


def test_a_model_without_sounds_has_no_buttons(page: "Page") -> None:
    page.get_by_role("button", name="More options").click()
    page.get_by_label("Model").click()
    page.get_by_role("option", name="silent").click()
    expect(page.locator("#style_sounds")).to_have_count(0)
    expect(page.locator("#style").get_by_role("radio")).to_have_count(3)
    expect(page.get_by_role("radio", name="As it comes").first).to_be_checked()


def test_a_voice_has_its_song_in_its_own_style_where_there_is_one(tmp_path: Path) -> None:
    for name in ("high.flac", "low.flac", "low_accompanied.ogg", "low_accompanied_hard rock.ogg", "quick.wav"):
        (tmp_path / name).touch()
    voices = [tmp_path / name for name in ("high.flac", "low.flac", "quick.wav")]
    assert finished_songs(voices[::2]) == ""
    players = finished_songs(voices)
    assert players.count("<audio") == 1 and "low_accompanied_hard rock.ogg" in players
    assert "Finished song: Low (hard rock)" in players
    (tmp_path / "low_accompanied_hard rock.ogg").unlink()
    assert "low_accompanied.ogg" in finished_songs(voices) and "(" not in finished_songs(voices)
