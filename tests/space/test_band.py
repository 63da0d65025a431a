# SPDX-License-Identifier: Apache-2.0
"""Every option on the page is set and generated with; styles can be previewed; stems are mixed."""

import json
from itertools import cycle
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from hafm_hf import audio
from hafm_hf.accompaniment.options import MEDIAN_BALANCE
from hafm_hf.lead_sheet.files import read_lead_sheet
from hafm_hf.lead_sheet.vocabulary import STEMS
from space import studio
from space.serving import Space
from space.studio import Page, expect

# fields of the page and what is typed into them
NUMBERS = {"seconds": "1", "tail": "0.5", "seed": "5", "guidance_scale": "2", "temperature": "0.9", "top_k": "20"}
NUMBERS |= {"tempo": "120", "intro_bars": "1", "outro_bars": "1"}
# which style previews play: the number of active players, and the names of the pressed buttons
PREVIEWS = """() => [
    [...document.querySelectorAll('audio')].filter(each => !each.paused).length,
    ...[...document.querySelectorAll('#style_sounds button[aria-pressed=true]')].map(each => each.ariaLabel),
]"""


def test_every_style_energy_and_option_can_be_generated_and_linked(page: Page, space: Space, voices: Path) -> None:
    studio.upload(page, voices / "song.wav")
    styles, energies = (page.locator(f"#{name}").get_by_role("radio").all() for name in ("style", "energy"))
    assert len(styles) == 8
    assert len(energies) == 5
    studio.more(page)
    # there are more styles than energies
    pairs = zip(styles[1:] + styles[:1], cycle(energies), strict=False)
    for number, (style, energy) in enumerate(pairs, start=1):
        style.check()
        energy.check()
        # without these in take 2, and with numbers too from take 3 on
        if number == 2:
            page.get_by_label("Separate instruments").uncheck()
            page.get_by_label("Quick draft").check()
        if number == 3:
            for name, value in NUMBERS.items():
                page.locator(f"#{name} input").fill(value)
        studio.generate(page)
        expect(page.locator("#mixer .takes")).to_contain_text(f"Take {number}")
        expect(studio.announced(page)).to_contain_text("Done")
        page.get_by_role("button", name="Copy a link").click()
        expect(studio.announced(page)).to_contain_text("is copied")
        written = "style => (new URLSearchParams(location.search).get('style') ?? '') === style"
        page.wait_for_function(written, arg=style.get_attribute("value"))
        query = {name: value for name, (value,) in parse_qs(urlsplit(page.evaluate("location.href")).query).items()}
        chosen = {"style": style.get_attribute("value"), "energy": energy.get_attribute("value")}
        assert {name: query.get(name, "") for name in chosen} == chosen
        if number >= 3:
            assert query.items() >= {**NUMBERS, "skip_fine": "1", "stems": "0"}.items()
    page.locator("#temperature input").fill("0")
    studio.generate(page)
    expect(studio.announced(page)).to_have_text("temperature is 0; it must be 0.01 or more.")
    log = (space.temporary / "log.txt").read_text()
    assert "Traceback" not in log, log[log.index("Traceback") :]


def expect_preview(page: Page, playing: int, *pressed: str) -> None:
    """Waits until so many style previews play, and the buttons with these names, and no others, are pressed."""
    wanted = json.dumps([playing, *pressed], separators=(",", ":"))
    page.wait_for_function(f"wanted => JSON.stringify(({PREVIEWS})()) === wanted", arg=wanted)


def test_style_previews_play_one_at_a_time_and_need_a_model_with_styles(page: Page, voices: Path) -> None:
    studio.upload(page, voices / "song.wav")
    folk, rock = (page.get_by_role("button", name=f"Hear {style}") for style in ("folk", "rock"))
    folk.click()
    expect_preview(page, 1, "Hear folk")
    rock.click()
    expect_preview(page, 1, "Hear rock")
    # a preview does not select the style
    expect(page.get_by_role("radio", name="Automatic").first).to_be_checked()
    page.get_by_role("button", name="New voice").click()
    page.get_by_role("button", name="Vocal", exact=True).click()
    stop = page.get_by_role("button", name="Stop", exact=True)
    # the song of an example stops a preview
    expect(stop).to_be_visible()
    expect_preview(page, 0)
    # a preview stops the song
    rock.press("Space")
    expect_preview(page, 1, "Hear rock")
    expect(stop).to_have_count(0)
    page.keyboard.press("Enter")
    expect_preview(page, 0)
    folk.click()
    expect_preview(page, 1, "Hear folk")
    # and so does a recording
    page.locator("#recorder [data-do=sing]").click()
    expect(page.locator("#recorder .status")).to_contain_text("Recording")
    assert page.evaluate(PREVIEWS) == [0]
    # the other model has no styles
    studio.more(page)
    page.get_by_label("Model").click()
    page.get_by_role("option", name="tiny").last.click()
    for name in ("style_sounds", "style", "energy", "stems"):
        expect(page.locator(f"#{name}")).to_have_count(0)


def test_style_and_energy_are_in_the_lead_sheet_and_stems_are_mixed(page: Page, voices: Path, tmp_path: Path) -> None:
    studio.upload(page, voices / "patience.wav")
    studio.use_only(page, 4)
    page.locator("#tempo input").fill("120")
    page.get_by_role("radio", name="Rock").check()
    page.get_by_label("Key", exact=True).select_option("F♯ minor")
    page.get_by_role("button", name="Estimate again").click()
    expect(studio.summary(page)).to_contain_text("120 beats per minute (given)")
    expect(studio.summary(page)).to_contain_text("F♯ minor (given)")
    studio.press(page, "Bar 1")
    page.get_by_label("Section", exact=True).fill("Verse")
    page.get_by_label("Energy of the section").select_option("sparse")
    studio.press(page, "Set section")
    # a refused estimate leaves the current one
    page.locator("#tempo input").fill("20")
    page.get_by_role("button", name="Estimate again").click()
    expect(page.locator("#timeline").get_by_role("alert")).to_contain_text("tempo is 20; halve or double it")
    page.locator("#tempo input").fill("120")
    expect(page.locator("#timeline .sections").get_by_role("button")).to_have_text(["Verse, sparse"])
    sheet = read_lead_sheet(studio.downloaded(page, "Save lead sheet"))
    ((start, stop, energy),) = sheet.sections
    assert (sheet.style, energy, sheet.form) == ("rock", "sparse", ((start, stop, "Verse"),))
    assert stop - start == pytest.approx(2.0, abs=0.02)
    assert "sections" not in sheet.estimated
    studio.press(page, "Undo")
    expect(page.locator("#timeline .sections")).not_to_be_visible()
    (tmp_path / "sheet.json").write_text(json.dumps(sheet.to_dict()))
    page.locator("#mixer input[type=file]").set_input_files(tmp_path / "sheet.json")
    expect(page.locator("#timeline .sections")).to_have_text("Verse, sparse")
    expect(studio.summary(page)).to_contain_text("rock (given)")
    page.get_by_role("radio", name="Full").check()
    whole = read_lead_sheet(studio.downloaded(page, "Save lead sheet"))
    assert whole.sections == ((0.0, 4.0, "full"),)
    assert whole.form == sheet.form

    expect(page.get_by_label("Separate instruments")).to_be_checked()
    studio.generated(page)
    expect(page.locator(".channel strong")).to_have_text(["Voice", "Drums", "Bass", "Chords", "Pads"])
    expect(page.locator(".channel output")).to_have_text(["0 dB"] * 5)
    stems_file = studio.downloaded(page, "(zip)")
    files = studio.sounds_in(stems_file)
    band, rate = files["instrumental"]
    sounds = [files[name][0] for name in ("vocal", *STEMS)]
    # four stems, each rounded to 16 bits
    np.testing.assert_allclose(np.sum(sounds[1:], axis=0), band, atol=4 / 2**15)
    gains = gains_of(studio.downloaded(page, "Download mix"), sounds)
    # one gain for all stems
    np.testing.assert_allclose(gains[2:], gains[1], rtol=0.01)
    # balance is measured in stereo, where the side signal counts too
    in_stereo, _ = studio.sounds_in(stems_file, mono=False)["instrumental"]
    missing_db = audio.balance_gain_db(gains[0] * sounds[0], gains[1] * in_stereo, rate, MEDIAN_BALANCE)
    assert missing_db == pytest.approx(0.0, abs=0.05), "the median balance of songs"
    page.get_by_label("Bass, level in dB").fill("-12")
    page.get_by_role("button", name="Mute drums").click()
    studio.keep_screenshot(page, "stems mixed")
    # of voice, drums, bass, chords and pads
    gains = gains_of(studio.downloaded(page, "Download mix"), sounds)
    assert gains[2] / gains[3] == pytest.approx(10 ** (-12 / 20), rel=0.01)
    assert abs(gains[1]) < 1e-3 * gains[3]
    page.get_by_role("button", name="Solo pads").click()
    *others, alone = gains_of(studio.downloaded(page, "Download mix"), sounds)
    assert np.abs(others).max() < 1e-3 * alone


def gains_of(mix: Path, sounds: list[np.ndarray]) -> np.ndarray:
    """The gain of each sound (float32 [N] each) in a mix: float [sounds].

    Fails if the mix contains anything else louder than 60 dB below it, except in the first and last 50 ms.
    """
    mixed, rate = audio.read_audio(mix)
    inner = slice(rate // 20, -rate // 20)
    parts = np.stack([sound[inner] for sound in sounds], axis=1)
    gains, *_ = np.linalg.lstsq(parts, mixed[inner], rcond=None)
    assert audio.rms_dbfs(mixed[inner] - (parts @ gains).astype(np.float32)) < audio.rms_dbfs(mixed[inner]) - 60
    return gains
