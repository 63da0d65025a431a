# SPDX-License-Identifier: Apache-2.0
"""The timeline: estimates are corrected by mouse and by keyboard, and what is generated follows them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import listening
from hafm_hf import LeadSheet, audio
from hafm_hf.lead_sheet.bars import on_the_beat
from hafm_hf.lead_sheet.chords import root_and_quality
from hafm_hf.lead_sheet.files import read_lead_sheet
from space.browsing import Page, chords, downloaded, expect, generated, press, skip_fine, summary
from space.serving import Space
from vocals import EXAMPLE

gradio_client = pytest.importorskip("gradio_client", reason="needs the extra `space`")


def saved(page: Page) -> LeadSheet:
    return read_lead_sheet(downloaded(page, "Save lead sheet"))


def test_estimates_are_corrected_undone_saved_and_loaded(heard: Page, tmp_path: Path) -> None:
    estimate = saved(heard)
    assert estimate.beats is not None and estimate.key == "F:maj"
    assert set(estimate.estimated) == {"beats", "beats_per_bar", "chords", "key"}
    # sung to 96 beats a minute from 0.2 s on; the beats cover the song
    nearest = np.abs(np.subtract.outer(0.2 + 0.625 * np.arange(17), estimate.beats)).min(axis=1)
    assert nearest.max() < 0.03
    press(heard, "Bar 2")
    heard.locator("#timeline").get_by_role("button", name="Bar 3", exact=True).click(modifiers=["Shift"])
    expect(heard.locator("#timeline .chosen")).to_contain_text("Selected: bars 2 to 3")
    heard.get_by_label("Chord", exact=True).fill("H7")
    press(heard, "Set")
    expect(heard.locator("#timeline").get_by_role("alert")).to_contain_text("“H7” is not a chord")
    heard.get_by_label("Chord", exact=True).fill("F#dim")
    heard.keyboard.press("Enter")
    expect(heard.locator("#timeline").get_by_role("alert")).to_have_count(0)
    assert "F♯dim" in chords(heard)
    expect(summary(heard)).to_contain_text("(estimated), chords (given)")
    corrected = saved(heard)
    (changed,) = [chord for chord in corrected.chords if chord[2] == "F#dim"]
    first = estimate.downbeat + 4
    np.testing.assert_allclose(changed[:2], (estimate.beats[first], estimate.beats[first + 8]), atol=1e-6)
    assert corrected.beats == estimate.beats
    heard.locator("#timeline .tempo").click()
    press(heard, "Double tempo")
    expect(summary(heard)).to_contain_text("191.9 beats per minute (given)")
    expect(heard.get_by_role("button", name="Double tempo")).to_be_disabled()
    press(heard, "Or is it 88 bpm?")
    expect(summary(heard)).to_contain_text("87.8 beats per minute (given)")
    heard.keyboard.press("Control+z")
    press(heard, "Undo")
    assert saved(heard) == corrected
    heard.keyboard.press("Control+z")
    assert saved(heard) == estimate
    (tmp_path / "corrected.json").write_text(json.dumps(corrected.to_dict()))
    heard.locator("#mixer input[type=file]").set_input_files(tmp_path / "corrected.json")
    expect(heard.locator("#timeline .chords")).to_contain_text("F♯dim")
    assert saved(heard) == corrected
    for text in ("[1, 2]", tempo := '{"tempo": 96}', '{"beats": [2, 1]}', tempo, '{"beats":[0,1], "beats_per_bar":7}'):
        said = "has tempo; here it needs" if "tempo" in text else "This file is not a lead sheet"
        (tmp_path / "other.json").write_text(text)
        heard.locator("#mixer input[type=file]").set_input_files(tmp_path / "other.json")
        expect(heard.locator("#timeline").get_by_role("alert")).to_contain_text(said)


def test_lead_sheets_are_saved_for_musicians_and_printed(heard: Page, tmp_path: Path) -> None:
    for kind, content in {"musicxml": "<fifths>-1</fifths>", "midi": "MThd"}.items():
        heard.get_by_label("Format of the lead sheet").select_option(kind)
        path = downloaded(heard, "Save lead sheet")
        assert path.name.startswith("vocal") and content.encode() in path.read_bytes()
    press(heard, "Bar 2")
    heard.get_by_label("Chord", exact=True).fill("F#dim")
    press(heard, "Set")
    heard.get_by_label("Section", exact=True).fill("Verse")
    press(heard, "Set section")
    # Chromium without a window prints nowhere: what its dialog would show is looked at, and made a PDF
    heard.evaluate("window.print = () => { window.printed = true; }")
    heard.get_by_label("Format of the lead sheet").select_option("print")
    heard.get_by_role("button", name="Save lead sheet").click()
    assert heard.evaluate("window.printed")
    chart = heard.locator("#timeline .chart")
    expect(chart).not_to_be_visible()
    heard.emulate_media(media="print")
    expect(chart.locator("p")).to_have_text("F major, 96 bpm, 4/4")
    expect(chart.locator("li")).to_have_count(4)
    second = chart.locator("li").nth(1)
    expect(second).to_have_text("F♯dim")
    expect(second).to_have_attribute("data-section", "Verse")
    expect(heard.locator("#mixer")).not_to_be_visible()
    assert heard.pdf(path=tmp_path / "chart.pdf").startswith(b"%PDF")


def test_the_keyboard_alone_selects_changes_taps_and_plays(heard: Page) -> None:
    play = heard.locator("#timeline [data-do=play]")
    play.press("Enter")
    expect(play).to_have_accessible_name("Stop")
    heard.wait_for_function("document.querySelector('#timeline [data-set=position]').value > 0.5")
    heard.keyboard.press("Enter")
    expect(play).to_have_accessible_name("Play")
    play.blur()
    for name in ("Stop", "Play"):
        heard.keyboard.press("Space")
        expect(play).to_have_accessible_name(name)
    heard.locator("#timeline .bars").get_by_role("button", name="Bar 1", exact=True).focus()
    for key in ("ArrowRight", "Enter", "Shift+ArrowRight"):
        heard.keyboard.press(key)
    expect(heard.locator("#timeline .chosen")).to_contain_text("Selected: bars 2 to 3")
    heard.get_by_label("Chord", exact=True).fill("Bbm")
    heard.keyboard.press("Enter")
    assert "B♭m" in chords(heard)
    heard.keyboard.press("Tab")
    expect(heard.locator("#timeline").get_by_role("button", name="Set", exact=True)).to_be_focused()
    heard.locator("#timeline .tempo").click()
    heard.locator("#timeline [data-do=tap]").focus()
    # when they arrive, on a busy machine
    heard.evaluate("window.taps = []; addEventListener('keydown', (event) => taps.push(event.timeStamp / 1000), true)")
    for _ in range(7):
        heard.keyboard.press("Enter")
        heard.wait_for_timeout(500)
    taps = heard.evaluate("taps")
    # one more than the song has beats
    heard.get_by_label("Position").fill("10")
    expect(play).to_have_accessible_name("Play")
    heard.locator("#timeline [data-do=tap]").press("Enter")
    heard.keyboard.press("Tab")
    heard.keyboard.press("Enter")
    expect(summary(heard)).to_contain_text("beats per minute (given)")
    beats = saved(heard).beats
    assert beats is not None and 60 / np.diff(beats).mean() == pytest.approx(60 * 6 / (taps[-1] - taps[0]), abs=6)
    heard.get_by_label("Metre", exact=True).select_option("3/4")
    heard.get_by_label("Key", exact=True).select_option("D minor")
    sheet = saved(heard)
    assert (sheet.beats_per_bar, sheet.key) == (3, "D:min") and not sheet.estimated


def test_a_song_goes_by_what_the_timeline_shows(heard: Page, space: Space, tmp_path: Path) -> None:
    press(heard, "Bar 2")
    heard.get_by_label("Chord", exact=True).fill("F#dim")
    press(heard, "Set")
    heard.locator("#timeline .tempo").click()
    press(heard, "Half tempo")
    sheet = downloaded(heard, "Save lead sheet")
    # to the end of the second bar
    skip_fine(heard, 5)
    heard.locator("#seed input").fill("3")
    heard.get_by_label("Chord", exact=True).fill("H7")
    press(heard, "Set")
    expect(heard.locator("#timeline").get_by_role("alert")).to_contain_text("“H7” is not a chord")
    generated(heard)
    expect(heard.locator("#timeline").get_by_role("alert")).to_have_count(0)
    client = gradio_client.Client(space.url, verbose=False, download_files=tmp_path)
    options: dict[str, Any] = {"seed": 3, "skip_fine": True, "seconds": 5.0, "api_name": "/accompany"}
    voice = gradio_client.handle_file(str(EXAMPLE))
    told = client.predict(voice, lead_sheet=json.loads(sheet.read_text()), **options)
    assert downloaded(heard, "Download band").read_bytes() == Path(told[1]).read_bytes()
    estimated_again = client.predict(voice, **options)
    assert Path(estimated_again[1]).read_bytes() != Path(told[1]).read_bytes()


def test_chords_change_on_the_beats() -> None:
    chords = [(0.0, 1.86, "C"), (1.86, 1.94, "F"), (1.94, 3.0, "G")]
    sheet = LeadSheet(beats=[0.1, 0.7, 1.3, 1.9, 2.5, 3.1], chords=chords)
    assert on_the_beat(sheet, 3.2).chords == ((0.0, 1.9, "C"), (1.9, 3.1, "G"))


def test_a_stereo_voice_is_listened_to_and_its_pitch_is_drawn(bundled_model: Path, tmp_path: Path) -> None:
    voice, rate = audio.read_audio(EXAMPLE)
    path = audio.write_audio(tmp_path / "stereo.wav", np.stack([voice, 0 * voice], axis=1), rate)
    heard = listening.listen(str(path), "hafm-tiny", 4.0, LeadSheet(tempo=96))
    assert heard["seconds"] == 4.0 and "beats" not in heard["sheet"]["estimated"]
    np.testing.assert_allclose(np.diff(heard["sheet"]["beats"]), 0.625, atol=0.02)
    notes = [note for note in heard["pitch"] if note is not None]
    # A4 is the first note
    assert len(heard["pitch"]) == pytest.approx(100, abs=1) and abs(np.median(notes[:10]) - 69) < 1


def test_only_a_timeline_of_the_voice_itself_counts() -> None:
    sheet = {"beats": [0.0, 0.5], "estimated": ["beats"]}
    assert listening.lead_sheet_of({"vocal": "a.wav", "sheet": sheet}, "a.wav") == LeadSheet.told(sheet)
    assert listening.lead_sheet_of({"vocal": "b.wav", "sheet": sheet}, "a.wav") is None
    assert listening.lead_sheet_of({"vocal": "a.wav", "sheet": {"key": "C:maj"}}, "a.wav") is None
    for sent, message in (({"tones": 1}, "no 'tones'"), ({"beats": [0.0, 1e-9]}, "0.1 s apart")):
        with pytest.raises(ValueError, match=message):
            listening.lead_sheet_of({"vocal": "a.wav", "sheet": sent}, "a.wav")


@pytest.mark.fault("paths and addresses sent to a Space")
def test_a_file_that_the_browser_did_not_upload_is_not_read(tmp_path: Path) -> None:
    mine = listening.JOBS / "gradio" / "take.wav"
    mine.parent.mkdir(exist_ok=True)
    mine.write_bytes(b"RIFF")
    assert listening.uploaded(str(mine)) == mine.resolve()
    (tmp_path / "secret.wav").write_bytes(b"RIFF")
    (mine.parent / "link.wav").symlink_to(tmp_path / "secret.wav")
    for path in ("/etc/passwd", str(mine.parent / ".." / ".." / "other"), str(mine.parent / "link.wav"), None):
        with pytest.raises(ValueError, match="record it again"):
            listening.uploaded(path)


def test_chords_are_spelled_in_the_key_and_sheets_are_the_servers(page: Page) -> None:
    path = str(Path(listening.__file__).parent / "static" / "sheet.js")
    labels = [["A#", "F:maj"], ["Db:min7", "E:maj"], ["F#m", "F:maj"], ["N", "C:maj"]]
    beats, good = [0.5 * n for n in range(13)], ["A:min7", "C-7", "FΔ7", "G7(b9,#11)", "Dm(maj7)/F", "Bbno3", "A♭sus4"]
    spelled, known, sheets = page.evaluate(
        """async ([path, labels, names, beats]) => {
            const sheet = await import(new URL(`gradio_api/file=${path}`, document.baseURI));
            const known = (name) => { try { return sheet.parseChord(name); } catch { return false; } };
            const made = [sheet.tappedBeats({ tempo: 96 }, beats, 6), sheet.setDownbeat({ beats }, 0),
                sheet.readSheet(JSON.stringify({ beats }))];
            return [labels.map((each) => sheet.spell(...each)), names.filter(known), JSON.parse(JSON.stringify(made))];
        }""",
        [path, labels, [*good, "Dogs", "Cats", "Es", "Am7x", "Am/x", "H"], beats],
    )
    assert spelled == ["Bb", "C#m7", "F#m", "N"] and known == good and all(map(root_and_quality, good))
    # in four, as the page draws it
    assert [LeadSheet.told(sheet).to_dict() for sheet in sheets] == [{"beats": beats, "beats_per_bar": 4}] * 3
