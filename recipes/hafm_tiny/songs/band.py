# SPDX-License-Identifier: Apache-2.0
"""What a band plays: how a part is written, and the bars, beats, chords and frames that its notes follow.

In bands that are drawn anew for every song a small coarse stage drowns: one chord half a frame later has other codec
tokens throughout. So notes start with frames.
"""

import dataclasses

import numpy as np

from .midi_song import Chord, Note, Song

# of the codec
FRAME_RATE = 75
DRUM_NOTE = 0.1


@dataclasses.dataclass(frozen=True)
class Part:
    """What one player plays: a General MIDI program, notes, and a gain in dB."""

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


def on_frames(notes: list[Note]) -> tuple[Note, ...]:
    """Notes whose starts and ends are moved to the nearest frame, at least four frames long."""

    def moved(note: Note) -> Note:
        start = round(note.start * FRAME_RATE)
        end = max(start + 4, round(note.end * FRAME_RATE))
        return dataclasses.replace(note, start=start / FRAME_RATE, end=end / FRAME_RATE)

    return tuple(map(moved, notes))
