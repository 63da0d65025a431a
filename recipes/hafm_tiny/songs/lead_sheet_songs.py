# SPDX-License-Identifier: Apache-2.0
"""Songs from lead sheets: melodies with chords in quarters, one JSON object per line, and songs in POP909's layout.

A lead sheet is `{"title", "source", "metre": "3/4", "notes": [[onset, length, midi]], "chords": [[onset, length,
"C:maj"]]}`. It has no tempo and is often short, so a tempo is drawn, and it is repeated.
"""

import gzip
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mir_eval.chord
import numpy as np
import pretty_midi

from .midi_song import Chord, Note, Song, SongError, one_voice

# metres that can be read, with their beats per bar; a beat is a quarter
METRES = {"3/4": 3, "4/4": 4}
# shorter tunes are repeated, as a corpus takes excerpts of up to 90 s
LEAST_SECONDS = 100.0
# tunes with fewer notes are left out
LEAST_NOTES = 16
# per beat, in MIDI files
TICKS = 480


def lead_sheet_songs(path: Path, metre: str = "3/4", tempo: tuple[float, float] = (84.0, 168.0)) -> Iterator[Song]:
    """Yields the lead sheets of a gzipped file that are in a metre, each as a song without other tracks.

    Args:
        path: the file, one JSON object per line.
        metre: one of METRES.
        tempo: slowest and fastest tempo in BPM; source and title determine which one a song gets.

    Raises:
        ValueError: another metre.
    """
    if metre not in METRES:
        raise ValueError(f"metre is {metre!r}; choose from {', '.join(METRES)}.")
    for line in gzip.open(path, "rt", encoding="utf-8"):
        sheet = json.loads(line)
        if sheet["metre"] == metre and len(sheet["notes"]) >= LEAST_NOTES and sheet["chords"]:
            yield _song(sheet, METRES[metre], tempo)


def _song(sheet: dict[str, Any], metre: int, tempo: tuple[float, float]) -> Song:
    """Makes a song of a lead sheet, repeated until it lasts LEAST_SECONDS.

    Args:
        sheet: "source" and "title", and "notes" and "chords" with starts and lengths in beats.
        metre: beats in a bar.
        tempo: slowest and fastest tempo in BPM; source and title determine which one is drawn.
    """
    name = f"{sheet['source']}/{sheet['title']}"
    digest = hashlib.sha256(name.encode()).digest()
    generator = np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))
    beat = 60 / float(generator.uniform(*tempo))  # in seconds
    last_end = max(start + length for start, length, _ in sheet["notes"] + sheet["chords"])  # in beats
    # 0.01: an end just after a bar line belongs to the bar before it
    bars = int(np.ceil(last_end / metre - 0.01))
    repeats = int(np.ceil(LEAST_SECONDS / (bars * metre * beat)))
    notes = []
    chords = []
    for repeat in range(repeats):
        first = repeat * bars * metre  # in beats
        for start, length, pitch in sheet["notes"]:
            notes.append(Note((first + start) * beat, (first + start + length) * beat, int(pitch)))
        for start, length, label in sorted(sheet["chords"]):
            if _is_chord(label):
                chords.append(Chord((first + start) * beat, (first + start + length) * beat, label))
    num_beats = repeats * bars * metre
    return Song(
        name,
        melody=one_voice(notes),
        tracks={},
        beats=tuple(index * beat for index in range(num_beats)),
        downbeats=tuple(index * beat for index in range(0, num_beats, metre)),
        chords=tuple(chords),
        duration=num_beats * beat,
    )


def _is_chord(label: str) -> bool:
    """Whether mir_eval can read a chord label."""
    try:
        mir_eval.chord.encode(label)
    except mir_eval.chord.InvalidChordException:
        return False
    return True


def write_song(song: Song, folder: Path) -> None:
    """Writes a song in POP909's layout, for `midi_song.read_song`.

    Args:
        song: the song.
        folder: new folder NNN, for NNN.mid, beat_midi.txt and chord_midi.txt.

    Raises:
        SongError: the song has no melody, beats or chords.
    """
    if not (song.melody and song.beats and song.chords):
        raise SongError(f"{song.name} has no melody, beats or chords to write.")
    folder.mkdir(parents=True)
    midi = pretty_midi.PrettyMIDI(resolution=TICKS)
    for name, notes in {"MELODY": song.melody, **song.tracks}.items():
        track = pretty_midi.Instrument(0, name=name)
        track.notes = [pretty_midi.Note(note.velocity, note.pitch, note.start, note.end) for note in notes]
        midi.instruments.append(track)
    midi.write(str(folder / f"{folder.name}.mid"))
    downbeats = set(song.downbeats)
    # seconds, half-bar flag (which `read_song` ignores), downbeat flag
    beat_lines = [f"{beat} {float(beat in downbeats)} {float(beat in downbeats)}" for beat in song.beats]
    (folder / "beat_midi.txt").write_text("\n".join(beat_lines) + "\n")
    chord_lines = [f"{chord.start}\t{chord.end}\t{chord.label}" for chord in song.chords]
    (folder / "chord_midi.txt").write_text("\n".join(chord_lines) + "\n")
