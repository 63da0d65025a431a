# SPDX-License-Identifier: Apache-2.0
"""What the page says and shows at the edges: refusals, partial takes, formats not played, high contrast."""

from pathlib import Path

import pytest
import soundfile

from hafm_hf import audio
from space import studio
from space.studio import Page, expect
from vocals import EXAMPLE

NO_MICROPHONE = """() => {
    navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', 'NotFoundError'));
}"""


def test_a_voice_that_browsers_do_not_play_is_heard_and_drawn(page: Page, tmp_path: Path) -> None:
    samples, rate = audio.read_audio(EXAMPLE)
    soundfile.write(tmp_path / "voice.aiff", samples, rate)
    studio.upload(page, tmp_path / "voice.aiff")
    expect(studio.summary(page)).to_contain_text("chords (estimated)")
    page.locator("#timeline [data-do=play]").click()
    page.wait_for_function("document.querySelector('#timeline [data-set=position]').value > 0.5")
    expect(page.locator("#timeline .foot .wrong")).to_have_text("")


def test_a_file_that_is_too_large_is_refused_once_with_its_size(page: Page, voices: Path) -> None:
    page.evaluate("gradio_config.max_file_size = 2 ** 15")
    page.locator("#recorder input[type=file]").set_input_files(voices / "song.wav")
    expect(page.locator("#recorder .wrong")).to_have_text(
        "song.wav has 1 MB; at most 1 MB can be sent. Save it as FLAC or MP3, or cut it."
    )
    assert page.locator("[data-testid=toast-body]").count() == 0


def test_a_missing_microphone_is_said_in_words(page: Page) -> None:
    page.evaluate(NO_MICROPHONE)
    page.get_by_role("button", name="● Record").click()
    expect(page.locator("#recorder .wrong")).to_have_text("There is no microphone; connect one, or open a file.")


def test_the_page_keeps_its_heading_when_it_has_a_voice(page: Page, voices: Path) -> None:
    studio.upload(page, voices / "song.wav")
    expect(page.get_by_role("heading", name="Sing, and get a band")).to_have_count(1)


def test_the_focus_passes_from_play_to_stop_and_back(page: Page, voices: Path) -> None:
    studio.upload(page, voices / "song.wav")
    studio.skip_fine(page)
    play, stop = (page.get_by_role("button", name=name) for name in ("Play a band", "Stop the band"))
    play.focus()
    page.keyboard.press("Enter")
    expect(stop).to_be_focused()
    expect(studio.announced(page)).to_contain_text("Done")
    expect(play).to_be_focused()


def test_the_style_that_was_chosen_automatically_is_shown_and_announced(page: Page, voices: Path) -> None:
    studio.upload(page, voices / "song.wav")
    studio.skip_fine(page)
    studio.generated(page)
    # name, style and seed of the take
    style = page.locator("#mixer .takes label").inner_text().split(" · ")[1]
    radios = page.locator("#style").get_by_role("radio")
    assert style in radios.evaluate_all("radios => radios.map((radio) => radio.value)")
    expect(studio.announced(page)).to_contain_text(f"Style: {style}.")


def test_a_stopped_take_is_called_partial(page: Page, voices: Path) -> None:
    studio.upload(page, voices / "patience.wav")
    studio.generate(page)
    expect(page.locator(".stems canvas")).to_have_count(4)
    page.get_by_role("button", name="Stop the band").click()
    expect(page.locator("#mixer .takes")).to_contain_text("Take 1 (partial)")


@pytest.mark.parametrize("options", [{"forced_colors": "active"}], ids=["high contrast"])
def test_forced_colours_show_what_is_chosen(page: Page, voices: Path) -> None:
    studio.upload(page, voices / "song.wav")
    card = page.locator("#style label").filter(has_text="Folk")
    width = "each => getComputedStyle(each).outlineWidth"
    style = "each => getComputedStyle(each).outlineStyle"
    assert card.evaluate(style) == "none"
    card.click()
    assert card.evaluate(style) == "solid"
    assert card.evaluate(width) == "3px"
