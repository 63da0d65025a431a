# SPDX-License-Identifier: Apache-2.0
"""A band that sounds the same every time: electric piano, bass and drums, every onset on the codec's grid of frames.

In bands that are drawn anew for every song a small coarse stage drowns: one chord in two bands, or half a frame later,
has other codec tokens throughout. Here a note has one pitch a pitch class, one loudness, and starts with a frame: it
always gives the same samples in the same frames, and what varies is the music. Chords, beats and tempo are the song's,
moved by at most half a frame (7 ms).
"""

import dataclasses
from pathlib import Path

import numpy as np

from .band import Part, bars, bass_notes, chord_at, drum_notes, time_of
from .midi_song import Note, Song
from .synthesiser import synthesiser

FRAME_RATE = 75
ELECTRIC_PIANO, FINGERED_BASS, STANDARD_KIT = 4, 33, 0
COMPING_LOW, COMPING_VELOCITY, BASS_VELOCITY = 55, 80, 96
# (beat of the bar, length in beats, which note of the chord from the lowest: None for all of them)
COMPING_PATTERNS: dict[str, tuple[tuple[float, float, int | None], ...]] = {
    "long": ((0, 2, None), (2, 2, None)),
    "beats": ((0, 0.9, None), (1, 0.9, None), (2, 0.9, None), (3, 0.9, None)),
    "push": ((0, 1.5, None), (1.5, 0.5, None), (2, 2, None)),
    "arpeggio": tuple((i / 2, 1.0, (0, 1, 2, 1)[i % 4]) for i in range(8)),
}
BASS_PATTERNS = ("long", "beats", "push")
DRUM_PATTERNS = ("rock", "ballad", "four_soft", "half_time")
# brings the band to about -19 dBFS RMS
GAIN = 2.0
GAINS_DB = {"comping": 0.0, "bass": -2.0, "drums": 0.0}


def comping_notes(song: Song, pattern: str) -> list[Note]:
    """Chords in close position between G3 and F#4, following the pattern; silent where there is no chord."""
    notes: list[Note] = []
    for bar in bars(song):
        beats = bar.size - 1
        for beat, length, which in COMPING_PATTERNS[pattern]:
            start, end = time_of(bar, beat), time_of(bar, min(beat + length, beats))
            if beat >= beats or (chord := chord_at(song, start)) is None:
                continue
            pitches = sorted(COMPING_LOW + (tone - COMPING_LOW) % 12 for tone in chord.pitch_classes)
            played = pitches if which is None else pitches[which % max(len(pitches), 1) :][:1]
            notes += [Note(start, max(start + 0.1, min(end, chord.end)), pitch, COMPING_VELOCITY) for pitch in played]
    return [note for note in notes if note.start < song.duration]


def on_frames(notes: list[Note]) -> tuple[Note, ...]:
    """Notes whose starts and ends are moved to the nearest frame, at least four frames long."""

    def moved(note: Note) -> Note:
        start = round(note.start * FRAME_RATE)
        end = max(start + 4, round(note.end * FRAME_RATE))
        return dataclasses.replace(note, start=start / FRAME_RATE, end=end / FRAME_RATE)

    return tuple(map(moved, notes))


def trio_parts(song: Song, generator: np.random.Generator) -> tuple[dict[str, Part], str]:
    """What the trio plays over a song, by stem name, and its drum pattern; only the patterns are drawn."""
    comping = str(generator.choice(list(COMPING_PATTERNS)))
    bass = str(generator.choice(BASS_PATTERNS))
    drums = str(generator.choice(DRUM_PATTERNS))
    low = [dataclasses.replace(note, velocity=BASS_VELOCITY) for note in bass_notes(song, bass)]
    played = {
        "comping": (ELECTRIC_PIANO, comping_notes(song, comping)),
        "bass": (FINGERED_BASS, low),
        "drums": (STANDARD_KIT, drum_notes(song, drums)),
    }
    parts = {name: Part(program, on_frames(notes), GAINS_DB[name]) for name, (program, notes) in played.items()}
    return parts, drums


def render_trio(parts: dict[str, Part], soundfont: Path, seconds: float, sampling_rate: int) -> dict[str, np.ndarray]:
    """The trio's stems, dry, float64 [seconds * sampling_rate] each."""
    return {
        name: GAIN
        * 10 ** (part.gain_db / 20)
        * synthesiser(sampling_rate).play(part.notes, part.program, soundfont, seconds, name == "drums")
        for name, part in parts.items()
    }
