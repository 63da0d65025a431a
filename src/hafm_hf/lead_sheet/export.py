# SPDX-License-Identifier: Apache-2.0
"""Exports charts as MusicXML and MIDI.

MusicXML is written with music21 and MIDI with mido, both part of the extra `studio`.
"""

import io
import math
from collections.abc import Sequence
from typing import Any

from .bars import Chart
from .chords import CHORD, PLAIN_SIGNS, pitch_classes, root_and_quality

TICKS_A_QUARTER = 480
# a MIDI tempo has three bytes, in microseconds a beat
LONGEST_BEAT = 0xFFFFFF / 1e6
CHORD_OCTAVE, CHORD_VELOCITY, MELODY_VELOCITY = 48, 64, 90
# General MIDI drums, and the length of a click
DRUM_CHANNEL, ACCENT, CLICK, CLICK_QUARTERS = 9, 76, 77, 0.1
# keys that a MIDI key signature can express
MIDI_KEYS = {
    *"Cb Gb Db Ab Eb Bb F C G D A E B F# C#".split(),
    *"Abm Ebm Bbm Fm Cm Gm Dm Am Em Bm F#m C#m G#m D#m A#m".split(),
}
# chord kinds of MusicXML
KINDS = {
    "maj": "major",
    "min": "minor",
    "7": "dominant-seventh",
    "maj7": "major-seventh",
    "min7": "minor-seventh",
    "sus4": "suspended-fourth",
    "dim": "diminished",
}
Note = tuple[float, float, int]


def midi_key(chart: Chart) -> str:
    """The key in chord notation, such as "Bbm"; empty if unknown."""
    root, _, mode = (chart.sheet.key or "").partition(":")
    return root + ("m" if mode == "min" else "")


def to_musicxml(chart: Chart, title: str) -> bytes:
    """Writes measures of rests with chord symbols, key, metre and tempo as MusicXML 4.0, partwise.

    Raises:
        ModuleNotFoundError: without music21.
    """
    from music21 import metadata, note, stream
    from music21.musicxml.m21ToXml import GeneralObjectExporter

    part = stream.Part()
    part.partName = "Chords"
    for bar in chart.bars:
        measure = stream.Measure(number=bar.number)
        if not len(part):
            measure.append(_signatures(chart))
            # shortens a pickup
            measure.paddingLeft = chart.metre - bar.length
        stops = [*(place for place, _ in bar.chords[1:]), bar.length]
        for (place, label), stop in zip(bar.chords, stops, strict=True):
            measure.insert(place, _chord_symbol(label))
            measure.insert(place, note.Rest(quarterLength=stop - place))
        part.append(measure)
    score = stream.Score([part])
    # music21 would otherwise name itself as the composer
    score.metadata = metadata.Metadata(title=title, composer="")
    return GeneralObjectExporter(score).parse()


def _signatures(chart: Chart) -> list[Any]:
    """Clef, key, metre and tempo."""
    from music21 import clef, key, meter, tempo

    root, _, mode = (chart.sheet.key or "").partition(":")
    keys = [key.Key(_accidentals(root), "minor" if mode == "min" else "major")] if root else []
    metre = meter.TimeSignature(f"{chart.metre}/4")
    return [clef.TrebleClef(), *keys, metre, tempo.MetronomeMark(number=round(chart.tempo, 2))]


def _chord_symbol(label: str) -> Any:
    from music21 import harmony

    found, written = root_and_quality(label), CHORD.fullmatch(label.strip().translate(PLAIN_SIGNS))
    if found is None or written is None:
        return harmony.NoChord("N.C.")
    root, signs, quality, bass = written.groups()
    # after the slash there may also be an interval from the root, which is no bass note
    over = CHORD.fullmatch((bass or "")[1:])
    named: dict[str, Any] = {"bass": _accidentals(over[1] + over[2])} if over else {}
    symbol = harmony.ChordSymbol(root=_accidentals(root + signs), kind=KINDS[found[1]], **named)
    symbol.chordKindStr = quality
    return symbol


def _accidentals(root: str) -> str:
    """A root in music21's spelling."""
    return root.translate(PLAIN_SIGNS).replace("b", "-")


def to_midi(chart: Chart, melody: Sequence[Note] = ()) -> bytes:
    """Writes chords, a click on each beat and the sung melody, if given, as MIDI in time with the recording.

    The tempo changes with every beat, so that each falls on its estimated time; the lead-in before the first beat has
    a tempo of its own.

    Args:
        chart: the song.
        melody: (start s, stop s, MIDI pitch).

    Raises:
        ModuleNotFoundError: without mido.
    """
    import mido

    tracks = {"Conductor": _conductor(chart), "Chords": _chord_events(chart), "Beats": _click_events(chart)}
    if melody:
        tracks["Melody"] = [
            event
            for start, stop, pitch in melody
            for event in _sounding(chart.quarters(start), chart.quarters(stop), pitch, 1, MELODY_VELOCITY)
        ]
    file = mido.MidiFile(ticks_per_beat=TICKS_A_QUARTER)
    for name, events in tracks.items():
        track = file.add_track(name)
        now = 0
        # at the same position, notes end before others begin
        for place, _, kind, values in sorted(events, key=lambda event: event[:2]):
            tick = round(place * TICKS_A_QUARTER)
            message = mido.Message if kind.startswith("note") else mido.MetaMessage
            track.append(message(kind, time=tick - now, **values))
            now = tick
    content = io.BytesIO()
    file.save(file=content)
    return content.getvalue()


# position in quarters, order among events at the same position, kind and values
Event = tuple[float, int, str, dict[str, Any]]


def _conductor(chart: Chart) -> list[Event]:
    """Events of the conductor track: tempi, metres and the key."""
    events: list[Event] = []
    if chart.lead_in:
        events.append((0, 0, "set_tempo", {"tempo": round(1e6 * chart.beats[0] / chart.lead_in)}))
    for number, (before, after) in enumerate(zip(chart.beats, chart.beats[1:], strict=False)):
        if after - before > LONGEST_BEAT:
            raise ValueError(f"No beat of a MIDI file may last from {before:.1f} to {after:.1f} s; add beats between.")
        events.append((chart.lead_in + number, 0, "set_tempo", {"tempo": round(1e6 * (after - before))}))
    # one for the pickup, if any, and one for the full bars
    for bar in chart.bars[: 2 - chart.bars[0].number]:
        events.append((bar.start, 0, "time_signature", {"numerator": bar.length, "denominator": 4}))
    if midi_key(chart) in MIDI_KEYS:
        events.append((0, 0, "key_signature", {"key": midi_key(chart)}))
    return events


def _chord_events(chart: Chart) -> list[Event]:
    """The notes of every chord, held throughout it, and its label as a text event."""
    events: list[Event] = []
    chords, later = chart.sheet.chords, [*(start for start, *_ in chart.sheet.chords[1:]), math.inf]
    for (start, stop, label), after in zip(chords, later, strict=False):
        first, stop = chart.quarters(max(start, 0.0)), min(stop, after) if after > start else stop
        events.append((first, 1, "text", {"text": label.translate(PLAIN_SIGNS)}))
        for pitch in pitch_classes(label):
            events += _sounding(first, chart.quarters(stop), CHORD_OCTAVE + pitch, 0, CHORD_VELOCITY)
    return events


def _click_events(chart: Chart) -> list[Event]:
    """A wood block on each beat, a higher one on downbeats."""
    events: list[Event] = []
    for number in range(len(chart.beats)):
        pitch = ACCENT if (number - chart.sheet.downbeat) % chart.metre == 0 else CLICK
        place = chart.lead_in + number
        events += _sounding(place, place + CLICK_QUARTERS, pitch, DRUM_CHANNEL, CHORD_VELOCITY)
    return events


def _sounding(start: float, stop: float, pitch: int, channel: int, velocity: int) -> list[Event]:
    """Note-on and note-off events between two positions in quarters."""
    on = {"note": pitch, "velocity": velocity, "channel": channel}
    stop = max(stop, start + 1 / TICKS_A_QUARTER)
    return [(start, 2, "note_on", on), (stop, 1, "note_off", {**on, "velocity": 0})]
