# SPDX-License-Identifier: Apache-2.0
"""History-free guidance: its formula in both loops, with prefixes, padding and sampling."""

from typing import Any

import pytest
import torch

from decoding import TokenDecoder, decode, uniforms_for
from modeling.test_modeling import FRAMES, STAGES_AND_PATTERNS, both_logits, conditioning_for
from tiny_models import STAGES, placed, tiny_stage

# of the history-free guidance
WEIGHT = 2.5


def listening_stage(name: str, **options: Any) -> Any:
    """A stage that responds to its conditioning, so that the guidance weight matters."""
    stage = tiny_stage(name, **{**placed("time"), "initializer_range": 0.2, **options})
    stage.generation_config.history_free_guidance = WEIGHT
    return stage


def guided_by_hand(stage: Any, conditioning: torch.Tensor, steps: int, scale: float) -> torch.Tensor:
    """Greedy tokens from full forward passes: guidance by `scale` with the history, and by WEIGHT without it.

    Args:
        stage: with the flat pattern.
        conditioning (int64 [sequences, streams, frames]): of the stage.
        steps: tokens to generate.
        scale: guidance scale.

    Returns:
        int64 [sequences, steps].
    """
    batch = len(conditioning)
    bos = stage.config.bos_token_id
    size = stage.config.codebook_size
    ids = torch.full((batch, 1), bos)
    for _ in range(steps):
        no_history = torch.full_like(ids, bos)
        voice, no_voice = both_logits(stage, conditioning, input_ids=ids)[..., -1, :]
        voice_alone, neither = both_logits(stage, conditioning, input_ids=no_history)[..., -1, :]
        scores = no_voice + scale * (voice - no_voice) + WEIGHT * (voice_alone - neither)
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
    # a prefix of four tokens
    known = torch.ones(3, 4, dtype=torch.long)
    settings = (2.0, 0.8, 7)  # guidance scale, temperature, top-k
    arguments = (stage, settings, conditioning, steps - 4, numbers[:, 4:], known)
    fast, reference = (decode(how, *arguments, conditioning_mask=mask) for how in ("fast", "reference"))
    assert fast.tolist() == reference.tolist()
    assert len(fast.unique()) > 2
    compiled = TokenDecoder(stage, *settings, history_free_guidance=WEIGHT, compile=True)
    assert torch.equal(compiled.generate(conditioning, steps - 4, numbers[:, 4:], known, None, mask), fast)
    # a second window reuses the compiled steps, but not the scores
    other = conditioning_for(stage, batch=3, frames=24, seed=9)
    again = TokenDecoder(stage, *settings, history_free_guidance=WEIGHT)
    assert torch.equal(
        compiled.generate(other, steps - 4, numbers[:, 4:], known, None, mask),
        again.generate(other, steps - 4, numbers[:, 4:], known, None, mask),
    )
