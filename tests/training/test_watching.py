# SPDX-License-Identifier: Apache-2.0
"""What a run says about itself: losses without what is not finite."""

import math

import torch

from accelerate import Accelerator
from hafm_hf.training.watching import LossWindow


def test_a_window_averages_finite_losses_and_says_nan_when_there_are_none() -> None:
    accelerator, window = Accelerator(cpu=True), LossWindow()
    window.losses = [torch.tensor(value) for value in (2.0, math.nan, 4.0, math.inf)]
    assert window.metrics(accelerator)["loss"] == 3.0
    window.losses = [torch.tensor(math.nan)]
    loss = window.metrics(accelerator)["loss"]
    assert isinstance(loss, float) and math.isnan(loss)


def test_accuracy_is_counted_by_codebook() -> None:
    window = LossWindow()
    labels = torch.tensor([[1, 2, 3, 4]])
    logits = torch.nn.functional.one_hot(torch.tensor([[1, 0, 3, 4]]), 5).float() * 9
    window.look_at(logits, labels, num_codebooks=2)
    assert window.codebooks is not None
    losses, accuracy = window.codebooks.tolist()
    assert accuracy == [1.0, 0.5] and losses[0] < 0.01 < losses[1]
