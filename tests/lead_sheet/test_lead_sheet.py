"""Tempo, beats and chords that are known: how they are read, and that tokens, guidance and sound follow them."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from hafm_hf import HAFMForVocalAccompaniment, LeadSheet
from hafm_hf.evaluation.features import extract
from hafm_hf.lead_sheet.beats import beat_points
from hafm_hf.lead_sheet.lead_sheet import chord_class, chord_label
from hafm_hf.lead_sheet.modeling_harmony import NUM_CHORDS
from tiny_models import tiny_composite

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "vocal.wav"


@pytest.fixture(scope="module")
def bundled() -> HAFMForVocalAccompaniment:
    return HAFMForVocalAccompaniment.from_pretrained()


@pytest.fixture(scope="module")
def vocal() -> tuple[np.ndarray, int]:
    return soundfile.read(EXAMPLE, dtype="float32")


@pytest.mark.parametrize(
    ("label", "root", "minor"),
    [
        ("C", 0, False), ("A:min7", 9, True), ("Am7", 9, True), ("Bb", 10, False), ("F#m7b5", 6, True),
        ("Ebmaj7", 3, False), ("E♭", 3, False), ("D:maj/3", 2, False), ("G7/B", 7, False), ("Bdim", 11, True),
        ("C-7", 0, True), ("Csus4", 0, False), ("CM7", 0, False), ("Cb", 11, False), ("C:minmaj7", 0, True),
        ("Cma", 0, False), ("Cma7", 0, False), ("Bbma9/D", 10, False), ("Cma(add9)", 0, False), ("Cmadd9", 0, True),
        ("C−7", 0, True), ("F#−", 6, True), ("Comit3", 0, False), ("Comit5", 0, False), ("Cmomit5", 0, True),
        ("Co", 0, True), ("Co7", 0, True), ("C°7", 0, True), ("Cø", 0, True), ("Cmi7", 0, True), ("Cmin", 0, True),
    ],
)  # fmt: skip
def test_chords_are_read_in_both_notations(label: str, root: int, minor: bool) -> None:
    assert chord_class(label) == 1 + root + 12 * minor
    assert chord_class("N") == chord_class("NC") == 0


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"tempo": 240.0}, "halve or double"),
        ({"tempo": math.nan}, "halve or double"),
        ({"tempo": 90.0, "beats": [0.0, 1.0]}, "leave tempo out"),
        ({"beats": [1.0]}, "fewer than two"),
        ({"beats": [0.0, 1.0, 1.0]}, "grow"),
        ({"beats": [0.0, math.inf]}, "grow"),
        ({"chords": [(0.0, 2.0, "H")]}, "no chord"),
        ({"chords": [(0.0, 2.0, 5)]}, "5 is no chord"),
        ({"chords": [(0.0, 2.0, None)]}, "None is no chord"),
        ({"chords": [(2.0, 2.0, "C")]}, "no length"),
        ({"chords": [(-math.inf, 2.0, "C")]}, "finite"),
        ({"chords": [(0.0, math.inf, "C")]}, "finite"),
        ({"chords": [(math.nan, 2.0, "C")]}, "finite"),
    ],
)
def test_what_makes_no_sense_is_refused(known: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LeadSheet(**known)


def test_beats_go_on_evenly_before_and_behind_those_that_are_known() -> None:
    phase = LeadSheet(beats=[1.0, 1.5, 2.5]).phase(250, 50)
    assert phase is not None and phase.dtype == torch.float32 and 0 <= float(phase.min()) < float(phase.max()) < 1
    middles = (torch.arange(250) + 0.5) / 50
    starts = middles[1:][phase.diff() < 0]
    assert torch.allclose(starts, torch.tensor([0.5, 1.0, 1.5, 2.5, 3.5, 4.5]), atol=0.011)
    assert LeadSheet(tempo=90.0).phase(10, 50) is None


def test_known_chords_stand_where_they_are_known_and_heard_ones_elsewhere() -> None:
    heard = torch.rand(100, NUM_CHORDS).softmax(-1)
    known = LeadSheet(chords=[(0.0, 1.0, "C"), (0.5, 1.0, "N"), (1.6, 9.0, "Am")]).add_chords(heard, 50)
    assert known[:25].argmax(-1).unique().tolist() == [1] and known[25:50].argmax(-1).unique().tolist() == [0]
    assert torch.equal(known[50:80], heard[50:80])
    assert known[80:].argmax(-1).unique().tolist() == [1 + 9 + 12]
    assert torch.allclose(known.sum(-1), torch.ones(100))


@pytest.mark.parametrize("shift", [0.0, 0.25])
def test_the_vocals_tokens_lie_on_the_beats_that_are_known(
    bundled: HAFMForVocalAccompaniment, vocal: tuple[np.ndarray, int], shift: float
) -> None:
    sheet = LeadSheet(beats=list(np.arange(shift, 12.0, 0.6)))
    tokens = bundled.tokenize_vocal(*vocal, 0, sheet)[0]
    told = sheet.phase(len(tokens), 50)
    assert told is not None
    places = bundled.semantic_tokenizer.beat_places(tokens)[:, :2]
    along = torch.nn.functional.cosine_similarity(places, beat_points(told)[:, :2], dim=1)
    assert float(along.mean()) > 0.7
    assert torch.equal(
        bundled.semantic_tokenizer.beat_phase(bundled.semantic_tokenizer.beat_places(tokens), sheet), told
    )


def test_a_known_tempo_is_kept(bundled: HAFMForVocalAccompaniment, vocal: tuple[np.ndarray, int]) -> None:
    tokens = bundled.tokenize_vocal(*vocal, 0)[0]
    places = bundled.semantic_tokenizer.beat_places(tokens)
    for tempo in (70.0, 93.0, 141.0):
        phase = bundled.semantic_tokenizer.beat_phase(places, LeadSheet(tempo=tempo))
        beats = float((phase.diff() % 1).sum())
        assert beats / (len(phase) - 1) * 50 * 60 == pytest.approx(tempo, rel=1e-4)


def chroma_share(samples: np.ndarray, rate: int, pitch_classes: set[int]) -> float:
    chroma = extract(np.interp(np.arange(0, len(samples), rate / 16000), np.arange(len(samples)), samples)).chroma
    return float(chroma[sorted(pitch_classes)].sum() / chroma.sum())


@pytest.mark.parametrize("how", [{}, {"decoding": "reference"}])
def test_the_accompaniment_plays_the_chords_that_are_known(
    bundled: HAFMForVocalAccompaniment, vocal: tuple[np.ndarray, int], how: dict[str, Any]
) -> None:
    """Each of two far chords is heard more where it is told than where the other is, whatever the voice asks for."""
    samples, rate = vocal[0][: 4 * vocal[1]], vocal[1]
    shares = []
    for label in ("C", "F#"):
        sheet = LeadSheet(chords=[(0.0, 4.0, label)])
        (sound,) = bundled.generate(samples, rate, seed=0, skip_fine=True, lead_sheet=sheet, **how).audio
        shares.append([chroma_share(sound.numpy(), 24000, chord) for chord in ({0, 4, 7}, {6, 10, 1})])
    assert shares[0][0] > shares[1][0] + 0.15 and shares[1][1] > shares[0][1] + 0.15


def test_streaming_and_generating_are_told_the_same(
    bundled: HAFMForVocalAccompaniment, vocal: tuple[np.ndarray, int]
) -> None:
    samples, sheet = vocal[0][: 2 * vocal[1]], LeadSheet(tempo=100.0, chords=[(0.0, 2.0, "E:min")])
    (whole,) = bundled.generate(samples, vocal[1], seed=3, skip_fine=True, lead_sheet=sheet).audio
    pieces = torch.cat(list(bundled.stream(samples, vocal[1], seed=3, skip_fine=True, lead_sheet=sheet)))
    assert torch.allclose(pieces, whole, atol=1e-4)
    (heard,) = bundled.generate(samples, vocal[1], seed=3, skip_fine=True).audio
    assert not torch.allclose(heard, whole, atol=1e-2)


def test_what_is_heard_can_be_told_again(bundled: HAFMForVocalAccompaniment, vocal: tuple[np.ndarray, int]) -> None:
    heard = bundled.hear_lead_sheet(*vocal, seed=0)
    assert heard.beats is not None and len(heard.beats) > 8 and len({label for *_, label in heard.chords}) > 1
    tokens = bundled.tokenize_vocal(*vocal, 0)[0]
    phase = bundled.semantic_tokenizer.beat_phase(bundled.semantic_tokenizer.beat_places(tokens))
    told = LeadSheet(beats=heard.beats).phase(len(tokens), 50)
    assert told is not None
    apart = (told - phase).abs()
    assert float(torch.minimum(apart, 1 - apart).max()) < 0.02
    assert heard.chords[0][0] == 0.0 and heard.chords[-1][1] == len(tokens) / 50
    assert all(before[1] == after[0] for before, after in zip(heard.chords, heard.chords[1:], strict=False))
    again = bundled.hear_lead_sheet(*vocal, seed=0, lead_sheet=heard)
    assert again.chords == heard.chords and again.beats == pytest.approx(heard.beats, abs=0.005)


@pytest.mark.parametrize("chord", range(NUM_CHORDS))
def test_every_chord_is_read_as_it_is_written(chord: int) -> None:
    assert chord_class(chord_label(chord)) == chord


def test_a_model_without_beat_line_or_harmony_says_so() -> None:
    model, samples = tiny_composite(), np.zeros(24000, np.float32)
    with pytest.raises(ValueError, match="no beat line"):
        model.generate(samples, lead_sheet=LeadSheet(tempo=90.0))
    with pytest.raises(ValueError, match="fit_harmony"):
        model.generate(samples, lead_sheet=LeadSheet(chords=[(0.0, 1.0, "C")]))
    with pytest.raises(ValueError, match="belongs to one vocal"):
        model.generate([samples, samples], lead_sheet=LeadSheet(tempo=90.0))
