# SPDX-License-Identifier: Apache-2.0
"""Singing again to the band of a take, and the latency that is measured for it."""

import re
from collections.abc import Iterator

import numpy as np
import pytest

from hafm_hf import audio
from space import studio
from space.serving import Space
from space.studio import Browser, Page, expect, in_both_windows
from vocals import EXAMPLE

LATENCY_MS = 187
# The microphone hears what the page plays, as one held to the headphones does, so many milliseconds later.
LOOPBACK = """
    const connect = AudioNode.prototype.connect;
    const ears = new WeakMap();
    const earOf = (ctx) => {
        if (!ears.has(ctx)) {
            const delay = new DelayNode(ctx, { maxDelayTime: 1, delayTime: LATENCY });
            const stream = new MediaStreamAudioDestinationNode(ctx, { channelCount: 1 });
            connect.call(delay, stream);
            ears.set(ctx, { delay, stream: stream.stream });
        }
        return ears.get(ctx);
    };
    AudioNode.prototype.connect = function (target, ...others) {
        const plays = this.context instanceof AudioContext && target === this.context.destination;
        if (plays) connect.call(this, earOf(this.context).delay);
        return connect.call(this, target, ...others);
    };
    let last = null;
    window.AudioContext = class extends AudioContext { constructor(...options) { super(...options); last = this; } };
    navigator.mediaDevices.getUserMedia = async () => earOf(last).stream;
"""
# Chromium's streams have some 21 ms of their own; without these, the delay is known
DIRECT = "AudioContext.prototype.createMediaStreamSource = function () { return earOf(this).delay; };"


@pytest.fixture(params=[""])
def loop(browser: Browser, space: Space, options: dict, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The page, whose microphone hears what it plays after `LATENCY_MS`; the parameter is one more script."""
    context = browser.new_context(**options)
    context.add_init_script(LOOPBACK.replace("LATENCY", str(LATENCY_MS / 1000)) + request.param)
    context.set_default_timeout(60_000)
    page = context.new_page()
    page.goto(space.url)
    expect(page.locator(".early")).to_have_count(0)
    yield page
    context.close()


def measured(page: Page) -> float:
    """Presses Measure, waits, and returns the latency that the page has measured, in milliseconds."""
    studio.push(page.locator("#recorder summary"))
    studio.push(page.get_by_role("button", name="Measure", exact=True))
    expect(page.locator("#recorder .status")).to_have_text(re.compile(r"The latency is \d+ ms"))
    return float(page.get_by_label("Latency, ms").input_value())


@in_both_windows
@pytest.mark.parametrize("loop", [DIRECT], indirect=True)
def test_the_latency_is_measured_within_five_milliseconds(loop: Page) -> None:
    latency = measured(loop)
    print(f"latency: {latency} ms")
    assert latency == pytest.approx(LATENCY_MS, abs=5)


def test_clicks_that_are_not_heard_are_no_latency(page: Page) -> None:
    # its microphone hears a voice
    page.locator("#recorder summary").click()
    page.get_by_role("button", name="Measure", exact=True).click()
    expect(page.locator("#recorder .wrong")).to_contain_text("The clicks were not heard")
    expect(page.get_by_label("Latency, ms")).to_have_value("")


def example(page: Page) -> None:
    """Opens the first example, which has a band."""
    studio.push(page.get_by_role("button", name="Vocal", exact=True))
    expect(page.locator("#mixer .takes")).to_contain_text("folk · seed 1")
    expect(studio.summary(page)).to_contain_text("chords (given)")


def sing(page: Page, bar: int, until: str) -> None:
    """Sings again from a bar on, and waits until both voices can be heard.

    Args:
        page: the page, with a band.
        bar: the first bar to sing.
        until: what the status must show before Stop is pressed, such as "bar 4, beat 4".
    """
    if not page.get_by_label("From bar").is_visible():
        studio.push(page.locator("#recorder summary"))
    page.get_by_label("From bar").fill(str(bar))
    studio.push(page.get_by_role("button", name="Sing to the band"))
    expect(page.locator("#recorder .status")).to_have_text(re.compile("Count-in: [34]"))
    studio.keep_screenshot(page, "singing again")
    expect(page.locator("#recorder .status")).to_have_text(re.compile(f"Recording: {until}"))
    studio.push(page.get_by_role("button", name="■ Stop", exact=True))
    expect(page.get_by_role("button", name="Hear the new")).to_be_visible()


def bar_starts(page: Page) -> list[float]:
    """The seconds at which the bars on the timeline begin."""
    return page.locator("#timeline .bars li:not([inert])").evaluate_all(
        "bars => bars.map((bar) => Number(bar.dataset.start))"
    )


@in_both_windows
def test_a_voice_is_sung_again_from_bar_3_in_time_and_all_else_stays(loop: Page) -> None:
    example(loop)
    measured(loop)
    before = studio.sounds_in(studio.downloaded(loop, "Download stems"))
    shown = studio.chords(loop)
    _, _, third, fourth, *_ = bar_starts(loop)
    about = studio.summary(loop).inner_text()
    sing(loop, 3, "bar 4, beat 4")
    studio.keep_screenshot(loop, "old or new voice")
    studio.push(loop.get_by_role("button", name="Keep this one"))
    expect(loop.get_by_role("button", name="Previous voice")).to_be_visible()
    expect(loop.locator("#mixer .takes").get_by_role("radio")).to_have_count(1)
    assert studio.chords(loop) == shown
    assert studio.summary(loop).inner_text() == about
    after = studio.sounds_in(studio.downloaded(loop, "Download stems"))
    for name in before.keys() - {"vocal"}:
        np.testing.assert_array_equal(after[name][0], before[name][0])
    (old, rate), (new, _), (band, _) = before["vocal"], after["vocal"], before["instrumental"]
    assert len(new) == len(old)
    # before the bar it is the old voice, up to the resampling in the browser
    early = slice(rate // 2, round((third - 0.1) * rate))
    assert audio.rms_dbfs(new[early] - old[early]) < audio.rms_dbfs(old[early]) - 30
    # then what the microphone heard, which is the band, in time with the band
    late = slice(round((third + 0.1) * rate), round((fourth + 0.5) * rate))
    part = band[late]
    # up to 100 ms earlier or later
    reach = rate // 10
    around = new[late.start - reach : late.stop + reach]
    match = np.abs(np.correlate(around, part, "valid"))
    lag = (int(match.argmax()) - reach) / rate
    print(f"sung again: {1000 * lag:.1f} ms after the band")
    assert abs(lag) < 0.005
    assert match.max() > 0.8 * np.linalg.norm(part) * np.linalg.norm(new[late])


def test_the_old_voice_can_be_heard_and_kept_instead_of_the_new_one(loop: Page) -> None:
    example(loop)
    picture = "document.querySelector('.sung canvas').toDataURL()"
    old = loop.evaluate(picture)
    sing(loop, 1, "bar 2")
    assert loop.evaluate(picture) != old
    loop.locator("#recorder input[type=file]").set_input_files(EXAMPLE)
    expect(loop.locator("#recorder .wrong")).to_have_text("Keep one of the two voices first.")
    loop.get_by_role("button", name="Hear the old").click()
    expect(loop.get_by_role("button", name="Hear the old")).to_have_attribute("aria-pressed", "true")
    loop.wait_for_function(f"old => {picture} === old", arg=old)
    loop.get_by_role("button", name="Keep this one").click()
    expect(loop.get_by_role("button", name="● Record")).to_be_visible()
    expect(loop.get_by_role("button", name="Previous voice")).not_to_be_visible()


def test_a_bar_beyond_the_voice_is_refused(page: Page) -> None:
    example(page)
    page.locator("#recorder summary").click()
    page.get_by_label("From bar").fill("99")
    page.get_by_role("button", name="Sing to the band").click()
    expect(page.locator("#recorder .wrong")).to_have_text("There is no bar 99: the voice ends in bar 5.")
