# SPDX-License-Identifier: Apache-2.0
"""From a voice to the final mix: with a few clicks, by keyboard alone, for screen readers; and regenerated bars."""

from pathlib import Path

import numpy as np
import pytest

from hafm_hf import audio
from space import studio
from space.serving import Space
from space.studio import Browser, Page, expect
from vocals import EXAMPLE


def shares(samples: np.ndarray, rate: int) -> np.ndarray:
    """Share of the energy between 60 and 2000 Hz in each pitch class.

    Args:
        samples: float [N].
        rate: in Hz.

    Returns:
        float64 [12], from C upwards; they add up to 1.
    """
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    hertz = np.fft.rfftfreq(len(samples), 1 / rate)
    inside = (hertz > 60) & (hertz < 2000)
    midi = 69 + 12 * np.log2(hertz[inside] / 440)
    energies = np.bincount(np.round(midi).astype(int) % 12, power[inside], minlength=12)
    return energies / energies.sum()


def test_examples_play_with_their_bands_at_once_and_a_take_can_be_added(page: Page) -> None:
    styles = {"Vocal": "folk", "Low ballad": "ballad", "Quick refrain": "pop", "Driving chorus": "rock"}
    for number, (name, style) in enumerate(styles.items()):
        if number:
            page.get_by_role("button", name="New voice").click()
        page.get_by_role("button", name=name, exact=True).click()
        expect(page.locator("#mixer .takes")).to_contain_text(f"{style} · seed 1")
        page.wait_for_function("document.querySelector('#timeline [data-set=position]').value > 0.3")
        expect(page.locator(".stems canvas")).to_have_count(4)
        expect(studio.summary(page)).to_contain_text(f"chords (given), {style} (given)")
    # a song of two minutes, whose sections are named
    page.get_by_role("button", name="New voice").click()
    page.get_by_role("button", name="Whole song").click()
    names = ["Intro", "Verse, sparse", "Chorus, normal", *2 * ["Verse, normal", "Chorus, full"], "Outro"]
    expect(page.locator("#timeline .sections").get_by_role("button")).to_have_text(names)
    expect(page.locator("#timeline .clock")).to_contain_text("/ 2:08.8")
    # while it plays; two minutes of song, on a machine that may be busy
    studio.generated(page, seconds=400.0)
    expect(page.locator("#mixer .takes").get_by_role("radio")).to_have_count(2)


def test_the_keyboard_alone_is_enough_from_voice_to_download(page: Page, axe: Path) -> None:
    studio.tab_to(page, "Vocal", "Enter")
    expect(studio.summary(page)).to_contain_text("estimated")
    studio.tab_to(page, "Separate instruments", "Space")
    studio.tab_to(page, "Play a band", "Enter")
    expect(studio.announced(page)).to_contain_text("Done")
    studio.tab_to(page, "Mute band", "Space")
    studio.tab_to(page, "Download mix")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    mix, rate = audio.read_audio(download.value.path())
    voice = audio.resample(*audio.read_audio(EXAMPLE), rate)
    # the band is silent, and the voice, whose peaks are high, is scaled down as a whole
    inner = slice(rate // 20, -rate // 20)
    gain = np.dot(mix[inner], voice[inner]) / np.dot(voice[inner], voice[inner])
    assert 0.9 < gain <= 1
    assert audio.rms_dbfs(mix[inner] - np.float32(gain) * voice[inner]) < -80
    assert studio.findings(page, axe) == []
    page.emulate_media(color_scheme="dark")
    expect(page.locator("body")).to_contain_class("dark")
    assert studio.findings(page, axe) == []


@pytest.mark.parametrize("chords", ["given", "estimated"])
def test_selected_bars_are_regenerated_with_their_chord_and_nothing_else_changes(
    browser: Browser, space: Space, options: dict[str, object], chords: str
) -> None:
    # single takes vary: they gain 0.12 to 0.39
    gained = []
    for seed in ("3", "4", "5"):
        page = studio.open_page(browser, space, **options)
        gained.append(gain_of_regenerated_bars(page, chords, seed))
    assert np.mean(gained) > 0.2, f"F#, A and C# gain {gained} of the energy"
    assert min(gained) > 0.1, f"F#, A and C# gain {gained} of the energy"


def gain_of_regenerated_bars(page: Page, chords: str, seed: str) -> float:
    """Generates a band, and regenerates bars 2 and 3 with the chord F#m; asserts that nothing else changes.

    Args:
        page: a new page, which is closed.
        chords: "given" for the example with its own chords, "estimated" for its upload without.
        seed: of the band.

    Returns:
        by how much the share of energy in F#m's notes grows in these bars, from −1 to 1.
    """
    takes = page.locator("#mixer").get_by_role("radio")
    if chords == "given":
        page.get_by_role("button", name="Vocal", exact=True).click()
        expect(takes).to_have_count(1)
    else:
        studio.upload(page, EXAMPLE)
    expect(studio.summary(page)).to_contain_text(f"chords ({chords})")
    studio.skip_fine(page, 8)
    page.locator("#seed input").fill(seed)
    stored = takes.count()
    studio.generated(page)
    replace = page.get_by_role("button", name="Regenerate these bars")
    expect(replace).not_to_be_visible()
    before, rate = audio.read_audio(studio.downloaded(page, "Download band"))
    studio.press(page, "Bar 2")
    page.locator("#timeline").get_by_role("button", name="Bar 3", exact=True).click(modifiers=["Shift"])
    bars = page.locator("#timeline .bars li:has([aria-pressed=true])")
    start, stop = bars.evaluate_all("bars => [bars[0].dataset.start, bars.at(-1).dataset.stop].map(Number)")
    # what is typed counts without Set
    page.get_by_label("Chord", exact=True).fill("F#m")
    replace.click()
    # the band and what it has become
    expect(takes).to_have_count(stored + 2)
    expect(takes.last).to_be_checked()
    after, _ = audio.read_audio(studio.downloaded(page, "Download band"))
    changed = np.flatnonzero(before != after) / rate
    assert stop - start > 4
    assert len(changed) > rate
    assert start - 1 / rate <= changed.min()
    assert changed.max() < stop + 1 / rate
    inside = slice(round((start + 0.3) * rate), round((stop - 0.3) * rate))
    page.context.close()
    # F#, A and C#; only the A is in the song's key, F
    notes = [6, 9, 1]
    return float(shares(after[inside], rate)[notes].sum() - shares(before[inside], rate)[notes].sum())
