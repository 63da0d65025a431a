# SPDX-License-Identifier: Apache-2.0
"""Lead sheets as bars, MIDI and MusicXML, read back by independent libraries; and click tracks."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from commands import hafm
from hafm_hf import LeadSheet, audio
from hafm_hf.lead_sheet.bars import chart, with_bars_throughout
from hafm_hf.lead_sheet.chords import QUALITIES, chord_label, pitch_classes
from hafm_hf.lead_sheet.export import to_midi, to_musicxml
from hafm_hf.lead_sheet.files import read_beats, read_chords
from hafm_hf.tokenizers.pitch_contour import notes_of_pitches, sung_notes
from lead_sheet.golden import READ, SPELLING
from vocals import EXAMPLE

RATE = 44_100
# seconds: an uneven singer with a pickup of a beat and a half
BEATS = [0.8, 1.32, 1.8, 2.3, 2.82, 3.3, 3.8, 4.3, 4.82]
SHEET = LeadSheet(
    beats=BEATS, beats_per_bar=3, downbeat=1, key="Bb:maj",
    chords=[(0.0, 1.32, "Bb"), (1.32, 2.82, "Gm7"), (2.82, 4.05, "C#dim"), (4.05, 4.3, "F:7"), (4.3, 5.2, "N")],
)  # fmt: skip


def test_bars_follow_beats_metre_and_downbeat_and_have_their_chords() -> None:
    bars = chart(with_bars_throughout(SHEET, 5.2), 5.2).bars
    # one and a half beats before the first beat become two quarters, so the pickup fills a bar: bar 1
    assert [(bar.number, bar.start, bar.length) for bar in bars] == [(1, 0, 3), (2, 3, 3), (3, 6, 3), (4, 9, 3)]
    # at quarters from the start of the bar
    chords = [((0.0, "Bb"),), ((0.0, "Gm7"),), ((0.0, "C#dim"), (2.5, "F:7")), ((0.0, "N"),)]
    assert [bar.chords for bar in bars] == chords


def test_unknown_metre_and_key_are_estimated_from_the_chords() -> None:
    labels = ("Am", "F", "C", "G", "Am", "Dm", "E7", "Am")
    chords = [(0.5 + 2 * n, 2.5 + 2 * n, label) for n, label in enumerate(labels)]
    sheet = with_bars_throughout(LeadSheet(beats=[0.0, 0.5], chords=chords), 16.5)
    assert sheet.beats is not None
    assert len(sheet.beats) == 34
    assert sheet.beats[-1] == pytest.approx(16.5)
    assert (sheet.beats_per_bar, sheet.downbeat, sheet.key) == (4, 1, "A:min")
    assert set(sheet.estimated) == {"beats_per_bar", "key"}
    given = with_bars_throughout(LeadSheet(tempo=120, chords=chords), 16.5, metre=3, key="C:maj")
    assert (given.beats_per_bar, given.key, given.estimated) == (3, "C:maj", [])
    shifted = with_bars_throughout(LeadSheet(beats=[2.1, 2.6], beats_per_bar=4, downbeat=1), 4.0)
    # four beats are added before the first given one; the downbeat stays at the same time
    assert shifted.beats is not None
    assert shifted.beats[0] == pytest.approx(0.1)
    assert shifted.beats[shifted.downbeat] == pytest.approx(0.6)
    assert chart(with_bars_throughout(LeadSheet(), 3.0), 3.0).tempo == 120
    with pytest.raises(ValueError, match="write C:maj"):
        with_bars_throughout(SHEET, 5.2, key="C:dim")


def test_midi_has_the_beats_bars_chords_and_melody_at_their_seconds() -> None:
    pretty_midi = pytest.importorskip("pretty_midi")
    pytest.importorskip("mido")
    song = chart(with_bars_throughout(SHEET, 5.2), 5.2)
    melody = [(0.4, 0.9, 62), (1.32, 1.8, 67)]
    midi = pretty_midi.PrettyMIDI(io.BytesIO(to_midi(song, melody)))
    tracks = {track.name: track for track in midi.instruments}
    assert list(tracks) == ["Chords", "Beats", "Melody"]
    assert tracks["Beats"].is_drum
    assert [note.start for note in tracks["Beats"].notes] == pytest.approx(list(song.beats), abs=0.002)
    beats = midi.get_beats()
    assert all(np.abs(beats - second).min() < 0.002 for second in BEATS)
    assert all(np.abs(midi.get_downbeats() - second).min() < 0.002 for second in (1.32, 2.82, 4.3))
    # General MIDI's high wood block, on downbeats
    accents = [note.start for note in tracks["Beats"].notes if note.pitch == 76]
    assert accents == pytest.approx([1.32, 2.82, 4.3], abs=0.002)
    for start, stop, label in SHEET.chords:
        notes = {note.pitch % 12 for note in tracks["Chords"].notes if abs(note.start - start) < 0.005}
        assert notes == set(pitch_classes(label))
        assert all(abs(note.end - stop) < 0.005 for note in tracks["Chords"].notes if abs(note.start - start) < 0.005)
    assert [event.text for event in midi.text_events] == [label for *_, label in SHEET.chords]
    melody_read = [(round(note.start, 2), round(note.end, 2), note.pitch) for note in tracks["Melody"].notes]
    assert melody_read == melody
    # B flat major
    assert midi.key_signature_changes[0].key_number == 10
    assert midi.time_signature_changes[-1].numerator == 3


def test_of_overlapping_chords_the_later_one_counts() -> None:
    pretty_midi = pytest.importorskip("pretty_midi")
    # a first beat so early that it has no lead-in
    sheet = LeadSheet(beats=[0.03 + n / 2 for n in range(24)], beats_per_bar=4)
    song = chart(replace(sheet, chords=[(0, 4, "C"), (2, 6, "G"), (6, 12, "F"), (8, 10, "Dm")]), 12.0)
    assert [label for bar in song.bars for _, label in bar.chords] == ["C", "G", "G", "F", "Dm", "F"]
    chords, _ = pretty_midi.PrettyMIDI(io.BytesIO(to_midi(song))).instruments
    # the G of C major, and that of G major
    assert {(round(note.start), round(note.end)) for note in chords.notes if note.pitch == 55} == {(0, 2), (2, 6)}


def test_flat_and_sharp_signs_are_ascii_in_midi() -> None:
    mido = pytest.importorskip("mido")
    chords = [(0.0, 0.5, "B♭m7"), (0.5, 1.0, "F♯−/A♭"), (1.0, 2.0, "CΔ/E♭")]
    song = chart(with_bars_throughout(LeadSheet(tempo=120, key="E♭m", chords=chords), 2.0), 2.0)
    events = [event for track in mido.MidiFile(file=io.BytesIO(to_midi(song))).tracks for event in track]
    assert [event.text for event in events if event.type == "text"] == ["Bbm7", "F#-/Ab", "C^/Eb"]
    assert [event.key for event in events if event.type == "key_signature"] == ["Ebm"]
    with pytest.raises(ValueError, match="may last from 1.0 to 20.0 s; add beats between"):
        to_midi(chart(with_bars_throughout(LeadSheet(beats=[0.5, 1.0, 20.0, 20.5]), 21.0), 21.0))


def test_musicxml_has_the_chords_measures_key_and_metre() -> None:
    music21 = pytest.importorskip("music21")
    song = chart(with_bars_throughout(SHEET, 5.2), 5.2)
    score = music21.converter.parse(to_musicxml(song, "a <song> & more").decode(), format="musicxml")
    measures = list(score.parts[0].getElementsByClass("Measure"))
    numbered = [(measure.number, measure.duration.quarterLength) for measure in measures]
    assert numbered == [(1, 3.0), (2, 3.0), (3, 3.0), (4, 3.0)]
    chords = list(score.recurse().getElementsByClass("Harmony"))
    written = [(chord.getOffsetInHierarchy(score), set(chord.pitchClasses)) for chord in chords]
    expected = []
    for bar in song.bars:
        expected += [(bar.start + position, set(pitch_classes(label))) for position, label in bar.chords]
    assert written == expected
    (key,) = score.recurse().getElementsByClass("KeySignature")
    (time,) = score.recurse().getElementsByClass("TimeSignature")
    assert (key.sharps, time.ratioString) == (-2, "3/4")
    assert score.metadata.bestTitle == "a <song> & more"


def test_musicxml_keeps_the_bass_and_the_spelling_of_chords() -> None:
    music21 = pytest.importorskip("music21")
    labels = ["D/F#", "Csus2", "C9", "Am7/G", "C:maj/3", "Cm/maj7"]
    chords = [(2.0 * number, 2.0 * number + 2.0, label) for number, label in enumerate(labels)]
    song = chart(with_bars_throughout(LeadSheet(tempo=120, chords=chords), 12.0), 12.0)
    score = music21.converter.parse(to_musicxml(song, "x").decode(), format="musicxml")
    symbols = score.recurse().getElementsByClass("Harmony")
    written = [(symbol.bass().name, symbol.chordKindStr) for symbol in symbols]
    assert written[:6] == [("F#", ""), ("C", "sus2"), ("C", "9"), ("G", "m7"), ("E", "maj"), ("C", "m/maj7")]


def test_given_chords_are_exported_as_they_are() -> None:
    music21 = pytest.importorskip("music21")
    pretty_midi = pytest.importorskip("pretty_midi")
    labels = list(READ)
    chords = [(2.0 * number, 2.0 * number + 2.0, label) for number, label in enumerate(labels)]
    length = 2.0 * len(labels)
    song = chart(with_bars_throughout(LeadSheet(tempo=120, beats_per_bar=4, chords=chords), length), length)
    score = music21.converter.parse(to_musicxml(song, "x").decode(), format="musicxml")
    symbols = list(score.recurse().getElementsByClass("Harmony"))
    for label, symbol in zip(labels, symbols, strict=False):
        assert {*symbol.pitchClasses} == {*READ[label]}, label
        assert symbol.bass().pitchClass == READ[label][0], label
    played, _ = pretty_midi.PrettyMIDI(io.BytesIO(to_midi(song))).instruments
    for start, _, label in chords:
        pitches = [note.pitch for note in played.notes if abs(note.start - start) < 0.01]
        assert {pitch % 12 for pitch in pitches} == {*READ[label]}, label
        assert min(pitches) % 12 == READ[label][0], label


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("Csus2", "suspended-second"), ("Caug", "augmented"), ("C7#5", "augmented-seventh"), ("C5", "power"),
        ("C6", "major-sixth"), ("Cdim7", "diminished-seventh"), ("Cm7b5", "half-diminished-seventh"),
        ("C9", "dominant-ninth"), ("Cm13", "minor-13th"), ("CmM7", "minor-major-seventh"), ("Cadd9", "major"),
    ],
)  # fmt: skip
def test_musicxml_has_the_kind_of_a_chord(label: str, kind: str) -> None:
    music21 = pytest.importorskip("music21")
    song = chart(with_bars_throughout(LeadSheet(tempo=120, chords=[(0.0, 2.0, label)]), 2.0), 2.0)
    written = to_musicxml(song, "x").decode()
    score = music21.converter.parse(written, format="musicxml")
    assert next(score.recurse().getElementsByClass("ChordSymbol")).chordKind == kind
    # the text states them already
    assert written.count("<degree ") == written.count('<degree print-object="no">')


def test_every_chord_and_key_survives_musicxml() -> None:
    music21 = pytest.importorskip("music21")
    labels = [chord_label(number) for number in range(1, 1 + 12 * len(QUALITIES))]
    chords = [(2.0 * number, 2.0 * number + 2.0, label) for number, label in enumerate(labels)]
    song = chart(with_bars_throughout(LeadSheet(tempo=120, chords=chords), 168.0), 168.0)
    score = music21.converter.parse(to_musicxml(song, "all").decode(), format="musicxml")
    written = [set(symbol.pitchClasses) for symbol in score.recurse().getElementsByClass("Harmony")]
    # the last bar starts at the end of the song
    assert written[: len(labels)] == [set(pitch_classes(label)) for label in labels]
    for key in SPELLING:
        root, _, mode = key.partition(":")
        sheet = with_bars_throughout(LeadSheet(tempo=120, key=key), 2.0)
        score = music21.converter.parse(to_musicxml(chart(sheet, 2.0), "x").decode(), format="musicxml")
        (signature,) = score.recurse().getElementsByClass("KeySignature")
        written_key = signature.asKey("minor" if mode == "min" else "major")
        assert written_key.tonic.name == root.replace("b", "-")


def test_a_pickup_is_a_short_measure() -> None:
    music21 = pytest.importorskip("music21")
    song = chart(LeadSheet(beats=[0.0, 0.5, 1.0, 1.5, 2.0], beats_per_bar=4, downbeat=1, chords=[(0.5, 2, "C")]), 2.5)
    assert [(bar.number, bar.length) for bar in song.bars] == [(0, 1), (1, 4)]
    score = music21.converter.parse(to_musicxml(song, "x").decode(), format="musicxml")
    measures = score.parts[0].getElementsByClass("Measure")
    assert [(measure.number, measure.duration.quarterLength) for measure in measures] == [(0, 1.0), (1, 4.0)]


@pytest.mark.parametrize(("downbeat", "metre", "pickup"), [(1, 4, True), (2, 3, True), (3, 4, True), (0, 4, False)])
def test_only_a_pickup_is_implicit(downbeat: int, metre: int, pickup: bool) -> None:
    pytest.importorskip("music21")
    beats = [0.5 * number for number in range(9)]
    song = chart(LeadSheet(beats=beats, beats_per_bar=metre, downbeat=downbeat), 4.0)
    measures = re.findall(r'<measure implicit="(\w+)" number="(\d+)"', to_musicxml(song, "x").decode())
    assert measures[0] == (("yes", "0") if pickup else ("no", "1"))
    assert {implicit for implicit, _ in measures[1:]} == {"no"}


@pytest.mark.parametrize(
    ("key", "fifths", "name"), [("G#:maj", -4, "Ab"), ("D#", -3, "Eb"), ("Fb", 4, "E"), ("E# minor", -4, "Fm")]
)
def test_a_key_of_more_than_seven_accidentals_is_exported_as_its_enharmonic_one(
    key: str, fifths: int, name: str
) -> None:
    pytest.importorskip("music21")
    mido = pytest.importorskip("mido")
    song = chart(with_bars_throughout(LeadSheet(tempo=120, key=key), 2.0), 2.0)
    assert f"<fifths>{fifths}</fifths>" in to_musicxml(song, "x").decode()
    events = [event for track in mido.MidiFile(file=io.BytesIO(to_midi(song))).tracks for event in track]
    assert [event.key for event in events if event.type == "key_signature"] == [name]


@pytest.mark.parametrize(
    # the first beat in seconds, the index of the first downbeat, and beats in a bar
    ("first", "downbeat", "metre"),
    [(0.47, 0, 4), (0.06, 0, 4), (0.02, 1, 3), (0.0, 0, 4), (1.5, 3, 4), (7.3, 1, 3), (20.0, 2, 4), (-0.3, 1, 4)],
)
def test_the_tempo_of_a_midi_file_is_the_songs_from_the_start(first: float, downbeat: int, metre: int) -> None:
    mido = pytest.importorskip("mido")
    pretty_midi = pytest.importorskip("pretty_midi")
    tempo = 93.8
    beats = [first + 60 / tempo * number for number in range(40)]
    sheet = LeadSheet(beats=beats, beats_per_bar=metre, downbeat=downbeat, chords=[(0.1, beats[6], "C")])
    content = to_midi(chart(sheet, beats[-1]), [(0.2, 0.4, 60)])
    tempi = [event for event in mido.MidiFile(file=io.BytesIO(content)).tracks[0] if event.type == "set_tempo"]
    # events state microseconds a beat
    assert {round(60e6 / event.tempo, 1) for event in tempi} == {tempo}
    midi = pretty_midi.PrettyMIDI(io.BytesIO(content))
    chords, clicks, melody = midi.instruments
    later = [second for second in beats if second >= 0]
    assert [note.start for note in clicks.notes] == pytest.approx(later, abs=0.002)
    assert all(np.abs(midi.get_beats() - second).min() < 0.002 for second in later)
    downbeats = [second for number, second in enumerate(beats) if (number - downbeat) % metre == 0 and second >= 0]
    assert all(np.abs(midi.get_downbeats() - second).min() < 0.002 for second in downbeats)
    assert (chords.notes[0].start, chords.notes[0].end) == pytest.approx((0.1, beats[6]), abs=0.002)
    assert (melody.notes[0].start, melody.notes[0].end) == pytest.approx((0.2, 0.4), abs=0.002)


def test_a_free_singer_begins_at_the_songs_median_tempo() -> None:
    mido = pytest.importorskip("mido")
    song = chart(with_bars_throughout(SHEET, 5.2), 5.2)
    tempi = [event for event in mido.MidiFile(file=io.BytesIO(to_midi(song))).tracks[0] if event.type == "set_tempo"]
    assert 60e6 / tempi[0].tempo == pytest.approx(song.tempo, abs=0.01)


def test_a_sung_melody_is_transcribed_to_its_notes() -> None:
    time = np.arange(round(0.6 * RATE)) / RATE
    notes = [60, 64, 67]
    vibrato = 0.3 * np.sin(2 * np.pi * 5.5 * time)
    tones = []
    for note in notes:
        hertz = 440 * 2 ** ((note + vibrato - 69) / 12)
        tones.append(0.3 * np.sin(2 * np.pi * np.cumsum(hertz) / RATE))
    sound = np.concatenate([*tones, np.zeros(RATE // 2)]).astype(np.float32)
    transcribed = sung_notes(sound, RATE)
    assert [pitch for *_, pitch in transcribed] == notes
    assert [start for start, *_ in transcribed] == pytest.approx([0.0, 0.6, 1.2], abs=0.1)
    assert transcribed[-1][1] == pytest.approx(1.8, abs=0.1)
    after_40_seconds = np.pad(sound[::4], (40 * 11_025, 0))
    assert sung_notes(after_40_seconds, 11_025)[0][0] == pytest.approx(40, abs=0.03)
    assert sung_notes(np.zeros(RATE, np.float32), RATE) == []
    assert notes_of_pitches(np.zeros(0)) == []


def test_the_command_writes_every_format_with_the_given_parts(bundled_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("mido")
    (tmp_path / "given.lab").write_text("0 2.5 Dm7\n2.5 5 G7\n")
    formats = [word for name in ("lab", "json", "midi", "musicxml") for word in ("--format", name)]
    words = ("lead-sheet", EXAMPLE, "--seconds", 5, "--tempo", 96, "--chords", tmp_path / "given.lab", *formats)
    done = hafm(*words, "--metre", "3/4", "--key", "D:min", "--out", tmp_path / "out", check=True)
    assert "bars of 3/4, key D:min" in done.output
    assert "chords: Dm7 G7" in done.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "vocal_beats.txt", "vocal_chords.lab", "vocal_lead_sheet.json",
        "vocal_lead_sheet.mid", "vocal_lead_sheet.musicxml",
    ]  # fmt: skip
    beats = read_beats(tmp_path / "out" / "vocal_beats.txt")
    assert beats["beats_per_bar"] == 3
    assert np.allclose(np.diff(beats["beats"]), 60 / 96, atol=0.002)
    assert read_chords(tmp_path / "out" / "vocal_chords.lab") == [(0.0, 2.5, "Dm7"), (2.5, 5.0, "G7")]
    sheet = LeadSheet.given(json.loads((tmp_path / "out" / "vocal_lead_sheet.json").read_text()))
    assert sheet.key == "D:min"
    assert "chords" not in sheet.estimated
    pretty_midi = pytest.importorskip("pretty_midi")
    midi = pretty_midi.PrettyMIDI(str(tmp_path / "out" / "vocal_lead_sheet.mid"))
    melody = next(track for track in midi.instruments if track.name == "Melody")
    assert len(melody.notes) > 3
    assert all(40 <= note.pitch <= 84 for note in melody.notes)


def test_a_click_track_clicks_on_the_beats_of_its_file(bundled_model: Path, tmp_path: Path) -> None:
    words = ("--seconds", 5, "--tempo", 96, "--metre", "3/4", "--click", "--out", tmp_path)
    hafm("lead-sheet", EXAMPLE, *words, check=True)
    samples, rate = audio.read_audio(tmp_path / "vocal_click.wav")
    beat_file = read_beats(tmp_path / "vocal_beats.txt")
    assert len(samples) == 5 * rate
    assert beat_file["beats_per_bar"] == 3
    # samples at which a sound starts after a tenth of a second of silence
    loud = np.abs(samples) > 0.01
    onsets = [onset for onset in np.flatnonzero(loud) if not loud[max(onset - rate // 10, 0) : onset].any()]
    assert np.array(onsets) / rate == pytest.approx(beat_file["beats"], abs=0.001)
    peaks = [float(np.abs(samples[onset : onset + rate // 20]).max()) for onset in onsets]
    for number, peak in enumerate(peaks):
        is_downbeat = (number - beat_file["downbeat"]) % 3 == 0
        assert (peak > 0.45) == is_downbeat
