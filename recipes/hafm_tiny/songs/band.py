# SPDX-License-Identifier: Apache-2.0
"""Parts of a band, and the bars, beats, chords and codec frames that their notes are aligned with.

A chord that starts half a frame later has entirely different codec tokens, and a small coarse stage cannot learn so
much variation. So notes start on frame boundaries.
"""

import dataclasses

import numpy as np

from .midi_song import Chord, Note, Song

# the codec's, in Hz
FRAME_RATE = 75
# length of a drum's note, in seconds
DRUM_NOTE = 0.1
# a chord that begins within this time is the current one already
LOOK_AHEAD_SECONDS = 0.05
LEAST_NOTE_FRAMES = 4


@dataclasses.dataclass(frozen=True)
class Part:
    """One player's part: a General MIDI program, notes, and a gain in dB."""

    program: int
    notes: tuple[Note, ...]
    gain_db: float


def bars(song: Song) -> list[np.ndarray]:
    """Beats of each bar and the next downbeat, in seconds, float64 [beats + 1]; the last bar's end is extrapolated."""
    beats = np.array(song.beats)
    starts = [at for at in song.downbeats if at < song.duration]
    # any time after the song, so that the last bar gets all remaining beats
    ends = [*starts[1:], song.duration + 10]
    beats_of_bars = []
    for start, end in zip(starts, ends, strict=True):
        # 1e-6: a beat may differ from the downbeat by rounding
        inside = beats[(beats >= start - 1e-6) & (beats < end - 1e-6)]
        if end > song.duration:
            # one beat after the last one
            end = inside[-1] + float(np.median(np.diff(beats)))
        beats_of_bars.append(np.append(inside, end))
    return beats_of_bars


def time_of(bar: np.ndarray, beat: float) -> float:
    """Time in seconds of a beat in a bar from `bars`: 0 is the downbeat, fractions are interpolated between beats."""
    return float(np.interp(beat, np.arange(bar.size), bar))


def chord_at(song: Song, seconds: float) -> Chord | None:
    """The latest chord to begin by a time in seconds, or just after it; None before the first, and for "N"."""
    for chord in reversed(song.chords):
        if chord.start <= seconds + LOOK_AHEAD_SECONDS:
            # only "N", no chord, has no bass
            return None if chord.bass is None else chord
    return None


def on_frames(notes: list[Note]) -> tuple[Note, ...]:
    """Rounds starts and ends of notes to codec frames; notes become at least `LEAST_NOTE_FRAMES` long."""

    def rounded(note: Note) -> Note:
        """The note with start and end on frame boundaries, in seconds."""
        start = round(note.start * FRAME_RATE)
        end = max(start + LEAST_NOTE_FRAMES, round(note.end * FRAME_RATE))
        return dataclasses.replace(note, start=start / FRAME_RATE, end=end / FRAME_RATE)

    return tuple(map(rounded, notes))
