# SPDX-License-Identifier: Apache-2.0
"""A training loop for short runs that need no checkpoints: AdamW, a schedule, weight averaging and logging."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers.utils import logging

from .state import cosine_learning_rate

logger = logging.get_logger(__name__)

# steps between log lines
LINE_EVERY = 100
# final learning rate, as a share of the highest
FINAL_SHARE = 0.02
# gradients with a larger norm are scaled down to it
LONGEST_GRADIENT = 1.0


@dataclass
class StepArguments:
    """Number of steps, and optimiser settings.

    Attributes:
        steps: number of steps.
        learning_rate: highest learning rate, at the end of the warm-up; it then falls along a cosine.
        warmup_steps: number of steps of the warm-up.
        weight_decay: AdamW's weight decay.
        ema_decay: decay of the moving average of the weights; 0 keeps the last weights instead.
        seed: seed of everything random.
    """

    steps: int = 2500
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    weight_decay: float = 0.01
    ema_decay: float = 0.995
    seed: int = 0


def in_half(device: torch.device) -> torch.autocast:
    """A context with bfloat16 autocast on a GPU, and on a CPU with bfloat16 instructions; elsewhere without effect."""
    capabilities = torch.cpu.get_capabilities()
    is_native = device.type == "cuda" or capabilities.get("amx_bf16", False) or capabilities.get("avx512_bf16", False)
    return torch.autocast(device.type, torch.bfloat16, enabled=is_native)


def take_steps(model: nn.Module, loss: Callable[[], torch.Tensor], arguments: StepArguments) -> float:
    """Trains a model in place and leaves it in evaluation mode, with the moving average of its weights.

    Args:
        model: the model to train.
        loss: draws a batch and returns the model's loss on it.
        arguments: number of steps and optimiser settings.

    Returns:
        The mean loss of the last tenth of the steps.
    """
    peak = arguments.learning_rate
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=arguments.weight_decay)
    average = None
    if arguments.ema_decay:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(arguments.ema_decay))
    losses = []
    began = time.monotonic()

    model.train()
    for step in range(arguments.steps):
        rate = cosine_learning_rate(step, arguments.steps, peak, FINAL_SHARE * peak, arguments.warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), LONGEST_GRADIENT)
        optimizer.step()
        if average is not None:
            average.update_parameters(model)
        losses.append(float(value.detach()))
        if (step + 1) % LINE_EVERY == 0:
            recent = float(np.mean(losses[-LINE_EVERY:]))
            logger.info("step %d, loss %.3f, %.0f s", step + 1, recent, time.monotonic() - began)

    if average is not None:
        model.load_state_dict(average.module.state_dict())
    model.eval()
    last_tenth = max(1, arguments.steps // 10)
    return float(np.mean(losses[-last_tenth:]))
