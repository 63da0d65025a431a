# SPDX-License-Identifier: Apache-2.0
"""Arranges a song, given its form and a style: pattern-based notes for every player, with fills before sections.

Every note starts on a frame boundary of the codec (strummed strings follow in half-frame steps) and has one of a few
velocities, so that the same chord in the same pattern gives the same samples. Only pattern variants are random.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from hafm_hf.lead_sheet.lead_sheet import ENERGIES

from .band import DRUM_NOTE, FRAME_RATE, Part, bars, chord_at, on_frames, time_of
from .form import Section, steps_a_beat
from .line_ups import Hands
from .midi_song import Chord, Note, Song, one_voice
from .styles import DRUMS, Groove, Player, Style

# symbols of patterns; those of chords that leave out notes, instead of which an ending has the whole chord
REST = "."
HOLD = "_"
PARTS_OF_A_CHORD = "H123456"
# MIDI velocity, relative to the player's: by energy of the section, of lower-case symbols, and of drum symbols
ENERGY_VELOCITY = {"sparse": -8, "normal": 0, "full": 8}
SOFTER = 14
DRUM_VELOCITY = {"X": 12, "x": 0, "o": -22}
SOFTEST_DRUM = 20
LARGEST_VELOCITY = 127
# delay between strummed strings, in codec frames, and number of strings in an upstroke
STRUM_FRAMES = 0.5
STRUMMED_UP = 4
# shortest note of bass and chords, in codec frames
SHORTEST_FRAMES = 3
# lowest pitch (MIDI) of a pianist's left hand
LEFT_HAND = 36
# a guitar chord spans at most this many semitones above its root, and this many strings
GUITAR_SPAN = 28
STRINGS = 6
# semitones above a bass player's note that a symbol asks for
BASS_INTERVALS = {"5": 7, "8": 12}
# a line's median pitch lies near this many semitones above the player's lowest pitch
LINE_RANGE = 7
# notes of a line that begin within this many seconds before its section ends are left out
LINE_END_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class Hit:
    """A sounding symbol of a pattern, with the steps for which it is held.

    Attributes:
        symbol: how to play the chord (see `styles`).
        start, end: in seconds.
        ring: time in seconds at which its notes end if the player lets them ring.
        chord: the chord to play.
    """

    symbol: str
    start: float
    end: float
    ring: float
    chord: Chord


def arrange(
    song: Song,
    form: Sequence[Section],
    style: Style,
    generator: np.random.Generator,
    hands: Mapping[str, Hands] | None = None,
) -> tuple[dict[str, Part], dict[str, dict[str, int]]]:
    """Writes the parts of all players of a style.

    Args:
        song: the song, from `form.with_form`.
        form: its sections.
        style: the players and their patterns.
        generator: draws a variant of each player's patterns for each energy.
        hands: human timing and velocity by player; without it, everything is played exactly as written.

    Returns:
        The parts by player; and by player and energy, the index of the pattern variant drawn.
    """
    parts = {}
    drawn = {}
    for name, player in style.players.items():
        # index of the variant, by energy
        chosen = {}
        for energy in ENERGIES:
            if variants := player.patterns.get(energy):
                chosen[energy] = int(generator.integers(len(variants)))
        notes = _NOTES_OF_ROLE[player.role](song, form, style, player, chosen)
        if hands is not None:
            notes = list(hands[name].play(notes, np.random.default_rng(generator.integers(2**32))))
        parts[name] = Part(player.program, tuple(_without_overlaps(notes, song.duration)), 0.0)
        drawn[name] = chosen
    return parts, drawn


def _without_overlaps(notes: Sequence[Note], duration: float) -> Iterator[Note]:
    """Cuts each note half a frame before the next one of the same pitch, as a MIDI note-off ends a pitch, not a note.

    Notes that start at the song's `duration` (s) or later are dropped; of notes of one pitch that start together, one
    is kept. Yields the notes from last to first.
    """
    half_frame = 1 / FRAME_RATE / 2
    next_starts: dict[int, float] = {}  # by pitch, in seconds
    for note in sorted(notes, key=lambda n: n.start, reverse=True):
        next_start = next_starts.get(note.pitch, np.inf)
        if note.start >= duration or next_start <= note.start:
            continue
        end = min(note.end, next_start - half_frame)
        next_starts[note.pitch] = note.start
        yield dataclasses.replace(note, end=max(end, note.start + half_frame))


@dataclasses.dataclass(frozen=True)
class Grid:
    """How a style divides the bars of a song.

    Attributes:
        per_beat: pattern steps per beat.
        metre: beats in a bar of the style's patterns.
        swing: where in a pair of steps the second one begins; 0.5: steps are even.
    """

    per_beat: int
    metre: int
    swing: float

    def beat(self, step: int) -> float:
        """The start of a step, counted from 0 in its bar, in beats from the downbeat."""
        position: float = step
        if step % 2 == 1:
            # the second of a pair, whose length is two steps
            position = step - 1 + 2 * self.swing
        return position / self.per_beat


def _grid(song: Song, style: Style) -> Grid:
    """The grid of a style for a song, whose tempo decides if the style does not."""
    return Grid(style.steps_a_beat or steps_a_beat(song), style.metre, style.swing)


def _steps(bar: np.ndarray, bar_index: int, pattern: str, grid: Grid) -> list[tuple[str, float, float]]:
    """The steps of a bar, including rests.

    Args:
        bar (float64 [beats + 1]): times of the bar's beats in seconds, and of the next downbeat.
        bar_index: index of the bar in its section, which selects one of the pattern's bars.
        pattern: the symbols of one bar or several, repeated as needed.
        grid: how bars are divided.

    Returns:
        Symbol, start and end in seconds of each step.
    """
    steps_of_bar = grid.metre * grid.per_beat
    bars_of_pattern = max(1, len(pattern) // steps_of_bar)
    offset = (bar_index % bars_of_pattern) * steps_of_bar
    # the bar may have more or fewer beats than the style's metre
    times = [_in_bar(bar, grid.beat(step)) for step in range((bar.size - 1) * grid.per_beat + 1)]
    symbols = (pattern[(offset + step) % len(pattern)] for step in range(len(times) - 1))
    return list(zip(symbols, times[:-1], times[1:], strict=True))


def _snapped(seconds: float) -> float:
    """A time rounded to a frame of the codec."""
    return round(seconds * FRAME_RATE) / FRAME_RATE


def _in_bar(bar: np.ndarray, beat: float) -> float:
    """Time of a beat in a bar, rounded to a frame relative to the bar's start, so that bars of one tempo are equal."""
    start = float(bar[0])
    return _snapped(start) + _snapped(time_of(bar, beat) - start)


def hits(song: Song, grid: Grid, bar: np.ndarray, number: int, pattern: str) -> list[Hit]:
    """A pattern's hits in a bar; a hit held over a chord change is played again with the new chord.

    Args:
        song: with the chords.
        grid: how bars are divided.
        bar (float64 [beats + 1]): times of the bar's beats in seconds, and of the next downbeat.
        number: index of the bar in its section.
        pattern: symbols of one bar or several (see `styles`).

    Returns:
        The hits in order; none for rests and where the song has no chord.
    """
    hits_of_bar: list[Hit] = []
    sounding = False
    for symbol, start, end in _steps(bar, number, pattern, grid):
        chord = chord_at(song, start)
        if chord is None or symbol == REST:
            sounding = False
        elif symbol == HOLD and sounding and hits_of_bar[-1].chord is chord:
            hits_of_bar[-1] = dataclasses.replace(hits_of_bar[-1], end=end)
        # a hold after silence stays silent
        elif symbol != HOLD or sounding:
            # until the chord changes or the bar ends
            ring = min(chord.end, float(bar[-1]))
            if symbol == HOLD:
                # held over a chord change: strike it again
                symbol = hits_of_bar[-1].symbol
            hits_of_bar.append(Hit(symbol, start, end, max(end, ring), chord))
            sounding = True
    return hits_of_bar


def voicing(chord: Chord, kind: str, low: int) -> list[int]:
    """MIDI pitches of a chord, ascending, the lowest within an octave above `low`.

    Args:
        chord: not "N".
        kind: "close", within an octave; "open", with the second lowest note an octave higher; "power", root, fifth and
            octave; or "guitar", the root, then chord tones from the fifth up, as on six strings.
        low: MIDI pitch.
    """
    classes = chord.pitch_classes[:4]
    root = low + (classes[0] - low) % 12
    if kind == "power":
        return [root, root + _fifth(classes), root + 12]
    if kind == "guitar":
        # chord tones are at least three semitones apart, as neighbouring strings are
        pitches = [root]
        for pitch in range(root + _fifth(classes), root + GUITAR_SPAN + 1):
            if pitch % 12 in classes and pitch - pitches[-1] > 2:
                pitches.append(pitch)
        return pitches[:STRINGS]
    pitches = sorted(low + (pitch_class - low) % 12 for pitch_class in classes)
    if kind == "open" and len(pitches) > 2:
        pitches[1] += 12
    return sorted(pitches)


def _fifth(classes: Sequence[int]) -> int:
    """Semitones from a chord's root to its fifth: perfect, diminished or augmented; perfect if it has none.

    Args:
        classes: the chord's pitch classes, its root first.
    """
    for interval in (7, 6, 8):
        if (classes[0] + interval) % 12 in classes:
            return interval
    return 7


def _bars_in_sections(song: Song, form: Sequence[Section]) -> Iterator[tuple[np.ndarray, int, Section]]:
    """Walks through the bars of a form.

    Yields:
        A bar's beats and the next downbeat in seconds (float64), the bar's index in its section, and the section.
    """
    all_bars = bars(song)
    for section in form:
        for song_bar in range(section.first, section.end):
            yield all_bars[song_bar], song_bar - section.first, section


def _pattern(player: Player, section: Section, chosen: dict[str, int]) -> str | Groove | None:
    """The pattern of a player for a section's energy; None if the player is silent at that energy.

    Args:
        player: the player.
        section: the section.
        chosen: index of the variant drawn, by energy.
    """
    if section.energy not in chosen:
        return None
    return player.patterns[section.energy][chosen[section.energy]]


def _chord_notes(hit: Hit, player: Player, energy: str) -> Iterator[Note]:
    """The notes with which a chord player plays one hit; `styles` says what the symbols mean.

    Args:
        hit: symbol, chord and times.
        player: voicing, range, velocity and note length.
        energy: energy of the section, one of ENERGIES.
    """
    pitches = voicing(hit.chord, player.voicing, player.low)
    symbol = hit.symbol.upper()
    velocity = player.velocity + ENERGY_VELOCITY[energy]
    if hit.symbol != symbol:
        # a small letter is played more softly
        velocity -= SOFTER
    delays = [0.0] * len(pitches)
    if symbol == "L":
        # the root in the left hand below the chord, all at once
        root = hit.chord.pitch_classes[0]
        pitches = [LEFT_HAND + (root - LEFT_HAND) % 12, *pitches]
        delays = [0.0, *delays]
    elif symbol == "H":
        # the upper notes, without the lowest
        pitches = pitches[1:]
    elif symbol == "B":
        # the lowest note
        pitches = pitches[:1]
    elif symbol in "DU":
        # a strum down through all notes, or up through the highest ones
        if symbol == "U":
            pitches = pitches[-STRUMMED_UP:][::-1]
        delays = [i * STRUM_FRAMES / FRAME_RATE for i in range(len(pitches))]
    elif symbol.isdigit():
        # one note, counted from the lowest; past the highest note, continue with the lowest, an octave higher
        octave, index = divmod(int(symbol) - 1, len(pitches))
        pitches = [pitches[index] + 12 * octave]
    end = hit.ring if player.ring else hit.start + player.length * (hit.end - hit.start)
    # symbols for fewer notes than the chord leave delays over, all of them 0
    for pitch, delay in zip(pitches, delays, strict=False):
        start = hit.start + delay
        yield Note(start, max(_snapped(end), start + SHORTEST_FRAMES / FRAME_RATE), pitch, velocity)


def _chords(song: Song, form: Sequence[Section], style: Style, player: Player, chosen: dict[str, int]) -> list[Note]:
    """The notes of a player of chords.

    Args:
        song, form, style: as for `arrange`.
        player: the player.
        chosen: index of the pattern variant drawn, by energy; at other energies, the player is silent.
    """
    notes: list[Note] = []
    grid = _grid(song, style)
    for bar, bar_index, section in _bars_in_sections(song, form):
        pattern = _pattern(player, section, chosen)
        if not isinstance(pattern, str):
            continue
        if section.name == "ending":
            # one held chord, played like the pattern's first symbol
            first = next((symbol for symbol in pattern if symbol not in (REST, HOLD)), "C").upper()
            if first in PARTS_OF_A_CHORD:
                first = "C"
            pattern = first + HOLD * (len(pattern) - 1)
        for hit in hits(song, grid, bar, bar_index, pattern):
            notes += _chord_notes(hit, player, section.energy)
    return notes


def _bass(song: Song, form: Sequence[Section], style: Style, player: Player, chosen: dict[str, int]) -> list[Note]:
    """The notes of the bass.

    Args:
        song, form, style: as for `arrange`.
        player: the player.
        chosen: index of the pattern variant drawn, by energy; at other energies, the player is silent.
    """
    notes: list[Note] = []
    grid = _grid(song, style)
    for bar, bar_index, section in _bars_in_sections(song, form):
        pattern = _pattern(player, section, chosen)
        if not isinstance(pattern, str):
            continue
        if section.name == "ending":
            pattern = "R" + HOLD * (len(pattern) - 1)
        for hit in hits(song, grid, bar, bar_index, pattern):
            bass_class = hit.chord.bass or 0  # pitch class
            interval = BASS_INTERVALS.get(hit.symbol, 0)
            # a fifth only over chords that have one
            if (bass_class + interval) % 12 not in {bass_class, *hit.chord.pitch_classes}:
                interval = 0
            pitch = player.low + (bass_class - player.low) % 12 + interval
            velocity = player.velocity + ENERGY_VELOCITY[section.energy]
            if hit.symbol == "r":
                velocity -= SOFTER
            end = max(hit.start + player.length * (hit.end - hit.start), hit.start + SHORTEST_FRAMES / FRAME_RATE)
            notes.append(Note(hit.start, _snapped(end), pitch, velocity))
    return notes


def _drums(song: Song, form: Sequence[Section], style: Style, player: Player, chosen: dict[str, int]) -> list[Note]:
    """The notes of the drums, with fills at the ends of sections that are not sparse.

    Args:
        song, form, style: as for `arrange`.
        player: the player.
        chosen: index of the pattern variant drawn, by energy; at other energies, the player is silent.
    """
    notes: list[Note] = []
    grid = _grid(song, style)

    def hit(drum: str, at: float, symbol: str, section: Section) -> None:
        """Adds a drum's note at a time in seconds, as loud as its symbol and the section's energy ask for."""
        velocity = player.velocity + DRUM_VELOCITY[symbol] + ENERGY_VELOCITY[section.energy] // 2
        velocity = int(np.clip(velocity, SOFTEST_DRUM, LARGEST_VELOCITY))
        notes.append(Note(at, at + DRUM_NOTE, DRUMS[drum], velocity))

    for bar, bar_index, section in _bars_in_sections(song, form):
        groove = _pattern(player, section, chosen)
        if groove is None or isinstance(groove, str):
            continue
        if section.name == "ending":
            for drum in ("kick", "crash"):
                hit(drum, _in_bar(bar, 0), "x", section)
            continue
        if bar_index == 0 and section.energy == "full":
            hit("crash", _in_bar(bar, 0), "x", section)
        num_steps = (bar.size - 1) * grid.per_beat
        # the step from which the fill replaces the groove; without a fill, the end of the bar
        fill_from = num_steps
        is_last_bar = bar_index == section.end - section.first - 1
        if is_last_bar and section.energy != "sparse":
            # all drums of a fill have patterns of the same length
            fill_from = max(0, num_steps - len(next(iter(style.fill.values()))))
        for drum, pattern in groove.items():
            # the kick goes on through a fill without kicks
            until = num_steps if drum == "kick" and drum not in style.fill else fill_from
            for symbol, start, _ in _steps(bar, bar_index, pattern, grid)[:until]:
                if symbol != REST:
                    hit(drum, start, symbol, section)
        for drum, pattern in style.fill.items():
            for step in range(fill_from, num_steps):
                # a fill ends with the bar, so its steps are counted from the end
                symbol = pattern[step - num_steps]
                if symbol != REST:
                    hit(drum, _in_bar(bar, grid.beat(step)), symbol, section)
    return notes


def _line(song: Song, form: Sequence[Section], style: Style, player: Player, chosen: dict[str, int]) -> list[Note]:
    """The song's second voice (track BRIDGE), moved by octaves into the player's range.

    Args:
        song, form: as for `arrange`.
        style, chosen: not used; all roles have the same arguments.
        player: the player, silent at energies without patterns.
    """
    all_bars = bars(song)
    # start and end, in seconds, of the sections in which the player has patterns
    spans = []
    for section in form:
        if section.energy in player.patterns:
            spans.append((all_bars[section.first][0], all_bars[section.end - 1][-1]))
    line = []
    for note in one_voice(song.tracks.get("BRIDGE", ())):
        if any(start <= note.start < end - LINE_END_SECONDS for start, end in spans):
            line.append(note)
    if not line:
        return []
    middle = float(np.median([note.pitch for note in line]))
    semitones = 12 * round((player.low + LINE_RANGE - middle) / 12)
    moved = [dataclasses.replace(note, pitch=note.pitch + semitones, velocity=player.velocity) for note in line]
    return list(on_frames(moved))


_NOTES_OF_ROLE = {"chords": _chords, "bass": _bass, "drums": _drums, "line": _line}
