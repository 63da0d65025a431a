# SPDX-License-Identifier: Apache-2.0
"""The form of an excerpt: an intro without voice, sections with an energy, and a final bar.

The energy of a section follows the melody, as in choruses (high and dense is full), so it can be estimated from the
voice. Optionally, chords are changed under the melody, so that a model learns to follow given chords.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

from hafm_hf.lead_sheet.lead_sheet import ENERGIES

from .band import bars
from .midi_song import Note, Song, transpose_label

# from this tempo in BPM on, a pattern step is an eighth instead of a sixteenth, and sections have twice as many bars
FAST_TEMPO = 100.0
# lengths in slow songs
INTRO_BARS = 2
SECTION_BARS = 4
# notes that begin later than this many seconds after the last downbeat are left out
AFTER_LAST_DOWNBEAT = 0.15
# share of the last bar that must be inside the song for the bar to be used
WHOLE_BAR = 0.6
# of a reharmonised song: number of bars that are transposed together, and the share of such groups
MOVED_BARS = 2
MOVED_SHARE = 0.5
# tolerance in seconds for assigning chords and notes to bars; notes may begin this much before their section
EARLY = 0.05
PICKUP_SECONDS = 0.1
# sections ranked by energy, from 0 to 1: where normal and full begin
SHARES = (0.28, 0.62)


@dataclasses.dataclass(frozen=True)
class Section:
    """Bars [first, end) of a song: its name (intro, verse, chorus, ending) and energy (one of ENERGIES)."""

    name: str
    energy: str
    first: int
    end: int


def steps_a_beat(song: Song) -> int:
    """Number of pattern steps per beat of this song."""
    return 4 if song.tempo < FAST_TEMPO else 2


def sections(song: Song, generator: np.random.Generator) -> tuple[Section, ...]:
    """Divide a song into an intro, sections of four bars (eight in fast songs), and its last bar as an ending.

    The more the melody stands out in a section, the higher its energy tends to be; some randomness is added.

    Args:
        song: beats, downbeats and melody.
        generator: draws the randomness, and the energy of the intro.
    """
    # without a last bar that is cut short
    whole_bars = [bar for bar in bars(song) if bar[0] + WHOLE_BAR * (bar[-1] - bar[0]) <= song.duration]
    scale = 4 // steps_a_beat(song)  # 1 in slow songs, 2 in fast ones
    intro = min(INTRO_BARS * scale, len(whole_bars) // 4)
    last = len(whole_bars) - 1
    edges = [*range(intro, last, SECTION_BARS * scale), last]
    # a remainder of less than half a section is added to the previous one
    if len(edges) > 2 and edges[-1] - edges[-2] < SECTION_BARS * scale / 2:
        del edges[-2]
    spans = list(zip(edges[:-1], edges[1:], strict=True))
    lifts = []
    for first, end in spans:
        lifts.append(_lift(song, whole_bars[first][0], whole_bars[end][0]) + generator.normal(0, 0.5))
    # share of the sections in which the melody stands out less, for each section
    ranks = (np.argsort(np.argsort(lifts)) + 0.5) / len(spans)
    energies = [ENERGIES[int(np.digitize(rank, SHARES))] for rank in ranks]
    names = {"sparse": "verse", "normal": "verse", "full": "chorus"}
    intro_energy = ENERGIES[int(generator.integers(2))]  # sparse or normal
    form = []
    if intro:
        form.append(Section("intro", intro_energy, 0, intro))
    for energy, (first, end) in zip(energies, spans, strict=True):
        form.append(Section(names[energy], energy, first, end))
    last_energy = energies[-1] if energies else "normal"
    form.append(Section("ending", last_energy, last, last + 1))
    return tuple(form)


def _lift(song: Song, start: float, end: float) -> float:
    """How much the melody stands out between two times in seconds: −1 without notes, about 0 to 3 otherwise.

    It is the height above the melody's mean in half octaves, plus a third of the notes per second.
    """
    inside = [note for note in song.melody if start <= note.start < end]
    if not inside:
        return -1.0
    mean_pitch = np.mean([note.pitch for note in song.melody])
    semitones = float(np.mean([note.pitch for note in inside]) - mean_pitch)
    return semitones / 6 + len(inside) / (end - start) / 3


def with_form(song: Song, form: tuple[Section, ...]) -> Song:
    """Applies a form (from `sections`) to a song: no voice in the intro, one held chord in the last bar."""
    all_bars = bars(song)
    # times in seconds
    voice_start = all_bars[form[0].end][0] if form[0].name == "intro" else 0.0
    last_downbeat = float(all_bars[form[-1].first][0])
    # the last chord may begin a little after the last downbeat
    chords = [chord for chord in song.chords if chord.start <= last_downbeat + EARLY]
    if chords:
        # held to the end
        chords[-1] = dataclasses.replace(chords[-1], end=song.duration)

    def in_form(notes: Iterable[Note], start: float) -> tuple[Note, ...]:
        """The notes that begin between a time in seconds and the last downbeat, or slightly outside of these."""
        first = start - PICKUP_SECONDS
        last = last_downbeat + AFTER_LAST_DOWNBEAT
        return tuple(note for note in notes if first <= note.start <= last)

    return dataclasses.replace(
        song,
        melody=in_form(song.melody, voice_start),
        tracks={name: in_form(notes, 0.0) for name, notes in song.tracks.items()},
        chords=tuple(chords),
    )


def reharmonised(song: Song, generator: np.random.Generator) -> Song:
    """Transposes chords and instrumental lines in about half of a song's pairs of bars by random intervals.

    The melody stays unchanged, so that the chords cannot be inferred from the voice, only from the lead sheet.
    """
    # bounds of the pairs of bars, in seconds
    edges = np.array([0.0, *(float(bar[0]) for bar in bars(song)[MOVED_BARS::MOVED_BARS]), song.duration])
    num_pairs = edges.size - 1
    drawn_intervals = generator.integers(1, 12, num_pairs)
    is_moved = generator.random(num_pairs) < MOVED_SHARE
    # semitones by which each pair of bars is transposed, 0 to 11
    intervals = drawn_intervals * is_moved

    def interval_at(seconds: float) -> int:
        """Semitones by which to transpose what begins at a time."""
        pair = np.searchsorted(edges, seconds + EARLY, "right") - 1
        return int(intervals[np.clip(pair, 0, intervals.size - 1)])

    chords = []
    for chord in song.chords:
        for start, end in _cut_at_edges(chord.start, chord.end, edges):
            label = transpose_label(chord.label, interval_at(start))
            chords.append(dataclasses.replace(chord, start=float(start), end=float(end), label=label))

    def transposed(note: Note) -> Note:
        """Moves a note up or down, whichever way is shorter."""
        semitones = (interval_at(note.start) + 6) % 12 - 6  # −6 to 5
        return dataclasses.replace(note, pitch=note.pitch + semitones)

    tracks = {name: tuple(map(transposed, notes)) for name, notes in song.tracks.items()}
    return dataclasses.replace(song, chords=tuple(chords), tracks=tracks)


def _cut_at_edges(start: float, end: float, edges: np.ndarray) -> Iterable[tuple[float, float]]:
    """Cuts a time span at the edges inside it, except those within `EARLY` of its ends; all times in seconds.

    Returns:
        Start and end of each piece, in order.
    """
    inside = [float(edge) for edge in edges if start + EARLY < edge < end - EARLY]
    return zip([start, *inside], [*inside, end], strict=True)
