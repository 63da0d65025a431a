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
