# SPDX-License-Identifier: Apache-2.0
"""Every choice that the plain page offers, with the bundled model: each is made once, and a band is generated."""

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from space.browsing import announced, expect, generate, keep_screenshot, open_page, upload
from space.serving import Space

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

NUMBERS = {"seconds": "1", "tail": "0.5", "seed": "5", "guidance_scale": "2", "temperature": "0.9", "top_k": "20"}
NUMBERS |= {"lead_sheet_guidance": "3"}


def radios(page: "Page", name: str) -> "list[Locator]":
    return page.locator(f"#{name}").get_by_role("radio").all()


def test_every_style_energy_and_option_is_chosen_and_generated(
    browser: "Browser", studio: Space, voices: Path
) -> None:
    page = open_page(browser, studio)
    upload(page, voices / "song.wav")
    styles, energies = radios(page, "style"), radios(page, "energy")
    assert len(styles) == len(energies) == 5
    page.get_by_role("button", name="More options").click()
    for number, (style, energy) in enumerate(zip(styles[1:] + styles[:1], energies, strict=True), start=1):
        style.check()
        energy.check()
        if number == 2:
            page.get_by_label("Separate instruments").uncheck()
            page.get_by_label("Quick draft").check()
            page.locator("#num_samples input[type=number]").fill("2")
        if number == 3:
            for name, value in NUMBERS.items():
                page.locator(f"#{name} input").fill(value)
        generate(page)
        expect(page.locator("#mixer .takes")).to_contain_text(f"Take {number}")
        expect(announced(page)).to_contain_text("Done")
        chosen = [each.get_attribute("value") for each in (style, energy)]
        page.get_by_role("button", name="Copy a link").click()
        expect(announced(page)).to_contain_text("is copied")
        query = parse_qs(urlsplit(page.evaluate("location.href")).query)
        assert [query.get(name, [""])[0] for name in ("style", "energy")] == chosen
        if number > 2:
            assert {name: query[name][0] for name in NUMBERS} == NUMBERS
    keep_screenshot(page, "every choice")
    assert "Traceback" not in (studio.temporary / "log.txt").read_text()
    page.context.close()
