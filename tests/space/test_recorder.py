"""Record to a click, in Chromium whose microphone plays a file: a real voice with ticks at the click's tempo.

The file cannot hear the click, so its ticks lie anywhere in the beat; measured by claps that is nothing but a latency,
and it must be made up for to the beat.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from hafm_hf import audio
from hafm_hf.lead_sheet.files import read_lead_sheet
from space.browsing import downloaded, expect, keep_screenshot, open_page
from space.serving import BROWSER_FLAGS, CHROMIUM, PATIENCE_SECONDS, Space

pytest.importorskip("gradio_client", reason="needs the extra `space`")

if TYPE_CHECKING:
    from playwright.sync_api import Browser

RATE, TEMPO, BEATS = 48_000, 90, 120
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "vocal.wav"


@pytest.fixture(scope="module")
def singer(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Browser]":
    """Chromium whose microphone gives a voice and a tick on every beat at 90 a minute, without end."""
    from playwright.sync_api import sync_playwright

    beat = RATE * 60 // TEMPO
    shared = Path(__file__).resolve().parents[3] / "shared" / "data" / "real" / "vocadito_10.wav"
    voice, _ = audio.read_audio(shared if shared.exists() else EXAMPLE, sampling_rate=RATE)
    sound = np.resize(voice / np.abs(voice).max(), BEATS * beat) * 0.2
    for at in range(BEATS):
        sound[at * beat : at * beat + RATE // 50] = 0.9 * tick()
    path = tmp_path_factory.mktemp("microphone") / "clip.wav"
    soundfile.write(path, sound, RATE, subtype="PCM_16")
    flags = [*BROWSER_FLAGS, f"--use-file-for-fake-audio-capture={path}", "--autoplay-policy=no-user-gesture-required"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, headless=True, args=flags, timeout=1000 * PATIENCE_SECONDS
        )
        yield browser
        browser.close()


def tick() -> np.ndarray:
    """20 ms of a falling tone at 48 kHz."""
    time = np.arange(RATE // 50) / RATE
    return np.sin(2 * np.pi * 2000 * time) * np.exp(-time / 0.004)


def ticks_of(samples: np.ndarray, rate: int) -> np.ndarray:
    """Seconds at which ticks begin, by correlation: float64 [number of ticks]."""
    template = audio.resample(tick().astype(np.float32), RATE, rate)
    match = np.abs(np.correlate(samples, template, "valid"))
    found, apart = [], rate * 60 // TEMPO // 2
    while match.max() > 0.5 * np.dot(template, template) * 0.9:
        at = int(match.argmax())
        found.append(at / rate)
        match[max(at - apart, 0) : at + apart] = 0
    return np.sort(found)


def test_the_beats_of_a_take_to_the_click_are_known(singer: "Browser", space: Space) -> None:
    page = open_page(singer, space)
    recorder = page.locator("#recorder")
    recorder.get_by_text("Record to a click").click()
    recorder.get_by_label("Tempo").fill(str(TEMPO))
    for _ in range(6):
        recorder.get_by_role("button", name="Measure it by claps").click()
        expect(recorder.locator(".told")).to_contain_text("Clap with the clicks")
        expect(recorder.locator(".told")).to_contain_text("Measured")
        if "as before" in recorder.locator(".told").inner_text():
            break
    exact = recorder.locator(".exact").inner_text()
    recorder.get_by_role("button", name="Record to the click").click()
    expect(recorder.locator(".told")).to_have_text("Recording: bar 3")
    keep_screenshot(page, "recording to a click")
    recorder.get_by_role("button", name="Stop").click()
    expect(page.locator("#timeline .summary")).to_contain_text("90 beats a minute (told)")
    keep_screenshot(page, "recorded to a click")
    sheet = read_lead_sheet(downloaded(page, "Save lead sheet"))
    voice = page.locator("#vocal")
    with page.expect_download() as download:
        voice.get_by_label("Download").click()
    samples, rate = audio.read_audio(download.value.path())
    assert sheet.beats is not None and sheet.beats_per_bar == 4 and "beats" not in sheet.estimated
    found = ticks_of(samples, rate)
    assert len(found) >= 8
    late = np.array([tick - min(sheet.beats, key=lambda beat: abs(beat - tick)) for tick in found])
    print(
        f"{exact} Beats against ticks: median {1000 * np.median(late):.1f} ms, {1000 * np.abs(late).max():.1f} at most"
    )
    assert np.abs(late).max() < 0.03
    np.testing.assert_allclose(np.diff(sheet.beats), 60 / TEMPO, atol=1e-6)
    page.context.close()


def test_claps_are_found_around_the_circle_of_a_beat_and_silence_says_nothing(singer: "Browser", space: Space) -> None:
    page = open_page(singer, space)
    folder = Path(__file__).resolve().parents[2] / "space" / "static" / "recorder.js"
    measured = page.evaluate(
        """async (path) => {
            const { clapLatency } = await import(new URL('gradio_api/file=' + path, document.baseURI));
            const [rate, period] = [16000, 0.5];
            const times = Array.from({ length: 10 }, (_, at) => 1 + at * period);
            const claps = (late) => {
                const samples = new Float32Array(rate * 8);
                for (const [at, time] of times.entries()) {
                    const first = Math.round((time + late + (at % 2 ? 0.004 : -0.004)) * rate);
                    for (let next = 0; next < 200; next += 1) {
                        samples[first + next] = Math.exp(-next / 40) * (next % 2 ? 0.5 : -0.5);
                    }
                }
                return clapLatency(samples, 0, rate, times, period);
            };
            const silent = clapLatency(new Float32Array(rate * 8), 0, rate, times, period);
            return [...[-0.05, 0.003, 0.12, 0.3].map(claps), silent];
        }""",
        str(folder),
    )
    *found, silent = measured
    np.testing.assert_allclose([each["latency"] for each in found], [-0.05, 0.003, 0.12, 0.3], atol=0.006)
    # the last of the claps that fall before their clicks lies in no beat
    assert all(each["count"] >= 9 and each["spread"] < 0.009 for each in found) and silent is None
    page.context.close()
