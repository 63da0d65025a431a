# SPDX-License-Identifier: Apache-2.0
"""Stages that read lead sheet streams: where the streams are added, and what checkpoints store."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hafm_hf.lead_sheet import vocabulary
from hafm_hf.lead_sheet.lead_sheet import ROW_SIZES
from modeling.test_modeling import BATCH, FRAMES, conditioning_for, targets_for
from tiny_models import STAGES, tiny_stage

STREAMS = {name: ROW_SIZES[name] for name in ("chord", "beat")}


def with_streams(name: str, **changes: Any) -> Any:
    """A tiny stage that reads the streams STREAMS."""
    return tiny_stage(name, position_scheme="time", lead_sheet_streams=STREAMS, **changes)


def conditioning_with(stage: Any, streams: torch.Tensor) -> torch.Tensor:
    """Random tokens with lead sheet streams (int64 [streams, frames]): int64 [BATCH, all streams, frames]."""
    tokens = conditioning_for(stage)[:, : stage.config.num_token_streams]
    return torch.cat([tokens, streams.expand(BATCH, -1, -1)], dim=1)


@pytest.mark.parametrize("name", STAGES)
def test_streams_add_only_their_own_embedding(name: str) -> None:
    plain = tiny_stage(name)
    reading = with_streams(name)
    added = {key for key, _ in reading.named_parameters()} - {key for key, _ in plain.named_parameters()}
    assert added == {"model.lead_sheet_embedding.weight"}


@pytest.mark.parametrize("name", STAGES)
def test_a_stream_acts_at_its_own_frame_and_not_under_null_conditioning(name: str) -> None:
    stage = with_streams(name)
    silent = conditioning_with(stage, torch.zeros(2, FRAMES, dtype=torch.long))
    with_chord = silent.clone()
    # the first of the two lead sheet streams, in frame 3
    with_chord[:, -2, 3] = 5
    embedded = [stage.model.embed_conditioning(ids, None) for ids in (silent, with_chord)]
    changed = (embedded[0] != embedded[1]).any(dim=-1).any(dim=0).nonzero().flatten().tolist()
    # streams are added to the last source
    assert changed == [(stage.config.num_conditioning_sources - 1) * FRAMES + 3]
    null = torch.ones(BATCH, dtype=torch.bool)
    assert torch.equal(*(stage.model.embed_conditioning(ids, null) for ids in (silent, with_chord)))
    labels = targets_for(stage)
    logits = [stage(conditioning_ids=ids, labels=labels).logits for ids in (silent, with_chord)]
    assert not torch.allclose(*logits)
    with_chord[0, -2, 3] = STREAMS["chord"]
    with pytest.raises(ValueError, match=rf"conditioning_ids holds {STREAMS['chord']}; "):
        stage(conditioning_ids=with_chord, labels=labels)


@pytest.mark.parametrize("pattern", ["flat", "delay"])
def test_generation_uses_and_checkpoints_keep_the_streams(pattern: str, tmp_path: Path) -> None:
    stage = with_streams("coarse", codebook_pattern=pattern, styles=["folk", "rock"]).eval()
    stage.save_pretrained(tmp_path)
    again = type(stage).from_pretrained(tmp_path).eval()
    assert again.config.lead_sheet_streams == STREAMS
    assert again.config.styles == ["folk", "rock"]
    ids = conditioning_with(stage, torch.ones(2, FRAMES, dtype=torch.long))
    codes = [model.generate(conditioning_ids=ids, do_sample=False, guidance_scale=3.0) for model in (stage, again)]
    assert torch.equal(*codes)
    with pytest.raises(ValueError, match=r"needs \[B, 4, T_c\]"):
        stage.generate(conditioning_ids=ids[:, :2])


def test_streams_have_one_order_whatever_the_order_of_the_config(tmp_path: Path) -> None:
    given = {name: ROW_SIZES[name] for name in ("energy", "bar", "chord")}
    stage = tiny_stage("semantic", lead_sheet_streams=given)
    assert list(stage.config.lead_sheet_streams) == ["chord", "bar", "energy"]
    stage.save_pretrained(tmp_path)
    again = type(stage).from_pretrained(tmp_path)
    assert list(again.config.lead_sheet_streams) == list(stage.config.lead_sheet_streams)
    assert list(ROW_SIZES) == list(vocabulary.LEAD_SHEET_ROWS)
