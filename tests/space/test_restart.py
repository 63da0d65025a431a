# SPDX-License-Identifier: Apache-2.0
"""A Space that is killed in the middle of a band and started again: the browser has kept the project, and sends it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from hafm_hf import audio
from space import studio
from space.serving import served
from space.studio import Browser, Page, expect
from space.test_desk import STATIC
from space.test_network import DESK
from vocals import EXAMPLE

# the browser refuses storage with an error of this NAME, as in a page inside another page
REFUSED = "IDBFactory.prototype.open = () => { throw new DOMException('refused', 'NAME'); }"


@dataclass
class Restarted:
    """The page after the restart, and what it had before.

    Args:
        page: the page.
        chords: the chords on the timeline.
        seed: of the band that was interrupted.
        band: take 1's band (float32 [N, 2] at 44.1 kHz).
    """

    page: Page
    chords: list[str]
    seed: int
    band: np.ndarray


@pytest.fixture(scope="module", params=list(studio.WINDOWS.values()), ids=list(studio.WINDOWS))
def restarted(
    browser: Browser, bundled_model: object, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Restarted]:
    """A Space with a corrected chord and a named take, killed during the next band and started again."""
    with served("hafm-tiny (bundled)", tmp_path_factory.mktemp("restarted")) as space:
        page = studio.open_page(browser, space, **request.param)
        studio.upload(page, EXAMPLE)
        expect(studio.summary(page)).to_contain_text("chords (estimated)")
        studio.push(page.locator("#timeline .chords button").nth(1))
        page.get_by_label("Chord", exact=True).fill("Gm7")
        page.keyboard.press("Enter")
        studio.skip_fine(page, 5)
        studio.generated(page)
        studio.push(page.get_by_role("button", name="Name Take 1"))
        page.keyboard.type("Mine")
        page.keyboard.press("Enter")
        studio.push(page.get_by_role("button", name="Keep Mine"))
        chords = studio.chords(page)
        band, _ = audio.read_audio(studio.downloaded(page, "Download band"), mono=False)
        page.evaluate(DESK, STATIC)
        studio.use_only(page, 0)
        page.get_by_label("Quick draft").uncheck()
        studio.generate(page)
        page.wait_for_function("desk.mixer.coming")
        seed = page.evaluate("desk.mixer.coming.seed")
        space.kill()
        expect(page.get_by_text("Connection to the server was lost").first).to_be_attached()
        # nobody is asked whether to leave a page whose band is lost anyway
        asked: list[str] = []

        def dismiss(dialog: Any) -> None:
            """Stays on the page."""
            asked.append(dialog.type)
            dialog.dismiss()

        page.on("dialog", dismiss)
        with page.expect_navigation():
            space.start()
        expect(page.locator("#mixer .takes")).to_contain_text("Mine")
        assert asked == []
        yield Restarted(page, chords, seed, band)
        studio.keep_screenshot(page, "restarted")
        page.context.close()


def test_the_page_says_that_the_server_has_been_restarted(restarted: Restarted) -> None:
    expect(studio.announced(restarted.page)).to_contain_text("The server has been restarted; the song is here again.")


def test_corrections_are_there_again_after_a_restart(restarted: Restarted) -> None:
    assert "Gm7" in restarted.chords
    assert studio.chords(restarted.page) == restarted.chords


def test_kept_takes_are_marked_again_after_a_restart(restarted: Restarted) -> None:
    expect(restarted.page.get_by_role("button", name="Keep Mine")).to_have_attribute("aria-pressed", "true")


def test_a_take_made_before_a_restart_is_downloaded_as_it_was(restarted: Restarted) -> None:
    again, rate = audio.read_audio(studio.downloaded(restarted.page, "Download band"), mono=False)
    assert rate == 44_100
    assert again.shape == restarted.band.shape
    # pieces of Opus have no more than the browser had
    assert np.corrcoef(again.ravel(), restarted.band.ravel())[0, 1] > 0.95


def test_an_interrupted_band_goes_on_with_one_click(restarted: Restarted) -> None:
    page = restarted.page
    studio.count_presses(page)
    studio.generate(page)
    assert studio.presses(page) == 1
    expect(studio.announced(page)).to_contain_text(f"seed {restarted.seed} gives the same music again")
    expect(page.locator("#mixer .takes")).to_contain_text(f"seed {restarted.seed}")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("SecurityError", "Inside another page, this browser does not keep the song"),
        ("InvalidStateError", "perhaps in a private window, does not keep the song"),
        ("QuotaExceededError", "has no room to keep the song"),
    ],
)
def test_a_browser_that_keeps_nothing_says_so_and_works(page: Page, name: str, said: str) -> None:
    page.add_init_script(REFUSED.replace("NAME", name))
    page.reload()
    studio.wait_for_page(page)
    studio.upload(page, EXAMPLE)
    expect(page.locator("#mixer .kept")).to_contain_text(said)


def test_a_song_of_an_earlier_visit_is_offered(page: Page) -> None:
    studio.upload(page, EXAMPLE)
    expect(studio.summary(page)).to_contain_text("chords (estimated)")
    page.wait_for_timeout(studio.KEPT_MS)
    later = page.context.new_page()
    later.goto(page.url)
    later.get_by_role("button", name="Previous voice").click()
    expect(studio.summary(later)).to_contain_text("chords (estimated)")
