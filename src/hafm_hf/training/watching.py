# SPDX-License-Identifier: Apache-2.0
"""What a run says about itself between two log lines: losses and speed."""

import math
import time

import torch
from accelerate import Accelerator

from .validation import Metrics


class LossWindow:
    """What has happened since the last log line; numbers stay on the device until it is written."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forgets everything: a new window begins now."""
        self.begin = time.monotonic()
        self.losses: list[torch.Tensor] = []
        self.tokens = 0
        self.learning_rate = 0.0
        self.gradient_norm: torch.Tensor | float = 0.0

    def metrics(self, accelerator: Accelerator) -> Metrics:
        """Means over all processes since the window began; NaN where there was no finite loss."""
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
