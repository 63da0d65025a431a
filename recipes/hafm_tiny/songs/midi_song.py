# SPDX-License-Identifier: Apache-2.0
"""Reads songs with a sung melody from MIDI and text files.

The layout is POP909's (Wang et al., ISMIR 2020): a folder `NNN/` per song, with `NNN.mid` and its tracks MELODY (the
sung line), BRIDGE and PIANO, `beat_midi.txt` (seconds, half-bar flag, downbeat flag) and `chord_midi.txt` (start, end,
chord in Harte's notation, separated by tabs). All times are in seconds.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import mir_eval.chord
import numpy as np
import pretty_midi

from hafm_hf.lead_sheet.chords import key_fit

NO_CHORD = "N"
PITCH_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
# fields in a line of chord_midi.txt
CHORD_FIELDS = 3
# in seconds: shorter notes of a melody are left out; notes that start within this time count as simultaneous
SHORTEST_NOTE = 0.06
SAME_ONSET = 0.03
# beats in a bar that holds two bars of a waltz
SIX_BEATS = 6
# an excerpt is drawn among those with at least this share of the longest singing
DENSE_SHARE = 0.85


class SongError(ValueError):
    """A song cannot be used; the message says why."""


@dataclasses.dataclass(frozen=True)
class Note:
    """One note: start and end in seconds, MIDI pitch, MIDI velocity."""

    start: float
    end: float
    pitch: int
    velocity: int = 80


@dataclasses.dataclass(frozen=True)
class Chord:
    """One chord: start and end in seconds, label in Harte's notation such as `C#:min/b3`, or `N`."""

    start: float
    end: float
    label: str

    @property
    def pitch_classes(self) -> tuple[int, ...]:
        """The pitch classes of the chord (0 for C), from the root upwards; empty for `N`."""
        root, tones, _ = mir_eval.chord.encode(self.label)
        return () if root < 0 else tuple(int((root + interval) % 12) for interval in np.flatnonzero(tones))

    @property
    def bass(self) -> int | None:
        """The pitch class (0 for C) of the lowest note; None for `N`."""
        root, _, bass_interval = mir_eval.chord.encode(self.label)
        return None if root < 0 else int((root + bass_interval) % 12)


@dataclasses.dataclass(frozen=True)
class Song:
    """A symbolic song.

    Attributes:
        name: name of its folder.
        melody: the sung line, sorted and monophonic.
        tracks: notes of the other tracks, by track name in capitals.
        beats, downbeats: in seconds.
        chords: sorted.
        duration: in seconds.
    """

    name: str
    melody: tuple[Note, ...]
    tracks: dict[str, tuple[Note, ...]]
    beats: tuple[float, ...]
    downbeats: tuple[float, ...]
    chords: tuple[Chord, ...]
    duration: float

    @property
    def tempo(self) -> float:
        """Tempo in BPM, from the median beat interval."""
        return 60.0 / float(np.median(np.diff(self.beats)))

    @property
    def key(self) -> str:
        """The key, such as `F#:min`, whose profile correlates best with the durations of the song's pitch classes."""
        histogram = np.zeros(12)
        for note in self.melody:
            histogram[note.pitch % 12] += note.end - note.start
        for chord in self.chords:
            for pitch_class in chord.pitch_classes:
                histogram[pitch_class] += chord.end - chord.start
        mode, tonic = divmod(int(key_fit(histogram).argmax()), len(PITCH_NAMES))
        return f"{PITCH_NAMES[tonic]}:{('maj', 'min')[mode]}"


def one_voice(notes: Iterable[Note]) -> tuple[Note, ...]:
    """Make notes monophonic: of simultaneous notes, keep the highest; end each note where the next one starts.

    Notes shorter than SHORTEST_NOTE are left out.
    """
    voice: list[Note] = []
    for note in sorted(notes, key=lambda n: (n.start, n.pitch)):
        if voice and note.start - voice[-1].start < SAME_ONSET:
            if note.pitch > voice[-1].pitch:
                voice[-1] = dataclasses.replace(note, start=voice[-1].start)
        else:
            voice.append(note)
    for index, following in enumerate(voice[1:]):
        note = voice[index]
        voice[index] = dataclasses.replace(note, end=min(note.end, following.start))
    return tuple(note for note in voice if note.end - note.start >= SHORTEST_NOTE)


def read_song(folder: Path) -> Song:
    """Read one song.

    Args:
        folder: `NNN/` with `NNN.mid`, `beat_midi.txt` and `chord_midi.txt`.

    Raises:
        SongError: a file cannot be read, or the melody track, beats or chords are missing.
    """
    try:
        return _read_song(folder)
    except SongError:
        raise
    except (OSError, EOFError, ValueError, LookupError) as error:
        raise SongError(f"{folder} cannot be read: {error}") from error


def _read_song(folder: Path) -> Song:
    """Reads a song of POP909 from its folder; all times are in seconds.

    Raises:
        SongError: it lacks a melody, beats or chords.
        Exception: a file cannot be read; which exception depends on its reader.
    """
    midi = pretty_midi.PrettyMIDI(str(folder / f"{folder.name}.mid"))
    tracks = {}
    for instrument in midi.instruments:
        notes = tuple(Note(note.start, note.end, note.pitch, note.velocity) for note in instrument.notes)
        tracks[instrument.name.upper()] = notes
    melody = one_voice(tracks.pop("MELODY", ()))
    beats = []
    downbeats = []
    for line in (folder / "beat_midi.txt").read_text().splitlines():
        fields = [float(field) for field in line.split()]
        if fields:
            beats.append(fields[0])
            # the third field is 1 on a downbeat
            if fields[2] == 1:
                downbeats.append(fields[0])
    chords = []
    for line in (folder / "chord_midi.txt").read_text().splitlines():
        words = line.split("\t")
        if len(words) == CHORD_FIELDS:
            chords.append(Chord(float(words[0]), float(words[1]), words[2].strip()))
    parts = {"MELODY track": melody, "downbeats": downbeats, "chords": chords}
    missing = [name for name, events in parts.items() if not events]
    if missing:
        raise SongError(f"{folder} has no {', '.join(missing)}; a song needs a sung melody, downbeats and chords.")
    return Song(folder.name, melody, tracks, tuple(beats), tuple(downbeats), tuple(chords), midi.get_end_time())


def list_songs(folder: Path) -> list[Path]:
    """The song folders under `folder`, at any depth, sorted by path.

    Raises:
        FileNotFoundError: there are none.
    """
    songs = sorted(path.parent for path in folder.glob("**/beat_midi.txt"))
    if not songs:
        raise FileNotFoundError(f"{folder} holds no songs; expected folders NNN/ with NNN.mid and beat_midi.txt.")
    return songs


def excerpt(song: Song, start: float, end: float) -> Song:
    """The part of a song in [start, end), in seconds, moved to time zero; notes and chords are cut at its end."""

    def cut(notes: Iterable[Note]) -> tuple[Note, ...]:
        """The notes that start inside, at least SHORTEST_NOTE before the end."""
        inside = (n for n in notes if start <= n.start < end - SHORTEST_NOTE)
        return tuple(dataclasses.replace(n, start=n.start - start, end=min(n.end, end) - start) for n in inside)

    # chords outside get a negative length, and are left out below
    chords = (Chord(max(c.start, start) - start, min(c.end, end) - start, c.label) for c in song.chords)
    return dataclasses.replace(
        song,
        melody=cut(song.melody),
        tracks={name: cut(notes) for name, notes in song.tracks.items()},
        beats=tuple(beat - start for beat in song.beats if start <= beat < end),
        downbeats=tuple(beat - start for beat in song.downbeats if start <= beat < end),
        chords=tuple(chord for chord in chords if chord.end - chord.start > SAME_ONSET),
        duration=end - start,
    )


def in_threes(song: Song) -> Song:
    """Halves the bars of a song that has six beats in a bar, as POP909 counts waltzes; other songs stay unchanged."""
    beats = np.array(song.beats)
    downbeats = np.array(song.downbeats)
    # index of each bar's first beat; 1e-6: times may differ by rounding
    firsts = np.searchsorted(beats, downbeats - 1e-6)
    if len(firsts) < 2 or np.median(np.diff(firsts)) != SIX_BEATS:
        return song
    # index of the first beat of each bar's second half; a bar with less than two beats of it is left whole
    halves = firsts + SIX_BEATS // 2
    ends = np.append(firsts[1:], len(beats))
    halves = halves[halves + 1 < ends]
    all_downbeats = {*downbeats.tolist(), *beats[halves].tolist()}
    return dataclasses.replace(song, downbeats=tuple(sorted(all_downbeats)))


def transpose_label(label: str, semitones: int) -> str:
    """Transposes a chord label in Harte's notation, such as `C#:min/b3`, up by semitones; `N` stays unchanged."""
    if label == NO_CHORD:
        return label
    root, colon, quality = label.partition(":")
    pitch_class = (mir_eval.chord.pitch_class_to_semitone(root) + semitones) % 12
    return f"{PITCH_NAMES[pitch_class]}{colon}{quality}"


def change(song: Song, semitones: int = 0, stretch: float = 1.0, lead_in: float = 0.0) -> Song:
    """Transpose a song up by semitones, stretch it in time by a factor, and then delay it by `lead_in` seconds."""

    def at(seconds: float) -> float:
        """The new time, in seconds."""
        return seconds * stretch + lead_in

    def moved(notes: Iterable[Note]) -> tuple[Note, ...]:
        """The notes at their new times and pitches."""
        return tuple(Note(at(n.start), at(n.end), n.pitch + semitones, n.velocity) for n in notes)

    return dataclasses.replace(
        song,
        melody=moved(song.melody),
        tracks={name: moved(notes) for name, notes in song.tracks.items()},
        beats=tuple(at(beat) for beat in song.beats),
        downbeats=tuple(at(beat) for beat in song.downbeats),
        chords=tuple(Chord(at(c.start), at(c.end), transpose_label(c.label, semitones)) for c in song.chords),
        duration=at(song.duration),
    )


def dense_excerpt(song: Song, seconds: float, generator: np.random.Generator) -> Song:
    """Draws an excerpt of up to `seconds` that starts on a downbeat, among those with nearly the most singing."""
    sung_seconds = []  # of the excerpt from each downbeat
    for start in song.downbeats:
        overlaps = [min(note.end, start + seconds) - max(note.start, start) for note in song.melody]
        sung_seconds.append(sum(max(0.0, overlap) for overlap in overlaps))
    least = DENSE_SHARE * max(sung_seconds)
    candidates = [at for at, amount in zip(song.downbeats, sung_seconds, strict=True) if amount >= least]
    start = candidates[int(generator.integers(len(candidates)))]
    return excerpt(song, start, min(start + seconds, song.duration))
