# SPDX-License-Identifier: Apache-2.0
"""A lag that all clips of a song share is found by the others and taken off; the vocal stays where it is."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hafm_hf.cli.evaluate import SetFlags, asked_set
from hafm_hf.evaluation.alignment import align_songs
from hafm_hf.evaluation.datasets import Clip, Part, load_karaoke
from hafm_hf.evaluation.statistics import HAFMEvaluationError
from little_band import RATE, Samples, tone

LATE = {"anna_1": 0.12, "anna_2": -0.09, "bo_1": 0.0}
SECONDS, PARTS = 10.0, 4


def take(seed: int, seconds: float) -> tuple[Samples, Samples]:
    """A voice (float32 [N]) that sings with most strokes of its band (float32 [N]), 10 ms more or less in time."""
    generator = np.random.default_rng(seed)
    voice, band = (np.zeros(round((seconds + 2) * RATE)) for _ in range(2))
    at = 0.3
    while at < seconds - 0.5:
        length = generator.uniform(0.35, 0.9)
        stroke, start = tone(int(generator.integers(-12, 0)), 0.5), round(at * RATE)
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
    """Four clips of each of three songs, band left, whose bands are late by as much as LATE says; and a lone clip."""
    folder = tmp_path_factory.mktemp("recordings")
    for number, (name, late) in enumerate(LATE.items()):
        voice, band = take(number, SECONDS * PARTS)
        moved = np.roll(band, round(late * RATE))
        for part in range(PARTS):
            stretch = slice(round(part * SECONDS * RATE), round((part + 1) * SECONDS * RATE))
            soundfile.write(folder / f"{name}_{part}.wav", np.stack([moved[stretch], voice[stretch]], 1), RATE)
    voice, band = take(9, SECONDS)
    soundfile.write(folder / "cy_1_0.wav", np.stack([band, voice], 1), RATE)
    return folder


def test_the_lag_of_each_song_is_found_and_taken_off(recordings: Path) -> None:
    clips = load_karaoke(recordings)
    aligned, lags = align_songs(clips)
    assert [clip.name for clip in aligned] == [clip.name for clip in clips]
    assert lags == pytest.approx(LATE, abs=0.02)
    for before, after in zip(clips, aligned, strict=True):
        assert after.vocal == before.vocal
        assert after.reference is not None
        moved = after.reference.start
        assert moved == pytest.approx(LATE.get(before.song, 0.0), abs=0.03)


def test_a_moved_reference_is_read_as_late_or_early(recordings: Path) -> None:
    path = recordings / "cy_1_0.wav"
    whole, _ = Part(path, channel=0).read()
    early, _ = Part(path, channel=0, start=0.1, seconds=2.0).read()
    late, _ = Part(path, channel=0, start=-0.1, seconds=2.0).read()
    shift = round(0.1 * RATE)
    assert np.array_equal(early, whole[shift : shift + 2 * RATE])
    assert not late[:shift].any()
    assert np.array_equal(late[shift:], whole[: 2 * RATE - shift])


def test_a_clip_decides_nothing_about_itself(recordings: Path) -> None:
    clips = load_karaoke(recordings)
    aligned, _ = align_songs(clips)
    first = clips[0]
    # another song's band in its place: where it belongs is what its neighbours say
    foreign = Clip(first.name, first.song, first.vocal, clips[-1].reference)
    assert clips[-1].reference is not None
    with_foreign, _ = align_songs([foreign, *clips[1:]])
    assert aligned[0].reference is not None
    assert with_foreign[0].reference is not None
    assert with_foreign[0].reference.start == aligned[0].reference.start != 0.0


def test_songs_of_one_clip_each_cannot_be_aligned(recordings: Path) -> None:
    one_each = [clip for clip in load_karaoke(recordings) if clip.name.endswith("_0")]
    with pytest.raises(HAFMEvaluationError, match="no song here has two"):
        align_songs(one_each)


def test_the_report_says_that_references_were_moved(recordings: Path) -> None:
    flags = SetFlags(karaoke=recordings, clip_seconds=5.0)
    as_recorded, data = asked_set(flags).values()
    aligned, moved = asked_set(replace(flags, align_songs=True)).values()
    assert "references aligned" not in data
    assert moved["references aligned"].startswith("3 songs, by up to 0.1")
    assert moved["lags in seconds"] == pytest.approx(LATE, abs=0.02)
    # what is late lacks its beginning, and with it the second 5 s of each clip of 10 s
    for song, count in (("anna_1", PARTS), ("anna_2", 2 * PARTS)):
        assert sum(clip.song == song for clip in as_recorded) == 2 * PARTS
        assert sum(clip.song == song for clip in aligned) == count
