"""The page in a real browser: Debian's chromium, driven by Playwright, with a recording for a microphone.

Every test leaves a screenshot in build/test-artefacts/space (`HAFM_TEST_ARTEFACTS` names another folder).
"""

import re
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyloudnorm
import pytest
import soundfile

from hafm_hf import audio
from space.serving import ARTEFACTS, BROWSER_FLAGS, CHROMIUM, MAX_SECONDS, PATIENCE_SECONDS, QUEUE_SIZE, Space

pytest.importorskip("playwright", reason="needs playwright, of the extra `dev`")
gradio_client = pytest.importorskip("gradio_client", reason="needs the extra `space`")
from playwright.sync_api import TimeoutError as PlaywrightTimeout  # noqa: E402
from playwright.sync_api import expect, sync_playwright  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

if CHROMIUM is None:
    pytest.skip("no chromium; install Debian's package of that name", allow_module_level=True)

PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def browser(voices: Path) -> "Iterator[Browser]":
    """Chromium that hears song.wav, again and again, when it listens to the microphone."""
    expect.set_options(timeout=1000 * PATIENCE_SECONDS)
    flags = [*BROWSER_FLAGS, f"--use-file-for-fake-audio-capture={voices / 'song.wav'}"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, headless=True, args=flags, timeout=1000 * PATIENCE_SECONDS
        )
        yield browser
        browser.close()


def open_page(browser: "Browser", space: Space, **options: object) -> "Page":
    context = browser.new_context(permissions=["microphone"], **options)  # type: ignore[arg-type]
    context.set_default_timeout(1000 * PATIENCE_SECONDS)
    page = context.new_page()
    page.goto(space.url)
    expect(page.get_by_role("button", name="Generate")).to_be_visible()
    return page


@pytest.fixture
def options() -> dict[str, object]:
    """Of the browser's window; tests parametrise it."""
    return {}


@pytest.fixture
def page(
    browser: "Browser", space: Space, options: dict[str, object], request: pytest.FixtureRequest
) -> "Iterator[Page]":
    page = open_page(browser, space, **options)
    yield page
    keep_screenshot(page, request.node.name)
    page.context.close()


def keep_screenshot(page: "Page", name: str) -> None:
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w-]+", "_", name).strip("_")
    page.screenshot(path=ARTEFACTS / f"{name}.png", full_page=True)


def upload(page: "Page", path: Path) -> None:
    voice = page.locator("#vocal")
    voice.get_by_label("Upload file").click()
    voice.locator("input[type=file]").set_input_files(path)
    expect(voice.get_by_role("button", name="Clear")).to_be_visible()


def skip_fine(page: "Page") -> None:
    page.get_by_role("button", name="Sampling").click()
    page.get_by_label("Skip the fine stage").check()


def generate(page: "Page") -> None:
    page.get_by_role("button", name="Generate").click()


def announced(page: "Page") -> "Locator":
    # beside it Gradio keeps a status of its own, out of sight
    return page.locator("#announced .prose")


def downloaded(page: "Page", button: str) -> Path:
    """What a button downloads; a click that falls into the moment in which its link changes leads nowhere."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with page.expect_download(timeout=10_000) as download:
                page.get_by_role("button", name=button).click()
            break
        except PlaywrightTimeout:
            assert time.monotonic() < deadline, f"{button} downloads nothing"
    return download.value.path().rename(download.value.path().with_name(download.value.suggested_filename))


def loudness(page: "Page", name: str) -> "Locator":
    """The cell of the table with the LUFS of voice, instrumental or mix."""
    return page.get_by_role("row", name=name).get_by_role("cell").first


def lufs(samples: np.ndarray, rate: int) -> str:
    return f"{pyloudnorm.Meter(rate).integrated_loudness(samples):.1f}"


def expect_file(page: "Page", button: str, wanted: Callable[[Path], bool], otherwise: str) -> Path:
    """Downloads until the file is as wanted: a link follows its component a moment later."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not wanted(path := downloaded(page, button)):
        assert time.monotonic() < deadline, otherwise
    return path


def test_a_voice_becomes_players_a_picture_and_downloads_and_is_mixed_again_at_once(
    page: "Page", voices: Path
) -> None:
    upload(page, voices / "song.wav")
    page.locator("#variations input[type=number]").fill("2")
    skip_fine(page)
    generate(page)
    expect(announced(page)).to_contain_text(re.compile(r"Done in \d+ s; seed \d+ makes the same again"))
    expect(page.get_by_role("button", name="Generate")).to_be_enabled()
    expect(page.get_by_role("button", name="Cancel")).to_be_disabled()

    picture = page.get_by_alt_text("Waveforms and log-mel")
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 1200
    for player in ("#mix", "#instrumental"):
        expect(page.locator(player)).to_contain_text("0:01")

    mixes = {suffix: downloaded(page, f"Mix, {suffix.upper()}") for suffix in ("wav", "flac")}
    instrumental = downloaded(page, "Instrumental, WAV")
    assert [path.name for path in (*mixes.values(), instrumental)] == [
        "song_1_mix.wav",
        "song_1_mix.flac",
        "song_1_instrumental.wav",
    ]
    mix, rate = audio.read_audio(mixes["wav"])
    assert (len(mix), rate) == (28_800, 24_000) and not audio.is_silent(mix)
    # libsndfile rounds to 16 bits in one format and truncates in the other
    np.testing.assert_allclose(mix, audio.read_audio(mixes["flac"])[0], atol=1.01 / 2**15)
    with zipfile.ZipFile(downloaded(page, "All stems, zip")) as stems:
        assert stems.namelist() == ["song_vocal.wav", "song_1_instrumental.wav", "song_2_instrumental.wav"]
        vocal, band = (audio.read_audio(stems.read(name))[0] for name in stems.namelist()[:2])

    for name, samples in (("Voice", vocal), ("Instrumental", band), ("Mix", mix)):
        expect(loudness(page, name)).to_have_text(lufs(samples, rate))

    slider = page.locator("#band input[type=range]")
    slider.focus()
    for _ in range(3):
        slider.press("ArrowLeft")
    expect(page.locator("#band input[type=number]")).to_have_value("-3")
    page.locator("#band input[type=number]").fill("-24")
    # every step of the slider mixes again; the last one counts
    quiet = audio.mix_audio(vocal, band, instrumental_gain_db=-24)
    expect_file(
        page,
        "Mix, WAV",
        lambda path: bool(np.abs(audio.read_audio(path)[0] - quiet).max() < 1e-4),
        "the mix does not follow the slider",
    )
    for name, samples in (("Voice", vocal), ("Instrumental", band), ("Mix", quiet)):
        expect(loudness(page, name)).to_have_text(lufs(samples, rate))
    assert announced(page).inner_text().startswith("Done")

    page.get_by_role("radio", name="2").check()
    expect_file(
        page,
        "Instrumental, FLAC",
        lambda path: path.name == "song_2_instrumental.flac",
        "the download is still the first variation",
    )


def expect_others_to_be_served(space: Space, vocal: Path, folder: Path) -> None:
    """One song is made at a time: when another person's is done, whatever was generated before has ended."""
    client = gradio_client.Client(space.url, verbose=False, download_files=folder)
    client.predict(gradio_client.handle_file(str(vocal)), skip_fine=True, length=1.0, api_name="/accompany")


@pytest.mark.fault("cancelled in the Space")
def test_progress_is_seen_and_cancel_stops_it_and_the_next_voice_is_taken(
    page: "Page", space: Space, voices: Path, tmp_path: Path
) -> None:
    upload(page, voices / "patience.wav")
    generate(page)
    expect(page.locator("#bars")).to_contain_text(re.compile(r"\d+ %, \d+ s left"))
    expect(page.get_by_role("progressbar")).to_have_count(3)
    expect(page.get_by_role("button", name="Generate")).to_be_disabled()
    keep_screenshot(page, "generating")
    page.get_by_role("button", name="Cancel").click()
    expect(announced(page)).to_have_text("Cancelled.")
    expect_others_to_be_served(space, voices / "song.wav", tmp_path)
    expect_cancelled(page)
    keep_screenshot(page, "cancelled")
    page.get_by_label("Length").fill("1")
    skip_fine(page)
    generate(page)
    expect(announced(page)).to_contain_text("Done")
    assert soundfile.info(downloaded(page, "Mix, WAV")).frames == 24_000


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="Gradio streams sound with ffmpeg")
def test_the_mix_is_heard_while_it_is_made_until_it_is_cancelled(page: "Page", voices: Path) -> None:
    upload(page, voices / "patience.wav")
    generate(page)
    live = page.locator("#live audio")
    # the song is far from done when its beginning is played
    page.wait_for_function("document.querySelector('#live audio')?.currentTime > 0.5")
    expect(page.locator("#bars")).to_contain_text(re.compile(r"\d+ %, \d+ s left"))
    expect(page.locator("#results")).not_to_be_visible()
    assert live.evaluate("audio => !audio.paused && !audio.error")
    keep_screenshot(page, "heard while it is made")
    page.get_by_role("button", name="Cancel").click()
    expect(live).to_have_count(0)
    expect_cancelled(page)


def expect_cancelled(page: "Page") -> None:
    expect(announced(page)).to_have_text("Cancelled.")
    expect(page.locator("#bars")).not_to_be_visible()
    expect(page.get_by_role("button", name="Generate")).to_be_enabled()
    expect(page.get_by_role("button", name="Cancel")).to_be_disabled()
    # Gradio writes it, out of sight, beside every component whose event has failed
    assert "Error" not in page.evaluate("document.body.textContent")


@pytest.mark.fault("cancelled in the Space")
def test_a_run_is_cancelled_at_whatever_moment(page: "Page", space: Space, voices: Path, tmp_path: Path) -> None:
    upload(page, voices / "patience.wav")
    for _ in range(8):
        # Cancel is enabled as soon as the run is on its way: mostly before it has begun
        generate(page)
        page.get_by_role("button", name="Cancel").click()
        expect(announced(page)).to_have_text("Cancelled.")
    expect_others_to_be_served(space, voices / "song.wav", tmp_path)
    expect_cancelled(page)


@pytest.mark.fault("full queue of the Space")
def test_a_full_queue_is_said_and_the_page_can_be_used_again(
    page: "Page", browser: "Browser", space: Space, voices: Path, tmp_path: Path
) -> None:
    another = open_page(browser, space)
    upload(another, voices / "patience.wav")
    generate(another)
    expect(another.locator("#bars")).to_contain_text("%")
    client = gradio_client.Client(space.url, verbose=False, download_files=tmp_path)
    voice = gradio_client.handle_file(str(voices / "song.wav"))
    waiting = [client.submit(voice, skip_fine=True, length=1.0, api_name="/accompany") for _ in range(QUEUE_SIZE)]
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(job.status().code is not gradio_client.utils.Status.IN_QUEUE for job in waiting):
        assert time.monotonic() < deadline, [job.status() for job in waiting]
        time.sleep(0.05)
    upload(page, voices / "song.wav")
    generate(page)
    expect(page.get_by_role("alert").filter(has_text="Too many people are waiting")).to_be_visible()
    expect(page.locator("#bars")).not_to_be_visible()
    another.get_by_role("button", name="Cancel").click()
    for job in waiting:
        job.result(timeout=PATIENCE_SECONDS)
    another.context.close()
    page.get_by_label("Length").fill("1")
    generate(page)
    expect(announced(page)).to_contain_text("Done")


def test_what_cannot_be_used_is_said_on_the_page(page: "Page", voices: Path) -> None:
    alert = page.get_by_role("alert")
    generate(page)
    expect(alert).to_have_text("There is no voice yet; record one, upload a file or choose the example.")
    for name, message in (
        ("silent.wav", "silent.wav is silent; check the microphone, or sing closer to it."),
        ("short.wav", "short.wav is 0.3 s long; HAFM needs at least 1 s."),
        ("long.wav", f"long.wav is longer than {MAX_SECONDS} s; cut it, or set Length to use only its start."),
        ("notes.wav", "notes.wav is not audio that HAFM can read; convert it to WAV, FLAC, MP3 or OGG first."),
    ):
        upload(page, voices / name)
        generate(page)
        expect(alert).to_have_text(message)
        page.locator("#vocal").get_by_role("button", name="Clear").click()
    expect(page.locator("#results")).not_to_be_visible()


def test_the_microphone_is_recorded_and_accompanied(page: "Page") -> None:
    voice = page.locator("#vocal")
    voice.get_by_role("button", name="Record", exact=True).click()
    # the clock of the recording; a busy machine is late at stopping, and only the first second is used
    expect(voice).to_contain_text("0:02")
    voice.get_by_role("button", name="Stop", exact=True).first.click()
    expect(voice.get_by_role("button", name="Clear")).to_be_visible()
    page.get_by_label("Length").fill("1")
    skip_fine(page)
    generate(page)
    expect(announced(page)).to_contain_text("Done")
    assert soundfile.info(downloaded(page, "Instrumental, WAV")).frames == 24_000
    # what the microphone was given, not silence
    assert float(loudness(page, "Voice").inner_text()) > -40.0


def test_the_example_is_accompanied(page: "Page") -> None:
    page.get_by_text("vocal.wav").click()
    expect(page.locator("#vocal").get_by_role("button", name="Clear")).to_be_visible()
    page.get_by_label("Length").fill("1")
    skip_fine(page)
    generate(page)
    expect(announced(page)).to_contain_text("Done")
    assert downloaded(page, "Mix, WAV").name == "vocal_mix.wav"


@pytest.mark.parametrize(
    "options", [{"viewport": PHONE, "color_scheme": scheme} for scheme in ("light", "dark")], ids=["light", "dark"]
)
def test_a_phone_needs_no_sideways_scrolling_and_the_keyboard_suffices(
    page: "Page", voices: Path, options: dict[str, object]
) -> None:
    body = expect(page.locator("body"))
    (body.to_contain_class if options["color_scheme"] == "dark" else body.not_to_contain_class)("dark")
    upload(page, voices / "song.wav")
    skip_fine(page)
    page.get_by_label("Skip the fine stage").focus()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Generate")).to_be_focused()
    page.keyboard.press("Enter")
    expect(announced(page)).to_contain_text("Done")
    expect(page.get_by_alt_text("Waveforms and log-mel")).to_be_visible()
    page.wait_for_function("width => document.documentElement.scrollWidth <= width", arg=PHONE["width"])
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('main button, main input, main select, main textarea')]
            .filter(e => e.offsetParent && e.type !== 'file')
            .filter(e => !(e.innerText || e.ariaLabel || e.title || e.labels?.length || e.querySelector('img[alt]')))
            .map(e => e.outerHTML)"""
    )
    assert unnamed == []
