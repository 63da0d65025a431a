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

REST = "."
HOLD = "_"
# velocities relative to the player's: by energy, and for softer symbols
ENERGY_VELOCITY = {"sparse": -8, "normal": 0, "full": 8}
SOFTER = 14
DRUM_VELOCITY = {"X": 12, "x": 0, "o": -22}
# delay between strummed strings, in frames
STRUM_FRAMES = 0.5
STRUMMED_UP = 4
SHORTEST_FRAMES = 3
LEFT_HAND = 36
# semitones from the root that a guitar chord reaches at most, and its strings
GUITAR_SPAN = 28
STRINGS = 6
LINE_RANGE = 7


@dataclasses.dataclass(frozen=True)
class Hit:
    """A symbol of a pattern that is played.

    Attributes:
        symbol: see `styles`.
        start, end: in seconds.
        ring: when the notes end, in seconds, if they ring on.
        chord: what they are of.
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
        parts by player, and the drawn variants by player and energy.
    """
    parts = {}
    drawn = {}
    for name, player in style.players.items():
        # by energy, the number of a variant
        chosen = {}
        for energy in ENERGIES:
            if variants := player.patterns.get(energy):
                chosen[energy] = int(generator.integers(len(variants)))
        notes = _PLAYED[player.role](song, form, style, player, chosen)
        if hands is not None:
            notes = list(hands[name].play(notes, np.random.default_rng(generator.integers(2**32))))
        parts[name] = Part(player.program, tuple(_apart(notes, song.duration)), 0.0)
        drawn[name] = chosen
    return parts, drawn


def _apart(notes: Sequence[Note], duration: float) -> Iterator[Note]:
    """Cuts each note half a frame before the next one of the same pitch, as a MIDI note-off ends a pitch, not a note.

    Notes that start after the song's `duration` (s), or with another one of their pitch, are left out. The last come
    first.
    """
    upcoming: dict[int, float] = {}  # by pitch: start of the next note
    for note in sorted(notes, key=lambda n: n.start, reverse=True):
        if note.start >= duration or upcoming.get(note.pitch, np.inf) <= note.start:
            continue
        end = min(note.end, upcoming.get(note.pitch, np.inf) - 1 / FRAME_RATE / 2)
        upcoming[note.pitch] = note.start
        yield dataclasses.replace(note, end=max(end, note.start + 1 / FRAME_RATE / 2))


@dataclasses.dataclass(frozen=True)
class Grid:
    """How a style divides the bars of a song: steps per beat, beats in a bar of its patterns, and swing."""

    per_beat: int
    metre: int
    swing: float

    def beat(self, step: int) -> float:
        """The place of a step in its bar, in beats; every second step is late if they swing."""
        return (step if step % 2 == 0 else step - 1 + 2 * self.swing) / self.per_beat


def _grid(song: Song, style: Style) -> Grid:
    """The grid of a style for a song, whose tempo decides if the style does not."""
    return Grid(style.steps_a_beat or steps_a_beat(song), style.metre, style.swing)


def _steps(bar: np.ndarray, number: int, pattern: str, grid: Grid) -> list[tuple[str, float, float]]:
    """The steps of a bar, also those at rest.

    Args:
        bar (float64 [beats + 1]): times of the bar's beats in seconds, and of the next downbeat.
        number: of the bar in its section, which decides what of a pattern of several bars is played.
        pattern: its symbols.
        grid: how bars are divided.

    Returns:
        Symbol, start and end in seconds of each step.
    """
    steps_of_bar = grid.metre * grid.per_beat
    bars_of_pattern = max(1, len(pattern) // steps_of_bar)
    offset = number % bars_of_pattern * steps_of_bar
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
        number: of the bar in its section.
        pattern: symbols of one bar or several (see `styles`).
    """
    hits_of_bar: list[Hit] = []
    sounding = False
    for symbol, start, end in _steps(bar, number, pattern, grid):
        chord = chord_at(song, start)
        if chord is None or symbol == REST:
            sounding = False
        elif symbol == HOLD and sounding and hits_of_bar[-1].chord is chord:
            hits_of_bar[-1] = dataclasses.replace(hits_of_bar[-1], end=end)
        elif symbol != HOLD or sounding:
            # until the chord changes or the bar ends
            ring = min(chord.end, float(bar[-1]))
            if symbol == HOLD:
                # held over a change of chord: struck again
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


def _in_sections(song: Song, form: Sequence[Section]) -> Iterator[tuple[np.ndarray, int, Section]]:
    """Yields the bars of a form: beats and next downbeat in seconds (float64), index in the section, section."""
    all_bars = bars(song)
    for section in form:
        for number in range(section.first, section.end):
            yield all_bars[number], number - section.first, section


def _pattern(player: Player, section: Section, chosen: dict[str, int]) -> str | Groove | None:
    """The pattern of a player for a section's energy; None if it is silent.

    Args:
        player: the player.
        section: the section.
        chosen: number of the drawn variant by energy.
    """
    if section.energy not in chosen:
        return None
    return player.patterns[section.energy][chosen[section.energy]]


def _chord_notes(hit: Hit, player: Player, energy: str) -> Iterator[Note]:
    """The notes of one hit of a chord player; `styles` says what the symbols mean.

    Args:
        hit: of a pattern.
        player: voicing, range, velocity and length of notes.
        energy: of the section.
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
    # there may be more delays than pitches, all of them 0
    for pitch, delay in zip(pitches, delays, strict=False):
        start = hit.start + delay
        yield Note(start, max(_snapped(end), start + SHORTEST_FRAMES / FRAME_RATE), pitch, velocity)


def _chords(song: Song, form: Sequence[Section], style: Style, player: Player, chosen: dict[str, int]) -> list[Note]:
    """The notes of a player of chords.

    Args:
        song, form, style: as for `arrange`.
        player: the player.
        chosen: number of the drawn pattern variant by energy; at other energies, the player is silent.
    """
    notes: list[Note] = []
    grid = _grid(song, style)
    for bar, number, section in _in_sections(song, form):
        pattern = _pattern(player, section, chosen)
        if not isinstance(pattern, str):
            continue
        if section.name == "ending":
            # one chord, held: the first symbol, or the whole chord instead of single notes
            first = next((symbol for symbol in pattern if symbol not in (REST, HOLD)), "C")
            pattern = first.upper().translate(str.maketrans("H123456", "CCCCCCC")) + HOLD * (len(pattern) - 1)
        for hit in hits(song, grid, bar, number, pattern):
            notes += _chord_notes(hit, player, section.energy)
    return notes


def _bass(song: Song, form: Sequence[Section], style: Style, player: Player, chosen: dict[str, int]) -> list[Note]:
    """The notes of the bass.

    Args:
        song, form, style: as for `arrange`.
        player: the player.
        chosen: number of the drawn pattern variant by energy; at other energies, the player is silent.
    """
    notes: list[Note] = []
    grid = _grid(song, style)
    for bar, number, section in _in_sections(song, form):
        pattern = _pattern(player, section, chosen)
        if not isinstance(pattern, str):
            continue
        if section.name == "ending":
            pattern = "R" + HOLD * (len(pattern) - 1)
        for hit in hits(song, grid, bar, number, pattern):
            bass_class = hit.chord.bass or 0  # pitch class
            interval = {"5": 7, "8": 12}.get(hit.symbol, 0)
            # only play a fifth over chords that have one
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
        chosen: number of the drawn pattern variant by energy; at other energies, the player is silent.
    """
    notes: list[Note] = []
    grid = _grid(song, style)

    def hit(drum: str, at: float, symbol: str, section: Section) -> None:
        """Adds a note for a symbol at a time in seconds."""
        velocity = player.velocity + DRUM_VELOCITY[symbol] + ENERGY_VELOCITY[section.energy] // 2
        notes.append(Note(at, at + DRUM_NOTE, DRUMS[drum], int(np.clip(velocity, 20, 127))))

    for bar, number, section in _in_sections(song, form):
        groove = _pattern(player, section, chosen)
        if groove is None or isinstance(groove, str):
            continue
        if section.name == "ending":
            for drum in ("kick", "crash"):
                hit(drum, _in_bar(bar, 0), "x", section)
            continue
        if number == 0 and section.energy == "full":
            hit("crash", _in_bar(bar, 0), "x", section)
        steps = (bar.size - 1) * grid.per_beat
        # the step from which the fill replaces the groove; after the bar if there is none
        fill_from = steps
        is_last_bar = number == section.end - section.first - 1
        if is_last_bar and section.energy != "sparse":
            fill_from = max(0, steps - len(next(iter(style.fill.values()))))
        for drum, pattern in groove.items():
            # the kick goes on through a fill without kicks
            until = steps if drum == "kick" and drum not in style.fill else fill_from
            for symbol, start, _ in _steps(bar, number, pattern, grid)[:until]:
                if symbol != REST:
                    hit(drum, start, symbol, section)
        for drum, pattern in style.fill.items():
            for step in range(fill_from, steps):
                # fills end with the bar
                symbol = pattern[step - steps]
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
    # from start to end in seconds: the sections in which the player has patterns
    spans = []
    for section in form:
        if section.energy in player.patterns:
            spans.append((all_bars[section.first][0], all_bars[section.end - 1][-1]))
    line = []
    for note in one_voice(song.tracks.get("BRIDGE", ())):
        if any(start <= note.start < end - 0.1 for start, end in spans):
            line.append(note)
    if not line:
        return []
    middle = float(np.median([note.pitch for note in line]))
    semitones = 12 * round((player.low + LINE_RANGE - middle) / 12)
    moved = [dataclasses.replace(note, pitch=note.pitch + semitones, velocity=player.velocity) for note in line]
    return list(on_frames(moved))


_PLAYED = {"chords": _chords, "bass": _bass, "drums": _drums, "line": _line}
