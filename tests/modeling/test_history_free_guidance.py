# SPDX-License-Identifier: Apache-2.0
"""History-free guidance: its formula in both loops, with prefixes, padding and sampling."""

from typing import Any

import pytest
import torch

from decoding import TokenDecoder, decode, uniforms_for
from modeling.test_modeling import FRAMES, STAGES_AND_PATTERNS, both_logits, conditioning_for
from tiny_models import STAGES, placed, tiny_stage

UNIT = 0.04
WEIGHT = 2.5


def listening_stage(name: str, **options: Any) -> Any:
    """A stage that responds to its conditioning, so that the guidance weight matters."""
    stage = tiny_stage(name, **{**placed("time"), "initializer_range": 0.2, **options})
    stage.generation_config.history_free_guidance = WEIGHT
    return stage


def guided_by_hand(stage: Any, conditioning: torch.Tensor, steps: int, scale: float) -> torch.Tensor:
    """Greedy tokens int64 [B, steps] from full forward passes: scale λ with the history, weight w without it."""
    batch = len(conditioning)
    bos = stage.config.bos_token_id
    size = stage.config.codebook_size
    ids = torch.full((batch, 1), bos)
    for _ in range(steps):
        histories = (ids, torch.full_like(ids, bos))
        seen, unseen = (both_logits(stage, conditioning, input_ids=each)[..., -1, :] for each in histories)
        scores = seen[1] + scale * (seen[0] - seen[1]) + WEIGHT * (unseen[0] - unseen[1])
        ids = torch.cat([ids, scores[:, :size].argmax(-1)[:, None]], dim=1)
    return ids[:, 1:]


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("scheme", ["time", "sum"])
def test_both_loops_equal_the_formula(name: str, scheme: str, scale: float) -> None:
    stage = listening_stage(name, **placed(scheme))
    conditioning = conditioning_for(stage, batch=2)
    steps = min(stage.config.target_length(FRAMES), 24)
    expected = guided_by_hand(stage, conditioning, steps, scale)
    fast = TokenDecoder(stage, scale, history_free_guidance=WEIGHT).generate(conditioning, steps, None)
    greedy = {"conditioning_ids": conditioning, "max_new_tokens": steps, "do_sample": False, "guidance_scale": scale}
    reference = stage.generate(**greedy)
    assert torch.equal(fast, expected)
    assert torch.equal(reference[:, 1:], expected)
    for nothing in (0.0, None):
        stage.generation_config.history_free_guidance = nothing
        without = stage.generate(**greedy)
        fast = decode("fast", stage, (scale, None, None), conditioning, steps)
        assert not torch.equal(without, reference), "tokens change"
        assert torch.equal(fast, without[:, 1:]), "tokens change"


@pytest.mark.parametrize(("name", "pattern"), STAGES_AND_PATTERNS)
def test_both_loops_and_compiled_steps_sample_the_same_tokens(name: str, pattern: str) -> None:
    stage = listening_stage(name, codebook_pattern=pattern)
    conditioning = conditioning_for(stage, batch=3, frames=24)
    steps = stage.config.target_length(24)
    mask = torch.arange(24) < torch.tensor((24, 12, 20))[:, None]
    numbers = uniforms_for(3, steps)
    known = torch.ones(3, 4, dtype=torch.long)
    arguments = (stage, (2.0, 0.8, 7), conditioning, steps - 4, numbers[:, 4:], known)
    fast, reference = (decode(how, *arguments, conditioning_mask=mask) for how in ("fast", "reference"))
    assert fast.tolist() == reference.tolist()
    assert len(fast.unique()) > 2
    compiled = TokenDecoder(stage, 2.0, 0.8, 7, history_free_guidance=WEIGHT, compile=True)
    assert torch.equal(compiled.generate(conditioning, steps - 4, numbers[:, 4:], known, None, mask), fast)
    # a second window reuses the compiled steps, but not the scores
    other = conditioning_for(stage, batch=3, frames=24, seed=9)
    again = TokenDecoder(stage, 2.0, 0.8, 7, history_free_guidance=WEIGHT)
    assert torch.equal(
        compiled.generate(other, steps - 4, numbers[:, 4:], known, None, mask),
        again.generate(other, steps - 4, numbers[:, 4:], known, None, mask),
    )
