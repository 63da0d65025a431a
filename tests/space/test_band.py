# SPDX-License-Identifier: Apache-2.0
"""A model that plays styles, energies and stems: chosen on the page, kept in the lead sheet, mixed at home."""

import io
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import songs
import takes
from hafm_hf import audio
from hafm_hf.accompaniment.options import GenerationOptions
from hafm_hf.lead_sheet.files import read_lead_sheet
from hafm_hf.lead_sheet.vocabulary import STEMS
from space.browsing import announced, downloaded, expect, generate, keep_screenshot, press, summary, upload

gradio_client = pytest.importorskip("gradio_client", reason="needs the extra `space`")

if TYPE_CHECKING:
    from playwright.sync_api import Page

PARTS = STEMS


def choose_band(page: "Page", model: Path) -> None:
    """The model with styles, of two beats a second, and four seconds of the voice."""
    page.get_by_role("button", name="More options").click()
    page.get_by_label("Quick draft").check()
    page.get_by_label("Model").click()
    page.get_by_role("option", name=str(model)).click()
    page.get_by_label("Length").fill("4")
    page.locator("#tempo input").fill("120")


def test_a_band_is_chosen_and_kept_in_the_lead_sheet_and_its_stems_are_mixed(
    page: "Page", band_model: Path, voices: Path, tmp_path: Path
) -> None:
    for name in ("Style", "Energy", "Separate instruments", "Obedience"):
        expect(page.get_by_label(name, exact=True)).to_have_count(0)
    choose_band(page, band_model)
    page.get_by_role("radio", name="rock").check()
    page.get_by_label("Separate instruments").check()
    upload(page, voices / "patience.wav")
    expect(summary(page)).to_contain_text("120 beats a minute (told)")

    press(page, "Bar 1")
    page.get_by_label("Section", exact=True).fill("Verse")
    page.get_by_label("Energy of the section").select_option("sparse")
    press(page, "Set section")
    expect(page.locator("#timeline .sections").get_by_role("button")).to_have_text(["Verse, sparse"])
    sheet = read_lead_sheet(downloaded(page, "Save lead sheet"))
    ((start, stop, energy),) = sheet.sections
    assert (sheet.style, energy, sheet.form) == ("rock", "sparse", ((start, stop, "Verse"),))
    assert stop - start == pytest.approx(2.0, abs=0.02) and "sections" not in sheet.estimated
    press(page, "Undo")
    expect(page.locator("#timeline .sections")).not_to_be_visible()
    (tmp_path / "sheet.json").write_text(json.dumps(sheet.to_dict()))
    page.locator("#timeline input[type=file]").set_input_files(tmp_path / "sheet.json")
    expect(page.locator("#timeline .sections")).to_have_text("Verse, sparse")
    expect(summary(page)).to_contain_text("rock (told)")
    page.get_by_role("radio", name="full").check()
    whole = read_lead_sheet(downloaded(page, "Save lead sheet"))
    assert whole.sections == ((0.0, 4.0, "full"),) and whole.form == sheet.form

    generate(page)
    expect(announced(page)).to_contain_text("Done")
    expect(page.locator("#mixer fieldset legend")).to_have_text(["Voice", "Drums", "Bass", "Chords", "Colour"])
    with zipfile.ZipFile(downloaded(page, "(zip)")) as archive:
        names = ["vocal", *PARTS]
        sounds = [audio.read_audio(archive.read(f"patience_{name}.wav"))[0] for name in names]
    assert min(audio.rms_dbfs(sound) for sound in sounds) > -60
    page.get_by_label("Bass, level in dB").fill("-12")
    gains = dict(zip(names, gains_of(downloaded(page, "Download mix"), sounds), strict=True))
    assert gains["bass"] / gains["drums"] == pytest.approx(10 ** (-12 / 20) / level(page, "Drums"), rel=0.01)
    page.get_by_role("button", name="Mute drums").click()
    keep_screenshot(page, "stems mixed")
    muted = dict(zip(names, gains_of(downloaded(page, "Download mix"), sounds), strict=True))
    assert abs(muted["drums"]) < 1e-3 * muted["chords"]
    page.get_by_role("button", name="Solo colour").click()
    alone = gains_of(downloaded(page, "Download mix"), sounds)
    assert np.abs(alone[:-1]).max() < 1e-3 * alone[-1]


def test_the_drums_of_a_band_that_was_played_as_one_can_be_muted(heard: "Page") -> None:
    heard.get_by_label("Length").fill("6")
    expect(heard.get_by_label("Separate instruments")).to_be_checked()
    generate(heard)
    expect(announced(heard)).to_contain_text("Done")
    with zipfile.ZipFile(downloaded(heard, "(zip)")) as archive:
        names = ["vocal", *PARTS]
        sounds = [audio.read_audio(archive.read(f"vocal_{name}.wav"))[0] for name in names]
        whole, _ = audio.read_audio(archive.read("vocal_instrumental.wav"))
    np.testing.assert_allclose(np.sum(sounds[1:], axis=0), whole, atol=4 / 2**15)
    heard.get_by_role("button", name="Mute drums").click()
    keep_screenshot(heard, "drums muted")
    gains = dict(zip(names, gains_of(downloaded(heard, "Download mix"), sounds), strict=True))
    assert abs(gains["drums"]) < 1e-3 * gains["chords"] and min(gains["vocal"], gains["bass"], gains["colour"]) > 0.1


def level(page: "Page", channel: str) -> float:
    return 10 ** (float(page.get_by_label(f"{channel}, level in dB").input_value()) / 20)


def gains_of(mix: Path, sounds: list[np.ndarray]) -> np.ndarray:
    """How much of each sound is in a mix that has nothing else, to −60 dB."""
    mixed, rate = audio.read_audio(mix)
    inner = slice(rate // 20, -rate // 20)
    parts = np.stack([sound[inner] for sound in sounds], axis=1)
    gains, *_ = np.linalg.lstsq(parts, mixed[inner], rcond=None)
    assert audio.rms_dbfs(mixed[inner] - (parts @ gains).astype(np.float32)) < audio.rms_dbfs(mixed[inner]) - 60
    return gains


def test_selected_seconds_of_every_stem_are_made_anew(
    band_model: Path, voices: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(songs, "OFFERED", [str(band_model)])
    options = GenerationOptions(seed=1, skip_fine=True, stems=True, style="folk")
    wanted = songs.Request(str(voices / "patience.wav"), str(band_model), options, length=3.0)
    *_, old = songs.make_job(wanted)
    assert isinstance(old, takes.Job) and old.stems == PARTS
    # whatever the page asks for by now
    wanted.options, wanted.remake = GenerationOptions(seed=2, skip_fine=True), takes.Remake(old, 1, 1.0, 2.0)
    *_, new = songs.make_job(wanted)
    assert isinstance(new, takes.Job) and new.stems == PARTS
    for part in ("instrumental", *PARTS):
        (before, rate), (after, _) = old.read(part, 1), new.read(part, 1)
        changed = np.flatnonzero(before != after) / rate
        assert len(changed) > 0.3 * rate and changed.min() >= 1.0 and changed.max() < 2.0, part
    songs.load_pipeline.cache_clear()


def test_the_endpoint_plays_what_the_page_plays_and_refuses_what_the_model_does_not(
    space: Any, band_model: Path, voices: Path, tmp_path: Path
) -> None:
    client = gradio_client.Client(space.url, verbose=False, download_files=tmp_path)
    asked = {"skip_fine": True, "length": 1.0, "seed": 1, "api_name": "/accompany"}
    voice = gradio_client.handle_file(str(voices / "song.wav"))
    *_, stems, report = client.predict(
        voice, model=str(band_model), style="rock", energy="sparse", stems=True, lead_sheet_guidance=2.0, **asked
    )
    with zipfile.ZipFile(io.BytesIO(Path(stems).read_bytes())) as archive:
        assert archive.namelist() == [f"song_{part}.wav" for part in ("vocal", "instrumental", *PARTS)]
    assert report["seed"] == 1
    for model, style, said in ((str(band_model), "polka", "no style 'polka'; it has folk, rock"),
                               (None, "rock", "knows nothing of style; leave style out")):  # fmt: skip
        chosen = {} if model is None else {"model": model}
        with pytest.raises(gradio_client.exceptions.AppError, match=said):
            client.predict(voice, style=style, **chosen, **asked)
