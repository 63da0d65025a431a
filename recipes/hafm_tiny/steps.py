# SPDX-License-Identifier: Apache-2.0
"""The loop of trainings so short that a killed one is begun again: AdamW, its rate, the average, lines of the log."""

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

# steps between two lines of the log
LINE_EVERY = 100
# of the learning rate, what is left at the end
FINAL_SHARE = 0.02
LONGEST_GRADIENT = 1.0


@dataclass
class StepArguments:
    """How many steps there are, of what size.

    Attributes:
        steps: how many.
        learning_rate: the highest, after the warm-up; a cosine takes it down.
        warmup_steps: over which it rises.
        weight_decay: AdamW's.
        ema_decay: of the average of the weights that is kept; 0 keeps the last ones.
        seed: of all that is drawn.
    """

    steps: int = 2500
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    weight_decay: float = 0.01
    ema_decay: float = 0.995
    seed: int = 0


def in_half(device: torch.device) -> torch.autocast:
    """bfloat16 for what is in the block on a GPU, and on a CPU that doesn't only emulate it."""
    known = torch.cpu.get_capabilities()
    computes = device.type == "cuda" or known.get("amx_bf16", False) or known.get("avx512_bf16", False)
    return torch.autocast(device.type, torch.bfloat16, enabled=computes)


def take_steps(model: nn.Module, loss: Callable[[], torch.Tensor], how: StepArguments) -> float:
    """Trains a model, and leaves it with the average of its weights, in evaluation mode.

    Args:
        model: whose parameters are trained.
        loss: draws a batch and returns the model's loss on it.
        how: see above.

    Returns:
        the mean loss of the last tenth.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(how.ema_decay)) if how.ema_decay else None
    losses, began = [], time.monotonic()
    model.train()
    for number in range(how.steps):
        rate = cosine_learning_rate(
            number, how.steps, how.learning_rate, FINAL_SHARE * how.learning_rate, how.warmup_steps
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        found = loss()
        found.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), LONGEST_GRADIENT)
        optimizer.step()
        if average is not None:
            average.update_parameters(model)
        losses.append(float(found.detach()))
        if (number + 1) % LINE_EVERY == 0:
            recent = float(np.mean(losses[-LINE_EVERY:]))
            logger.info("step %d, loss %.3f, %.0f s", number + 1, recent, time.monotonic() - began)
    if average is not None:
        model.load_state_dict(average.module.state_dict())
    model.eval()
    return float(np.mean(losses[-max(1, how.steps // 10) :]))
