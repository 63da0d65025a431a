# SPDX-License-Identifier: Apache-2.0
"""Exports charts as MusicXML and MIDI.

MusicXML is written with music21 and MIDI with mido, both part of the extra `studio`.
"""

import io
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from .bars import Chart
from .chord_symbols import NATURAL, PLAIN_SIGNS, Degrees, read_chord
from .lead_sheet import beats_passed
from .spelling import usual_key

TICKS_A_QUARTER = 480
# in seconds: a MIDI tempo has three bytes, in microseconds a beat
LONGEST_BEAT = 0xFFFFFF / 1e6
# MIDI pitch of the C from which chords are built, and an octave below, that of their bass
CHORD_OCTAVE = 48
BASS_OCTAVE = 36
# MIDI velocities, 1 to 127
CHORD_VELOCITY = 64
MELODY_VELOCITY = 90
# General MIDI: channel of the drums, counted from 0, and pitches of two wood blocks; and the length of a click
DRUM_CHANNEL = 9
ACCENT = 76
CLICK = 77
CLICK_QUARTERS = 0.1
# the finest metre of what precedes the first beat, in parts of a quarter
FINEST = 16
# chord kinds of MusicXML, as music21 names them, and their notes: (degree, semitones above the root) each
KINDS = {
    kind: frozenset(zip(degrees, semitones, strict=True))
    for kind, degrees, semitones in (
        ("major", (1, 3, 5), (0, 4, 7)),
        ("minor", (1, 3, 5), (0, 3, 7)),
        ("augmented", (1, 3, 5), (0, 4, 8)),
        ("diminished", (1, 3, 5), (0, 3, 6)),
        ("dominant-seventh", (1, 3, 5, 7), (0, 4, 7, 10)),
        ("major-seventh", (1, 3, 5, 7), (0, 4, 7, 11)),
        ("minor-seventh", (1, 3, 5, 7), (0, 3, 7, 10)),
        ("minor-major-seventh", (1, 3, 5, 7), (0, 3, 7, 11)),
        ("diminished-seventh", (1, 3, 5, 7), (0, 3, 6, 9)),
        ("half-diminished-seventh", (1, 3, 5, 7), (0, 3, 6, 10)),
        ("augmented-seventh", (1, 3, 5, 7), (0, 4, 8, 10)),
        ("major-sixth", (1, 3, 5, 6), (0, 4, 7, 9)),
        ("minor-sixth", (1, 3, 5, 6), (0, 3, 7, 9)),
        ("dominant-ninth", (1, 3, 5, 7, 9), (0, 4, 7, 10, 14)),
        ("major-ninth", (1, 3, 5, 7, 9), (0, 4, 7, 11, 14)),
        ("minor-ninth", (1, 3, 5, 7, 9), (0, 3, 7, 10, 14)),
        ("dominant-11th", (1, 3, 5, 7, 9, 11), (0, 4, 7, 10, 14, 17)),
        ("major-11th", (1, 3, 5, 7, 9, 11), (0, 4, 7, 11, 14, 17)),
        ("minor-11th", (1, 3, 5, 7, 9, 11), (0, 3, 7, 10, 14, 17)),
        ("dominant-13th", (1, 3, 5, 7, 9, 11, 13), (0, 4, 7, 10, 14, 17, 21)),
        ("major-13th", (1, 3, 5, 7, 9, 11, 13), (0, 4, 7, 11, 14, 17, 21)),
        ("minor-13th", (1, 3, 5, 7, 9, 11, 13), (0, 3, 7, 10, 14, 17, 21)),
        ("suspended-second", (1, 2, 5), (0, 2, 7)),
        ("suspended-fourth", (1, 4, 5), (0, 5, 7)),
        ("power", (1, 5), (0, 7)),
    )
}
# start s, stop s, MIDI pitch
Note = tuple[float, float, int]


def midi_key(chart: Chart) -> str:
    """The key in chord notation, such as "Bbm", with at most seven accidentals; empty if unknown."""
    if chart.sheet.key is None:
        return ""
    root, _, mode = usual_key(chart.sheet.key).partition(":")
    return root + ("m" if mode == "min" else "")


def to_musicxml(chart: Chart, title: str) -> bytes:
    """Writes measures of rests with chord symbols, key, metre and tempo as MusicXML 4.0, partwise.

    Raises:
        ModuleNotFoundError: without music21.
    """
    from music21 import metadata, note, stream
    from music21.musicxml.m21ToXml import GeneralObjectExporter
    from music21.stream.enums import ShowNumber

    part = stream.Part()
    part.partName = "Chords"
    for bar in chart.bars:
        measure = stream.Measure(number=bar.number)
        if not len(part):
            measure.append(_signatures(chart))
            # shortens a pickup
            measure.paddingLeft = chart.metre - bar.length
        if bar.number == 0:
            # a pickup is not counted
            measure.showNumber = ShowNumber.NEVER
        # a chord's rest lasts to the next chord or to the end of the bar, in quarters
        stops = [*(position for position, _ in bar.chords[1:]), bar.length]
        for (position, label), stop in zip(bar.chords, stops, strict=True):
            measure.insert(position, _chord_symbol(label))
            measure.insert(position, note.Rest(quarterLength=stop - position))
        part.append(measure)
    score = stream.Score([part])
    # music21 would otherwise name itself as the composer
    score.metadata = metadata.Metadata(title=title, composer="")
    # the text of a chord kind shows its degrees already
    return GeneralObjectExporter(score).parse().replace(b"<degree>", b'<degree print-object="no">')


def _signatures(chart: Chart) -> list[Any]:
    """Clef, key (if it is known), metre and tempo of a chart, as elements of music21."""
    from music21 import clef, key, meter, tempo

    # such as "Bbm"
    key_symbol = midi_key(chart)
    keys = []
    if key_symbol.endswith("m"):
        keys.append(key.Key(_accidentals(key_symbol.removesuffix("m")), "minor"))
    elif key_symbol:
        keys.append(key.Key(_accidentals(key_symbol), "major"))
    metre = meter.TimeSignature(f"{chart.metre}/4")
    return [clef.TrebleClef(), *keys, metre, tempo.MetronomeMark(number=round(chart.tempo, 2))]


def _chord_symbol(label: str) -> Any:
    """The chord symbol of music21 for a label: a kind of MusicXML with degrees added, altered or left out.

    It shows the quality as the label writes it.
    """
    from music21 import harmony

    chord = read_chord(label)
    if chord is None:
        return harmony.NoChord("N.C.")
    kind, changes = _kind(chord.degrees)
    bass: dict[str, Any] = {}
    if chord.bass is not None:
        bass["bass"] = _accidentals(chord.bass)
    symbol = harmony.ChordSymbol(root=_accidentals(chord.root), kind=kind, **bass)
    for action, degree, semitones in changes:
        symbol.addChordStepModification(harmony.ChordStepModification(action, degree, semitones), updatePitches=False)
    symbol.chordKindStr = chord.quality
    return symbol


def _kind(degrees: Degrees) -> tuple[str, list[tuple[str, int, int]]]:
    """The kind of MusicXML that needs the fewest changes to have these degrees, and the changes.

    Returns:
        The name of the kind, one of `KINDS`; and the changes, ("add", "alter" or "subtract", degree, semitones by
        which it is altered) each.
    """
    changes = {kind: _changes(KINDS[kind], degrees) for kind in KINDS}

    def cost(kind: str) -> tuple[bool, int]:
        """Whether the kind adds a seventh, and its number of changes: programs read an added seventh differently."""
        adds_seventh = any(action == "add" and degree == 7 for action, degree, _ in changes[kind])
        return adds_seventh, len(changes[kind])

    best = min(KINDS, key=cost)
    return best, changes[best]


def _changes(before: Degrees, after: Degrees) -> list[tuple[str, int, int]]:
    """The changes that turn a chord of the degrees `before` into one of the degrees `after`.

    Returns:
        ("add", "alter" or "subtract", degree, semitones) each. The semitones are those from the degree as it was
        ("alter") or from that degree of the major scale ("add"); 0 for "subtract".
    """
    # semitones above the root, by degree
    removed = dict(before - after)
    changes = []
    for degree, semitones in sorted(after - before):
        if degree in removed:
            changes.append(("alter", degree, semitones - removed.pop(degree)))
        else:
            changes.append(("add", degree, semitones - NATURAL[degree]))
    return changes + [("subtract", degree, 0) for degree in sorted(removed)]


def _accidentals(root: str) -> str:
    """A note name in music21's spelling, with "-" for a flat: "B-" for "Bb"."""
    return root.translate(PLAIN_SIGNS).replace("b", "-")


def to_midi(chart: Chart, melody: Sequence[Note] = ()) -> bytes:
    """Writes chords, a click on each beat and the sung melody, if given, as MIDI in time with the recording.

    The tempo changes with every beat, so that each beat falls on its time in the recording. Before the first beat the
    song's median tempo holds, and quarters are counted back from that beat; what is left over at the beginning, less
    than a quarter, is a short bar of its own.

    Args:
        chart: the song.
        melody: (start s, stop s, MIDI pitch) each.

    Raises:
        ModuleNotFoundError: without mido.
    """
    import mido

    quarters_at = _quarters_in_song(chart)
    tracks = {
        "Conductor": _conductor(chart, quarters_at),
        "Chords": _chord_events(chart, quarters_at),
        "Beats": _click_events(chart, quarters_at),
    }
    if melody:
        tracks["Melody"] = []
        for start, stop, pitch in melody:
            tracks["Melody"] += _note_events(quarters_at(start), quarters_at(stop), pitch, 1, MELODY_VELOCITY)

    file = mido.MidiFile(ticks_per_beat=TICKS_A_QUARTER)
    for name, events in tracks.items():
        track = file.add_track(name)
        # a message's time is counted from the one before
        last_tick = 0
        # at the same position, notes end before others begin
        for position, _, kind, values in sorted(events, key=lambda event: event[:2]):
            tick = round(position * TICKS_A_QUARTER)
            message_class = mido.MetaMessage
            if kind.startswith("note"):
                message_class = mido.Message
            track.append(message_class(kind, time=tick - last_tick, **values))
            last_tick = tick
    content = io.BytesIO()
    file.save(file=content)
    return content.getvalue()


# position in quarters, order among events at the same position, kind of mido's message and its values
Event = tuple[float, int, str, dict[str, Any]]
# from seconds in the recording to quarters in the MIDI file
QuartersAt = Callable[[float], float]


def _quarters_in_song(chart: Chart) -> QuartersAt:
    """Makes a function that maps seconds in the recording to quarters in the MIDI file.

    Before the first beat it counts at the song's median tempo.
    """
    beats = np.asarray(chart.beats)
    # time of the first beat in seconds, and its position in quarters, which is 0 at the start of the recording;
    # negative if the beat precedes the recording, which may begin between two beats
    first = float(beats[0])
    if first > 0:
        first_position = first * chart.tempo / 60
    else:
        first_position = -float(beats_passed(beats, np.zeros(1))[0])

    def quarters_at(second: float) -> float:
        """Position in quarters of a time in seconds."""
        if second < first:
            return second * chart.tempo / 60
        return first_position + float(beats_passed(beats, np.array([second]))[0])

    return quarters_at


def _conductor(chart: Chart, quarters_at: QuartersAt) -> list[Event]:
    """Events of the conductor track: a tempo for each beat, metres and, if it is known, the key.

    Raises:
        ValueError: a beat is longer than a MIDI file can express (16.8 s).
    """
    events: list[Event] = []
    # MIDI tempi are in microseconds a quarter
    if chart.beats[0] > 0:
        events.append((0, 0, "set_tempo", {"tempo": round(60e6 / chart.tempo)}))
    for before, after in zip(chart.beats, chart.beats[1:], strict=False):
        if after - before > LONGEST_BEAT:
            raise ValueError(f"No beat of a MIDI file may last from {before:.1f} to {after:.1f} s; add beats between.")
        # beats that end before the recording begins are left out
        if after > 0:
            events.append((max(quarters_at(before), 0.0), 0, "set_tempo", {"tempo": round(1e6 * (after - before))}))
    events += [
        (position, 0, "time_signature", values) for position, values in _metres(chart, quarters_at(chart.beats[0]))
    ]
    if midi_key(chart):
        events.append((0, 0, "key_signature", {"key": midi_key(chart)}))
    return events


def _metres(chart: Chart, first_beat: float) -> list[tuple[float, dict[str, int]]]:
    """Where each metre of a MIDI file begins, in quarters, and the values of its time signature.

    There are up to three, one after the other: that of the part of a quarter with which the recording begins, as
    quarters are counted back from the first beat; that of a pickup; and that of the bars. `first_beat` is the position
    of the first beat in quarters.
    """
    # whole quarters before the first beat, and the rest
    quarters, ticks = divmod(round(first_beat * TICKS_A_QUARTER), TICKS_A_QUARTER)
    # in quarters
    pickup = (quarters + chart.sheet.downbeat) % chart.metre
    rest = ticks / TICKS_A_QUARTER
    metres = []
    if rest:
        # in whole notes, rounded to 1/FINEST of a quarter
        length = Fraction(max(round(rest * FINEST), 1), 4 * FINEST)
        metres.append((0.0, {"numerator": length.numerator, "denominator": length.denominator}))
    if pickup:
        metres.append((rest, {"numerator": pickup, "denominator": 4}))
    return [*metres, (rest + pickup, {"numerator": chart.metre, "denominator": 4})]


def _chord_events(chart: Chart, quarters_at: QuartersAt) -> list[Event]:
    """For each chord, its notes and bass, held until it ends, and its label as a text event.

    A chord ends no later than the next one begins; times before the recording are moved to position 0.
    """
    events: list[Event] = []
    chords = chart.sheet.chords
    starts_of_next = [*(start for start, *_ in chords[1:]), math.inf]
    # not strict: without chords, `starts_of_next` still holds infinity
    for (start, stop, label), next_start in zip(chords, starts_of_next, strict=False):
        # two that begin together both sound
        if next_start > start:
            stop = min(stop, next_start)
        start_quarter = max(quarters_at(start), 0.0)
        stop_quarter = max(quarters_at(stop), 0.0)
        events.append((start_quarter, 1, "text", {"text": label.translate(PLAIN_SIGNS)}))
        chord = read_chord(label)
        if chord is None:
            continue
        for pitch in (BASS_OCTAVE + chord.lowest, *(CHORD_OCTAVE + note for note in chord.notes)):
            events += _note_events(start_quarter, stop_quarter, pitch, 0, CHORD_VELOCITY)
    return events


def _click_events(chart: Chart, quarters_at: QuartersAt) -> list[Event]:
    """Notes of a wood block on each beat of the recording, a higher one on downbeats."""
    events: list[Event] = []
    for index, second in enumerate(chart.beats):
        pitch = CLICK
        if (index - chart.sheet.downbeat) % chart.metre == 0:
            pitch = ACCENT
        # beats before the recording are silent
        if second >= 0:
            position = quarters_at(second)
            events += _note_events(position, position + CLICK_QUARTERS, pitch, DRUM_CHANNEL, CHORD_VELOCITY)
    return events


def _note_events(start: float, stop: float, pitch: int, channel: int, velocity: int) -> list[Event]:
    """The note-on and note-off event of a note.

    Args:
        start, stop: positions in quarters; the note lasts at least one tick.
        pitch: MIDI pitch.
        channel: MIDI channel, from 0.
        velocity: 1 to 127.
    """
    values = {"note": pitch, "velocity": velocity, "channel": channel}
    stop = max(stop, start + 1 / TICKS_A_QUARTER)
    # at one position, notes that end (1) come before notes that begin (2)
    return [(start, 2, "note_on", values), (stop, 1, "note_off", {**values, "velocity": 0})]
