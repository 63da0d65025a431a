# SPDX-License-Identifier: Apache-2.0
"""Keys spell the chords that are estimated; given chords stay as they are written."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hafm_hf import HAFMForVocalAccompaniment, LeadSheet
from hafm_hf.lead_sheet.bars import chart, with_bars_throughout
from hafm_hf.lead_sheet.export import to_midi, to_musicxml
from hafm_hf.lead_sheet.files import write_lead_sheet
from hafm_hf.lead_sheet.spelling import root_name, spelled, usual_key
from lead_sheet.golden import SPELLING
from vocals import EXAMPLE

# suffixes of the triads on the seven degrees of a scale
MAJOR, MINOR = ("", "m", "m", "", "", "m", "dim"), ("m", "dim", "", "m", "m", "", "")


@pytest.mark.parametrize("key", SPELLING)
def test_a_key_spells_roots_as_in_the_table(key: str) -> None:
    for third, names in SPELLING[key].items():
        assert [root_name(pitch, third, key) for pitch in range(12)] == names.split(), third


@pytest.mark.parametrize("key", SPELLING)
def test_the_chords_of_a_scale_use_every_letter_once(key: str) -> None:
    music21 = pytest.importorskip("music21")
    root, _, mode = key.partition(":")
    tonic = root.replace("b", "-")
    scale = music21.scale.MajorScale(tonic) if mode == "maj" else music21.scale.MinorScale(tonic)
    notes = scale.getPitches()[:7]
    thirds = {"": "maj", "m": "min", "dim": "dim"}
    qualities = MAJOR if mode == "maj" else MINOR
    roots = [root_name(note.pitchClass, thirds[each], key) for note, each in zip(notes, qualities, strict=True)]
    assert roots == [note.name.replace("-", "b") for note in notes]
    assert len({name[0] for name in roots}) == 7


@pytest.mark.parametrize(
    ("label", "key", "name"),
    [
        ("Ebm", "B:maj", "D#m"), ("Ab", "C#:min", "G#"), ("G#", "Db:maj", "Ab"), ("A#", "F:maj", "Bb"),
        ("F#", "Ab:maj", "Gb"), ("B", "Gb:maj", "Cb"), ("Fdim", "F#:maj", "E#dim"), ("Cdim7", "C#:min", "B#dim7"),
        ("Db:min7/b3", "E:maj", "C#:min7/b3"), ("Ab", "C:maj", "Ab"), ("Abm", "C:maj", "G#m"), ("N", "B:maj", "N"),
        ("G#", "G#:maj", "Ab"), ("D#", "G#:maj", "Eb"), ("Bbb(#5)", "C:maj", "A(#5)"), ("Bbb:#5", "C:maj", "A:#5"),
    ],
)  # fmt: skip
def test_a_label_is_spelled_by_the_key(label: str, key: str, name: str) -> None:
    assert spelled(label, key) == name


@pytest.mark.parametrize(
    ("key", "usual"),
    [
        ("G#:maj", "Ab:maj"), ("D#:maj", "Eb:maj"), ("Fb:maj", "E:maj"), ("B#:min", "C:min"), ("Cb:min", "B:min"),
        ("C#:maj", "C#:maj"), ("Cb:maj", "Cb:maj"), ("A#:min", "A#:min"), ("F##:maj", "G:maj"),
    ],
)  # fmt: skip
def test_a_key_with_more_than_seven_accidentals_is_its_enharmonic_one(key: str, usual: str) -> None:
    assert usual_key(key) == usual


CHORDS = [(0.0, 2.0, "Ebm"), (2.0, 4.0, "Ab:min7"), (4.0, 6.0, "B"), (6.0, 8.0, "C5")]


def test_estimated_chords_are_spelled_in_every_file_and_given_ones_are_kept(tmp_path: Path) -> None:
    mido = pytest.importorskip("mido")
    music21 = pytest.importorskip("music21")
    given = LeadSheet(tempo=120, beats_per_bar=4, key="B:maj", chords=CHORDS)
    estimated = replace(given, estimated=["chords"])
    for sheet, labels in (
        (given, ["Ebm", "Ab:min7", "B", "C5"]),
        (estimated, ["D#m", "G#:min7", "B", "C5"]),
    ):
        sheet = with_bars_throughout(sheet, 8.0)
        song = chart(sheet, 8.0)
        assert [label for *_, label in sheet.chords] == labels
        lab, *_ = write_lead_sheet(sheet, tmp_path, "song", ["lab"])[1:]
        assert [line.split()[2] for line in lab.read_text().splitlines()] == labels
        events = [event for track in mido.MidiFile(file=io.BytesIO(to_midi(song))).tracks for event in track]
        assert [event.text for event in events if event.type == "text"] == labels
        score = music21.converter.parse(to_musicxml(song, "song").decode(), format="musicxml")
        roots = [each.root().name for each in score.recurse().getElementsByClass("ChordSymbol")]
        assert roots[:2] == [label[:2].replace("b", "-") for label in labels[:2]]


@pytest.mark.parametrize("key", ["B:maj", "Db:maj", "C#:min"])
def test_the_models_estimates_are_spelled_by_the_key(bundled: HAFMForVocalAccompaniment, key: str) -> None:
    vocal, rate = soundfile.read(EXAMPLE, dtype="float32")
    given = (0.0, 3.0, "A#m")
    sheet = bundled.complete_lead_sheet(vocal, rate, LeadSheet(key=key, chords=[given]))
    assert sheet.chords[0] == given
    estimates = [label for *_, label in sheet.chords[1:]]
    assert len({*estimates}) > 1
    assert estimates == [spelled(label, key) for label in estimates]
    names = {name for third in SPELLING[key].values() for name in third.split()}
    assert all(np.isin([label.rstrip("m") for label in estimates], [*names, "N"]))
