# SPDX-License-Identifier: Apache-2.0
"""The timeline: estimates are corrected by mouse and keyboard, and the generated band follows them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import listening
from hafm_hf import LeadSheet, audio
from hafm_hf.lead_sheet.bars import on_the_beat
from hafm_hf.lead_sheet.chord_symbols import read_chord
from hafm_hf.lead_sheet.files import read_lead_sheet
from lead_sheet.golden import READ, REFUSED, SPELLING
from space.serving import Space
from space.studio import Page, chords, downloaded, expect, generated, press, skip_fine, summary
from space.test_desk import STATIC
from space.test_network import DESK
from vocals import EXAMPLE

# the twelve roots, some in unusual spellings
ROOTS = ("C", "C#", "D", "Eb", "Fb", "F", "Gb", "G", "G#", "A", "A#", "Cb")
gradio_client = pytest.importorskip("gradio_client", reason="needs the extra `space`")


def saved(page: Page) -> LeadSheet:
    """The lead sheet that the page saves as a file."""
    return read_lead_sheet(downloaded(page, "Save lead sheet"))


def test_estimates_are_corrected_undone_saved_and_loaded(ready: Page, tmp_path: Path) -> None:
    estimate = saved(ready)
    assert estimate.beats is not None
    assert estimate.key == "F:maj"
    assert set(estimate.estimated) == {"beats", "beats_per_bar", "chords", "key"}
    # recorded to a 96 BPM click from 0.2 s on; the beats cover the song
    clicks = 0.2 + 0.625 * np.arange(17)
    apart = np.abs(np.subtract.outer(clicks, estimate.beats)).min(axis=1)
    assert apart.max() < 0.03
    press(ready, "Bar 2")
    ready.locator("#timeline").get_by_role("button", name="Bar 3", exact=True).click(modifiers=["Shift"])
    expect(ready.locator("#timeline .chosen")).to_contain_text("Selected: bars 2 to 3")
    ready.get_by_label("Chord", exact=True).fill("H7")
    press(ready, "Set")
    expect(ready.locator("#timeline").get_by_role("alert")).to_contain_text("“H7” is not a chord")
    ready.get_by_label("Chord", exact=True).fill("F#dim")
    ready.keyboard.press("Enter")
    expect(ready.locator("#timeline").get_by_role("alert")).to_have_count(0)
    assert "F♯dim" in chords(ready)
    expect(summary(ready)).to_contain_text("(estimated), chords (given)")
    corrected = saved(ready)
    (changed,) = [chord for chord in corrected.chords if chord[2] == "F#dim"]
    # the first beat of bar 2; two bars of four beats are selected
    first = estimate.downbeat + 4
    np.testing.assert_allclose(changed[:2], (estimate.beats[first], estimate.beats[first + 8]), atol=1e-6)
    assert corrected.beats == estimate.beats
    press(ready, "Bar 2")
    ready.get_by_label("Chord", exact=True).fill("Bb C7")
    press(ready, "Set")
    assert {"B♭", "C7"} <= set(chords(ready))
    ready.keyboard.press("Control+z")
    ready.locator("#timeline .tempo").click()
    press(ready, "Double tempo")
    expect(summary(ready)).to_contain_text("191.9 beats per minute (given)")
    expect(ready.get_by_role("button", name="Double tempo")).to_be_disabled()
    press(ready, "Or is it 88 bpm?")
    expect(summary(ready)).to_contain_text("87.8 beats per minute (given)")
    ready.keyboard.press("Control+z")
    press(ready, "Undo")
    assert saved(ready) == corrected
    ready.keyboard.press("Control+z")
    assert saved(ready) == estimate
    ready.get_by_label("Key", exact=True).select_option("B♭ minor")
    expect(ready.locator("#timeline .chords")).not_to_contain_text("Dm")
    (tmp_path / "corrected.json").write_text(json.dumps(corrected.to_dict()))
    ready.locator("#mixer input[type=file]").set_input_files(tmp_path / "corrected.json")
    expect(ready.locator("#timeline .chords")).to_contain_text("F♯dim")
    assert saved(ready) == corrected
    # the messages alternate, so that each is a new one
    tempo = '{"tempo": 96}'
    for text in ("[1, 2]", tempo, '{"beats": [2, 1]}', tempo, '{"beats":[0,1], "beats_per_bar":7}'):
        said = "has tempo; here it needs" if "tempo" in text else "This file is not a lead sheet"
        (tmp_path / "other.json").write_text(text)
        ready.locator("#mixer input[type=file]").set_input_files(tmp_path / "other.json")
        expect(ready.locator("#timeline").get_by_role("alert")).to_contain_text(said)


def test_a_tempo_is_not_halved_when_one_beat_would_be_left(ready: Page) -> None:
    ready.evaluate(DESK, STATIC)
    half = ready.get_by_role("button", name="Half tempo")
    ready.locator("#timeline .tempo").click()
    expect(half).to_be_enabled()
    for beats, enabled in (([0.1, 0.7], False), ([0.1, 0.7, 1.3], True)):
        ready.evaluate("beats => desk.sheet.edit({ ...desk.sheet.sheet, beats, downbeat: 0 })", beats)
        expect(half).to_be_enabled(enabled=enabled)


def test_chords_too_narrow_for_a_name_are_seen_and_named_when_one_zooms_in(ready: Page) -> None:
    press(ready, "Bar 2")
    ready.get_by_label("Chord", exact=True).fill("Bb C Dm C Bb C Dm C Bb C Dm Am")
    press(ready, "Set")
    narrow = ready.locator("#timeline .chords li[inert]")
    expect(narrow).to_have_count(12)
    expect(narrow.first).to_be_visible()
    assert chords(ready).count("") == 12
    # the arrow keys pass over them
    first = ready.locator("#timeline .chords li:not([inert]) button").first
    first.focus()
    ready.keyboard.press("ArrowRight")
    assert ready.evaluate("document.activeElement.closest('li').inert") is False
    for _ in range(4):
        press(ready, "Zoom in")
    expect(narrow).to_have_count(0)
    assert chords(ready).count("Dm") >= 3


def test_lead_sheets_are_saved_for_musicians_and_printed(ready: Page, tmp_path: Path) -> None:
    for kind, content in {"musicxml": "<fifths>-1</fifths>", "midi": "MThd"}.items():
        ready.get_by_label("Format of the lead sheet").select_option(kind)
        path = downloaded(ready, "Save lead sheet")
        assert path.name.startswith("vocal")
        assert content.encode() in path.read_bytes()
    press(ready, "Bar 2")
    ready.get_by_label("Chord", exact=True).fill("F#dim")
    press(ready, "Set")
    ready.get_by_label("Section", exact=True).fill("Verse")
    press(ready, "Set section")
    # headless Chromium cannot print: check the print layout instead, and make a PDF of it
    ready.evaluate("window.print = () => { window.printed = true; }")
    ready.get_by_label("Format of the lead sheet").select_option("print")
    ready.get_by_role("button", name="Save lead sheet").click()
    assert ready.evaluate("window.printed")
    chart = ready.locator("#timeline .chart")
    expect(chart).not_to_be_visible()
    ready.emulate_media(media="print")
    expect(chart.locator("p")).to_have_text("F major, 96 bpm, 4/4")
    expect(chart.locator("li")).to_have_count(4)
    second = chart.locator("li").nth(1)
    expect(second).to_have_text("F♯dim")
    expect(second).to_have_attribute("data-section", "Verse")
    expect(ready.locator("#mixer")).not_to_be_visible()
    assert ready.pdf(path=tmp_path / "chart.pdf").startswith(b"%PDF")


def test_the_keyboard_alone_selects_edits_taps_and_plays(ready: Page) -> None:
    play = ready.locator("#timeline [data-do=play]")
    play.press("Enter")
    expect(play).to_have_accessible_name("Stop")
    ready.wait_for_function("document.querySelector('#timeline [data-set=position]').value > 0.5")
    ready.keyboard.press("Enter")
    expect(play).to_have_accessible_name("Play")
    play.blur()
    for name in ("Stop", "Play"):
        ready.keyboard.press("Space")
        expect(play).to_have_accessible_name(name)
    ready.locator("#timeline .bars").get_by_role("button", name="Bar 1", exact=True).focus()
    for key in ("ArrowRight", "Enter", "Shift+ArrowRight"):
        ready.keyboard.press(key)
    expect(ready.locator("#timeline .chosen")).to_contain_text("Selected: bars 2 to 3")
    ready.get_by_label("Chord", exact=True).fill("Bbm")
    ready.keyboard.press("Enter")
    assert "B♭m" in chords(ready)
    ready.keyboard.press("Tab")
    expect(ready.locator("#timeline").get_by_role("button", name="Set", exact=True)).to_be_focused()
    ready.locator("#timeline .tempo").click()
    ready.locator("#timeline [data-do=tap]").focus()
    # the times at which the taps arrive, as the machine may be busy
    ready.evaluate("window.taps = []; addEventListener('keydown', (event) => taps.push(event.timeStamp / 1000), true)")
    for _ in range(7):
        ready.keyboard.press("Enter")
        ready.wait_for_timeout(500)
    taps = ready.evaluate("taps")
    # one more tap, after the last beat of the song
    ready.get_by_label("Position").fill("10")
    expect(play).to_have_accessible_name("Play")
    ready.locator("#timeline [data-do=tap]").press("Enter")
    ready.keyboard.press("Tab")
    ready.keyboard.press("Enter")
    expect(summary(ready)).to_contain_text("beats per minute (given)")
    beats = saved(ready).beats
    assert beats is not None
    # the first tap only starts the playback
    assert 60 / np.diff(beats).mean() == pytest.approx(60 * 5 / (taps[-1] - taps[1]), abs=6)
    ready.get_by_label("Metre", exact=True).select_option("3/4")
    ready.get_by_label("Key", exact=True).select_option("D minor")
    sheet = saved(ready)
    assert (sheet.beats_per_bar, sheet.key) == (3, "D:min")
    assert not sheet.estimated


def test_a_song_follows_the_lead_sheet_on_the_timeline(ready: Page, space: Space, tmp_path: Path) -> None:
    press(ready, "Bar 2")
    ready.get_by_label("Chord", exact=True).fill("F#dim")
    press(ready, "Set")
    ready.locator("#timeline .tempo").click()
    press(ready, "Half tempo")
    sheet = downloaded(ready, "Save lead sheet")
    # up to the end of the second bar
    skip_fine(ready, 5)
    ready.locator("#seed input").fill("3")
    ready.get_by_label("Chord", exact=True).fill("H7")
    press(ready, "Set")
    expect(ready.locator("#timeline").get_by_role("alert")).to_contain_text("“H7” is not a chord")
    generated(ready)
    expect(ready.locator("#timeline").get_by_role("alert")).to_have_count(0)
    client = gradio_client.Client(space.url, verbose=False, download_files=tmp_path)
    options: dict[str, Any] = {"seed": 3, "skip_fine": True, "seconds": 5.0, "api_name": "/accompany"}
    voice = gradio_client.handle_file(str(EXAMPLE))
    song = client.predict(voice, lead_sheet=json.loads(sheet.read_text()), **options)
    assert downloaded(ready, "Download band").read_bytes() == Path(song[1]).read_bytes()
    estimated_again = client.predict(voice, **options)
    assert Path(estimated_again[1]).read_bytes() != Path(song[1]).read_bytes()


def test_chord_changes_are_moved_to_the_beats() -> None:
    chords = [(0.0, 1.86, "C"), (1.86, 1.94, "F"), (1.94, 3.0, "G")]
    sheet = LeadSheet(beats=[0.1, 0.7, 1.3, 1.9, 2.5, 3.1], chords=chords)
    assert on_the_beat(sheet, 3.2).chords == ((0.0, 1.9, "C"), (1.9, 3.1, "G"))


def test_a_stereo_voice_is_analysed_with_its_pitch(bundled_model: Path, tmp_path: Path) -> None:
    voice, rate = audio.read_audio(EXAMPLE)
    path = audio.write_audio(tmp_path / "stereo.wav", np.stack([voice, 0 * voice], axis=1), rate)
    ready = listening.listen(str(path), "hafm-tiny", 4.0, LeadSheet(tempo=96))
    assert ready["seconds"] == 4.0
    assert "beats" not in ready["sheet"]["estimated"]
    np.testing.assert_allclose(np.diff(ready["sheet"]["beats"]), 0.625, atol=0.02)
    # 4 s, at 25 values a second
    assert len(ready["pitch"]) == pytest.approx(100, abs=1)
    # the first note is an A4, 69 in MIDI
    notes = [note for note in ready["pitch"] if note is not None]
    assert abs(np.median(notes[:10]) - 69) < 1


def test_a_timeline_counts_only_for_its_own_voice() -> None:
    sheet = {"beats": [0.0, 0.5], "estimated": ["beats"]}
    assert listening.lead_sheet_of({"vocal": "a.wav", "sheet": sheet}, "a.wav") == LeadSheet.given(sheet)
    assert listening.lead_sheet_of({"vocal": "b.wav", "sheet": sheet}, "a.wav") is None
    assert listening.lead_sheet_of({"vocal": "a.wav", "sheet": {"key": "C:maj"}}, "a.wav") is None
    for sent, message in (({"tones": 1}, "no 'tones'"), ({"beats": [0.0, 1e-9]}, "0.1 s apart")):
        with pytest.raises(ValueError, match=message):
            listening.lead_sheet_of({"vocal": "a.wav", "sheet": sent}, "a.wav")


@pytest.mark.fault("paths and addresses sent to a Space")
def test_only_files_uploaded_by_the_browser_are_read(tmp_path: Path) -> None:
    upload = listening.JOBS / "gradio" / "take.wav"
    upload.parent.mkdir(exist_ok=True)
    upload.write_bytes(b"RIFF")
    assert listening.uploaded(str(upload)) == upload.resolve()
    (tmp_path / "secret.wav").write_bytes(b"RIFF")
    (upload.parent / "link.wav").symlink_to(tmp_path / "secret.wav")
    for path in ("/etc/passwd", str(upload.parent / ".." / ".." / "other"), str(upload.parent / "link.wav"), None):
        with pytest.raises(ValueError, match="record it again"):
            listening.uploaded(path)


def evaluated(page: Page, body: str, *values: Any) -> Any:
    """Runs the body of a JavaScript function on the page, and returns its result.

    Args:
        page: the page.
        body: has in scope `sheet`, the module sheet.js; `values`; and `read(label)`, false for what is no chord.
        values: as JSON.
    """
    path = str(Path(listening.__file__).parent / "static" / "sheet.js")
    return page.evaluate(
        f"""async ([path, ...values]) => {{
            const sheet = await import(new URL(`gradio_api/file=${{path}}`, document.baseURI));
            const read = (label) => {{ try {{ return sheet.parseChord(label); }} catch {{ return false; }} }};
            {body}
        }}""",
        [path, *values],
    )


def test_the_page_spells_and_reads_chords_as_the_server_does(page: Page) -> None:
    suffixes = {"maj": "", "min": "m", "dim": "dim"}
    asked = []
    expected = []
    for key, thirds in SPELLING.items():
        for third, suffix in suffixes.items():
            asked += [[f"{root}{suffix}", key] for root in ROOTS]
            expected += [f"{root}{suffix}" for root in thirds[third].split()]
    spelled = evaluated(page, "return values[0].map((each) => sheet.spell(...each));", asked)
    assert spelled == expected
    labels = [["A#", "F:maj"], ["Db:min7", "E:maj"], ["F#m", "F:maj"], ["N", "C:maj"], ["D#m7b5", "Ab:maj"]]
    shown = evaluated(page, "return values[0].map((each) => sheet.spell(...each));", labels)
    assert shown == ["Bb", "C#m7", "F#m", "N", "Ebm7b5"]
    names = [*READ, *REFUSED]
    read = evaluated(page, "return values[0].filter(read);", names)
    assert read == [*READ]
    # as they are written, in a notation that means the same
    written = evaluated(page, "return values[0].map(sheet.written);", [*READ])
    assert [symbol(label) for label in written] == [symbol(label) for label in READ]


def symbol(label: str) -> tuple[str, Any, str | None]:
    """Root, degrees and bass of a chord, whatever its notation; bass None: the root."""
    chord = read_chord(label)
    assert chord is not None
    return chord.root, chord.degrees, chord.bass


def test_the_page_respells_estimates_in_another_key_but_not_what_was_written_otherwise(page: Page) -> None:
    chords = [[0, 1, "Ebm"], [1, 2, "A#m"], [2, 3, "B:min"], [3, 4, "Ab"]]
    given = {"key": "Db:maj", "chords": chords, "estimated": ["key"]}
    changed = evaluated(page, "return sheet.setKey(values[0], 'B:maj');", given)
    assert [label for *_, label in changed["chords"]] == ["D#m", "A#m", "B:min", "G#"]
    assert (changed["key"], changed["estimated"]) == ("B:maj", [])


def test_the_page_shows_given_chords_as_they_are_written(ready: Page) -> None:
    press(ready, "Bar 2")
    for label, shown in (("A#", "A♯"), ("Dh7", "Dh7"), ("C–7", "C-7"), ("Ebm7b5/Gb", "E♭m7♭5/G♭")):
        ready.get_by_label("Chord", exact=True).fill(label)
        press(ready, "Set")
        assert shown in chords(ready)
        assert label in [each for *_, each in saved(ready).chords]


def test_the_page_makes_and_reads_lead_sheets(page: Page) -> None:
    beats = [0.5 * n for n in range(13)]
    body = """const made = [sheet.tappedBeats({ tempo: 96 }, values[0], 6), sheet.setDownbeat({ beats: values[0] }, 0),
        sheet.readSheet(JSON.stringify({ beats: values[0] }))];
        return JSON.parse(JSON.stringify(made));"""
    # in four, the page's default
    made = evaluated(page, body, beats)
    assert [LeadSheet.given(sheet).to_dict() for sheet in made] == [{"beats": beats, "beats_per_bar": 4}] * 3
