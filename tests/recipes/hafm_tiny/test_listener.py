# SPDX-License-Identifier: Apache-2.0
"""The listener: what a pitch line says of a voice, what the network hears in any key, and its lead sheet."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError

from hafm_hf.lead_sheet.chords import NUM_CHORDS
from hafm_hf.lead_sheet.lead_sheet import LeadSheet
from hafm_tiny.listening.configuration_listener import HAFMListenerConfig
from hafm_tiny.listening.decoding import Heard, decode, hear, track_beats
from hafm_tiny.listening.modeling_listener import HAFMListenerModel
from hafm_tiny.listening.pitch_line import LINE_RATE, PitchLine, pitch_line
from tiny_listener import tiny_listener

RATE = 16_000
TEMPI = np.array([60.0, 90.0, 120.0, 180.0])


def sung(notes: list[float], seconds: float = 0.5) -> np.ndarray:
    """Notes (MIDI) one behind the other, with a gap between them: float32 [N] at 16 kHz."""
    time = np.arange(round(seconds * RATE)) / RATE
    rise = np.clip(np.minimum(time / 0.02, (seconds - 0.06 - time) / 0.02), 0, 1)
    tones = [sum(np.sin(2 * np.pi * k * 440 * 2 ** ((n - 69) / 12) * time) / k for k in (1, 2, 3)) for n in notes]
    return np.concatenate([0.2 * rise * tone for tone in tones]).astype(np.float32)


def drawn_line(frames: int = 600, higher: float = 0.0) -> PitchLine:
    """Notes of random pitches, a quarter of a second each."""
    rng = np.random.default_rng(0)
    midi = np.repeat(rng.integers(55, 75, frames // 12 + 1), 12)[:frames] + 0.1 + higher
    midi[rng.random(frames) < 0.1] = np.nan
    level, flux = rng.uniform(-30, 0, frames), rng.random((frames, 2))
    return PitchLine(midi.astype(np.float32), level.astype(np.float32), flux.astype(np.float32))


def test_the_pitch_line_is_in_tune_with_the_voice_and_says_what_is_held() -> None:
    # a quarter of a semitone sharp throughout
    line = pitch_line(sung([60.25, 64.25, 67.25, 72.25]), RATE)
    assert len(line) == 2 * LINE_RATE and line.tuning == pytest.approx(0.25, abs=0.03)
    for number, note in enumerate((60.25, 64.25, 67.25, 72.25)):
        part = line.held[number * 25 : number * 25 + 25]
        assert np.isfinite(part).sum() > 8 and np.nanmax(np.abs(part - note)) < 0.1
    cells = line.harmony_cells(25)
    assert cells.shape == (4, 27) and [int(cell.argmax()) for cell in cells[:, 12:24]] == [0, 4, 7, 0]
    assert line.flux[:, 0].argmax() % 25 in (0, 1, 24), "notes begin where they begin"


@pytest.mark.parametrize("samples", [np.zeros(0, np.float32), np.zeros(200, np.float32), np.zeros(RATE, np.float32)])
def test_silence_and_shreds_have_a_lead_sheet(samples: np.ndarray) -> None:
    line = pitch_line(samples, RATE)
    assert len(line) == -(-len(samples) * LINE_RATE // RATE) and not np.isfinite(line.midi).any()
    if len(line):
        heard = hear(tiny_listener(), line)
        sheet = decode(heard, track_beats(heard))[0]
        assert sheet.chords[0][0] == 0.0 and sheet.chords[-1][1] == len(line) / LINE_RATE


@pytest.mark.parametrize("semitones", [1, 5, 11])
def test_a_song_in_another_key_has_the_same_chords_in_that_key(semitones: int) -> None:
    model = tiny_listener()
    here: Any
    there: Any
    here, there = (model.hear(drawn_line(higher=higher)) for higher in (0, semitones))
    for mode in range(2):
        first, last = 1 + 12 * mode, 13 + 12 * mode
        moved = here.chords[..., first:last].roll(semitones, -1)
        torch.testing.assert_close(moved, there.chords[..., first:last], atol=1e-4, rtol=1e-4)
        key = here.key[:, 12 * mode : 12 * mode + 12].roll(semitones, -1)
        torch.testing.assert_close(key, there.key[:, 12 * mode : 12 * mode + 12], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(here.chords[..., 0], there.chords[..., 0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(here.tempo, there.tempo, atol=1e-4, rtol=1e-4)


def test_what_lies_behind_the_end_of_a_song_changes_nothing() -> None:
    model = tiny_listener()
    harmony, time = torch.rand(1, 9, 27), torch.rand(1, 40, 10)
    alone = model(harmony, time)
    masks = {"harmony_mask": torch.ones(1, 14), "time_mask": torch.ones(1, 61)}
    masks["harmony_mask"][:, 9:], masks["time_mask"][:, 40:] = 0, 0
    padded = [
        torch.cat([each, 9 * torch.ones(1, more, each.shape[2])], 1) for each, more in ((harmony, 5), (time, 21))
    ]
    beside = model(*padded, **masks)
    torch.testing.assert_close(beside.key, alone.key)
    torch.testing.assert_close(beside.tempo, alone.tempo)


def heard_song(tempo: float, bars: int = 8, metre: int = 4, surety: float = 0.8) -> Heard:
    """A song in time from its first frame on, C and G in turn, a bar each, as a sure listener hears it."""
    beats = np.arange(round(bars * metre * 60 / tempo * LINE_RATE)) * tempo / 60 / LINE_RATE
    angle = 2 * np.pi * beats
    places = surety * np.stack([np.cos(angle), np.sin(angle), np.cos(2 * angle), np.sin(2 * angle)], axis=1)
    chords = np.full((len(beats), NUM_CHORDS), 0.2 / (NUM_CHORDS - 1))
    chords[np.arange(len(beats)), np.where(beats // metre % 2 < 1, 1, 8)] = 0.8
    key = np.log(np.full(24, 1 / 24))
    first = np.where(beats % metre < 1, 1.0, -1.0)
    return Heard(places, first, np.log(chords), key, np.log(np.full(4, 0.25)), TEMPI)


@pytest.mark.parametrize(("tempo", "metre"), [(90.0, 4), (130.0, 3)])
def test_what_is_heard_clearly_stands_in_the_lead_sheet(tempo: float, metre: int) -> None:
    heard = heard_song(tempo, metre=metre)
    sheet, confidence = decode(heard, track_beats(heard))
    assert sheet.beats is not None
    assert 60 / float(np.median(np.diff(sheet.beats))) == pytest.approx(tempo, rel=0.01)
    assert sheet.beats_per_bar == metre and [label for *_, label in sheet.chords] == ["C", "G"] * 4
    changes = np.array([start for start, *_ in sheet.chords[1:]])
    assert np.abs(changes - np.arange(1, 8) * metre * 60 / tempo).max() < 0.05
    assert all(np.abs(np.array(sheet.downbeats) - change).min() < 0.05 for change in changes)
    assert 0.6 < confidence["beats"] <= 1 and confidence["chords"] == pytest.approx(0.8, abs=0.1)


def test_the_level_of_the_tempo_is_the_distributions() -> None:
    # beats and half beats are heard alike
    heard = heard_song(90.0)
    heard.places[:, :2] = 0.3 * heard.places[:, 2:]
    for level, tempo in ((90.0, 90.0), (180.0, 180.0)):
        sure = Heard(**{**vars(heard), "tempo": np.where(TEMPI == level, -0.01, -200.0)})
        beats = decode(sure, track_beats(sure))[0].beats
        assert beats is not None and 60 / float(np.median(np.diff(beats))) == pytest.approx(tempo, rel=0.02)


def test_what_is_known_is_kept() -> None:
    heard = heard_song(90.0)
    told = LeadSheet(tempo=72.0, chords=[(0.0, 3.0, "F#m")], beats_per_bar=3)
    sheet = decode(heard, track_beats(heard, told), told)[0]
    assert sheet.beats is not None and np.allclose(np.diff(sheet.beats), 60 / 72, atol=0.01)
    assert sheet.chords[0][2] == "F#m" and sheet.chords[0][1] == pytest.approx(3.0, abs=0.5)
    assert sheet.beats_per_bar == 3
    beats = LeadSheet(beats=[0.3, 1.0, 1.6, 2.5])
    phase = beats.phase(len(heard.bars), LINE_RATE)
    assert phase is not None and torch.equal(track_beats(heard, beats), phase)


def test_the_tokenizers_beats_help_where_the_listener_hears_none() -> None:
    heard = heard_song(100.0)
    places = torch.from_numpy(heard.places.copy())
    heard.places[:] = 0.0
    beats = decode(heard, track_beats(heard, None, 5 * places))[0].beats
    assert beats is not None and np.allclose(np.diff(beats), 0.6, atol=0.02)


def test_a_listener_hears_the_same_when_it_is_loaded(tmp_path: Path) -> None:
    model, line = tiny_listener(), drawn_line()
    model.save_pretrained(tmp_path)
    loaded = HAFMListenerModel.from_pretrained(tmp_path).eval()
    found = zip(model.hear(line).to_tuple(), loaded.hear(line).to_tuple(), strict=True)
    for here, there in found:
        torch.testing.assert_close(here, there)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"time_layers": 100}, "time_layers"), ({"slowest_tempo": 220.0}, "rise"), ({"harmony_frames": 0}, "harmony_f")],
)
def test_sizes_out_of_range_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(StrictDataclassClassValidationError, match=match):
        HAFMListenerConfig(**options)
