# SPDX-License-Identifier: Apache-2.0
"""From a voice to a downloaded mix: in three clicks, by keyboard alone, for screen readers; and bars replaced."""

from pathlib import Path

import numpy as np
import pytest

from hafm_hf import audio
from space.browsing import (
    Browser,
    Page,
    announced,
    downloaded,
    expect,
    findings,
    generated,
    open_page,
    press,
    skip_fine,
    summary,
    tab_to,
    upload,
)
from space.serving import Space
from vocals import EXAMPLE


def shares(samples: np.ndarray, rate: int) -> np.ndarray:
    """How much of a sound's energy between 60 and 2000 Hz lies in each pitch class: float64 [12]."""
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    hertz = np.fft.rfftfreq(len(samples), 1 / rate)
    inside = (hertz > 60) & (hertz < 2000)
    classes = np.round(69 + 12 * np.log2(hertz[inside] / 440)).astype(int) % 12
    found = np.bincount(classes, power[inside], minlength=12)
    return found / found.sum()


def test_an_example_plays_with_its_band_at_once_and_another_follows_it(page: Page) -> None:
    styles = {"Vocal": "folk", "Low ballad": "ballad", "Quick refrain": "pop", "Driving chorus": "rock"}
    for number, (name, style) in enumerate(styles.items()):
        if number:
            page.get_by_role("button", name="New voice").click()
        page.get_by_role("button", name=name, exact=True).click()
        expect(page.locator("#mixer .takes")).to_contain_text(f"{style} · seed 1")
        page.wait_for_function("document.querySelector('#timeline [data-set=position]').value > 0.3")
        expect(page.locator(".stems canvas")).to_have_count(4)
        expect(summary(page)).to_contain_text(f"chords (given), {style} (given)")
    # while it plays
    generated(page)
    expect(page.locator("#mixer .takes").get_by_role("radio")).to_have_count(2)


def test_the_keyboard_alone_leads_from_voice_to_download(page: Page, axe: Path) -> None:
    tab_to(page, "Vocal")
    page.keyboard.press("Enter")
    expect(summary(page)).to_contain_text("estimated")
    tab_to(page, "Separate instruments")
    page.keyboard.press("Space")
    tab_to(page, "Play a band")
    page.keyboard.press("Enter")
    expect(announced(page)).to_contain_text("Done")
    tab_to(page, "Mute band")
    page.keyboard.press("Space")
    tab_to(page, "Download mix")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    mix, _ = audio.read_audio(download.value.path())
    voice, rate = audio.read_audio(EXAMPLE)
    # nothing of the band is left; the voice, whose peaks are high, is turned down as a whole
    inner = slice(rate // 20, -rate // 20)
    gain = np.dot(mix[inner], voice[inner]) / np.dot(voice[inner], voice[inner])
    assert 0.9 < gain <= 1 and audio.rms_dbfs(mix[inner] - np.float32(gain) * voice[inner]) < -80
    assert findings(page, axe) == []
    page.emulate_media(color_scheme="dark")
    expect(page.locator("body")).to_contain_class("dark")
    assert findings(page, axe) == []


@pytest.mark.parametrize("chords", ["given", "estimated"])
def test_selected_bars_are_replaced_with_their_chord_and_all_other_samples_stay(
    browser: Browser, space: Space, options: dict[str, object], chords: str
) -> None:
    # a single take says little: they gain 0.12 to 0.39
    gained = [made_anew(open_page(browser, space, **options), chords, seed) for seed in ("3", "4", "5")]
    assert np.mean(gained) > 0.2 and min(gained) > 0.1, f"F#, A and C# gain {gained} of the energy"


def made_anew(heard: Page, chords: str, seed: str) -> float:
    """Gives two bars of a new band the chord F#m; what share of their energy its notes gain."""
    takes = heard.locator("#mixer").get_by_role("radio")
    if chords == "given":
        heard.get_by_role("button", name="Vocal", exact=True).click()
        expect(takes).to_have_count(1)
    else:
        upload(heard, EXAMPLE)
    expect(summary(heard)).to_contain_text(f"chords ({chords})")
    skip_fine(heard, 8)
    heard.locator("#seed input").fill(seed)
    stored = takes.count()
    generated(heard)
    replace = heard.get_by_role("button", name="Make these bars anew")
    expect(replace).not_to_be_visible()
    before, rate = audio.read_audio(downloaded(heard, "Download band"))
    press(heard, "Bar 2")
    heard.locator("#timeline").get_by_role("button", name="Bar 3", exact=True).click(modifiers=["Shift"])
    bars = heard.locator("#timeline .bars li:has([aria-pressed=true])")
    start, stop = bars.evaluate_all("bars => [bars[0].dataset.start, bars.at(-1).dataset.stop].map(Number)")
    heard.get_by_label("Chord", exact=True).fill("F#m")
    press(heard, "Set")
    replace.click()
    expect(takes).to_have_count(stored + 2)
    expect(takes.last).to_be_checked()
    after, _ = audio.read_audio(downloaded(heard, "Download band"))
    changed = np.flatnonzero(before != after) / rate
    assert stop - start > 4 and len(changed) > rate
    assert start - 1 / rate <= changed.min() and changed.max() < stop + 1 / rate
    inside = slice(round((start + 0.3) * rate), round((stop - 0.3) * rate))
    heard.context.close()
    # F#, A and C#: of the song in F only the A
    return float(np.subtract(*(shares(band[inside], rate)[[6, 9, 1]].sum() for band in (after, before))))
