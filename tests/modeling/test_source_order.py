# SPDX-License-Identifier: Apache-2.0
"""The order of a stage's conditioning sources in its sequence."""

import copy
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from decoding import decode, uniforms_for
from modeling.test_modeling import FRAMES, SCHEMES, conditioning_for, targets_for
from tiny_models import tiny_stage


def exchanged(stage: Any) -> Any:
    """A copy with the paper's order and the tables of both sources exchanged.

    Given the sources in the other order, it computes what `stage` does.
    """
    other = copy.deepcopy(stage)
    other.config.source_order = []
    with torch.no_grad():
        tables = other.model.conditioning_embedding.weight
        tables.copy_(tables.flip(0))
        segments = other.model.segment_embedding.weight
        # two sources and the target
        segments.copy_(segments[[1, 0, 2]])
        bias = other.model.relative_attention_bias
        if other.config.position_scheme == "time":
            causal, first, second = bias.weight.clone().split([32, 64, 64])
            bias.weight.copy_(torch.cat([causal, second, first]))
    return other


@pytest.mark.parametrize("scheme", SCHEMES)
def test_sources_stand_in_the_stated_order(scheme: str) -> None:
    stage = tiny_stage("coarse", source_order=[1, 0], position_scheme=scheme)
    conditioning = conditioning_for(stage)
    labels = targets_for(stage)
    logits = stage(conditioning_ids=conditioning, labels=labels).logits
    expected = exchanged(stage)(conditioning_ids=conditioning.flip(1), labels=labels).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


def test_the_order_of_sources_changes_the_output() -> None:
    stage = tiny_stage("coarse")
    conditioning = conditioning_for(stage)
    labels = targets_for(stage)
    logits = stage(conditioning_ids=conditioning, labels=labels).logits
    stage.config.source_order = [1, 0]
    assert float((stage(conditioning_ids=conditioning, labels=labels).logits - logits).abs().max()) > 1e-2


@pytest.mark.parametrize("scheme", SCHEMES)
def test_both_loops_draw_the_same_tokens(scheme: str) -> None:
    stage = tiny_stage("coarse", source_order=[1, 0], position_scheme=scheme)
    conditioning = conditioning_for(stage)
    steps = stage.config.target_length(FRAMES)
    numbers = uniforms_for(len(conditioning), steps)
    # guidance scale, temperature, top-k
    settings = (3.0, 0.8, 7)
    reference = decode("reference", stage, settings, conditioning, steps, numbers)
    assert torch.equal(decode("fast", stage, settings, conditioning, steps, numbers), reference)


@pytest.mark.parametrize("order", [[0], [0, 0], [1, 2], [0, 1, 2]])
def test_anything_but_an_order_of_the_sources_is_refused(order: list[int]) -> None:
    with pytest.raises(StrictDataclassError, match="must hold the numbers 0 to 1, each once"):
        tiny_stage("coarse", source_order=order)
