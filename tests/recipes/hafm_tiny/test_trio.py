# SPDX-License-Identifier: Apache-2.0
"""The trio plays the song, and plays one chord the same way every time."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pretty_midi", reason="pretty_midi is not installed")
pytest.importorskip("mir_eval", reason="mir_eval is not installed")

from hafm_tiny.songs.midi_song import Song, change, excerpt, read_song
from hafm_tiny.songs.trio import COMPING_PATTERNS, FRAME_RATE, comping_notes, trio_parts


@pytest.fixture(scope="module")
def song(songs: Path) -> Song:
    return change(excerpt(read_song(songs / "001"), 0.0, 9.6), stretch=1.037, lead_in=0.3)


@pytest.mark.parametrize("pattern", sorted(COMPING_PATTERNS))
def test_chords_are_played_while_they_last_in_one_octave(song: Song, pattern: str) -> None:
    notes = comping_notes(song, pattern)
    assert notes
    for note in notes:
        chord = next(c for c in song.chords if c.start - 0.05 <= note.start < c.end)
        assert note.pitch % 12 in chord.pitch_classes and note.end <= chord.end + 0.1
        assert 55 <= note.pitch < 67
    if COMPING_PATTERNS[pattern][0][2] is None:
        first = [note.pitch % 12 for note in notes if note.start == notes[0].start]
        assert set(first) == set(song.chords[0].pitch_classes)


def test_every_note_starts_with_a_frame_and_close_to_its_time(song: Song) -> None:
    played, style = trio_parts(song, np.random.default_rng(1))
    assert set(played) == {"comping", "bass", "drums"} and style
    starts = np.array([note.start for part in played.values() for note in part.notes])
    np.testing.assert_allclose(starts * FRAME_RATE, np.round(starts * FRAME_RATE), atol=1e-6)
    steps = np.interp(np.arange(0, len(song.beats) - 1, 0.25), np.arange(len(song.beats)), song.beats)
    inside = starts[starts < song.beats[-1] - 0.1]
    assert np.abs(inside[:, None] - steps).min(axis=1).max() <= 0.5 / FRAME_RATE + 1e-6
