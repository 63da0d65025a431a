# SPDX-License-Identifier: Apache-2.0
"""The band plays what the song says: its chords, its beats, and nothing late."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pretty_midi", reason="pretty_midi is not installed")
pytest.importorskip("mir_eval", reason="mir_eval is not installed")

from hafm_tiny.songs.band import BASS_PATTERNS, KICK, PATTERNS, SNARE, bass_notes, drum_notes
from hafm_tiny.songs.midi_song import Note, Song, excerpt, read_song
from hafm_tiny.songs.synthesiser import synthesiser
from hafm_tiny.songs.trio import render_trio, trio_parts

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


def test_drums_follow_bars_of_three_beats(song: Song) -> None:
    waltz = dataclasses.replace(song, downbeats=song.beats[::3])
    kicks = [n.start for n in drum_notes(waltz, "rock") if n.pitch == KICK]
    snares = [n.start for n in drum_notes(waltz, "rock") if n.pitch == SNARE]
    assert set(np.round(waltz.downbeats, 6)) <= set(np.round(kicks, 6))
    assert all(min(abs(s - d - 0.6) for d in waltz.downbeats) < 1e-6 for s in snares)


@pytest.mark.parametrize("pattern", sorted(BASS_PATTERNS))
def test_bass_plays_a_tone_of_the_chord_and_its_root_on_the_downbeat(song: Song, pattern: str) -> None:
    for note in bass_notes(song, pattern):
        chord = next(c for c in song.chords if c.start - 1e-6 <= note.start < c.end - 1e-6)
        assert note.pitch % 12 in chord.pitch_classes
        assert note.end <= chord.end + 1e-6
        if min(abs(note.start - d) for d in song.downbeats) < 1e-6:
            assert note.pitch % 12 == chord.bass


def test_hits_sound_within_5_ms_of_their_time(soundfont: Path) -> None:
    hits = [Note(at, at + 0.1, SNARE, 110) for at in (0.5, 1.0, 1.7)]
    audio = synthesiser(RATE).play(tuple(hits), 0, soundfont, 2.5, drums=True)
    assert audio.size == 2.5 * RATE
    for hit in hits:
        window = np.abs(audio[int((hit.start - 0.1) * RATE) : int((hit.start + 0.1) * RATE)])
        onset = np.argmax(window > 0.2 * window.max()) / RATE - 0.1
        assert abs(onset) < 0.005


def test_rendered_chords_have_their_pitch_classes(song: Song, soundfont: Path) -> None:
    parts, _ = trio_parts(song, np.random.default_rng(0))
    stems = render_trio(parts, soundfont, song.duration, RATE)
    audio = stems["comping"] + stems["bass"]
    for chord in song.chords:
        part = audio[int((chord.start + 0.1) * RATE) : int(chord.end * RATE)]
        frequency = np.fft.rfftfreq(part.size, 1 / RATE)
        power = np.abs(np.fft.rfft(part * np.hanning(part.size)))
        heard = (frequency > 60) & (frequency < 1500)
        classes = np.round(69 + 12 * np.log2(frequency[heard] / 440)).astype(int) % 12
        chroma = np.bincount(classes, power[heard], minlength=12)
        assert set(np.argsort(chroma)[-3:]) == set(chord.pitch_classes), chord.label
