# SPDX-License-Identifier: Apache-2.0
"""The listener: the pitch contour of a voice, chord estimates in any key, and the estimated lead sheet."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch.nn import functional as F

from hafm_hf import HAFMForVocalAccompaniment, HAFMListenerConfig, HAFMListenerModel
from hafm_hf.accompaniment.parts import PARTS
from hafm_hf.lead_sheet.bars import chord_prior
from hafm_hf.lead_sheet.chords import NUM_TRIADS, triad_class
from hafm_hf.lead_sheet.lead_sheet import LeadSheet
from hafm_hf.lead_sheet.spelling import key_name
from hafm_hf.listening.modeling_listener import chords_of_beats
from hafm_hf.tokenizers import pitch_contour
from hafm_hf.tokenizers.beat_tracker import HAFMBeatTracker, likeliest_tempo
from hafm_hf.tokenizers.pitch_contour import CONTOUR_RATE, PitchContour, VocalAnalyser
from tiny_models import tiny_codec, tiny_listener, tiny_rhythmic_tokenizer, tiny_stage
from vocals import CODEC_RATE

RATE = 16_000
# BPM
TEMPI = torch.tensor([60.0, 90.0, 120.0, 180.0])


def sung(notes: list[float], seconds: float = 0.5) -> np.ndarray:
    """A sequence of MIDI notes with gaps between them: float32 [N] at 16 kHz."""
    time = np.arange(round(seconds * RATE)) / RATE
    # fades of 20 ms, and a gap of 60 ms at the end
    envelope = np.clip(np.minimum(time / 0.02, (seconds - 0.06 - time) / 0.02), 0, 1)
    tones = []
    for note in notes:
        phase = 2 * np.pi * 440 * 2 ** ((note - 69) / 12) * time
        tones.append(0.2 * envelope * sum(np.sin(harmonic * phase) / harmonic for harmonic in (1, 2, 3)))
    return np.concatenate(tones).astype(np.float32)


def drawn_contour(frames: int = 600, higher: float = 0.0) -> PitchContour:
    """A pitch contour of random notes, a quarter of a second each: always the same, raised by `higher` semitones."""
    rng = np.random.default_rng(0)
    midi = np.repeat(rng.integers(55, 75, frames // 12 + 1), 12)[:frames] + 0.1 + higher
    midi[rng.random(frames) < 0.1] = np.nan
    level = rng.uniform(-30, 0, frames)
    flux = rng.random((frames, 2))
    return PitchContour(midi.astype(np.float32), level.astype(np.float32), flux.astype(np.float32))


def contour_of(samples: np.ndarray) -> PitchContour:
    """The pitch contour of audio at 16 kHz."""
    frames = -(-len(samples) * CONTOUR_RATE // RATE)
    measured = VocalAnalyser(RATE, CONTOUR_RATE).measure(samples, frames)
    return pitch_contour.pitch_contour(*measured)


def test_the_pitch_contour_has_the_tuning_and_the_held_notes_of_the_voice() -> None:
    # a quarter of a semitone sharp throughout
    contour = contour_of(sung([60.25, 64.25, 67.25, 72.25]))
    assert len(contour) == 2 * CONTOUR_RATE
    assert contour.tuning == pytest.approx(0.25, abs=0.03)
    for number, note in enumerate((60.25, 64.25, 67.25, 72.25)):
        # 25 frames a note, half a second
        part = contour.held[number * 25 : number * 25 + 25]
        assert np.isfinite(part).sum() > 8
        assert np.nanmax(np.abs(part - note)) < 0.1
    unsure = (drawn_contour().midi + np.random.default_rng(1).uniform(-0.5, 0.5, 600)).astype(np.float32)
    # random intonation has no tuning offset
    assert abs(PitchContour(unsure, drawn_contour().level, drawn_contour().flux).tuning) < 0.1
    assert contour.flux[:, 0].argmax() % 25 in (0, 1, 24), "onsets are found where notes begin"
    # two notes per cell, one in each half; four values per pitch class: held and sung, for either half
    classes = contour.harmony_cells(50)[:, :48].reshape(2, 12, 4)
    sung_classes = [classes[cell, :, 2 * half + 1].argmax() for cell in (0, 1) for half in (0, 1)]
    held_classes = [classes[cell, :, 2 * half].argmax() for cell in (0, 1) for half in (0, 1)]
    assert sung_classes == [0, 4, 7, 0]
    assert held_classes == [0, 4, 7, 0]


def test_a_quiet_voice_has_the_same_pitch_contour_as_a_loud_one() -> None:
    near, far = (contour_of(gain * sung([60.0, 64.0, 67.0])) for gain in (1.0, np.float32(0.02)))
    np.testing.assert_allclose(near.midi, far.midi, atol=1e-3)
    np.testing.assert_allclose(near.flux, far.flux, atol=1e-2)


@pytest.mark.parametrize("samples", [np.zeros(0, np.float32), np.zeros(200, np.float32), np.zeros(RATE, np.float32)])
def test_silence_and_very_short_input_have_a_tempo_and_chords(samples: np.ndarray) -> None:
    contour = contour_of(samples)
    model = tiny_listener()
    assert len(contour) == -(-len(samples) * CONTOUR_RATE // RATE)
    assert not np.isfinite(contour.midi).any()
    chords = model.chord_probabilities(contour, torch.zeros(len(contour)))
    assert chords.shape == (len(contour), NUM_TRIADS)
    assert bool(model.tempo_logits_of(contour).isfinite().all()) if len(contour) else not len(chords)


@pytest.mark.parametrize("semitones", [1, 5, 11])
def test_chord_estimates_transpose_with_the_song(semitones: int) -> None:
    model = tiny_listener()
    phase = torch.arange(600) / 25 % 1
    chords = model.chord_probabilities(drawn_contour(), phase)
    moved = model.chord_probabilities(drawn_contour(higher=semitones), phase)
    # major and minor triads
    for before, after in ((chords[:, 1:13], moved[:, 1:13]), (chords[:, 13:], moved[:, 13:])):
        torch.testing.assert_close(before.roll(semitones, 1), after, rtol=1e-3, atol=1e-4)
    # no chord
    torch.testing.assert_close(chords[:, 0], moved[:, 0], rtol=1e-3, atol=1e-4)
    assert [key_name(key) for key in (0, 7, 12, 21)] == ["C:maj", "G:maj", "C:min", "A:min"]


def test_known_chords_and_key_shift_the_estimates_of_the_others() -> None:
    foreign = triad_class("F#")
    in_key = triad_class("E")
    key = LeadSheet(key="Am")
    opening = LeadSheet(chords=[(0.0, 3.0, "F#7"), (3.0, 4.0, "Bm")])
    assert not chord_prior(LeadSheet(tempo=90)).any()
    assert not chord_prior(LeadSheet(key="Am", estimated=["key"])).any()
    assert chord_prior(key)[0] == 0
    assert chord_prior(key)[in_key] == chord_prior(key).max()
    assert chord_prior(key)[foreign] < -0.5
    assert chord_prior(opening).argmax() == foreign
    assert chord_prior(opening)[triad_class("B")] > 0
    contour = drawn_contour()
    phase = torch.arange(600) / 25 % 1
    model = tiny_listener()
    alone = model.chord_probabilities(contour, phase)
    with_opening = model.chord_probabilities(contour, phase, opening)
    with_key = model.chord_probabilities(contour, phase, key)
    # the first 3 s, and the next second, at 50 Hz
    assert with_opening[:200].argmax(1).tolist() == [foreign] * 150 + [triad_class("Bm")] * 50
    # after the opening, its chord is likelier, and so is one in the key
    assert with_opening[200:, foreign].mean() > 1.2 * alone[200:, foreign].mean()
    assert with_key[200:, in_key].mean() > 1.2 * alone[200:, in_key].mean()


def test_masked_padding_does_not_change_the_estimates() -> None:
    model = tiny_listener()
    harmony = torch.rand(1, 9, 54)
    time = torch.rand(1, 40, pitch_contour.TIME_FEATURES)
    alone = model(harmony, time)
    masks = {"harmony_mask": torch.ones(1, 14), "time_mask": torch.ones(1, 61)}
    masks["harmony_mask"][:, 9:] = 0
    masks["time_mask"][:, 40:] = 0
    masked = model(F.pad(harmony, (0, 0, 0, 5), value=9.0), F.pad(time, (0, 0, 0, 21), value=9.0), **masks)
    torch.testing.assert_close(masked.chords[:, :9], alone.chords)
    torch.testing.assert_close(masked.tempo, alone.tempo)


@pytest.mark.parametrize("tempo", [90.0, 180.0])
def test_the_listener_sets_the_tempo_and_the_tokenizer_the_phase_of_beats(tempo: float) -> None:
    # at 90 BPM from the first frame on: weak on the beat (0.3), strong on the half beat (1.0)
    angle = 2 * np.pi * torch.arange(800) * 1.5 / CONTOUR_RATE
    points = torch.stack([0.3 * angle.cos(), 0.3 * angle.sin(), (2 * angle).cos(), (2 * angle).sin()], dim=1)
    # the same pulse read as 180 BPM: its beat is the half beat
    if tempo == 180:
        points[:, :2] = points[:, 2:].clone()
        points[:, 2:] = 0.0
    listeners_tempo = likeliest_tempo(TEMPI, torch.where(TEMPI == tempo, 0.0, -50))
    phase = HAFMBeatTracker(CONTOUR_RATE).near(listeners_tempo).follow(points)
    beats = LeadSheet.from_estimates(phase, None, CONTOUR_RATE).beats
    assert beats is not None
    assert np.allclose(np.diff(beats), 60 / tempo, atol=0.01)
    # in beats from the start
    positions = np.array(beats) * tempo / 60
    assert np.abs(positions - np.round(positions)).max() < 0.1


def test_the_second_tempo_is_another_peak_and_not_a_shoulder_of_the_first() -> None:
    tempi = 60 * 2 ** torch.linspace(0, 1.5, 61)
    # tempo and height
    peaks = ((96.0, 9.0), (138.0, 2.0))
    scores = torch.stack([height - 40 * torch.log2(tempi / at).abs() for at, height in peaks]).amax(0)
    assert likeliest_tempo(tempi, scores) == pytest.approx(96, rel=0.02)
    assert likeliest_tempo(tempi, scores, 96.0) == pytest.approx(138, rel=0.02)


def test_a_beat_has_one_chord_the_most_likely_of_its_cells() -> None:
    logits = torch.zeros(6, NUM_TRIADS)
    # cells of 10 frames, beats of 20: two cells a beat
    logits[:2, 1] = 4.0
    logits[2:, 8] = 4.0
    logits[1, 8] = 9.0
    chords = chords_of_beats(logits, torch.arange(60) / 20 % 1, 10)
    assert chords[0].argmax() == 8, "the more confident cell decides"
    assert chords.shape == (60, NUM_TRIADS)
    assert torch.equal(chords[:20], chords[:1].expand(20, -1))
    assert torch.allclose(chords.sum(1), torch.ones(60))
    assert chords[-1].argmax() == 8


@pytest.mark.parametrize(("better", "chords"), [(0.5, [1, 1, 1]), (0.7, [1, 8, 1])])
def test_chords_change_only_if_the_gain_exceeds_the_penalty(better: float, chords: list[int]) -> None:
    logits = torch.zeros(3, NUM_TRIADS)
    # three beats of one cell each, of 20 frames
    logits[::2, 1] = 5.0
    logits[1, 8] = better
    of_frames = chords_of_beats(logits, torch.arange(60) / 20 % 1, 20)
    assert of_frames[::20].argmax(1).tolist() == chords


def parts() -> dict[str, Any]:
    """All parts of a tiny composite with a listener, by name."""
    rest: dict[str, Any] = {name: tiny_stage(name) for name in ("semantic", "coarse", "fine")}
    return {"semantic_tokenizer": tiny_rhythmic_tokenizer(), "codec": tiny_codec(), "listener": tiny_listener()} | rest


def test_a_reloaded_composite_with_a_listener_estimates_the_same(tmp_path: Path) -> None:
    model = HAFMForVocalAccompaniment.from_parts(**parts()).eval()
    model.save_pretrained(tmp_path)
    loaded = HAFMForVocalAccompaniment.from_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {*PARTS} - {"ear", "separator"}
    assert isinstance(loaded.config.listener_config, HAFMListenerConfig)
    assert isinstance(HAFMListenerModel.from_pretrained(tmp_path, subfolder="listener"), HAFMListenerModel)
    vocal = 0.1 * np.random.default_rng(0).normal(size=2 * CODEC_RATE).astype(np.float32)
    completed = [each.complete_lead_sheet(vocal, CODEC_RATE) for each in (model, loaded)]
    assert completed[0] == completed[1]
    assert completed[0].chords
    steady = model.complete_lead_sheet(vocal, CODEC_RATE, {"tempo": 90})
    assert np.allclose(np.diff(steady.beats or ()), 60 / 90)
    with pytest.raises(ValueError, match="samples by channels"):
        model.complete_lead_sheet(np.stack([vocal, vocal], 1), CODEC_RATE)
    assert loaded.parameter_counts()["listener"] == sum(each.numel() for each in loaded.listener.parameters())


def test_a_composite_without_a_listener_estimates_only_beats(tmp_path: Path) -> None:
    most = {name: part for name, part in parts().items() if name != "listener"}
    HAFMForVocalAccompaniment.from_parts(**most).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["listener_config"] is None
    loaded = HAFMForVocalAccompaniment.from_pretrained(tmp_path)
    vocal = 0.1 * np.random.default_rng(0).normal(size=2 * CODEC_RATE).astype(np.float32)
    sheet = loaded.complete_lead_sheet(vocal, CODEC_RATE)
    assert sheet.beats
    assert sheet.chords == ()
    assert sheet.estimated == ["beats"]


def test_a_listener_needs_a_tokenizer_that_estimates_beats() -> None:
    most = parts()
    config = most["semantic_tokenizer"].config
    plain = type(config)(**{**config.to_dict(), "rhythm_channels": 0, "beat_line": False})
    with pytest.raises(StrictDataclassClassValidationError, match="needs a semantic tokenizer with a beat line"):
        HAFMForVocalAccompaniment.from_parts(**{**most, "semantic_tokenizer": type(most["semantic_tokenizer"])(plain)})


def test_a_missing_required_part_is_named() -> None:
    most = parts()
    del most["coarse"]
    with pytest.raises(ValueError, match="missing: coarse"):
        HAFMForVocalAccompaniment.from_parts(**most)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"time_layers": 100}, "time_layers"), ({"slowest_tempo": 220.0}, "below 208"), ({"harmony_frames": 5}, "even")],
)
def test_sizes_out_of_range_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(StrictDataclassClassValidationError, match=match):
        HAFMListenerConfig(**options)
