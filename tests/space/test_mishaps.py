# SPDX-License-Identifier: Apache-2.0
"""What happens while somebody records or waits: reloads, cut cables, impatient presses, answers that come late."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from space import studio
from space.studio import Page, chords, expect, in_both_windows, summary, upload
from space.test_desk import STATIC
from space.test_network import DESK
from space.test_timeline import evaluated, saved
from vocals import EXAMPLE

UPLOAD = re.compile(r"/gradio_api/upload")
# paths on the server of the sounds that the browser has kept
KEPT_SOUNDS = """() => new Promise((done) => {
    const opening = indexedDB.open('hafm');
    opening.onsuccess = () => {
        const asked = opening.result.transaction('sounds').objectStore('sounds').getAllKeys();
        asked.onsuccess = () => { opening.result.close(); done(asked.result); };
    };
})"""
# the microphone is unplugged
UNPLUG = """() => {
    for (const track of desk.recorder.stream.getTracks()) {
        track.stop();
        track.dispatchEvent(new Event('ended'));
    }
}"""


def record(page: Page, seconds: int = 2) -> None:
    """Starts a recording, and waits until it has lasted `seconds`."""
    studio.push(page.get_by_role("button", name="● Record"))
    expect(page.locator("#recorder .status")).to_contain_text(f"Recording: {seconds} s")


def stop_recording(page: Page) -> None:
    """Presses Stop, and does not wait."""
    studio.push(page.get_by_role("button", name="■ Stop", exact=True))


@contextmanager
def held(page: Page, address: Any) -> Iterator[list[Any]]:
    """Holds back requests to an address during the block, and lets them go on afterwards.

    Args:
        page: the page.
        address: pattern of addresses, for Playwright's `route`.

    Yields:
        the list of held requests; the block takes those from it that must not go on.
    """
    routes: list[Any] = []
    page.route(address, lambda route: routes.append(route))
    yield routes
    for route in routes:
        route.continue_()
    page.unroute(address)


@in_both_windows
def test_a_recording_survives_a_reload_while_it_is_sent(page: Page) -> None:
    asked: list[str] = []

    def leave(dialog: Any) -> None:
        """Confirms that the page may be left."""
        asked.append(dialog.type)
        dialog.accept()

    page.on("dialog", leave)
    record(page)
    with held(page, UPLOAD) as sent:
        stop_recording(page)
        page.wait_for_function("document.querySelector('#recorder .status').textContent === 'Sending the take …'")
        # the browser keeps the recording before it is sent
        page.wait_for_timeout(500)
        page.reload()
        assert sent
        # the reload has cancelled them
        sent.clear()
    assert asked == ["beforeunload"]
    studio.wait_for_page(page)
    studio.push(page.get_by_role("button", name="Previous voice"))
    expect(summary(page)).to_contain_text("estimated")
    expect(studio.announced(page)).not_to_contain_text("restarted")
    page.evaluate(DESK, STATIC)
    assert re.search(r"take_\d{6}\.wav$", page.evaluate("desk.vocal"))
    expect(page.get_by_role("button", name="Previous voice")).to_be_hidden()


def test_a_recording_to_the_click_survives_a_reload_before_it_is_shown(page: Page) -> None:
    page.get_by_text("Record to a click").click()
    page.get_by_role("button", name="Record to the click").click()
    expect(page.locator("#recorder .status")).to_have_text("Recording: bar 2")
    with held(page, "**/gradio_api/run/**") as waiting:
        page.get_by_role("button", name="Stop").first.click()
        expect(page.locator("#recorder .status")).to_contain_text("Recorded")
        page.wait_for_timeout(500)
        assert waiting
        page.reload()
        # the reload has cancelled them
        waiting.clear()
    studio.wait_for_page(page)
    expect(summary(page)).to_contain_text("(given), chords (estimated)")


def test_a_disconnected_microphone_ends_the_recording_and_the_next_one_opens_it_again(page: Page) -> None:
    page.evaluate(DESK, STATIC)
    record(page)
    page.evaluate(UNPLUG)
    expect(page.locator("#recorder .wrong")).to_contain_text("The microphone was disconnected")
    expect(summary(page)).to_contain_text("estimated")
    studio.push(page.locator("[data-do=new]"))
    record(page)
    assert page.evaluate("desk.recorder.running.peak") > 0.01
    stop_recording(page)
    expect(page.locator("#recorder .wrong")).to_have_text("")


def test_a_script_of_the_recorder_that_was_not_loaded_is_loaded_by_the_next_press(page: Page) -> None:
    page.evaluate(
        """() => {
            const { addModule } = AudioWorklet.prototype;
            AudioWorklet.prototype.addModule = async function () {
                AudioWorklet.prototype.addModule = addModule;
                throw new DOMException('The module cannot be fetched.', 'AbortError');
            };
        }"""
    )
    studio.push(page.get_by_role("button", name="● Record"))
    expect(page.locator("#recorder .wrong")).to_have_text("The module cannot be fetched.")
    record(page)
    stop_recording(page)
    expect(summary(page)).to_contain_text("estimated")


def record_while_a_file_is_sent(page: Page) -> None:
    """Opens a file, whose upload must be held back, and starts a recording that lasts two seconds so far."""
    page.locator("#recorder input[type=file]").set_input_files(EXAMPLE)
    expect(page.locator("#recorder .status")).to_have_text("Sending the voice …")
    record(page)


def test_a_file_that_cannot_be_sent_does_not_end_a_recording(page: Page) -> None:
    with held(page, UPLOAD) as sent:
        record_while_a_file_is_sent(page)
        sent.pop().abort()
    expect(page.locator("#recorder .wrong")).not_to_have_text("")
    expect(page.locator("#recorder .status")).to_contain_text("Recording: 3 s")
    stop_recording(page)
    expect(summary(page)).to_contain_text("estimated")


def test_a_file_that_arrives_late_does_not_replace_a_recording(page: Page) -> None:
    with held(page, UPLOAD) as sent:
        record_while_a_file_is_sent(page)
        sent.pop().continue_()
        # enough for the file to arrive
        page.wait_for_timeout(1000)
    expect(page.locator("#recorder .status")).to_contain_text("Recording:")
    stop_recording(page)
    expect(summary(page)).to_contain_text("estimated")
    page.evaluate(DESK, STATIC)
    assert "take_" in page.evaluate("desk.vocal")


def test_space_ends_a_recording_instead_of_playing_the_song_into_it(ready: Page) -> None:
    ready.evaluate(DESK, STATIC)
    studio.push(ready.locator("[data-do=new]"))
    record(ready)
    ready.locator("h1, body").first.focus()
    ready.keyboard.press(" ")
    expect(ready.locator("#recorder .status")).to_contain_text("Recorded")
    assert not ready.evaluate("desk.playing")


def test_two_presses_while_chords_are_estimated_start_one_band(ready: Page) -> None:
    studio.skip_fine(ready, 5)
    joined: list[str] = []
    ready.on("request", lambda request: joined.append(request.url) if "queue/join" in request.url else None)
    with held(ready, "**/gradio_api/run/**") as waiting:
        ready.get_by_label("Key", exact=True).select_option("G major")
        ready.wait_for_timeout(300)
        assert waiting
        # two presses, not a double click
        for _ in range(2):
            ready.get_by_role("button", name="Play a band").click()
            ready.wait_for_timeout(600)
    expect(studio.announced(ready)).to_contain_text("Done")
    assert len(joined) == 1
    expect(ready.locator("#mixer .takes").get_by_role("radio")).to_have_count(1)


def test_an_estimate_that_comes_late_does_not_bring_back_the_voice_before(ready: Page, voices: Any) -> None:
    ready.evaluate(DESK, STATIC)
    before = ready.evaluate("desk.vocal")
    late: list[Any] = []

    def answer_late(route: Any) -> None:
        """Keeps the server's answer to a new estimate back, and lets everything else pass."""
        if '"again"' not in (route.request.post_data or ""):
            return route.continue_()
        late.append((route, route.fetch()))

    ready.route("**/gradio_api/run/**", answer_late)
    ready.get_by_label("Key", exact=True).select_option("G major")
    ready.wait_for_function("document.querySelector('[data-set=key]').value.startsWith('G')")
    upload(ready, voices / "song.wav")
    ready.wait_for_function("before => desk.sheet.value?.vocal !== before", arg=before)
    assert len(late) == 1
    route, reply = late.pop()
    assert before in reply.text()
    route.fulfill(response=reply)
    # enough for the page to show the late answer, if it would
    ready.wait_for_timeout(1500)
    assert ready.evaluate("desk.vocal").endswith("song.wav")
    assert ready.evaluate("desk.sheet.value.vocal").endswith("song.wav")


def test_a_sound_that_was_just_sent_is_kept_before_a_project_names_it(page: Page) -> None:
    page.evaluate(DESK, STATIC)
    upload(page, EXAMPLE)
    expect(summary(page)).to_contain_text("chords (estimated)")
    page.wait_for_timeout(studio.KEPT_MS)
    # as “Keep this one” does, whose voice is shown only once the bands have been joined to it
    path = page.evaluate(
        """async (path) => {
            const { keepSound } = await import(`./gradio_api/file=${path}/keep.js`);
            await keepSound('/tmp/take_again.wav', new Blob([new Uint8Array(100)]));
            desk.mixer.marks = { ...desk.mixer.marks, a: { title: 'changed' } };
            return desk.vocal;
        }""",
        STATIC,
    )
    page.wait_for_timeout(studio.KEPT_MS)
    assert {path, "/tmp/take_again.wav"} <= set(page.evaluate(KEPT_SOUNDS))


def test_listening_to_examples_does_not_lose_the_own_voice(page: Page) -> None:
    page.evaluate(DESK, STATIC)
    record(page)
    stop_recording(page)
    expect(summary(page)).to_contain_text("estimated")
    own = page.evaluate("desk.vocal")
    for example in ("Vocal", "Low ballad"):
        if not page.get_by_role("button", name=example, exact=True).is_visible():
            studio.push(page.locator("[data-do=new]"))
        studio.push(page.get_by_role("button", name=example, exact=True))
        expect(summary(page)).to_contain_text("chords (given)")
        page.wait_for_timeout(studio.KEPT_MS)
    studio.push(page.locator("[data-do=new]"))
    studio.push(page.get_by_role("button", name="Previous voice"))
    page.wait_for_function("own => desk.vocal === own && desk.sheet.value?.vocal === own", arg=own)
    assert own in page.evaluate(KEPT_SOUNDS)


def test_the_page_says_that_the_browser_has_no_room_to_keep_a_sound(page: Page) -> None:
    page.add_init_script(
        """const { put } = IDBObjectStore.prototype;
        IDBObjectStore.prototype.put = function (value, key) {
            if (this.name === 'sounds') throw new DOMException('full', 'QuotaExceededError');
            return put.call(this, value, key);
        };"""
    )
    page.reload()
    studio.wait_for_page(page)
    upload(page, EXAMPLE)
    expect(summary(page)).to_contain_text("chords (estimated)")
    page.wait_for_timeout(studio.KEPT_MS)
    expect(page.locator("#mixer .kept")).to_contain_text("has no room to keep the song")


def test_the_page_works_without_session_storage(page: Page) -> None:
    page.add_init_script(
        "Object.defineProperty(window, 'sessionStorage', { get() { throw new DOMException('no', 'SecurityError'); } })"
    )
    page.reload()
    studio.wait_for_page(page)
    upload(page, EXAMPLE)
    expect(summary(page)).to_contain_text("chords (estimated)")


def test_tapping_on_after_a_seek_begins_anew(ready: Page) -> None:
    ready.evaluate(DESK, STATIC)
    ready.evaluate("desk.sheet.taps = []")
    # after the third tap the playhead is moved back
    for second in (3.0, 3.5, 4.0, 1.0, 1.5, 2.0, 2.5):
        ready.evaluate("second => desk.sheet.tapAt(second)", second)
    assert ready.evaluate("desk.sheet.taps") == [1.0, 1.5, 2.0, 2.5]
    ready.evaluate("desk.sheet.useTaps()")
    expect(summary(ready)).to_contain_text("120 beats per minute (given)")
    assert saved(ready).beats is not None


def test_taps_that_go_back_in_time_are_refused(page: Page) -> None:
    said = evaluated(page, "try { sheet.tappedBeats({}, [4, 3, 2, 1], 10); } catch (error) { return error.message; }")
    assert said == "The taps do not follow each other; tap again."


def test_the_outline_of_a_long_sound_is_drawn(page: Page) -> None:
    peaks, loudest = page.evaluate(
        """async (path) => {
            const { outlineOf } = await import(`./gradio_api/file=${path}/sound.js`);
            const buffer = new AudioBuffer({ length: 8000 * 1200, sampleRate: 8000 });
            buffer.getChannelData(0)[4000] = 0.5;
            const { peaks, loudest } = outlineOf(buffer);
            return [peaks.length, loudest];
        }""",
        STATIC,
    )
    # 1,200 s at 200 values a second
    assert (peaks, loudest) == (240_000, 0.5)


def test_lanes_are_not_zoomed_in_without_end(ready: Page) -> None:
    ready.evaluate(DESK, STATIC)
    for _ in range(12):
        studio.press(ready, "Zoom in")
    # pixels a second
    assert 300 <= ready.evaluate("desk.scale") < 450
    assert chords(ready)
