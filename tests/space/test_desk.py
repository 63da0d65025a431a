# SPDX-License-Identifier: Apache-2.0
"""Playback: takes are switched without a gap, loops return on time, zoom stretches the time axis.

Takes of one tone each are served instead of music, and the output is recorded in the audio thread by the worklet that
otherwise records the microphone.
"""

import math
import re
from itertools import product
from typing import Any

import numpy as np
import pytest

import takes
from hafm_hf import audio
from hafm_hf.listening.intro_and_outro import LEAD_SECONDS
from programs import REPOSITORY
from space import studio
from space.serving import Space
from space.studio import Browser, Page, expect
from vocals import EXAMPLE, file_bytes

RATE, SECONDS = 24_000, 10
# metre and tempo (beats per minute) of the example vocal's song
BEATS_PER_BAR = 4
TEMPO = 96
# bytes of files that the page keeps (static/sound.js)
MOST_FETCHED = 100e6
STATIC = str(REPOSITORY / "space" / "static")
# tones in Hz of the voice, which is silent, and of the two takes
TONES = {"voice": 0.0, "one": 440.0, "two": 660.0}
# shows two takes of one tone each, and records whatever the page plays
RECORD = """async (folder) => {
    const part = (name) => import(new URL(`gradio_api/file=${folder}/${name}.js`, document.baseURI));
    const [{ desk }, { context }] = await Promise.all([part('desk'), part('sound')]);
    const take = (id) => ({ id, name: id, seed: 1, style: '', source: desk.vocal, seconds: SECONDS, balance: 0,
        files: { voice: '/tone_voice.wav', band: `/tone_${id}.wav` } });
    desk.stop();
    desk.mixer.props.value = { ...desk.mixer.props.value, takes: [take('one'), take('two')], chosen: 'one' };
    desk.mixer.show();
    await desk.mixer.ready();
    const ctx = context();
    await ctx.audioWorklet.addModule(new URL(`gradio_api/file=${folder}/worklet.js`, document.baseURI));
    const tape = new AudioWorkletNode(ctx, 'hafm-take', { channelCount: 1, channelCountMode: 'explicit' });
    Object.assign(window, { desk, tape: { rate: ctx.sampleRate, chunks: [] } });
    tape.port.onmessage = ({ data }) => window.tape.chunks.push([data.frame, [...data.samples]]);
    tape.connect(new GainNode(ctx, { gain: 0 })).connect(ctx.destination);
    let out = null;
    Object.defineProperty(desk, 'out', { get: () => out, set: (node) => { out = node; node?.connect(tape); } });
}""".replace("SECONDS", str(SECONDS))

# the seconds at which the song begins and ends, and its beats; `desk` becomes a global
AXIS = """async (folder) => {
    const part = (name) => import(new URL(`gradio_api/file=${folder}/${name}.js`, document.baseURI));
    const [{ desk }, { allBeats }] = await Promise.all([part('desk'), part('sheet')]);
    const { begin, seconds } = Object.assign(window, { desk }).desk;
    return [begin, seconds, allBeats(desk.sheet.sheet, begin, seconds)];
}"""
# levels on the left and right of a constant sound with these channels at a pan position
PLACED = """async ([channels, pan]) => {
    const ctx = new OfflineAudioContext(2, 128, 48000), buffer = ctx.createBuffer(channels.length, 128, 48000);
    channels.forEach((level, side) => buffer.getChannelData(side).fill(level));
    const sounds = { voice: [{ path: '/tone_voice.wav', at: 0, outline: { channels: channels.length, seconds: 1 } }] };
    Object.assign(desk.mixer, { sounds, channels: { voice: { db: 0, pan } }, sung: buffer });
    desk.mixer.start(Object.assign(ctx.destination, { sources: new Set() }), 0, 0);
    return ctx.startRendering().then((heard) => [0, 1].map((side) => heard.getChannelData(side)[64]));
}"""


def tone(hertz: float) -> bytes:
    """A WAV file of `SECONDS` of a tone; 0 Hz: of silence."""
    times = np.arange(RATE * SECONDS) / RATE
    return file_bytes((0.2 * np.sin(2 * np.pi * hertz * times)).astype(np.float32), RATE)


@pytest.fixture
def tape(page: Page) -> Page:
    """The page with two takes, "one" and "two", and a recording of its output."""
    for name, hertz in TONES.items():
        answer = {"body": tone(hertz), "content_type": "audio/wav"}
        page.route(f"**/tone_{name}.wav", lambda route, _, answer=answer: route.fulfill(**answer))
    page.get_by_role("button", name="Vocal", exact=True).click()
    expect(studio.summary(page)).to_contain_text("folk (given)")
    page.evaluate(RECORD, STATIC)
    expect(page.locator("#mixer").get_by_role("radio")).to_have_count(2)
    return page


def recorded(page: Page) -> tuple[np.ndarray, int]:
    """The recorded output, without missing frames: float64 [N] and its rate in Hz."""
    found: dict[str, Any] = page.evaluate("window.tape")
    # the first chunk may have begun before the recording was connected
    frames, chunks = zip(*found["chunks"][1:], strict=True)
    assert (np.diff(frames) == len(chunks[0])).all()
    return np.concatenate(chunks), found["rate"]


def test_an_example_plays_before_gradio_has_built_the_page_and_continues(browser: Browser, space: Space) -> None:
    page = browser.new_page()
    held: list[Any] = []
    page.route("**/assets/*.js", lambda route: held.append(route))
    page.goto(space.url, wait_until="commit")
    page.get_by_role("button", name="Vocal", exact=True).click()
    load = "path => import(`./gradio_api/file=${path}/desk.js`).then(({ desk }) => Object.assign(window, { desk }))"
    page.evaluate(load, STATIC)
    page.wait_for_function("desk.playing")
    zero = page.evaluate("desk.zero")
    page.unroute("**/assets/*.js")
    expect(page.locator("#mixer .takes")).to_contain_text("Take 1 · folk")
    expect(studio.summary(page)).to_contain_text("folk (given)")
    # playback continues without a jump
    assert held
    assert page.evaluate("desk.zero") == pytest.approx(zero, abs=1e-3)
    page.close()


def test_takes_are_switched_at_the_playhead_without_a_gap(tape: Page) -> None:
    takes = tape.locator("#mixer").get_by_role("radio")
    tape.evaluate("desk.play(0)")
    tape.wait_for_function("desk.playing && desk.position > 0.5")
    zeros = [tape.evaluate("desk.zero")]
    for number in (1, 0, 1):
        takes.nth(number).check()
        tape.wait_for_timeout(400)
        zeros.append(tape.evaluate("desk.zero"))
    tape.evaluate("desk.stop()")
    # the start time of the song does not move: the other take continues at the same position
    np.testing.assert_allclose(zeros, zeros[0], atol=1e-3)
    sound, rate = recorded(tape)
    heard = np.flatnonzero(np.abs(sound) > 0.01)
    # without the fades of 50 ms at both ends
    sound = sound[heard[0] + rate // 20 : heard[-1] - rate // 20]
    # levels of windows of 5 ms
    window = rate // 200
    levels = np.sqrt(np.mean(sound[: len(sound) // window * window].reshape(-1, window) ** 2, axis=1))
    # a crossfade of two tones within 12 ms is 3 dB quieter in the middle; a gap would be silent
    assert levels.min() > 0.5 * np.median(levels)
    # both takes played between the switches
    seconds = len(sound) // rate
    spectrum = np.abs(np.fft.rfft(sound[: seconds * rate]))
    one, two = (spectrum[int(TONES[name] * seconds)] for name in ("one", "two"))
    assert min(one, two) > 100 * np.median(spectrum)


def test_panning_in_the_browser_equals_panning_in_the_file(tape: Page) -> None:
    for sound, pan in product((np.array([0.3]), np.array([[0.3, 0.1]])), (-1.0, -0.4, 0.0, 0.5, 1.0)):
        heard = tape.evaluate(PLACED, [sound.ravel().tolist(), pan])
        placed = takes.Channel(pan=pan).place(sound.astype(np.float32))
        np.testing.assert_allclose(heard, audio.with_channels(placed, 2)[0], atol=1e-6, err_msg=f"{sound} at {pan}")


def test_a_loop_returns_to_its_beginning_on_time(tape: Page) -> None:
    studio.press(tape, "Bar 2", "Loop")
    start, stop = tape.evaluate("[desk.span.start, desk.span.stop]")
    assert stop - start == pytest.approx(BEATS_PER_BAR * 60 / TEMPO, abs=0.05)
    # `desk.zero`: the time of the audio clock at which second 0 of the song is played
    zero = tape.evaluate("desk.play(desk.span.stop - 1.5).then(() => desk.zero)")
    tape.wait_for_function("desk.position > desk.span.stop - 0.3")
    tape.wait_for_function("desk.position < desk.span.start + 1")
    assert tape.evaluate("desk.position") >= start - 0.01
    # exactly one bar later, to the millisecond
    assert tape.evaluate("desk.zero") - zero == pytest.approx(stop - start, abs=1e-3)
    tape.wait_for_function("desk.position > desk.span.start + 1.5")
    expect(tape.get_by_role("button", name="Stop", exact=True)).to_be_visible()
    tape.evaluate("desk.stop()")


def test_zoom_stretches_the_time_axis_and_the_lanes_follow_the_playhead(ready: Page, page: Page) -> None:
    strip, bar = page.locator("#timeline .strip"), page.get_by_role("button", name="Bar 2", exact=True)

    def seconds_a_pixel() -> float:
        """Seconds of the song in a pixel of the lanes, from the width of bar 2."""
        item = bar.locator("xpath=..")
        start, stop = (float(item.get_attribute(f"data-{name}") or 0) for name in ("start", "stop"))
        # two pixels between bars
        return (stop - start) / (item.evaluate("item => item.getBoundingClientRect().width") + 2)

    whole = seconds_a_pixel()
    assert strip.evaluate("strip => strip.scrollWidth <= strip.clientWidth + 1")
    studio.press(page, "Zoom in", "Zoom in")
    assert seconds_a_pixel() == pytest.approx(whole / 1.5**2, rel=0.01)
    assert strip.evaluate("strip => strip.scrollWidth > 1.5 * strip.clientWidth")
    # the waveform is as wide as the lane of the bars
    width = page.locator("#timeline .sung canvas").evaluate("canvas => canvas.offsetWidth")
    voice, rate = audio.read_audio(EXAMPLE)
    assert width * seconds_a_pixel() == pytest.approx(len(voice) / rate, rel=0.01)
    studio.keep_screenshot(page, "zoomed in")
    page.get_by_label("Position").fill("8")
    studio.press(page, "Play")
    page.wait_for_function("document.querySelector('#timeline .strip').scrollLeft > 0")
    studio.press(page, "Stop", "Zoom out", "Zoom out")
    assert seconds_a_pixel() == pytest.approx(whole, rel=0.01)


def test_an_intro_and_an_outro_lengthen_the_time_axis_and_every_file(ready: Page) -> None:
    studio.skip_fine(ready)
    for name, bars in {"intro": "2", "outro": "1"}.items():
        ready.locator(f"#{name}_bars input").fill(bars)
    studio.generated(ready)
    begin, end, beats = ready.evaluate(AXIS, STATIC)
    voice, rate = audio.read_audio(EXAMPLE)
    longer = f"{end - begin - len(voice) / rate:.1f} s longer than the voice, which begins at {-begin:.1f} s."
    expect(studio.announced(ready)).to_contain_text(f"The song is {longer}")
    # two bars of 2.5 s and up to one that the voice joins midway, after a moment for the first attack
    assert 5.0 < -begin < 7.5
    assert beats[0] == [pytest.approx(begin + LEAD_SECONDS, abs=0.01), 0]
    assert np.ptp(np.diff([second for second, _ in beats])) < 0.05
    sung_seconds = len(voice) / rate
    before = studio.sounds_in(studio.downloaded(ready, "(zip)"))
    mix, rate = audio.read_audio(studio.downloaded(ready, "Download mix"))
    # samples at which the voice begins and ends
    first = round(-begin * rate)
    last = round((sung_seconds - begin) * rate)
    assert {len(mix), *(len(sound) for sound, _ in before.values())} == {round((end - begin) * rate)}
    sung, _ = before["vocal"]
    band, _ = before["instrumental"]
    assert not sung[:first].any()
    assert not sung[last:].any()
    assert band[: first // 2].any()
    assert band[last + rate :].any()
    expect(ready.locator("#timeline .intro")).to_be_visible()
    expect(ready.locator("#timeline .outro")).to_be_visible()
    # the lanes begin with the intro, which can be played
    ready.evaluate("desk.stop()")
    ready.locator("#timeline .sung canvas").click(position={"x": 1, "y": 20})
    assert ready.evaluate("desk.position") == pytest.approx(begin, abs=0.05)
    studio.press(ready, "Play")
    ready.wait_for_function("desk.position > desk.begin + 0.1 && desk.position < 0")
    studio.press(ready, "Stop")
    assert ready.evaluate("(desk.sheet.drag(desk.begin, -0.5), desk.sheet.selection)") is None
    # a bar that begins on the third beat of the intro
    ready.evaluate("second => { desk.seek(second); desk.sheet.act('downbeat'); }", beats[2][0])
    assert [place for _, place in ready.evaluate(AXIS, STATIC)[2]][:3] == [2, 3, 0]
    studio.press(ready, "Undo", "Bar 2")
    start, stop = ready.evaluate("[desk.span.start, desk.span.stop]")
    ready.get_by_role("button", name="Regenerate these bars").click()
    expect(ready.locator("#mixer .takes")).to_contain_text("Take 2")
    expect(studio.announced(ready)).to_contain_text(longer)
    after, _ = studio.sounds_in(studio.downloaded(ready, "(zip)"))["instrumental"]
    changed = np.flatnonzero(band != after) / rate + begin
    assert start <= changed.min()
    assert changed.max() < stop
    assert len(changed) > 0.5 * (stop - start) * rate


def test_sounds_are_fetched_once_and_only_those_used_last_are_kept(page: Page) -> None:
    fetched: list[str] = []
    page.on("request", lambda request: fetched.extend(re.findall(r"/piece_\d+", request.url)))
    sound = tone(440.0)
    page.route("**/piece_*.wav", lambda route: route.fulfill(body=sound))
    load = "([path, all]) => import(path).then(async ({ load }) => { for (const each of all) await load(each); })"
    address = page.evaluate("folder => new URL(`gradio_api/file=${folder}/sound.js`, document.baseURI).href", STATIC)
    # more than the page keeps
    count = math.ceil(1.15 * MOST_FETCHED / len(sound))
    names = [f"/piece_{number}.wav" for number in range(count)]
    # like the pieces of a song, which are all loaded again after each new one
    for loaded in (100, 101):
        page.evaluate(load, [address, names[:loaded]])
    assert len(fetched) == len(set(fetched)) == 101
    # piece 0 is used again before the new ones, so it is kept, and piece 1 is forgotten
    page.evaluate(load, [address, [names[0], *names[101:], *names[:2]]])
    assert len(fetched) == count + 1
    assert len(set(fetched)) == count
    assert fetched[-1] == "/piece_1"
