# SPDX-License-Identifier: Apache-2.0
"""Conditioning added to the target's slots: at the right time, with a bounded lookahead, and zero where it is null."""

from typing import Any

import pytest
import torch

from hafm_hf.modeling.modeling_stage import HAFMStageForCausalLM
from modeling.test_modeling import conditioning_for, targets_for
from tiny_models import STAGES, placed, tiny_stage

# conditioning frames of lookahead
CONTEXT = 2


def added(name: str = "coarse", pattern: str = "delay", **options: Any) -> HAFMStageForCausalLM:
    """A tiny stage whose conditioning is added to the target's slots."""
    return tiny_stage(name, codebook_pattern=pattern, conditioning_context=CONTEXT, **placed("sum"), **options)


def logits(stage: HAFMStageForCausalLM, conditioning: torch.Tensor, **given: torch.Tensor) -> torch.Tensor:
    """A stage's logits for random targets: float [rows, slots, vocabulary].

    `given` are further arguments of its forward.
    """
    frames = conditioning.shape[-1]
    with torch.no_grad():
        return stage(labels=targets_for(stage, frames=frames), conditioning_ids=conditioning, **given).logits


@pytest.mark.parametrize("name", list(STAGES))
@pytest.mark.parametrize("pattern", ["flat", "delay"])
def test_a_slot_depends_on_conditioning_up_to_its_time_plus_the_context(name: str, pattern: str) -> None:
    stage = added(name, pattern if name != "semantic" else "flat")
    frames = 24
    changed = 12
    config = stage.config
    before = conditioning_for(stage, frames=frames)
    after = before.clone()
    after[:, :, changed] = (after[:, :, changed] + 1) % min(config.conditioning_sizes)
    # for each slot
    differs = (logits(stage, before) != logits(stage, after)).any(-1).any(0)
    # the first target frame at the time of the change, minus the mixer's lookahead
    first = -(-(changed - CONTEXT) * config.frame_rate // config.conditioning_frame_rate)
    assert int(differs.nonzero()[0]) == first * stage.pattern.slots_per_frame
    assert stage.model.relative_attention_bias.weight.shape[0] == config.relative_attention_num_buckets


def test_null_conditioning_adds_exactly_nothing() -> None:
    stage = added()
    null = torch.ones(2, dtype=torch.bool)
    ids = conditioning_for(stage, batch=2)
    other = conditioning_for(stage, batch=2).flip(2)
    slots = torch.arange(9)
    assert not stage.model.conditioning_of(slots, ids, null).any()
    given = {"labels": targets_for(stage, batch=2), "null_conditioning": null}
    assert torch.equal(stage(conditioning_ids=ids, **given).logits, stage(conditioning_ids=other, **given).logits)
