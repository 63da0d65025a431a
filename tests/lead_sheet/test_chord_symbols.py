# SPDX-License-Identifier: Apache-2.0
"""Chord labels are read as they are meant, or refused; never silently as another chord."""

from pathlib import Path

import pytest
import torch

from hafm_hf import LeadSheet
from hafm_hf.lead_sheet.chord_symbols import read_chord
from hafm_hf.lead_sheet.chords import root_and_quality
from hafm_hf.lead_sheet.files import known_lead_sheet, read_chords
from lead_sheet.golden import READ, REFUSED


@pytest.mark.parametrize("label", READ)
def test_a_label_is_read_as_the_notes_that_it_means(label: str) -> None:
    chord = read_chord(label)
    assert chord is not None
    assert chord.lowest == READ[label][0]
    assert {chord.lowest, *chord.notes} == {*READ[label]}


@pytest.mark.parametrize("label", REFUSED)
def test_a_label_with_another_meaning_or_none_is_refused(label: str) -> None:
    with pytest.raises(ValueError, match="is not a chord; write A:min7, Am7, Bb or N"):
        LeadSheet(chords=[(0.0, 1.0, label)])


def test_harte_labels_have_the_notes_that_mir_eval_reads() -> None:
    chord = pytest.importorskip("mir_eval").chord
    shorthands = (
        "maj min dim aug maj7 min7 7 dim7 hdim7 minmaj7 maj6 min6 sus2 sus4 5 1 sus4(b7) maj(*5) maj(2) min(4) maj(7) "
        "min(b7) (b3,5) (3,5) (4,5) (b3,b5,b7) (3,#5) (1,5)"
    ).split()
    labels = [f"{root}:{each}{bass}" for root in ("C", "F#", "Bb") for each in shorthands for bass in ("", "/3")]
    for label in labels:
        # the root's pitch class, which of the 12 semitones above it sound, and the bass in semitones above it
        root, bitmap, bass = chord.encode(label)
        symbol = read_chord(label)
        assert symbol is not None
        assert symbol.lowest == (root + bass) % 12, label
        notes = {(root + step) % 12 for step, sounds in enumerate(bitmap) if sounds} | {symbol.lowest}
        assert {*symbol.notes, symbol.lowest} == notes, label


@pytest.mark.parametrize(
    ("label", "quality"),
    [
        ("Dh7", "dim"), ("F#h", "dim"), ("Cø9", "dim"), ("C:(b3,5)", "min"), ("C:(4,5)", "sus4"), ("C:(3,b7)", "7"),
        ("C:(b3,b5)", "dim"), ("C/sus4", "sus4"), ("C:maj(b7)", "7"), ("C:min(b7)", "min7"), ("Cj7", "maj7"),
        ("C–7", "min7"), ("Cº7", "dim"), ("C6/9", "maj"), ("C7alt", "7"), ("C+7", "7"), ("CmM9", "min"),
    ],
)  # fmt: skip
def test_the_model_reads_the_nearest_of_its_seven_qualities(label: str, quality: str) -> None:
    nearest = root_and_quality(label)
    assert nearest is not None
    assert nearest[1] == quality


def bars(text: str) -> tuple[str, ...]:
    """The chords of each bar of a chart."""
    return tuple(LeadSheet.given({"tempo": 120, "chords": text}).bars)


def test_repeated_bars_of_a_chart_are_expanded() -> None:
    assert bars("|: C | Am :|") == ("C", "Am", "C", "Am")
    assert bars("||: C :||: F | % :|| G") == ("C", "C", "F", "F", "F", "F", "G")
    assert bars("C | F :| |: Am:|\n| G |") == ("C", "F", "C", "F", "Am", "Am", "G")
    assert bars("|: C:maj | F:min7 :|") == ("C:maj", "F:min7") * 2
    assert known_lead_sheet(tempo=120, chords="|: C :|") == LeadSheet(tempo=120, bars=("C", "C"))
    with pytest.raises(ValueError, match=r"write :\| after its last bar"):
        bars("C |: F | G")
    with pytest.raises(ValueError, match="'x3' is not a chord"):
        bars("|: C | F :| x3")


def test_a_slash_holds_a_chord_for_another_beat() -> None:
    # 6 s at 120 BPM; the phase is not used, as the beats are given
    sheet = LeadSheet(beats=[0.0, 0.5], bars=bars("C / / G | / F / / | Am"))
    placed = sheet.with_bars_placed(torch.zeros(300), 50)
    assert placed.chords == ((0.0, 1.5, "C"), (1.5, 2.5, "G"), (2.5, 4.0, "F"), (4.0, 6.0, "Am"))
    assert bars("C / / /") == ("C / / /",)
    assert known_lead_sheet(tempo=120, chords="C / / /") == LeadSheet(tempo=120, bars=("C / / /",))
    waltz = LeadSheet(beats=[0.0, 0.5], beats_per_bar=3, bars=["C / F"]).with_bars_placed(torch.zeros(75), 50)
    assert waltz.chords == ((0.0, 1.0, "C"), (1.0, 1.5, "F"))
    for chart, said in (
        ("/ C | G", "begin with a chord"),
        ("C / / F / /", r"say where bars end: 'C / / \| F / /'"),
        ("C |/F| G", "'/F' is not a chord"),
    ):
        with pytest.raises(ValueError, match=said):
            bars(chart)
    for metre in (4, None):
        with pytest.raises(ValueError, match="Bar 1 of the chords, 'C / F', has 3 beats instead of 4"):
            LeadSheet(tempo=120, beats_per_bar=metre, bars=["C / F"]).with_bars_placed(torch.zeros(300), 50)


@pytest.mark.parametrize(
    ("line", "label"),
    [
        ('0,2,"C:maj"', "C:maj"), ('"0","2","Am7"', "Am7"), ('0.0, 2.0, "C7(b9, #11)"', "C7(b9, #11)"),
        ("0 2 'Bb'", "Bb"), ("0\t2\t“F#m”", "F#m"), ("0 2 C:maj(9,11)", "C:maj(9,11)"), ('0,2,"N"', "N"),
    ],
)  # fmt: skip
def test_labels_of_a_csv_file_may_be_quoted(tmp_path: Path, line: str, label: str) -> None:
    (tmp_path / "chords.csv").write_text(line + "\n")
    assert read_chords(tmp_path / "chords.csv") == [(0.0, 2.0, label)]
