# SPDX-License-Identifier: Apache-2.0
"""A song in one HTML file: it plays from disk without a network, each track alone, and nothing in a name is HTML."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import shared_song
import takes
from hafm_hf import audio
from space import studio
from space.serving import Space
from space.studio import Browser, Page, expect, in_both_windows
from vocals import EXAMPLE

RATE = 44_100
# root mean square of a track as it is heard: of the last 16,384 samples, after 0.6 s
LEVEL = """(name) => new Promise((done) => {
    const analyser = new AnalyserNode(ctx, { fftSize: 16384 });
    tracks[name].gain.connect(analyser);
    setTimeout(() => {
        const samples = new Float32Array(16384);
        analyser.getFloatTimeDomainData(samples);
        done(Math.sqrt(samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length));
    }, 600);
})"""
# the browser does not decode Opus
NO_OPUS = """
    const decode = AudioContext.prototype.decodeAudioData;
    AudioContext.prototype.decodeAudioData = function (bytes) {
        const ogg = String.fromCharCode(...new Uint8Array(bytes).subarray(0, 4)) === 'OggS';
        return ogg ? Promise.reject(new Error('no Opus here')) : decode.call(this, bytes);
    };
"""
# a name that would change the page's title if it became HTML
HOSTILE = "</script><script>document.title = 'broken'</script><img src=x onerror=\"document.title = 'broken'\">"
# of each bar: seconds from its start, and name
CHORDS = [(0, "Am7"), (1, "F♯m")]
BARS = [
    {
        "number": number,
        "start": start,
        "stop": start + 2,
        "chords": [[start + at, start + at + 1, name] for at, name in CHORDS],
    }
    for number, start in enumerate(range(0, 10, 2), start=1)
]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> takes.Job:
    """A take of ten seconds in 44.1 kHz stereo: the first example's voice, and its band made wide."""
    voice, _ = audio.read_audio(EXAMPLE, sampling_rate=RATE)
    count = 10 * RATE
    stems: dict[str, np.ndarray] = {}
    for name in ("drums", "bass", "chords", "pads"):
        path = EXAMPLE.parent / "bands" / f"{EXAMPLE.stem}_{name}.ogg"
        sound = audio.read_audio(path, sampling_rate=RATE, min_seconds=0.0)[0][:count]
        stems[name] = np.stack([sound, np.roll(sound, 900)], axis=1)
    song: dict[str, Any] = {"sampling_rate": RATE, "vocal_start": 0.0, "stems": stems, "audio": sum(stems.values())}
    song["vocals"] = np.stack([voice[:count]] * 2, axis=1)
    folder = tmp_path_factory.mktemp("job")
    return takes.write_job(song, folder, name="song", seed=1, elapsed=0.0, source="song.wav")


def shared(job: takes.Job, channels: dict[str, object] | None = None) -> Path:
    """Writes the song file of a take, with mixer settings by channel if given, and returns its path."""
    song = {"title": "A song", "about": "A minor", "bars": BARS}
    return shared_song.write_song(job, {"ask": {"song": song}, "channels": channels})


@pytest.fixture
def offline(browser: Browser, options: dict) -> Iterator[Page]:
    """A window without a network, which fails if anything but the file is asked for."""
    context = browser.new_context(offline=True, **options)
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    yield page
    studio.keep_screenshot(page, "shared song")
    context.close()
    assert [url for url in asked if not url.startswith("file:")] == []


def opened(page: Page, path: Path) -> None:
    """Opens a song file, and waits until it can be played."""
    page.goto(path.as_uri())
    expect(page.get_by_role("button", name="Play")).to_be_enabled()


@in_both_windows
def test_share_saves_a_file_that_plays_from_disk_without_a_network(page: Page, offline: Page) -> None:
    studio.push(page.get_by_role("button", name="Vocal", exact=True))
    expect(page.locator("#mixer .takes")).to_contain_text("folk · seed 1")
    expect(studio.summary(page)).to_contain_text("chords (given)")
    path = studio.downloaded(page, "Share")
    assert path.name.endswith(".html")
    opened(offline, path)
    expect(offline.get_by_role("heading")).to_have_text("vocal")
    expect(offline.locator(".about")).to_have_text("F major · 96 beats a minute · 4/4")
    shown = studio.chords(page)
    expect(offline.locator("#bars .chords span").first).to_have_text(shown[0])
    studio.push(offline.get_by_role("button", name="Play"))
    expect(offline.locator("#clock")).to_have_text(re.compile("0:01 /"))
    assert offline.evaluate("ctx.currentTime") > 1
    assert offline.evaluate(LEVEL, "voice") > 0.005
    assert offline.evaluate(LEVEL, "band") > 0.005
    seconds = offline.evaluate("tracks.voice.buffer.duration")
    assert seconds == pytest.approx(offline.evaluate("song.seconds"), abs=0.01)
    # chords and bars run along
    expect(offline.locator("#bars [aria-current] small")).not_to_have_text("1")
    expect(offline.locator("#bars [aria-current] .now")).to_have_count(1)


@pytest.mark.parametrize("pan", [0.0, 0.6])
def test_a_minute_takes_one_and_a_half_megabytes_at_most(job: takes.Job, pan: float) -> None:
    size = shared(job, {"voice": {"pan": pan}}).stat().st_size
    print(f"{size / 10 * 60 / 1e6:.2f} MB a minute")
    assert size / 10 * 60 < 1.5e6


def test_each_track_can_be_heard_alone(job: takes.Job, offline: Page) -> None:
    opened(offline, shared(job))
    offline.get_by_role("button", name="Play").click()
    offline.get_by_role("button", name="Voice").click()
    assert offline.evaluate(LEVEL, "voice") > 0.005
    assert offline.evaluate(LEVEL, "band") < 1e-4
    offline.get_by_role("button", name="Band").click()
    assert offline.evaluate(LEVEL, "voice") < 1e-4
    assert offline.evaluate(LEVEL, "band") > 0.005


def test_pressing_a_bar_moves_the_playhead_to_it(job: takes.Job, offline: Page) -> None:
    opened(offline, shared(job))
    offline.get_by_role("button", name=re.compile("^4")).click()
    expect(offline.locator("#clock")).to_have_text("0:06 / 0:10")
    expect(offline.locator("#bars [aria-current] small")).to_have_text("4")


def test_a_browser_without_opus_plays_mp3(job: takes.Job, offline: Page) -> None:
    offline.add_init_script(NO_OPUS)
    opened(offline, shared(job))
    assert offline.evaluate("tracks.band.buffer.duration") == pytest.approx(10, abs=0.2)
    offline.get_by_role("button", name="Play").click()
    assert offline.evaluate(LEVEL, "voice") > 0.005


def test_names_do_not_become_html(job: takes.Job, offline: Page) -> None:
    chords = [{"number": 1, "start": 0, "stop": 2, "section": HOSTILE, "chords": [[0, 2, HOSTILE]]}]
    song = {"title": HOSTILE, "about": HOSTILE, "bars": chords}
    opened(offline, shared_song.write_song(job, {"ask": {"song": song}}))
    expect(offline.get_by_role("heading")).to_have_text(HOSTILE)
    expect(offline.locator("#bars .chords span")).to_have_text(HOSTILE)
    expect(offline).to_have_title(HOSTILE)
    assert offline.locator("img").count() == 0


def test_only_its_own_script_runs_in_a_shared_file(job: takes.Job, offline: Page, tmp_path: Path) -> None:
    text = shared(job).read_text(encoding="utf-8")
    # as if a name had become HTML after all
    injected = HOSTILE.removeprefix("</script>")
    (tmp_path / "broken.html").write_text(text.replace("<main>", f"<main>{injected}"), encoding="utf-8")
    opened(offline, tmp_path / "broken.html")
    expect(offline).to_have_title("A song")


def test_a_muted_band_is_left_out_and_muting_both_tracks_is_refused(job: takes.Job) -> None:
    muted: dict[str, object] = {name: {"muted": True} for name in job.stems}
    assert b"id='band-opus'" not in shared(job, muted).read_bytes()
    assert b"id='voice-opus'" in shared(job, muted).read_bytes()
    with pytest.raises(ValueError, match="Voice and band are muted"):
        shared(job, {**muted, "voice": {"muted": True}})


def test_both_tracks_together_do_not_clip(job: takes.Job) -> None:
    loud = {name: takes.Channel(db=24.0) for name in job.channels}
    voice, band, rate = takes.placed(job, loud)
    gain = shared_song.together(voice, band, rate, None)
    assert audio.true_peak_dbtp((voice + band) * gain) == pytest.approx(-1, abs=0.01)


@pytest.mark.parametrize("size", [(1440, 900), (390, 844)])
def test_a_shared_song_fits_a_window(job: takes.Job, browser: Browser, axe: Path, size: tuple[int, int]) -> None:
    page = browser.new_page(viewport={"width": size[0], "height": size[1]}, bypass_csp=True)
    opened(page, shared(job))
    page.get_by_role("button", name="Play").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert studio.findings(page, axe) == []
    studio.keep_screenshot(page, f"shared song {size[0]}")
    page.close()


def test_a_link_says_that_it_holds_settings_only(browser: Browser, space: Space) -> None:
    page = studio.open_page(browser, space, "/?style=rock&seed=5")
    expect(studio.announced(page)).to_contain_text("The link holds settings only, no voice and no song")
    studio.upload(page, EXAMPLE)
    expect(studio.announced(page)).not_to_contain_text("The link")
    page.context.close()
