# SPDX-License-Identifier: Apache-2.0
"""What is written for training on a CPU gives the numbers of the plain formulas, gradients included."""

from typing import Any

import pytest
import torch
from torch import nn

from hafm_hf.modeling.kernels import QUERY_BLOCK, BiasGradient, HAFMRMSNorm, blocked_attention
from hafm_hf.modeling.layers import eager_attention_forward
from tiny_models import tiny_stage

HEADS, WIDTH = 3, 10
SLOTS = 2 * QUERY_BLOCK + 37


def attend(blocked: bool, queries: int, prefix: int, bias_rows: int) -> list[torch.Tensor]:
    """Output and gradients of one attention over seeded numbers."""
    generator = torch.Generator().manual_seed(5)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).requires_grad_()

    query, key, value = (drawn(2, HEADS, slots, WIDTH) for slots in (queries, SLOTS, SLOTS))
    bias = drawn(bias_rows, HEADS, queries, SLOTS)
    seen = torch.ones(SLOTS, SLOTS, dtype=torch.bool).tril()
    seen[:prefix, :prefix] = True
    masked = bias.masked_fill(~seen[-queries:], torch.finfo(bias.dtype).min)
    if blocked:
        output = blocked_attention(query, key, value, masked, BiasGradient(masked), 0.3, prefix)
    else:
        output, _ = eager_attention_forward(nn.Module(), query, key, value, None, 0.3, position_bias=masked)
    (output * drawn(2, queries, HEADS, WIDTH)).sum().backward()
    return [output, *[tensor.grad for tensor in (query, key, value, bias) if tensor.grad is not None]]


@pytest.mark.parametrize("queries", [SLOTS, 150, 7])
@pytest.mark.parametrize(("prefix", "bias_rows"), [(0, 1), (QUERY_BLOCK + 20, 1), (40, 2)])
def test_blocked_attention_and_its_gradients_equal_attention_written_out(
    queries: int, prefix: int, bias_rows: int
) -> None:
    ours, plain = (attend(blocked, queries, prefix, bias_rows) for blocked in (True, False))
    assert len(ours) == len(plain) == 5
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def test_rms_norm_for_training_equals_pytorchs_with_its_gradients() -> None:
    ours, plain = HAFMRMSNorm(24, eps=1e-6), nn.RMSNorm(24, eps=1e-6)
    results = []
    for norm in (ours, plain):
        torch.manual_seed(3)
        nn.init.normal_(norm.weight)
        x = torch.randn(2, 5, 24).requires_grad_()
        output = norm(x)
        (output * torch.randn(2, 5, 24)).sum().backward()
        results.append([output, x.grad, norm.weight.grad])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def gradients(name: str, scheme: str, training: bool) -> tuple[torch.Tensor, dict[str, Any]]:
    """Loss of a stage and the gradient of every parameter; in training the short cuts are taken."""
    stage = tiny_stage(name, position_scheme=scheme, num_hidden_layers=3).train(training)
    config = stage.config
    frames = 150  # longer than a block of queries
    torch.manual_seed(2)
    conditioning = torch.randint(
        config.conditioning_codebook_sizes[0][0], (2, config.num_conditioning_streams, frames)
    )
    labels = torch.randint(config.codebook_size, (2, config.target_length(frames)))
    null = torch.tensor([False, True])
    loss = stage(conditioning_ids=conditioning, labels=labels, null_conditioning=null, use_cache=False).loss
    loss.backward()
    return loss, {key: parameter.grad for key, parameter in stage.named_parameters()}


@pytest.mark.parametrize(("name", "scheme"), [("semantic", "index"), ("coarse", "time"), ("fine", "time")])
def test_training_takes_short_cuts_that_change_neither_loss_nor_gradients(name: str, scheme: str) -> None:
    loss, ours = gradients(name, scheme, training=True)
    plain_loss, plain = gradients(name, scheme, training=False)
    torch.testing.assert_close(loss, plain_loss)
    for key, gradient in plain.items():
        torch.testing.assert_close(ours[key], gradient, atol=1e-6, rtol=2e-3, msg=key)


def test_autocast_to_bfloat16_takes_the_same_way() -> None:
    stage = tiny_stage("semantic", initializer_range=0.05).train()
    conditioning, labels = torch.randint(13, (2, 1, 40)), torch.randint(13, (2, 40))
    null = torch.zeros(2, dtype=torch.bool)
    losses = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = stage(conditioning_ids=conditioning, labels=labels, null_conditioning=null, use_cache=False).loss
        loss.backward()
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)
    assert all(torch.isfinite(parameter.grad).all() for parameter in stage.parameters())
