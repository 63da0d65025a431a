"""The loop of trainings so short that a killed one is begun again: rate, steps, a line of the log now and then."""

import time
from collections.abc import Callable

import numpy as np
import torch
from transformers.utils import logging

from .state import cosine_learning_rate

logger = logging.get_logger(__name__)

# steps between two lines of the log
LINE_EVERY = 100
# of the learning rate, what is left at the end
FINAL_SHARE = 0.02


def take_steps(
    step: Callable[[], float], optimizer: torch.optim.Optimizer, steps: int, learning_rate: float, warmup_steps: int
) -> float:
    """Takes so many steps under a cosine schedule.

    Args:
        step: takes one and returns its loss.
        optimizer: whose rate is set before every step.
        steps: how many.
        learning_rate: the highest, after the warm-up.
        warmup_steps: over which it rises.

    Returns:
        the mean loss of the last tenth.
    """
    losses, began = [], time.monotonic()
    for number in range(steps):
        rate = cosine_learning_rate(number, steps, learning_rate, FINAL_SHARE * learning_rate, warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        losses.append(step())
        if (number + 1) % LINE_EVERY == 0:
            recent = float(np.mean(losses[-LINE_EVERY:]))
            logger.info("step %d, loss %.3f nats, %.0f s", number + 1, recent, time.monotonic() - began)
    return float(np.mean(losses[-max(1, steps // 10) :]))
