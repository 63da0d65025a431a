# SPDX-License-Identifier: Apache-2.0
"""Training metrics between two log lines: loss, gradient norm and speed."""

import math
import time
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator

from .validation import Metrics


@dataclass
class LossWindow:
    """Accumulates metrics since the last log line; tensors stay on the device until it is written."""

    begin: float = field(default_factory=time.monotonic)
    losses: list[torch.Tensor] = field(default_factory=list)
    tokens: int = 0
    learning_rate: float = 0.0
    gradient_norm: torch.Tensor | float = 0.0

    def metrics(self, accelerator: Accelerator) -> Metrics:
        """Metrics since the window began, with the mean loss over all processes; NaN if no loss was finite."""
        elapsed = max(time.monotonic() - self.begin, 1e-9)
        losses = torch.stack(self.losses)
        finite = torch.isfinite(losses)
        sums = torch.stack([torch.where(finite, losses, 0.0).sum(), finite.sum().to(losses.dtype)])
        total, count = accelerator.reduce(sums, "sum").tolist()
        return {
            "loss": total / count if count else math.nan,
            "learning_rate": self.learning_rate,
            "gradient_norm": float(self.gradient_norm),
            "tokens_per_second": self.tokens / elapsed,
        }
