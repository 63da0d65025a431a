# SPDX-License-Identifier: Apache-2.0
"""The band plays what the song says: its chords, its beats, and nothing late."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pretty_midi", reason="pretty_midi is not installed")
pytest.importorskip("mir_eval", reason="mir_eval is not installed")

from hafm_tiny.songs.band import BASS_PATTERNS, PATTERNS, bass_notes, drum_notes
from hafm_tiny.songs.midi_song import Song, excerpt, read_song

RATE = 24000


@pytest.fixture(scope="module")
def song(songs: Path) -> Song:
    return excerpt(read_song(songs / "001"), 0.0, 9.6)


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
def test_drums_fall_on_subdivisions_of_the_beats(song: Song, pattern: str) -> None:
    steps, _ = PATTERNS[pattern]
    starts = np.array([n.start for n in drum_notes(song, pattern)])
    assert starts.size and starts.max() < song.duration
    position = starts / 0.6 * steps
    assert np.abs(position - np.round(position)).max() < 1e-6


@pytest.mark.parametrize("pattern", sorted(BASS_PATTERNS))
def test_bass_plays_a_tone_of_the_chord_and_its_root_on_the_downbeat(song: Song, pattern: str) -> None:
    for note in bass_notes(song, pattern):
        chord = next(c for c in song.chords if c.start - 1e-6 <= note.start < c.end - 1e-6)
        assert note.pitch % 12 in chord.pitch_classes
        assert note.end <= chord.end + 1e-6
        if min(abs(note.start - d) for d in song.downbeats) < 1e-6:
            assert note.pitch % 12 == chord.bass
