# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: Debian's chromium, driven by Playwright, with a recording as its microphone."""

import re
import shutil
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hafm_hf import audio
from hafm_hf.accompaniment.options import MEDIAN_BALANCE
from space import studio
from space.serving import MAX_SECONDS, PATIENCE_SECONDS, QUEUE_SIZE, Space
from space.studio import SMALLEST, Browser, Page, expect

gradio_client = pytest.importorskip("gradio_client", reason="needs the extra `space`")

# all microphone streams that the page has requested
MICROPHONES = """() => {
    const [devices, ask] = [navigator.mediaDevices, navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices)];
    window.microphones = [];
    devices.getUserMedia = (wanted) => ask(wanted).then((stream) => (microphones.push(stream), stream));
    [window.recorders, window.AudioWorkletNode] = [[], class extends AudioWorkletNode {
        constructor(...all) { super(...all); recorders.push(this); }
    }];
}"""
# chunks of sound that the first recorder sends in a second, half a second from now on
CHUNKS_AFTER_STOP = """async () => {
    const port = recorders[0].port, wait = (ms) => new Promise((done) => setTimeout(done, ms));
    let late = 0;
    await wait(500);
    port.onmessage = () => { late += 1; };
    await wait(1000);
    return late;
}"""


def test_downloads_are_what_the_mixer_plays_and_a_seed_gives_the_same_band(page: Page, voices: Path) -> None:
    studio.upload(page, voices / "song.wav")
    page.get_by_label("Separate instruments").uncheck()
    studio.skip_fine(page)
    studio.generate(page)
    expect(studio.announced(page)).to_contain_text(re.compile(r"Done in \d+ s; seed \d+ gives the same music again"))
    expect(page.get_by_role("button", name="Play a band")).to_be_visible()
    expect(page.get_by_role("button", name="Stop the band")).not_to_be_visible()
    expect(page.locator("#mixer").get_by_role("radio")).to_have_count(1)
    mixes = {}
    for suffix in ("wav", "flac"):
        page.get_by_label("Format", exact=True).select_option(suffix)
        mixes[suffix] = studio.downloaded(page, "Download mix")
    page.get_by_label("Format", exact=True).select_option("wav")
    names = [path.name for path in (*mixes.values(), studio.downloaded(page, "Download band"))]
    assert names == ["song_mix.wav", "song_mix.flac", "song_instrumental.wav"]
    mix, rate = audio.read_audio(mixes["wav"])
    # at the voice's own rate
    assert (len(mix), rate) == (round(1.2 * 44_100), 44_100)
    assert not audio.is_silent(mix)
    # libsndfile rounds to 16 bits in one format and truncates in the other
    np.testing.assert_allclose(mix, audio.read_audio(mixes["flac"])[0], atol=1.01 / 2**15)
    with zipfile.ZipFile(studio.downloaded(page, "(zip)")) as stems:
        assert stems.namelist() == ["song_vocal.wav", "song_instrumental.wav"]
        vocal, band = (audio.read_audio(stems.read(name), mono=False)[0] for name in stems.namelist())
    # the mix is the vocal and the band at the median balance
    balance = audio.balance_gain_db(vocal, band, rate, MEDIAN_BALANCE)
    # without the 50 ms at each end, which are faded
    inner = slice(rate // 20, -rate // 20)
    mixed = audio.mix_audio(vocal, band, instrumental_gain_db=balance)
    np.testing.assert_allclose(mix[inner], mixed[inner].mean(axis=1), atol=1e-3)
    # the band alone, on the left
    page.get_by_role("button", name="Solo band").click()
    page.get_by_label("Band, pan").fill("-1")
    left, _ = audio.read_audio(studio.downloaded(page, "Download mix"), mono=False)
    assert audio.rms_dbfs(left[:, 1]) < -90
    assert np.corrcoef(left[inner, 0], band[inner].sum(axis=1))[0, 1] > 0.999
    page.get_by_label("Band, pan").fill("0")
    page.get_by_role("button", name="Solo band").click()
    # loudness in LUFS
    page.get_by_label("Loudness").select_option("-23")
    mix, rate = audio.read_audio(studio.downloaded(page, "Download mix"), mono=False)
    assert audio.loudness(mix, rate) == pytest.approx(-23, abs=0.5)
    # the announced seed gives the same band again
    seed = studio.announced(page).inner_text().split("seed ")[1].split()[0]
    page.locator("#seed input").fill(seed)
    studio.generate(page)
    expect(page.locator("#mixer").get_by_role("radio", name="Take 2")).to_be_checked()
    again = studio.downloaded(page, "Download band").read_bytes()
    page.locator("#mixer").get_by_role("radio", name="Take 1").check()
    assert studio.downloaded(page, "Download band").read_bytes() == again
    # buttons pressed in quick succession all download
    files: list[str] = []
    page.on("download", lambda file: files.append(file.suggested_filename))
    press = "all => all.slice(0, 3).forEach((each, at) => setTimeout(() => each.click(), 50 * at))"
    with page.expect_download(lambda _: len(files) == 3):
        page.locator("#mixer [data-do=file]").evaluate_all(press)
    assert set(files) == {"song_mix.wav", "song_instrumental.wav", "song_stems.zip"}


def expect_others_to_be_served(space: Space, vocal: Path, folder: Path) -> None:
    """Generates a song of 1 s as another user, and waits for it: as songs run one at a time, earlier ones have ended.

    Args:
        space: the Space.
        vocal: the other user's voice.
        folder: for what is downloaded.
    """
    client = gradio_client.Client(space.url, verbose=False, download_files=folder)
    client.predict(gradio_client.handle_file(str(vocal)), skip_fine=True, seconds=1.0, api_name="/accompany")


@pytest.mark.fault("cancelled in the Space")
def test_a_run_plays_before_it_is_finished_and_can_always_be_stopped(
    page: Page, space: Space, voices: Path, tmp_path: Path
) -> None:
    studio.upload(page, voices / "patience.wav")
    stop, takes = page.get_by_role("button", name="Stop the band"), page.locator("#mixer .takes")
    for _ in range(8):
        # Stop appears as soon as the run is requested, mostly before it has begun
        studio.generate(page)
        stop.click()
        expect(studio.announced(page)).to_have_text("Stopped.")
    expect_others_to_be_served(space, voices / "song.wav", tmp_path)
    studio.generate(page)
    expect(page.locator("#bar progress")).to_be_visible()
    # playback starts long before the song is finished
    page.wait_for_function("document.querySelector('#timeline [data-set=position]').value > 0.5")
    expect(page.locator(".stems canvas")).to_have_count(4)
    studio.keep_screenshot(page, "generating")
    stop.click()
    expect_others_to_be_served(space, voices / "song.wav", tmp_path)
    expect(studio.announced(page)).to_have_text("Stopped.")
    expect(page.locator("#bar")).not_to_be_visible()
    # the finished part is kept
    expect(takes.get_by_role("radio")).not_to_have_count(0)
    kept = soundfile.info(studio.downloaded(page, "Download mix"))
    assert 0.5 < kept.duration < 60
    # Gradio adds it, hidden, to every component whose event has failed
    assert "Error" not in page.evaluate("document.body.textContent")
    studio.skip_fine(page, 1)
    studio.generated(page)
    # 1 s
    assert soundfile.info(studio.downloaded(page, "Download mix")).frames == 44_100


def test_a_waiting_run_shows_its_place_in_the_queue_and_when_it_begins(
    page: Page, browser: Browser, space: Space, voices: Path
) -> None:
    studio.upload(page, voices / "song.wav")
    studio.skip_fine(page, 1)
    # after one run, the page can say how long another takes
    studio.generated(page)
    another = studio.open_page(browser, space)
    studio.upload(another, voices / "patience.wav")
    studio.generate(another)
    expect(another.locator("#bar progress")).to_be_visible()
    expect(another.locator(".stems canvas")).not_to_have_count(0)
    studio.generate(page)
    began = time.monotonic()
    expect(studio.announced(page)).to_have_text(re.compile(r"Number 1 in the queue. Your band begins in about \d+ s"))
    print(f"told after {time.monotonic() - began:.1f} s")
    another.get_by_role("button", name="Stop the band").click()
    expect(studio.announced(page)).to_contain_text("Done")
    another.context.close()


@pytest.mark.fault("full queue of the Space")
def test_a_full_queue_is_announced_and_the_run_waits_its_turn(
    page: Page, browser: Browser, space: Space, voices: Path, tmp_path: Path
) -> None:
    studio.upload(page, voices / "song.wav")
    expect(page.locator("#timeline .summary")).to_contain_text("The band follows")
    another = studio.open_page(browser, space)
    studio.upload(another, voices / "patience.wav")
    studio.generate(another)
    expect(another.locator("#bar progress")).to_be_visible()
    client = gradio_client.Client(space.url, verbose=False, download_files=tmp_path)
    voice = gradio_client.handle_file(str(voices / "song.wav"))
    waiting = [client.submit(voice, skip_fine=True, seconds=1.0, api_name="/accompany") for _ in range(QUEUE_SIZE)]
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(job.status().code is not gradio_client.utils.Status.IN_QUEUE for job in waiting):
        assert time.monotonic() < deadline, [job.status() for job in waiting]
        time.sleep(0.05)
    studio.generate(page)
    expect(studio.announced(page)).to_contain_text("Your band starts automatically as soon as there is a place")
    another.get_by_role("button", name="Stop the band").click()
    for job in waiting:
        job.result(timeout=PATIENCE_SECONDS)
    another.context.close()
    expect(studio.announced(page)).to_contain_text("Done")


def test_unusable_voices_and_server_errors_are_shown_on_the_page(page: Page, space: Space, voices: Path) -> None:
    alert = studio.announced(page).get_by_role("alert")
    studio.upload(page, voices / "long.wav")
    expect(studio.announced(page)).to_have_text(f"The first {MAX_SECONDS} s of long.wav are used.")
    expect(page.locator("#timeline .clock")).to_contain_text("/ 2:20.0")
    page.locator("#timeline [data-do=play]").click()
    studio.upload(page, voices / "silent.wav")
    expect(alert).to_contain_text("silent.wav is silent; check the microphone, or sing")
    expect(page.locator("#timeline [data-do=play]")).not_to_have_attribute("aria-label", "Play")
    studio.upload(page, voices / "song.wav")
    expect(page.locator("#timeline .summary")).to_contain_text("The band follows")
    for folder in space.temporary.glob("hafm_space_*/gradio"):
        shutil.rmtree(folder)
    studio.generate(page)
    expect(alert).to_have_text("This voice has been removed from the server; record it again, or upload it again.")
    # an unexpected error is not reported as a full queue
    page.route("**/queue/join*", lambda route: route.fulfill(status=500, json={"detail": "broken"}))
    studio.generate(page)
    expect(alert.filter(has_text="Something went wrong on the server; try again")).to_be_visible()
    expect(page.get_by_role("button", name="Play a band")).to_be_enabled()
    expect(page.locator("#mixer .songs")).not_to_be_visible()


def test_a_recording_of_the_microphone_is_accompanied_and_is_not_silent(page: Page) -> None:
    record = page.locator("#recorder [data-do=sing]")
    page.evaluate(MICROPHONES)
    # the second click of a double click does not stop the recording
    record.dblclick()
    # a busy machine stops late, and only the first second is used
    expect(page.locator("#recorder .status")).to_have_text("Recording: 2 s")
    record.click()
    expect(page.locator("#recorder .status")).to_contain_text("Recorded")
    assert page.evaluate("microphones.map((each) => each.active)") == [False]
    expect(page.locator("#timeline .foot")).to_contain_text(re.compile(r"\w"))
    studio.skip_fine(page, 1)
    studio.generated(page)
    # the microphone's input, not silence
    recording, rate = studio.sounds_in(studio.downloaded(page, "(zip)"))["vocal"]
    assert len(recording) == rate
    assert not audio.is_silent(recording)


def test_recording_survives_closing_its_panel_playback_and_a_failed_upload(page: Page, voices: Path) -> None:
    status = page.locator("#recorder .status")
    click_panel = page.locator("#recorder summary")
    record = page.locator("#recorder [data-do=record]")
    page.evaluate(MICROPHONES)

    # a press outside closes the panel of the click, and stops no recording
    click_panel.click()
    page.locator("#recorder [data-set=tempo]").fill("185")
    record.click()
    expect(status).to_have_text(re.compile("Recording: bar [2-9]"))
    page.locator("#recorder h1").click()
    expect(record).not_to_be_visible()
    click_panel.click()
    record.click()
    expect(status).to_contain_text("the beats are those of the click")
    page.locator("#timeline .summary").click()
    expect(record).not_to_be_visible()
    page.wait_for_function("microphones.length === 1 && !microphones[0].active")
    # a stopped recorder that still sends would write silence over the next take
    assert page.evaluate(CHUNKS_AFTER_STOP) == 0

    # a band that arrives during a recording does not play, and the recording goes on
    studio.upload(page, voices / "patience.wav")
    expect(page.get_by_role("button", name="Previous voice")).to_be_visible()
    studio.generate(page)
    sing = page.locator("#recorder [data-do=sing]")
    sing.click()
    expect(page.locator(".stems canvas")).to_have_count(4)
    # it would begin to play within this time
    page.wait_for_timeout(1000)
    expect(page.locator("#timeline [data-do=play]")).to_have_accessible_name("Play")
    expect(status).to_contain_text("Recording")
    page.get_by_role("button", name="Stop the band").click()

    # a take that cannot be sent becomes a download
    page.route("**/upload*", lambda route: route.abort())
    with page.expect_download() as download:
        sing.click()
    assert not audio.is_silent(audio.read_audio(download.value.path())[0])
    expect(page.locator("#recorder .wrong")).to_contain_text("The take is among your downloads")


@pytest.mark.parametrize("options", [{"viewport": SMALLEST, "color_scheme": "dark"}], ids=["dark"])
def test_a_phone_does_not_scroll_sideways_and_the_keyboard_is_enough(page: Page, voices: Path, axe: Path) -> None:
    body = expect(page.locator("body"))
    body.to_contain_class("dark")
    studio.upload(page, voices / "song.wav")
    studio.skip_fine(page)
    studio.tab_to(page, "Play a band")
    expect(page.get_by_role("button", name="Play a band")).to_be_focused()
    page.keyboard.press("Enter")
    expect(studio.announced(page)).to_contain_text("Done")
    expect(page.locator("#timeline .transport")).to_be_in_viewport()
    fits = "width => document.documentElement.scrollWidth <= width"
    for dark in (True, False):
        page.emulate_media(color_scheme="dark" if dark else "light")
        if dark:
            body.to_contain_class("dark")
        else:
            body.not_to_contain_class("dark")
        page.wait_for_function(fits, arg=SMALLEST["width"])
        assert studio.findings(page, axe) == []
