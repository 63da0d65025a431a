# SPDX-License-Identifier: Apache-2.0
"""What a run says about itself: the arithmetic that a step needs, and losses without what is not finite."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from accelerate import Accelerator
from hafm_hf.training.watching import LossWindow, device_peak, step_flops
from tiny_models import tiny_stage


@pytest.mark.parametrize(("name", "scheme"), [("semantic", "index"), ("coarse", "time"), ("fine", "index")])
def test_the_flop_count_is_that_of_the_products_a_step_makes(name: str, scheme: str) -> None:
    # wide and short, so that what is computed though causality hides it stays small
    stage = tiny_stage(name, hidden_size=256, num_attention_heads=2, head_dim=32, position_scheme=scheme).train()
    frames, config = 8, stage.config
    conditioning = torch.randint(13, (3, config.num_conditioning_streams, frames))
    labels = torch.randint(13, (3, config.target_length(frames)))
    null = torch.zeros(3, dtype=torch.bool)
    with FlopCounterMode(display=False) as counter:
        stage(conditioning_ids=conditioning, labels=labels, null_conditioning=null, use_cache=False).loss.backward()
    assert step_flops(config, frames, rows=3) == pytest.approx(counter.get_total_flops(), rel=0.03)


def test_attention_counts_pairs_that_see_each_other() -> None:
    def pairs(scheme: str) -> float:
        config = tiny_stage("semantic", position_scheme=scheme, num_hidden_layers=2).config
        return step_flops(config, 10, rows=1)

    # under the time scheme each of the 10 conditioning slots sees the 9 others, and not only those before it
    assert pairs("time") - pairs("index") == 3 * 2 * 2 * (10 * 9 / 2) * 30


def test_the_measured_peak_is_above_what_any_product_reaches() -> None:
    peak = device_peak(torch.device("cpu"))
    assert peak.flops > 1e9 and "1024³ matrix product" in peak.source


def test_a_window_averages_finite_losses_and_says_nan_when_there_are_none() -> None:
    accelerator, window = Accelerator(cpu=True), LossWindow()
    window.losses = [torch.tensor(value) for value in (2.0, math.nan, 4.0, math.inf)]
    assert window.metrics(accelerator, 1.0, 1e9)["loss"] == 3.0
    window.losses = [torch.tensor(math.nan)]
    assert math.isnan(window.metrics(accelerator, 1.0, 1e9)["loss"])  # type: ignore[arg-type]


def test_accuracy_is_counted_by_codebook() -> None:
    window = LossWindow()
    labels = torch.tensor([[1, 2, 3, 4]])
    logits = torch.nn.functional.one_hot(torch.tensor([[1, 0, 3, 4]]), 5).float() * 9
    window.look_at(logits, labels, num_codebooks=2)
    assert window.codebooks is not None
    losses, accuracy = window.codebooks.tolist()
    assert accuracy == [1.0, 0.5] and losses[0] < 0.01 < losses[1]
