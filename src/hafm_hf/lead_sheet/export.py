# SPDX-License-Identifier: Apache-2.0
"""A song in bars in musicians' formats: ChordPro, MusicXML and MIDI.

Beside the path of the data, behind `bars`. MIDI is written with mido, which the extra `studio` brings.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

from .bars import GRID, Bar, Chart
from .chords import CHORD, MINOR_ROOTS, pitch_classes, root_and_quality

BARS_A_LINE = 4
TICKS_A_QUARTER = 480
CHORD_OCTAVE, CHORD_VELOCITY, MELODY_VELOCITY = 48, 64, 90
# of General MIDI's drums, and how long a click is
DRUM_CHANNEL, ACCENT, CLICK, CLICK_QUARTERS = 9, 76, 77, 0.1
# fifths of a major key by its root; a minor key has those of the major key three semitones above
FIFTHS = {"C": 0, "G": 1, "D": 2, "A": 3, "E": 4, "B": 5, "F#": 6, "Gb": -6, "Db": -5, "Ab": -4, "Eb": -3, "Bb": -2}
FIFTHS |= {"F": -1, "C#": 7, "Cb": -7}
# that a MIDI file can name
MIDI_KEYS = {*FIFTHS, *(f"{root}m" for root in (*MINOR_ROOTS, "D#", "A#", "Ab"))}
KINDS = {
    "maj": "major",
    "min": "minor",
    "7": "dominant",
    "maj7": "major-seventh",
    "min7": "minor-seventh",
    "sus4": "suspended-fourth",
    "dim": "diminished",
}
Note = tuple[float, float, int]


def to_chordpro(chart: Chart, title: str) -> str:
    """A chord chart in ChordPro's grid: a cell a beat, four bars a line; chords on half a beat share a cell."""
    head = [f"{{title: {title}}}", f"{{tempo: {chart.tempo:.0f}}}", f"{{time: {chart.metre}/4}}"]
    head += [f"{{key: {key_name(chart)}}}"] if chart.sheet.key else []
    lines = [f"| {' | '.join(' '.join(_cells(bar)) for bar in row)} |" for row in lines_of_bars(chart)]
    shape = f"{{start_of_grid: {BARS_A_LINE}x{chart.metre}}}"
    return "\n".join([*head, "", shape, *lines, "{end_of_grid}", ""])


def lines_of_bars(chart: Chart) -> list[Sequence[Bar]]:
    """Four bars a line; a pickup has one of its own."""
    first = 1 if chart.bars[0].number == 0 else 0
    rest = [chart.bars[at : at + BARS_A_LINE] for at in range(first, len(chart.bars), BARS_A_LINE)]
    return [chart.bars[:1], *rest] if first else rest


def key_name(chart: Chart) -> str:
    """The key as a chord is called, "Bbm"; empty where it is not known."""
    root, _, mode = (chart.sheet.key or "").partition(":")
    return root + ("m" if mode == "min" else "")


def _cells(bar: Bar) -> list[str]:
    """What stands on each beat of a bar: chords that begin there, or a dot."""
    cells = []
    for beat in range(bar.length):
        there = [label if pitch_classes(label) else "N.C." for place, label in bar.chords if beat <= place < beat + 1]
        cells.append("~".join(there) or ".")
    return cells


def to_musicxml(chart: Chart, title: str) -> bytes:
    """Measures of rests with the chords above them, key, metre and tempo; MusicXML 4.0, partwise."""
    score = ElementTree.Element("score-partwise", version="4.0")
    _add(_add(score, "work"), "work-title", title)
    parts = _add(score, "part-list")
    _add(_add(parts, "score-part", id="P1"), "part-name", "Chords")
    part = _add(score, "part", id="P1")
    for at, bar in enumerate(chart.bars):
        measure = _add(part, "measure", number=str(bar.number), **({"implicit": "yes"} if bar.number == 0 else {}))
        if at == 0:
            _add_attributes(measure, chart)
        changes = dict(bar.chords)
        place = 0.0
        while place < bar.length:
            if place in changes:
                _add_harmony(measure, changes[place])
            # a rest of a beat, or two of half a beat around a chord
            whole = place % 1 == 0 and place + GRID not in changes
            rest = _add(measure, "note")
            _add(rest, "rest")
            _add(rest, "duration", "2" if whole else "1")
            _add(rest, "type", "quarter" if whole else "eighth")
            place += 1.0 if whole else GRID
    header = b'<?xml version="1.0" encoding="UTF-8"?>\n'
    ElementTree.indent(score)
    return header + ElementTree.tostring(score, encoding="utf-8") + b"\n"


def _add(parent: ElementTree.Element, tag: str, content: str | None = None, **attributes: str) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, tag, attributes)
    child.text = content
    return child


def _add_attributes(measure: ElementTree.Element, chart: Chart) -> None:
    """Key, metre, clef and tempo."""
    attributes = _add(measure, "attributes")
    _add(attributes, "divisions", "2")
    if chart.sheet.key:
        key = _add(attributes, "key")
        _add(key, "fifths", str(_fifths(chart.sheet.key)))
        _add(key, "mode", "minor" if chart.sheet.key.endswith(":min") else "major")
    time = _add(attributes, "time")
    _add(time, "beats", str(chart.metre))
    _add(time, "beat-type", "4")
    clef = _add(attributes, "clef")
    _add(clef, "sign", "G")
    _add(clef, "line", "2")
    direction = _add(measure, "direction", placement="above")
    metronome = _add(_add(direction, "direction-type"), "metronome")
    _add(metronome, "beat-unit", "quarter")
    _add(metronome, "per-minute", f"{chart.tempo:.2f}")
    _add(direction, "sound", tempo=f"{chart.tempo:.2f}")


def _fifths(key: str) -> int:
    root, _, mode = key.partition(":")
    if mode != "min":
        return FIFTHS.get(root, 0)
    relative = FIFTHS[root] - 3 if root in FIFTHS else 0
    # G# and D# minor are written with sharps, which no major key of their root has
    return {"G#": 5, "D#": 6, "A#": 7}.get(root, relative)


def _add_harmony(measure: ElementTree.Element, label: str) -> None:
    harmony, written = _add(measure, "harmony"), CHORD.fullmatch(label.strip())
    found = root_and_quality(label)
    root = _add(harmony, "root")
    if found is None or written is None:
        _add(root, "root-step", "C", text="")
        _add(harmony, "kind", "none", text="N.C.")
        return
    step, signs, _ = written.groups()
    _add(root, "root-step", step)
    if signs:
        _add(root, "root-alter", str(sum(1 if sign in "#♯" else -1 for sign in signs)))
    _add(harmony, "kind", KINDS[found[1]])


def to_midi(chart: Chart, melody: Sequence[Note] = ()) -> bytes:
    """Chords, a click on each beat and, where there is one, the sung melody; at the instants of the song.

    The tempo changes with every beat, so that each lies where it was estimated; what sounds before the first beat has
    a tempo of its own.

    Args:
        chart: the song.
        melody: (start s, stop s, MIDI pitch).

    Raises:
        ModuleNotFoundError: without mido.
    """
    import mido

    tracks = {
        "Conductor": _conductor(chart),
        "Chords": _chord_events(chart),
        "Beats": _click_events(chart),
        "Melody": [
            event
            for start, stop, pitch in melody
            for event in _sounding(chart.quarters(start), chart.quarters(stop), pitch, 1, MELODY_VELOCITY)
        ],
    }
    file = mido.MidiFile(ticks_per_beat=TICKS_A_QUARTER)
    for name, events in tracks.items():
        if name == "Melody" and not events:
            continue
        track, now = mido.MidiTrack(), 0
        track.append(mido.MetaMessage("track_name", name=name))
        # a note ends before the next one begins
        for place, _, (meta, kind, values) in sorted(events, key=lambda event: event[:2]):
            tick = round(place * TICKS_A_QUARTER)
            message = mido.MetaMessage if meta else mido.Message
            track.append(message(kind, time=tick - now, **values))
            now = tick
        file.tracks.append(track)
    content = io.BytesIO()
    file.save(file=content)
    return content.getvalue()


# quarters, what of one instant comes first, and (is it meta, kind, values)
Event = tuple[float, int, tuple[bool, str, dict[str, Any]]]


def _conductor(chart: Chart) -> list[Event]:
    """Tempos, metres and the key."""
    events: list[Event] = []
    periods = [after - before for before, after in zip(chart.beats, chart.beats[1:], strict=False)]
    if chart.lead_in:
        events.append((0, 0, (True, "set_tempo", {"tempo": round(1e6 * chart.beats[0] / chart.lead_in)})))
    for number, period in enumerate(periods):
        events.append((chart.lead_in + number, 0, (True, "set_tempo", {"tempo": round(1e6 * period)})))
    # of the pickup, if there is one, and of what follows
    for bar in chart.bars[: 2 - chart.bars[0].number]:
        events.append((bar.start, 0, (True, "time_signature", {"numerator": bar.length, "denominator": 4})))
    if chart.sheet.key and key_name(chart) in MIDI_KEYS:
        events.append((0, 0, (True, "key_signature", {"key": key_name(chart)})))
    return events


def _chord_events(chart: Chart) -> list[Event]:
    """The notes of every chord from where it begins to where it ends, and its name as a text."""
    events: list[Event] = []
    for start, stop, label in chart.sheet.chords:
        first, last = chart.quarters(max(start, 0.0)), chart.quarters(stop)
        events.append((first, 1, (True, "text", {"text": label})))
        for pitch in pitch_classes(label):
            events += _sounding(first, last, CHORD_OCTAVE + pitch, 0, CHORD_VELOCITY)
    return events


def _click_events(chart: Chart) -> list[Event]:
    """A wood block on each beat, a higher one where a bar begins."""
    events: list[Event] = []
    for number in range(len(chart.beats)):
        pitch = ACCENT if (number - chart.sheet.downbeat) % chart.metre == 0 else CLICK
        place = chart.lead_in + number
        events += _sounding(place, place + CLICK_QUARTERS, pitch, DRUM_CHANNEL, CHORD_VELOCITY)
    return events


def _sounding(start: float, stop: float, pitch: int, channel: int, velocity: int) -> list[Event]:
    """A note from one place to another."""
    on = {"note": pitch, "velocity": velocity, "channel": channel}
    off = {**on, "velocity": 0}
    stop = max(stop, start + 1 / TICKS_A_QUARTER)
    return [(start, 2, (False, "note_on", on)), (stop, 1, (False, "note_off", off))]
