# SPDX-License-Identifier: Apache-2.0
"""Symbolic songs: reading, transposing and cutting them."""

from pathlib import Path

import pytest

pytest.importorskip("pretty_midi", reason="pretty_midi is not installed")
pytest.importorskip("mir_eval", reason="mir_eval is not installed")

from hafm_tiny.songs.midi_song import Note, change, excerpt, list_songs, one_voice, read_song


def test_overlapping_notes_become_one_voice() -> None:
    chord = [Note(0.0, 1.0, 60), Note(0.01, 2.0, 64), Note(0.5, 0.9, 62), Note(0.9, 0.92, 70), Note(1.5, 1.8, 61)]
    voice = one_voice(reversed(chord))
    assert [(n.start, n.end, n.pitch) for n in voice] == [(0.0, 0.5, 64), (0.5, 0.9, 62), (1.5, 1.8, 61)]


def test_a_song_is_read_with_all_its_parts(songs: Path) -> None:
    song = read_song(list_songs(songs)[2])
    assert song.name == "003"
    assert set(song.tracks) == {"BRIDGE", "PIANO"}
    assert len(song.melody) == 16 * 4 - 8
    assert song.tempo == pytest.approx(100)
    assert song.key == "C:maj"
    assert song.downbeats[1] == pytest.approx(2.4)
    assert [chord.label for chord in song.chords[:4]] == ["C:maj", "A:min", "F:maj", "G:maj"]


def test_transposition_moves_melody_chords_and_key_together(songs: Path) -> None:
    song = read_song(songs / "001")
    moved = change(song, semitones=3)
    assert moved.key == "D#:maj"
    assert [b.pitch - a.pitch for a, b in zip(song.melody, moved.melody, strict=True)] == [3] * len(song.melody)
    for before, after in zip(song.chords, moved.chords, strict=True):
        assert {(p + 3) % 12 for p in before.pitch_classes} == set(after.pitch_classes)
        assert after.bass == ((before.bass or 0) + 3) % 12


def test_an_excerpt_is_shifted_to_its_start_and_cut_at_its_end(songs: Path) -> None:
    song = read_song(songs / "001")
    part = excerpt(song, 2.4, 7.5)
    assert part.melody[0].start == pytest.approx(0, abs=2e-3)
    assert part.melody[0].pitch == song.melody[4].pitch
    assert part.beats[0] == part.downbeats[0] == part.chords[0].start == 0
    assert part.chords[0].label == "A:min"
    assert max(n.end for n in (*part.melody, *part.tracks["PIANO"])) <= part.duration == pytest.approx(5.1)
