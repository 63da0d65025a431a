# SPDX-License-Identifier: Apache-2.0
"""The studio over an ordinary connection: what is announced is not yet downloaded, and playback waits for it."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest

import takes
from faults import Tally
from hafm_hf.audio import read_audio
from opus_pieces import RATE as RATE_48
from space import studio
from space.serving import Space
from space.studio import DESKTOP, WINDOWS, Browser, Page, expect, in_both_windows
from space.test_desk import RATE, STATIC
from space.test_pieces import STEMS, stereo_stem
from vocals import EXAMPLE, file_bytes, glide

# Mbit/s and ms of a connection at home, and of one on the road
CONNECTIONS = {"home": (20.0, 150), "road": (1.6, 560)}
DESK = "path => import(`./gradio_api/file=${path}/desk.js`).then(({ desk }) => Object.assign(window, { desk }))"
# `heard`: the furthest second of the song at which playback has been
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
# once the sounds reach a second, decoding them takes so many milliseconds
DECODE_SLOWLY = """([second, late]) => {
    const decode = desk.mixer.decode;
    desk.mixer.decode = async function () {
        if (this.reach >= second) await new Promise((done) => setTimeout(done, late));
        return decode.call(this);
    };
}"""
# a band of 6 s in three pieces, of which the second is announced a tenth of a second after the first and the third
# half a second, and which is a finished take half a second later
GENERATE = """([voice, finished]) => {
    const band = [0, 1, 2].map((number) => `/piece_${number}.wav`);
    const about = { source: desk.vocal, seconds: 6, balance: 0 };
    const show = (value) => { desk.mixer.props.value = { ...desk.mixer.props.value, ...value }; desk.mixer.show(); };
    const live = (pieces, until) => ({ live: { ...about, run: 'r', until, at: [0, 2, 4].slice(0, pieces),
        files: { voice, band: band.slice(0, pieces) } }, play: true });
    const take = { ...about, id: 'a', name: 'a', seed: 1, style: '', files: { voice, band: '/whole.wav' } };
    show(live(1, 2));
    setTimeout(() => show(live(2, 4)), 100);
    setTimeout(() => show(live(3, 6)), 500);
    if (finished) setTimeout(() => show({ live: null, takes: [take], chosen: 'a' }), 1000);
}"""
# a band whose pieces are announced one by one, so many milliseconds after each other
STREAM = """([pieces, period]) => {
    const show = (value) => { desk.mixer.props.value = { ...desk.mixer.props.value, ...value }; desk.mixer.show(); };
    const last = pieces.at(-1);
    const send = (number) => {
        const until = pieces[number].stop;
        const part = pieces.slice(0, number + 1);
        const names = Object.keys(last.files);
        const files = Object.fromEntries(names.map((name) => [name, part.map((piece) => piece.files[name])]));
        const at = part.map(({ start }) => start);
        const live = { source: desk.vocal, seconds: last.stop, balance: 0, run: 'r', until, at, files };
        show({ live, play: true });
        if (number + 1 < pieces.length) setTimeout(() => send(number + 1), period);
    };
    send(0);
}"""
# `notes`: whenever playback begins, waits or stops, its state, ms since the script began, and what the clock shows
NOTE = """() => {
    window.notes = [];
    const began = performance.now();
    setInterval(() => {
        const now = desk.playing ? 'plays' : desk.waits ? 'waits' : 'stops';
        const clock = document.querySelector('#timeline .clock').textContent;
        if (now !== notes.at(-1)?.[0]) notes.push([now, performance.now() - began, clock]);
    }, 10);
}"""
# `held` counts the bytes of decoded sounds that have not been collected
COUNT = """() => {
    const decode = BaseAudioContext.prototype.decodeAudioData;
    const all = [];
    BaseAudioContext.prototype.decodeAudioData = async function (bytes) {
        const buffer = await decode.call(this, bytes);
        all.push([new WeakRef(buffer), 4 * buffer.length * buffer.numberOfChannels]);
        return buffer;
    };
    window.held = () => all.filter(([buffer]) => buffer.deref()).reduce((sum, [, size]) => sum + size, 0);
}"""
# Mbit/s and ms of latency; None: no limit
LINKS = {"none": None, "20 Mbit/s": (20.0, 150), "6 Mbit/s": (6.0, 150), "1.6 Mbit/s": (1.6, 300)}
# seconds that playback may wait after it has begun
MOST_SILENCE = {"none": 0.0, "20 Mbit/s": 0.0, "6 Mbit/s": 0.0, "1.6 Mbit/s": 5.0}
# without a limit in both windows, with one in the large window only: waiting does not depend on the window
SEEN = {f"none, {size}": ("none", window) for size, window in WINDOWS.items()}
SEEN |= {link: (link, DESKTOP) for link, limits in LINKS.items() if limits}


def limit(page: Page, speed: float, latency: int) -> None:
    """Limits the page's connection to `speed` Mbit/s in each direction, with a latency in ms."""
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    limits = {"downloadThroughput": speed * 1e6 / 8, "uploadThroughput": speed * 1e6 / 8}
    session.send("Network.emulateNetworkConditions", {"offline": False, "latency": latency, **limits})


def band_of(space: Space, seconds: float, size: float) -> tuple[list[dict], Path]:
    """Writes the example's four stereo stems in pieces, as the server does.

    Args:
        space: the Space, among whose files they are written.
        seconds: length of the band.
        size: seconds that are generated at a time.

    Returns:
        the pieces: start and stop in seconds, and the file of each stem; and their folder.
    """
    folder = Path(tempfile.mkdtemp(dir=next(space.temporary.glob("hafm_space_*"))))
    pieces = takes.Pieces(folder)
    stems = {name: np.tile(stereo_stem(name), (2, 1))[: round(seconds * RATE_48)] for name in STEMS}
    step = round(size * RATE_48)
    count = len(stems["bass"])
    for first in range(0, count, step):
        part = {name: sound[first : first + step] for name, sound in stems.items()}
        pieces.add(part, RATE_48, ends=first + step >= count)
    stops = [*pieces.at[1:], pieces.until]
    names = {name: [str(path) for path in paths] for name, paths in pieces.files.items()}
    listed = []
    for number, (start, stop) in enumerate(zip(pieces.at, stops, strict=True)):
        listed.append({"start": start, "stop": stop, "files": {name: names[name][number] for name in STEMS}})
    return listed, folder


def silence(page: Page) -> tuple[float, float]:
    """Seconds until the first sound, and seconds of silence between it and the end, from the notes of `NOTE`."""
    notes = page.evaluate("notes")
    first_played = next(number for number, (state, *_) in enumerate(notes) if state == "plays")
    waits = [(number, at, clock) for number, (state, at, clock) in enumerate(notes) if state == "waits"]
    assert {clock for *_, clock in waits} <= {"Loading …"}
    # ms from each wait after the first sound to the next note
    silent = sum(notes[number + 1][1] - at for number, at, _ in waits if number > first_played)
    return notes[first_played][1] / 1000, silent / 1000


@pytest.mark.parametrize(("link", "options"), SEEN.values(), ids=SEEN)
def test_once_begun_a_band_is_silent_for_no_longer_than_the_connection_must(
    page: Page, space: Space, link: str
) -> None:
    studio.upload(page, EXAMPLE)
    expect(studio.summary(page)).to_contain_text("chords (estimated)")
    pieces, _ = band_of(space, 12.0, 0.7)
    page.evaluate(DESK, STATIC)
    if limits := LINKS[link]:
        limit(page, *limits)
    page.evaluate(NOTE)
    page.evaluate(STREAM, [pieces, 450])
    page.wait_for_function("notes.at(-1)?.[0] === 'stops' && notes.length > 2")
    assert "waits" in [state for state, *_ in page.evaluate("notes")]
    first, silent = silence(page)
    print(f"{link}: first sound after {first:.1f} s, then silent for {silent:.1f} s")
    assert silent <= MOST_SILENCE[link]


@in_both_windows
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.fault("bands played over a network", cut=0, full=10)
def test_a_band_plays_from_the_button_to_the_end(
    browser: Browser, space: Space, link: str, options: dict, tally: Tally, tmp_path: Path
) -> None:
    """A voice of 12 s and its four stems, generated while they play; needs a machine with nothing else to do."""
    if not tally.tries:
        pytest.skip("with --torture only")
    samples, rate = read_audio(EXAMPLE)
    voice = tmp_path / "voice.wav"
    voice.write_bytes(file_bytes(np.tile(samples, 2)[: 12 * rate], rate))
    firsts = []
    silences = []
    for _ in range(tally.tries):
        page = studio.open_page(browser, space, **options)
        studio.upload(page, voice)
        page.evaluate(DESK, STATIC)
        page.evaluate(WATCH)
        if limits := LINKS[link]:
            limit(page, *limits)
        page.evaluate(NOTE)
        studio.generated(page)
        page.wait_for_function("notes.at(-1)?.[0] === 'stops' && notes.length > 2")
        first, silent = silence(page)
        missing = page.evaluate("desk.seconds - heard")
        if silent > MOST_SILENCE[link] or missing > 0.5:
            tally.lose(f"silent for {silent:.1f} s, {missing:.1f} s were not heard")
        else:
            tally.survived()
        firsts.append(first)
        silences.append(silent)
        page.context.close()
    tally.measured = f"{link}: first sound {max(firsts):.1f} s, silent {max(silences):.1f} s at most"


def received(page: Page) -> list[float]:
    """A list that gets the bytes, headers included, of each file that the page receives from here on."""
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    sizes: list[float] = []
    session.on("Network.loadingFinished", lambda about: sizes.append(about["encodedDataLength"]))
    return sizes


def repeated(pieces: list[dict], folder: Path, seconds: int, whole: int) -> list[dict]:
    """Pieces repeated until they last `whole` seconds, each time as new files, so that none is cached.

    Args:
        pieces: as `band_of` returns them.
        folder: of their files.
        seconds: how long they last together.
        whole: how long the result lasts.
    """
    made = []
    for start in range(0, whole, seconds):
        copy = shutil.copytree(folder, folder.with_name(f"{folder.name}_{start}"))
        for piece in pieces:
            files = {name: str(copy / Path(path).name) for name, path in piece["files"].items()}
            made.append({"start": piece["start"] + start, "stop": piece["stop"] + start, "files": files})
    return made


def collect_garbage(page: Page) -> None:
    """Makes the page free memory, three times, as some is only freed by a later collection."""
    session = page.context.new_cdp_session(page)
    for _ in range(3):
        session.send("HeapProfiler.collectGarbage")
        page.wait_for_timeout(100)


def memory(pid: int) -> float:
    """The bytes of a process in memory, with its share of what it shares (Pss); 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next(1024.0 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


@contextmanager
def growth(browser: Browser) -> Iterator[list[float]]:
    """Measures the memory of the browser's pages during the block.

    Yields:
        a list that gets, every 0.1 s, the bytes by which the process that has grown most has grown since the start.
    """
    processes = browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
    before = {each["id"]: memory(each["id"]) for each in processes if each["type"] == "renderer"}
    # 0 where memory can't be read
    assert max(before.values()) > 10e6
    grown: list[float] = []
    ended = Event()

    def watch() -> None:
        """Measures until the block ends."""
        while not ended.wait(0.1):
            grown.append(max(memory(pid) - size for pid, size in before.items()))

    thread = Thread(target=watch)
    thread.start()
    try:
        yield grown
    finally:
        ended.set()
        thread.join()


@in_both_windows
def test_a_band_of_twelve_seconds_is_received_in_a_megabyte_at_most(page: Page, space: Space) -> None:
    studio.upload(page, EXAMPLE)
    expect(studio.summary(page)).to_contain_text("chords (estimated)")
    page.evaluate(DESK, STATIC)
    sizes = received(page)
    pieces, _ = band_of(space, 12.0, 0.7)
    page.evaluate(STREAM, [pieces, 20])
    page.wait_for_function("desk.mixer.run && desk.mixer.reach > 11.9")
    print(f"{sum(sizes) / 1e6:.2f} MB")
    # at least a file a second of each stem
    assert len(sizes) >= 4 * 12
    assert sum(sizes) <= 1e6


@in_both_windows
def test_a_band_of_four_minutes_is_20_megabytes_and_250_in_memory_at_most(
    browser: Browser, page: Page, space: Space
) -> None:
    studio.upload(page, EXAMPLE)
    expect(studio.summary(page)).to_contain_text("chords (estimated)")
    page.evaluate(DESK, STATIC)
    page.evaluate(COUNT)
    sizes = received(page)
    pieces, folder = band_of(space, 10.0, 5.0)
    pieces = repeated(pieces, folder, seconds=10, whole=240)
    collect_garbage(page)
    with growth(browser) as grown:
        page.evaluate(STREAM, [pieces, 20])
        page.wait_for_function("desk.playing && desk.mixer.run && desk.mixer.reach >= 240")
        for second in (60, 200, 120, 20, 90, 160, 230):
            page.evaluate("second => desk.seek(second)", second)
            # playing within 10 s after the place that was sought, not somewhere that playback has left
            played = "second => desk.playing && desk.position > second + 1 && desk.position < second + 10"
            page.wait_for_function(played, arg=second)
        collect_garbage(page)
        page.wait_for_timeout(300)
    held = page.evaluate("held()")
    print(f"{sum(sizes) / 1e6:.1f} MB received; {held / 1e6:.0f} MB of decoded sound")
    print(f"the page's process has grown by {max(grown) / 1e6:.0f} MB at most, by {grown[-1] / 1e6:.0f} MB in the end")
    assert len(sizes) >= 4 * len(pieces)
    assert sum(sizes) <= 20e6
    assert held <= 250e6
    assert max(grown) <= 250e6


def open_song_of_pieces(page: Page) -> None:
    """Uploads a voice, serves the sounds that `GENERATE` announces in pieces of 2 s, and starts `WATCH`."""
    for name, seconds in {"piece": 2, "whole": 6, "voice": 6}.items():
        sound = file_bytes(glide(seconds, RATE), RATE)
        page.route(f"**/{name}*.wav", lambda route, _, body=sound: route.fulfill(body=body, content_type="audio/wav"))
    studio.upload(page, EXAMPLE)
    page.evaluate(DESK, STATIC)
    page.evaluate("() => { desk.stop(); Object.assign(desk.sheet.value, { seconds: 6 }); }")
    page.evaluate(WATCH)


def check_heard_to_the_end(page: Page, after: float = 1.0) -> None:
    """Waits until more than `after` seconds are heard, then for the end; asserts that all but 0.5 s were heard."""
    page.wait_for_function("second => heard > second", arg=after)
    # the end of the song, where the playhead returns to the beginning
    page.wait_for_function("!desk.playing && !desk.waits")
    assert page.evaluate("desk.seconds - heard") < 0.5


@pytest.mark.parametrize("connection", CONNECTIONS)
def test_a_band_plays_to_the_end_over_an_ordinary_connection(page: Page, connection: str) -> None:
    studio.upload(page, EXAMPLE)
    expect(studio.summary(page)).to_contain_text("chords (estimated)")
    page.evaluate(DESK, STATIC)
    page.evaluate(WATCH)
    studio.skip_fine(page)
    limit(page, *CONNECTIONS[connection])
    studio.generated(page)
    check_heard_to_the_end(page, after=0.0)


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
    open_song_of_pieces(page)
    page.evaluate(DELAY, late)
    page.evaluate(GENERATE, ["/voice.wav", finished])
    check_heard_to_the_end(page)


@pytest.mark.parametrize("fails", ["no connection", "503", "429"])
def test_a_download_that_fails_twice_is_tried_again(page: Page, fails: str) -> None:
    tries: Counter[str] = Counter()

    def answer(route: Any) -> None:
        """Lets the first two tries of each file fail."""
        tries[route.request.url] += 1
        if tries[route.request.url] > 2:
            route.fallback()
        elif fails == "no connection":
            route.abort("connectionreset")
        else:
            route.fulfill(status=int(fails))

    open_song_of_pieces(page)
    page.route("**/piece*.wav", answer)
    page.evaluate(GENERATE, ["/voice.wav", False])
    check_heard_to_the_end(page, after=3.5)
    # three pieces
    assert len(tries) == 3
    expect(page.locator("#mixer .wrong")).to_have_text("")


def test_sounds_that_come_just_as_playback_runs_out_are_played(page: Page) -> None:
    open_song_of_pieces(page)
    page.evaluate(DECODE_SLOWLY, [6, 6000])
    page.evaluate(GENERATE, ["/voice.wav", False])
    # where the first two pieces end
    check_heard_to_the_end(page, after=3.5)


def test_a_second_sought_while_sounds_are_downloaded_is_played(page: Page) -> None:
    open_song_of_pieces(page)
    page.evaluate(DELAY, {"piece_2": 3000})
    page.evaluate(GENERATE, ["/voice.wav", False])
    page.wait_for_function("heard > 0.2")
    # by then the last piece is announced, and not downloaded
    page.wait_for_timeout(600)
    page.evaluate("desk.seek(4.5)")
    page.wait_for_function("desk.playing && desk.position > 4.6")
    assert page.evaluate("desk.position") < 5.5
