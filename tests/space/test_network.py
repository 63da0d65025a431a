# SPDX-License-Identifier: Apache-2.0
"""The studio over an ordinary connection: what is announced is not yet downloaded, and playback waits for it."""

import pytest

from space import studio
from space.studio import Page, expect
from space.test_desk import RATE, STATIC
from vocals import EXAMPLE, file_bytes, glide

# Mbit/s and ms of a connection at home, and of one on the road
CONNECTIONS = {"home": (20.0, 150), "road": (1.6, 560)}
DESK = "path => import(`./gradio_api/file=${path}/desk.js`).then(({ desk }) => Object.assign(window, { desk }))"
# the furthest position that was heard, and where playback waited
WATCH = """() => {
    window.heard = 0;
    setInterval(() => { if (desk.playing) heard = Math.max(heard, desk.position); }, 20);
}"""
# downloads of files whose address contains a text take so many milliseconds
DELAY = """(late) => {
    const fetched = window.fetch;
    const wait = (address) => Object.entries(late).find(([name]) => String(address).includes(name))?.[1] ?? 0;
    window.fetch = (address, ...more) => new Promise((done) => setTimeout(done, wait(address)))
        .then(() => fetched(address, ...more));
}"""
# a band of 6 s in three pieces, of which the second and third are announced half a second after the first, and which
# is a finished take half a second later
GENERATE = """([voice, finished]) => {
    const band = [0, 1, 2].map((number) => `/piece_${number}.wav`);
    const about = { source: desk.vocal, seconds: 6, balance: 0 };
    const show = (value) => { desk.mixer.props.value = { ...desk.mixer.props.value, ...value }; desk.mixer.show(); };
    const live = (pieces, until) => ({ live: { ...about, run: 'r', until, at: [0, 2, 4].slice(0, pieces),
        files: { voice, band: band.slice(0, pieces) } }, play: true });
    const take = { ...about, id: 'a', name: 'a', seed: 1, style: '', files: { voice, band: '/whole.wav' } };
    show(live(1, 2));
    setTimeout(() => show(live(3, 6)), 500);
    if (finished) setTimeout(() => show({ live: null, takes: [take], chosen: 'a' }), 1000);
}"""


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_a_band_plays_to_the_end_over_an_ordinary_connection(page: Page, connection: str) -> None:
    studio.upload(page, EXAMPLE)
    expect(studio.summary(page)).to_contain_text("chords (estimated)")
    page.evaluate(DESK, STATIC)
    page.evaluate(WATCH)
    studio.skip_fine(page)
    speed, latency = CONNECTIONS[connection]
    limits = {"downloadThroughput": speed * 1e6 / 8, "uploadThroughput": speed * 1e6 / 8}
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.send("Network.emulateNetworkConditions", {"offline": False, "latency": latency, **limits})
    studio.generated(page)
    page.wait_for_function("desk.playing || heard > 0")
    # the end of the song, where the playhead returns to the beginning
    page.wait_for_function("!desk.playing && !desk.waits")
    assert page.evaluate("desk.seconds - heard") < 0.5


@pytest.mark.parametrize(
    ("late", "finished"),
    [
        ({"piece_1": 4000}, False),
        ({"piece_2": 7000}, False),
        ({"piece_1": 3000, "piece_2": 8000}, False),
        ({"piece_1": 8000, "piece_2": 8000, "whole": 4000}, True),
        ({"piece_2": 2500, "whole": 9000}, True),
    ],
    ids=["the middle", "the end", "both", "all but the beginning", "the finished take"],
)
def test_playback_waits_for_sounds_that_are_announced_but_not_downloaded(
    page: Page, late: dict[str, int], finished: bool
) -> None:
    for name, seconds in {"piece": 2, "whole": 6, "voice": 6}.items():
        sound = file_bytes(glide(seconds, RATE), RATE)
        page.route(f"**/{name}*.wav", lambda route, _, body=sound: route.fulfill(body=body, content_type="audio/wav"))
    studio.upload(page, EXAMPLE)
    page.evaluate(DESK, STATIC)
    page.evaluate("() => { desk.stop(); Object.assign(desk.sheet.value, { seconds: 6 }); }")
    page.evaluate(DELAY, late)
    page.evaluate(WATCH)
    page.evaluate(GENERATE, ["/voice.wav", finished])
    page.wait_for_function("heard > 1")
    page.wait_for_function("!desk.playing && !desk.waits")
    assert page.evaluate("desk.seconds - heard") < 0.5


def test_a_second_sought_while_sounds_are_downloaded_is_played(page: Page) -> None:
    sound = file_bytes(glide(2, RATE), RATE)
    page.route("**/piece*.wav", lambda route: route.fulfill(body=sound, content_type="audio/wav"))
    page.route("**/voice.wav", lambda route: route.fulfill(body=file_bytes(glide(6, RATE)), content_type="audio/wav"))
    studio.upload(page, EXAMPLE)
    page.evaluate(DESK, STATIC)
    page.evaluate("() => { desk.stop(); Object.assign(desk.sheet.value, { seconds: 6 }); }")
    page.evaluate(DELAY, {"piece_2": 3000})
    page.evaluate(WATCH)
    page.evaluate(GENERATE, ["/voice.wav", False])
    page.wait_for_function("heard > 0.2")
    page.wait_for_timeout(600)
    page.evaluate("desk.seek(4.5)")
    page.wait_for_function("desk.playing && desk.position > 4.6")
    assert page.evaluate("desk.position") < 5.5
