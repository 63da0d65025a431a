# SPDX-License-Identifier: Apache-2.0
"""Steps of the browser tests: open the page, upload a voice, generate, download, take a screenshot.

Every test leaves a screenshot in build/test-artefacts/space (`HAFM_TEST_ARTEFACTS` names another folder).
"""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hafm_hf import audio
from space.serving import ARTEFACTS, CHROMIUM, PATIENCE_SECONDS, Space

pytest.importorskip("playwright", reason="needs playwright, of the extra `dev`")
from playwright.sync_api import Browser, Download, Locator, Page, expect

if CHROMIUM is None:
    pytest.skip("no chromium; install Debian's package of that name", allow_module_level=True)

expect.set_options(timeout=1000 * PATIENCE_SECONDS)
SMALLEST = {"width": 360, "height": 740}
DESKTOP = {"viewport": {"width": 1440, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
# after a change, by when the browser has kept the song: static/page.js does so every second
KEPT_MS = 2500
WINDOWS = {"1440 x 900": DESKTOP, "390 x 844": PHONE}
in_both_windows = pytest.mark.parametrize("options", WINDOWS.values(), ids=WINDOWS)

# a menu counts when its entry is chosen, and not when it is opened
COUNT_PRESSES = """() => {
    window.presses = 0;
    addEventListener('pointerdown', ({ target }) => { presses += target.tagName !== 'SELECT'; }, true);
    addEventListener('change', ({ target }) => { presses += target.tagName === 'SELECT'; }, true);
}"""


def open_page(browser: Browser, space: Space, query: str = "", /, **options: object) -> Page:
    """Opens the Space in a new window, and waits until the page responds.

    Args:
        browser, space: the browser, and the running Space.
        query: what follows the Space's address, such as "?seed=7".
        options: of the window, for Playwright's `new_context`.
    """
    context = browser.new_context(permissions=["microphone"], **options)  # type: ignore[arg-type]
    context.set_default_timeout(1000 * PATIENCE_SECONDS)
    page = context.new_page()
    page.goto(space.url + query)
    wait_for_page(page)
    return page


def wait_for_page(page: Page) -> None:
    """Waits until Gradio has built the page: input before that is lost."""
    expect(page.locator(".early")).to_have_count(0)
    expect(page.locator("#timeline .clock")).to_have_text(re.compile("0:00"))


def keep_screenshot(page: Page, name: str) -> None:
    """Saves a screenshot of the whole page as NAME.png, with other characters than letters and digits as "_"."""
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w-]+", "_", name).strip("_")
    page.screenshot(path=ARTEFACTS / f"{name}.png", full_page=True)


def findings(page: Page, axe: Path) -> list[str]:
    """axe-core's serious and critical findings, after colour transitions have ended: rule and elements."""
    changing = "document.getAnimations().filter(each => each instanceof CSSTransition)"
    page.evaluate(f"Promise.allSettled({changing}.map(each => each.finished))")
    page.add_script_tag(path=axe)
    found: list[dict[str, Any]] = page.evaluate("() => axe.run().then(result => result.violations)")
    serious = [each for each in found if each["impact"] in ("serious", "critical")]
    return [f"{each['id']}: {[node['html'][:150] for node in each['nodes']]}" for each in serious]


def upload(page: Page, path: Path) -> None:
    """Uploads a file, and waits until it is analysed or refused."""
    page.locator("#recorder input[type=file]").set_input_files(path)
    expect(page.locator("#recorder .status")).to_have_text("")
    expect(page.locator("#timeline .foot")).to_contain_text(re.compile(r"\w"))


def more(page: Page) -> None:
    """Opens the folded options, unless they are open, and waits until they respond: they are created only then."""
    if not page.locator("#seconds input").is_visible():
        page.get_by_role("button", name="More options").click()
        expect(page.locator("#seconds input")).to_be_visible()
        # visible is not yet responsive
        page.wait_for_timeout(500)


def skip_fine(page: Page, seconds: float = 0) -> None:
    """Chooses a quick draft, which skips the fine stage, of the first `seconds` of the voice; 0: of all of it."""
    if seconds:
        use_only(page, seconds)
    else:
        more(page)
    page.get_by_label("Quick draft").check()


def use_only(page: Page, seconds: float) -> None:
    """Limits the voice to its first `seconds`."""
    more(page)
    page.locator("#seconds input").fill(f"{seconds:g}")
    page.locator("#seconds input").blur()
    expect(page.locator("#seconds input")).to_have_value(f"{seconds:g}")


def push(control: Locator) -> None:
    """Presses a control: with a finger where the window has a touchscreen, else with the mouse."""
    if control.page.evaluate("navigator.maxTouchPoints"):
        control.tap()
    else:
        control.click()


def count_presses(page: Page) -> None:
    """From here on, `presses` counts what a user presses: opening a menu and choosing its entry together are one."""
    page.evaluate(COUNT_PRESSES)


def presses(page: Page) -> int:
    """The number of presses since `count_presses`."""
    count: int = page.evaluate("presses")
    return count


def generate(page: Page) -> None:
    """Presses "Play a band", and does not wait."""
    push(page.get_by_role("button", name="Play a band"))


def generated(page: Page, seconds: float = 120.0) -> None:
    """Generates, and waits until it is done, for at most `seconds`."""
    generate(page)
    expect(announced(page)).to_contain_text("Done", timeout=1000 * seconds)


def announced(page: Page) -> Locator:
    """The page's announcement to the user."""
    # the block also has a hidden status of Gradio's own
    return page.locator("#announced .prose")


def downloaded(page: Page, button: str) -> Path:
    """Presses a button, waits for its download, and returns the file, which has the suggested name."""
    download = download_of(page, lambda: push(page.get_by_role("button", name=button)))
    return download.path().rename(download.path().with_name(download.suggested_filename))


def download_of(page: Page, press: Callable[[], None]) -> Download:
    """Calls `press`, waits until a download starts, and returns it."""
    with page.expect_download() as download:
        press()
    return download.value


def sounds_in(stems: Path, mono: bool = True) -> dict[str, tuple[np.ndarray, int]]:
    """The sounds in a zip of stems by part ("vocal", "drums", …), each with its rate in Hz.

    Each sound is float32 [N] if `mono`, else [N, channels].
    """
    sounds = {}
    with zipfile.ZipFile(stems) as archive:
        for name in archive.namelist():
            part = Path(name).stem.rsplit("_", 1)[1]
            sounds[part] = audio.read_audio(archive.read(name), mono=mono)
    return sounds


def summary(page: Page) -> Locator:
    """The line that sums up the timeline: tempo, chords, key and style, each given or estimated."""
    return page.locator("#timeline .summary")


def press(page: Page, *names: str) -> None:
    """Presses the timeline's buttons of these names, one after another."""
    for name in names:
        push(page.locator("#timeline").get_by_role("button", name=name, exact=True))


def chords(page: Page) -> list[str]:
    """The chords on the timeline as they are shown, in time order; "" where there is no room for a name."""
    return page.locator("#timeline .chords").get_by_role("button").all_inner_texts()


def tab_to(page: Page, name: str, press: str = "", key: str = "Tab") -> None:
    """Presses `key` until a control whose name starts with `name` has the focus, then `press`, if given.

    Fails if no such control is reached.
    """
    names: list[str] = []
    name_of = "(at) => (at.ariaLabel || at.innerText || at.labels?.[0]?.innerText || '').trim()"
    # enough for once around the page, which has some 130 controls with a take in the mixer
    for _ in range(200):
        page.keyboard.press(key)
        names.append(page.evaluate(f"({name_of})(document.activeElement)"))
        if names[-1].startswith(name):
            if press:
                page.keyboard.press(press)
            return
    pytest.fail(f"{key} never reaches {name!r}: {names}")
