# SPDX-License-Identifier: Apache-2.0
"""The state of a training run on disk: saved atomically, loaded without unpickling code."""

import os
from pathlib import Path
from typing import Any

import torch

from hafm_hf.training.optimizers import scheduled_rate


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Save a state (tensors, numbers, strings, containers of them) atomically, so that no file is incomplete."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(path.suffix + ".partial")
    torch.save(state, temporary)
    os.replace(temporary, path)


def load_state(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Load a state saved by `save_state` to a device; files with anything but plain data are rejected."""
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state


def cosine_learning_rate(step: int, steps: int, peak: float, final: float, warmup: int) -> float:
    """The learning rate at a step: a linear warm-up to `peak` over `warmup` steps, then a half cosine down to `final`.

    Args:
        step: index of the step.
        steps: total number of steps, at which the rate is `final`.
        peak: highest learning rate.
        final: last learning rate.
        warmup: number of steps of the warm-up.
    """
    return scheduled_rate(step, warmup, (step - warmup) / max(1, steps - warmup), peak, final)
