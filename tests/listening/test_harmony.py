# SPDX-License-Identifier: Apache-2.0
"""The part that estimates chords: how notes are counted, which chord a frame gets, and its files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError

from hafm_hf import HAFMForVocalAccompaniment, HAFMHarmonyConfig, HAFMHarmonyModel, HAFMSemanticTokenizerModel
from hafm_hf.accompaniment.assemble import assemble_composite
from hafm_hf.accompaniment.parts import PARTS
from hafm_hf.listening.modeling_harmony import NUM_CHORDS, beat_cells
from hafm_hf.pretrained.loading import fingerprint
from tiny_models import tiny_codec, tiny_harmony, tiny_rhythmic_tokenizer, tiny_stage
from vocals import CODEC_RATE


def rhythmic_parts() -> dict[str, Any]:
    tokenizer = tiny_rhythmic_tokenizer()
    stages = {name: tiny_stage(name) for name in ("semantic", "coarse", "fine")}
    harmony = tiny_harmony(semantic_tokenizer=fingerprint(tokenizer))
    return {"semantic_tokenizer": tokenizer, "codec": tiny_codec(), "harmony": harmony, **stages}


def one_note(pitch_class: int, begins: float = 0.0) -> torch.Tensor:
    note = torch.zeros(14)
    note[1 + pitch_class], note[-1] = 1.0, begins
    return note


def test_notes_are_counted_in_the_quarters_of_the_beats_they_lie_in() -> None:
    # a beat of eight frames and the first half of another: C, then in its second half E that begins; G behind it
    notes = torch.stack([one_note(0)] * 4 + [one_note(4, 1.0)] + [one_note(4)] * 3 + [one_note(7)] * 4)
    phase = (torch.arange(12) / 8) % 1
    cells, beat = beat_cells(notes, phase)
    assert beat.tolist() == [0] * 8 + [1] * 4
    quarters = cells.view(2, 4, 14)
    assert torch.equal(quarters[0, :2], torch.stack([one_note(0)] * 2))
    assert torch.equal(quarters[0, 2:], torch.stack([one_note(4, 1.0), one_note(4)]))
    assert torch.equal(quarters[1, :2], torch.stack([one_note(7)] * 2))
    assert (quarters[1, 2:, 0] == 1).all() and not quarters[1, 2:, 1:].any(), "behind the end nothing is sung"
    half = torch.stack([one_note(0), one_note(7)])
    assert torch.allclose(beat_cells(half, torch.tensor([0.0, 0.1]))[0][0, :14], half.mean(0)), "shares of one quarter"


def test_every_frame_gets_the_chords_of_its_beat() -> None:
    model = tiny_harmony(num_clusters=12)
    tokens = torch.randint(12, (200,), generator=torch.Generator().manual_seed(0))
    phase = (torch.arange(200) / 25) % 1
    chords = model.chords(tokens, phase)
    assert chords.shape == (200, NUM_CHORDS) and torch.allclose(chords.sum(1), torch.ones(200))
    assert torch.equal(chords[:25], chords[:1].expand(25, -1)) and not torch.equal(chords[24], chords[25])
    assert model.chords(tokens[:0], phase[:0]).shape == (0, NUM_CHORDS)


def test_a_composite_with_harmony_estimates_the_same_chords_when_it_is_loaded(tmp_path: Path) -> None:
    model = HAFMForVocalAccompaniment.from_parts(**rhythmic_parts()).eval()
    model.save_pretrained(tmp_path)
    loaded = HAFMForVocalAccompaniment.from_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {*PARTS} - {"separator"}
    assert isinstance(loaded.config.harmony_config, HAFMHarmonyConfig)
    assert isinstance(HAFMHarmonyModel.from_pretrained(tmp_path, subfolder="harmony"), HAFMHarmonyModel)
    vocal = 0.1 * np.random.default_rng(0).normal(size=2 * CODEC_RATE).astype(np.float32)
    found = [each.estimate_lead_sheet(vocal, CODEC_RATE, seed=1) for each in (model, loaded)]
    assert found[0] == found[1] and found[0].chords
    assert loaded.parameter_counts()["harmony"] == sum(each.numel() for each in loaded.harmony.parameters())


def test_a_composite_without_harmony_has_none_and_estimates_no_chords(tmp_path: Path) -> None:
    parts = rhythmic_parts()
    del parts["harmony"]
    HAFMForVocalAccompaniment.from_parts(**parts).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["harmony_config"] is None
    loaded = HAFMForVocalAccompaniment.from_pretrained(tmp_path)
    vocal = 0.1 * np.random.default_rng(0).normal(size=2 * CODEC_RATE).astype(np.float32)
    assert loaded.estimate_lead_sheet(vocal, CODEC_RATE, seed=1).chords == ()


def test_a_part_that_every_composite_has_is_missed_by_name() -> None:
    parts = rhythmic_parts()
    del parts["coarse"]
    with pytest.raises(ValueError, match="missing: coarse"):
        HAFMForVocalAccompaniment.from_parts(**parts)


def test_harmony_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    parts = rhythmic_parts()
    with pytest.raises(StrictDataclassClassValidationError, match="harmony clusters"):
        HAFMForVocalAccompaniment.from_parts(**{**parts, "harmony": tiny_harmony(num_clusters=3)})
    plain = HAFMSemanticTokenizerModel(parts["semantic_tokenizer"].config.__class__(**{
        **parts["semantic_tokenizer"].config.to_dict(), "rhythm_channels": 0, "beat_line": False,
    }))  # fmt: skip
    with pytest.raises(StrictDataclassClassValidationError, match="knows the beat"):
        HAFMForVocalAccompaniment.from_parts(**{**parts, "semantic_tokenizer": plain})
    with pytest.raises(StrictDataclassClassValidationError, match="num_layers"):
        HAFMHarmonyConfig(num_layers=100)
    folders = {}
    for name, part in {**parts, "harmony": tiny_harmony(semantic_tokenizer="another")}.items():
        folders[name] = str(tmp_path / name)
        part.save_pretrained(folders[name])
    with pytest.raises(ValueError, match="the harmony has learnt tokens of the semantic tokenizer another"):
        assemble_composite(folders, tmp_path / "model")
