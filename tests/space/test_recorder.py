# SPDX-License-Identifier: Apache-2.0
"""Recording to a click in Chromium, whose microphone plays a file: a real voice with ticks at the click's tempo.

The file is not synchronised with the click, so its ticks lie anywhere within the beat. That acts as a latency, which
the first take measures and the second must compensate.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hafm_hf import LeadSheet, audio
from hafm_hf.audio.librosa_loading import load_librosa
from hafm_hf.evaluation.features import ANALYSIS_RATE, extract
from hafm_hf.tokenizers.pitch_contour import FRAME_RATE
from space.serving import Space, chromium
from space.studio import SMALLEST, Browser, announced, expect, keep_screenshot, open_page, sounds_in, summary, tab_to
from vocals import EXAMPLE

pytest.importorskip("gradio_client", reason="needs the extra `space`")

# Hz, beats per minute, and beats in the microphone's file
RATE, TEMPO, BEATS = 48_000, 90, 120
# ms until a downloaded file has faded in, including the window of the onset curve
FADED_IN = 60


@pytest.fixture(scope="module")
def singer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium whose microphone plays a voice with a tick on every beat at 90 BPM, in a loop."""
    beat = RATE * 60 // TEMPO
    shared = Path(__file__).resolve().parents[3] / "shared" / "data" / "real" / "vocadito_10.wav"
    voice, _ = audio.read_audio(shared if shared.exists() else EXAMPLE, sampling_rate=RATE)
    sound = np.resize(voice / np.abs(voice).max(), BEATS * beat) * 0.2
    for at in range(BEATS):
        sound[at * beat : at * beat + RATE // 50] = 0.9 * tick()
    path = tmp_path_factory.mktemp("microphone") / "clip.wav"
    soundfile.write(path, sound, RATE, subtype="PCM_16")
    with chromium(path, "--autoplay-policy=no-user-gesture-required") as browser:
        yield browser


def tick() -> np.ndarray:
    """20 ms of a decaying tone at 48 kHz."""
    time = np.arange(RATE // 50) / RATE
    return np.sin(2 * np.pi * 2000 * time) * np.exp(-time / 0.004)


def ticks_of(samples: np.ndarray, rate: int) -> np.ndarray:
    """Start times of ticks in a sound (float32 [N] at `rate` Hz), by correlation.

    Returns:
        seconds, in order: float64 [ticks].
    """
    template = audio.resample(tick().astype(np.float32), RATE, rate)
    match = np.abs(np.correlate(samples, template, "valid"))
    # half a beat, in samples
    apart = rate * 60 // TEMPO // 2
    found = []
    # at least half as loud as the tick in the microphone's file
    while match.max() > 0.5 * np.dot(template, template) * 0.9:
        at = int(match.argmax())
        found.append(at / rate)
        match[max(at - apart, 0) : at + apart] = 0
    return np.sort(found)


def onsets_of(samples: np.ndarray, rate: int) -> np.ndarray:
    """Onset times in seconds, from the onset curve of the scores: float64 [number of onsets].

    The file fades in from silence, three times as steeply as any beat; the peak picker scales by the steepest onset,
    and would miss quiet beats.
    """
    curve = extract(audio.resample(samples, rate, ANALYSIS_RATE)).onsets
    curve[: FADED_IN * FRAME_RATE // 1000] = 0.0
    hop = ANALYSIS_RATE // FRAME_RATE
    return load_librosa().onset.onset_detect(onset_envelope=curve, sr=ANALYSIS_RATE, hop_length=hop, units="time")


def nearest(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Seconds from each wanted time to the nearest found one, negative if that is earlier: float64 [wanted]."""
    apart = found[None] - wanted[:, None]
    return apart[np.arange(len(wanted)), np.abs(apart).argmin(axis=1)]


def latency_of_take(space: Space) -> float:
    """Median delay in s of the newest take's ticks after its beats, which are ½, 1½, 2½ … beats after its start."""
    newest = max(space.temporary.glob("hafm_space_*/gradio/*/take_*.wav"), key=lambda path: path.stat().st_mtime)
    samples, rate = audio.read_audio(newest)
    beat = 60 / TEMPO
    late = np.sort((ticks_of(samples, rate) - beat / 2) % beat)
    return float(late[len(late) // 2])


# the upper edges of the transport's visible controls
TOPS = """() => [...document.querySelectorAll('.transport > :not(.doubt, .clock)')]
    .map((each) => each.getBoundingClientRect()).filter(({ width }) => width).map(({ top }) => top)"""


def test_the_toolbar_keeps_one_line_beside_the_recorders_message(singer: Browser, space: Space) -> None:
    page = open_page(singer, space, viewport={"width": 1440, "height": 900})
    page.get_by_text("Record to a click").click()
    page.get_by_role("button", name="Record to the click").click()
    expect(page.locator("#recorder .status")).to_have_text("Recording: bar 2")
    page.get_by_role("button", name="Stop").first.click()
    expect(page.locator("#recorder .status")).to_contain_text("Recorded")
    expect(summary(page)).to_contain_text("(given), chords (estimated)")
    tops = page.evaluate(TOPS)
    keep_screenshot(page, "what the recorder says")
    assert np.ptp(tops) < 20
    page.context.close()


def test_a_take_recorded_to_the_click_by_keyboard_gets_drums_on_its_beats(singer: Browser, space: Space) -> None:
    page = open_page(singer, space, "/?seed=1", viewport=SMALLEST, color_scheme="dark")
    status, press = page.locator("#recorder .status"), page.keyboard.press
    tab_to(page, "Record to a click", "Enter")
    tab_to(page, "Tempo")
    page.keyboard.type(str(TEMPO))
    # the first take is recorded without compensation, and shows the latency for the second
    for latency in ("0", ""):
        tab_to(page, "Latency")
        page.keyboard.type(latency or str(round(1000 * latency_of_take(space))))
        tab_to(page, "Record to the click", "Enter", "Shift+Tab")
        expect(status).to_have_text("Recording: bar 4")
        keep_screenshot(page, "recording to a click")
        with page.expect_response(lambda reply: "predict" in reply.url and '"pitch"' in reply.text()):
            press("Enter")
        expect(status).to_contain_text("Recorded")
    expect(summary(page)).to_contain_text("90 beats per minute (given), chords (estimated)")
    keep_screenshot(page, "recorded to a click")
    tab_to(page, "Play a band", "Enter")
    expect(announced(page)).to_contain_text("Done")
    # the announcement may come before the mixer is updated
    expect(page.locator("#mixer").get_by_role("button", name="Download stems")).to_be_visible()
    files = {}
    for name in ("Download stems", "Save lead sheet", "Download mix"):
        tab_to(page, name, key="Shift+Tab" if name == "Download mix" else "Tab")
        with page.expect_download() as download:
            press("Enter")
        files[name] = download.value.path()
    page.wait_for_function("width => document.documentElement.scrollWidth <= width", arg=SMALLEST["width"])
    keep_screenshot(page, "song of a take to the click")
    sheet = LeadSheet.given(json.loads(files["Save lead sheet"].read_text()))
    assert sheet.beats is not None
    assert sheet.beats_per_bar == 4
    assert "beats" not in sheet.estimated
    np.testing.assert_allclose(np.diff(sheet.beats), 60 / TEMPO, atol=1e-6)
    stems = sounds_in(files["Download stems"])
    (voice, rate), (band, _), (drums, _) = (stems[key] for key in ("vocal", "instrumental", "drums"))
    assert len(audio.read_audio(files["Download mix"])[0]) == len(voice)
    beats, found = np.array(sheet.beats), ticks_of(voice, rate)
    late = nearest(beats, found)
    assert len(found) >= 10
    assert np.abs(late).max() < 0.03
    inside = beats[beats < len(band) / rate - 0.1]
    for name, sound in (("band", band), ("drums", drums)):
        onsets = onsets_of(sound, rate)
        # share of places with an onset within 40 ms: of the beats, and of places 120 ms after them
        on, beside = (np.mean(np.abs(nearest(onsets, inside + by)) < 0.04) for by in (0.0, 0.12))
        print(f"onsets of the {name}: {on:.2f} of {len(inside)} beats, {beside:.2f} 120 ms late")
        assert on >= 0.9, name
        assert beside < 0.5, name
    page.context.close()
