# SPDX-License-Identifier: Apache-2.0
"""What a band plays over a song from simple patterns: its bars and beats, drums and bass; and how a part is written.

A bass follows the roots of the chords, drums follow beats and downbeats: in time and in key with the melody by
construction.
"""

import dataclasses

import numpy as np

from .midi_song import Chord, Note, Song

KICK, STICK, SNARE, CLOSED_HAT = 36, 37, 38, 42
DRUM_NOTE = 0.1
# Drum patterns: steps to a beat, then for each drum the steps of a bar of four beats on which it sounds.
PATTERNS: dict[str, tuple[int, dict[int, tuple[int, ...]]]] = {
    "rock": (2, {KICK: (0, 4), SNARE: (2, 6), CLOSED_HAT: tuple(range(8))}),
    "ballad": (2, {KICK: (0, 5), STICK: (4,), CLOSED_HAT: (0, 2, 4, 6)}),
    "half_time": (4, {KICK: (0, 6), SNARE: (8,), CLOSED_HAT: (0, 2, 4, 6, 8, 10, 12, 14)}),
    "four_soft": (1, {KICK: (0, 2), STICK: (1, 3), CLOSED_HAT: (0, 1, 2, 3)}),
}
# Bass patterns: (beat of the bar, length in beats).
BASS_PATTERNS: dict[str, tuple[tuple[float, float], ...]] = {
    "long": ((0, 2), (2, 2)),
    "beats": ((0, 1), (1, 1), (2, 1), (3, 1)),
    "push": ((0, 1.5), (1.5, 1), (2.5, 1.5)),
}
BASS_LOW = 28


@dataclasses.dataclass(frozen=True)
class Part:
    """What one player plays: a General MIDI program, notes, and a gain in dB (of the trio; styles have a mixer)."""

    program: int
    notes: tuple[Note, ...]
    gain_db: float


def bars(song: Song) -> list[np.ndarray]:
    """Seconds of the beats of each bar, float64 [beats + 1], the next downbeat last; the last bar ends in tempo."""
    beats = np.array(song.beats)
    starts = [at for at in song.downbeats if at < song.duration]
    ends = [*starts[1:], song.duration + 10]
    found = []
    for start, end in zip(starts, ends, strict=True):
        inside = beats[(beats >= start - 1e-6) & (beats < end - 1e-6)]
        step = float(np.median(np.diff(beats)))
        found.append(np.append(inside, end if end <= song.duration else inside[-1] + step))
    return found


def time_of(bar: np.ndarray, beat: float) -> float:
    """Seconds of a beat (fractions allowed) in a bar of `bars`, whose beats are not evenly spaced."""
    return float(np.interp(beat, np.arange(bar.size), bar))


def chord_at(song: Song, seconds: float) -> Chord | None:
    """The chord that sounds just after an instant in seconds, None where there is none."""
    for chord in reversed(song.chords):
        if chord.start <= seconds + 0.05:
            return chord if chord.bass is not None else None
    return None


def drum_notes(song: Song, pattern: str) -> list[Note]:
    """Drums over a song: the pattern in every bar, cut or repeated for bars that are not of four beats."""
    steps, drums = PATTERNS[pattern]
    notes: list[Note] = []
    for bar in bars(song):
        beats = bar.size - 1
        for drum, hits in drums.items():
            for step in (hit + 4 * steps * again for again in range(-(-beats // 4)) for hit in hits):
                if step < beats * steps:
                    velocity = (100 if drum in (KICK, SNARE) else 72) - (0 if step % steps == 0 else 14)
                    start = time_of(bar, step / steps)
                    notes.append(Note(start, start + DRUM_NOTE, drum, velocity))
    return [note for note in notes if note.start < song.duration]


def bass_notes(song: Song, pattern: str) -> list[Note]:
    """A bass on the lowest note of each chord, following the pattern; silent where there is no chord."""
    notes: list[Note] = []
    for bar in bars(song):
        beats = bar.size - 1
        for beat, length in BASS_PATTERNS[pattern]:
            if beat >= beats:
                continue
            start, end = time_of(bar, beat), time_of(bar, min(beat + length, beats))
            chord = chord_at(song, start)
            if chord is None or (root := chord.bass) is None:
                continue
            pitch = BASS_LOW + (root - BASS_LOW) % 12
            notes.append(Note(start, max(start + 0.08, min(end, chord.end)), pitch, 92 if beat == 0 else 82))
    return [note for note in notes if note.start < song.duration]
