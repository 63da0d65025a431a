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
CHORD_FIELDS = 3
SHORTEST_NOTE = 0.06
SAME_ONSET = 0.03
# of a bar that holds two bars of a waltz
SIX_BEATS = 6


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
        """The pitch classes of the chord from the root upwards; empty for no chord."""
        root, tones, _ = mir_eval.chord.encode(self.label)
        return () if root < 0 else tuple(int((root + i) % 12) for i in np.flatnonzero(tones))

    @property
    def bass(self) -> int | None:
        """The pitch class of the lowest note, None for no chord."""
        root, _, bass = mir_eval.chord.encode(self.label)
        return None if root < 0 else int((root + bass) % 12)


@dataclasses.dataclass(frozen=True)
class Song:
    """A symbolic song.

    Attributes:
        name: of its folder.
        melody: the sung line, sorted and monophonic.
        tracks: other notes by the tracks' names in capitals.
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
        """The key, such as `F#:min`, whose profile correlates best with the durations of pitch classes."""
        histogram = np.zeros(12)
        for note in self.melody:
            histogram[note.pitch % 12] += note.end - note.start
        for chord in self.chords:
            for pitch_class in chord.pitch_classes:
                histogram[pitch_class] += chord.end - chord.start
        mode, tonic = divmod(int(key_fit(histogram).argmax()), len(PITCH_NAMES))
        return f"{PITCH_NAMES[tonic]}:{('maj', 'min')[mode]}"


def one_voice(notes: Iterable[Note]) -> tuple[Note, ...]:
    """Make notes monophonic: of simultaneous notes, keep the highest; end each note at the start of the next."""
    voice: list[Note] = []
    for note in sorted(notes, key=lambda n: (n.start, n.pitch)):
        if voice and note.start - voice[-1].start < SAME_ONSET:
            if note.pitch > voice[-1].pitch:
                voice[-1] = dataclasses.replace(note, start=voice[-1].start)
        else:
            voice.append(note)
    ends = [min(note.end, following.start) for note, following in zip(voice, voice[1:], strict=False)]
    ends += [note.end for note in voice[-1:]]
    cut = (dataclasses.replace(note, end=end) for note, end in zip(voice, ends, strict=True))
    return tuple(note for note in cut if note.end - note.start >= SHORTEST_NOTE)


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
    """Reads a song; raises SongError or whatever its files cause."""
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
    parts = {"MELODY track": melody, "beats": downbeats, "chords": chords}
    missing = [name for name, events in parts.items() if not events]
    if missing:
        raise SongError(f"{folder} has no {', '.join(missing)}; a song needs a sung melody, beats and chords.")
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
    """The part of a song in [start, end), moved to time zero; notes and chords are cut at its end."""

    def cut(notes: Iterable[Note]) -> tuple[Note, ...]:
        inside = (n for n in notes if start <= n.start < end - SHORTEST_NOTE)
        return tuple(dataclasses.replace(n, start=n.start - start, end=min(n.end, end) - start) for n in inside)

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
    """A song whose bars have six beats, as POP909 counts its waltzes, with bars of three; other songs as they are."""
    beats = np.array(song.beats)
    downbeats = np.array(song.downbeats)
    # number of each bar's first beat; 1e-6: times may differ by rounding
    firsts = np.searchsorted(beats, downbeats - 1e-6)
    if len(firsts) < 2 or np.median(np.diff(firsts)) != SIX_BEATS:
        return song
    halves = firsts + SIX_BEATS // 2
    # a bar that is cut short or begins anew before its second half is left whole
    ends = np.append(firsts[1:], len(beats))
    halves = halves[halves + 1 < ends]
    return dataclasses.replace(song, downbeats=tuple(sorted({*downbeats.tolist(), *beats[halves].tolist()})))


def transpose_label(label: str, semitones: int) -> str:
    """Transposes a chord label in Harte's notation; `N` stays unchanged."""
    if label == NO_CHORD:
        return label
    root, colon, quality = label.partition(":")
    pitch_class = (mir_eval.chord.pitch_class_to_semitone(root) + semitones) % 12
    return f"{PITCH_NAMES[pitch_class]}{colon}{quality}"


def change(song: Song, semitones: int = 0, stretch: float = 1.0, lead_in: float = 0.0) -> Song:
    """Transpose a song, stretch it in time by a factor, and delay it by `lead_in` seconds."""

    def at(seconds: float) -> float:
        return seconds * stretch + lead_in

    def moved(notes: Iterable[Note]) -> tuple[Note, ...]:
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
    """An excerpt of up to `seconds` from a downbeat, drawn from those with at least 85 % of the most singing."""
    sung_seconds = []  # of the excerpt from each downbeat
    for start in song.downbeats:
        overlaps = [min(note.end, start + seconds) - max(note.start, start) for note in song.melody]
        sung_seconds.append(sum(max(0.0, overlap) for overlap in overlaps))
    least = 0.85 * max(sung_seconds)
    candidates = [at for at, amount in zip(song.downbeats, sung_seconds, strict=True) if amount >= least]
    start = candidates[int(generator.integers(len(candidates)))]
    return excerpt(song, start, min(start + seconds, song.duration))
