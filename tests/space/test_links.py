# SPDX-License-Identifier: Apache-2.0
"""Links to settings: parsing them, copying and opening them on the page, and refusing invalid ones."""

import json
from pathlib import Path

import pytest

import songs
from space.serving import Space
from space.studio import Browser, Page, announced, expect, keep_screenshot, more, open_page, summary, upload


def test_a_link_is_parsed_into_settings() -> None:
    query = "?seed=7&temperature=0.9&skip_fine=1&style=folk&energy=full&stems=1&seconds=4&tempo=120&tail=2"
    numbers = {"seed": 7, "temperature": 0.9, "seconds": 4.0, "tail": 2.0, "tempo": 120.0}
    assert songs.read_link(query) == {**numbers, "skip_fine": True, "style": "folk", "energy": "full", "stems": True}
    assert songs.read_link("?seed=9&__theme=dark&utm_source=x") == {"seed": 9}


@pytest.mark.fault("paths and addresses sent to a Space")
@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("?tempo=1e9", "tempo is 1e\\+09; halve or double it"),
        ("?tempo=nan", "tempo is 'nan'; it must be a finite number below"),
        ("?tempo=<script>", "tempo is '<script>'; it must be a number"),
        ("?seed=-1", "seed is -1; it must be between 0 and 9223372036854775807"),
        ("?seed=99999999999999999999", "it must be a finite number below"),
        ("?seed=1.5", "seed is '1.5'; it must be a number"),
        ("?energy=loud", "energy is 'loud'; choose 'auto'"),
        ("?stems=yes", "stems is 'yes'; it must be 1 or 0"),
        ("?tail=99", "tail is 99.0; it must be between 0 and 30"),
        ("?seconds=-3", "seconds is -3.0; it must be 0 or more"),
        ("?model=nobody/nothing", "model is not one that this page offers"),
        ("?" + "&".join("seed=1" for _ in range(60)), "Max number of fields exceeded"),
    ],
)
def test_an_invalid_link_is_refused_in_one_sentence(query: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        songs.read_link(query)
    assert "not used" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_link_opens_the_page_with_its_settings(
    page: Page, browser: Browser, space: Space, tiny_model: Path, voices: Path
) -> None:
    model = page.evaluate("model => encodeURIComponent(model)", str(tiny_model))
    page.goto(f"{space.url}/?model={model}&style=rock")
    expect(announced(page)).to_contain_text("which this model does not support; leave style out")
    page.goto(f"{space.url}/?style=rock&energy=full&stems=1&seed=5&tempo=120&seconds=4")
    expect(page.locator("#style input[value=rock]")).to_be_checked()
    upload(page, voices / "patience.wav")
    more(page)
    expect(page.locator("#tempo input")).to_have_value("120")
    expect(summary(page)).to_contain_text("120 beats per minute (given)")
    page.get_by_role("radio", name="Sparse").check()
    more(page)
    page.get_by_role("button", name="Copy a link").click()
    expect(announced(page)).to_contain_text("The link to these settings is copied")
    page.wait_for_function("location.search.includes('energy=sparse')")
    another = open_page(browser, space, locale="de-DE")
    expect(another.locator("html")).to_have_attribute("lang", "en")
    another.goto(page.evaluate("location.href"))
    for value in ("rock", "sparse"):
        expect(another.locator(f"input[value={value}]").first).to_be_checked()
    upload(another, voices / "song.wav")
    expect(another.get_by_label("Separate instruments")).to_be_checked()
    more(another)
    expect(another.locator("#seed input")).to_have_value("5")
    keep_screenshot(another, "opened by a link")
    another.goto(f"{space.url}/?tempo={json.dumps('<img src=x onerror=alert(1)>')}")
    expect(another.get_by_role("alert")).to_contain_text("The settings of this link are not used: tempo is")
    another.context.close()
