# SPDX-License-Identifier: Apache-2.0
"""What a run says about itself between two log lines: losses and speed."""

import math
import time

import torch

from accelerate import Accelerator

from .objective import token_losses
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
        self.codebooks: torch.Tensor | None = None

    def look_at(self, logits: torch.Tensor, labels: torch.Tensor, num_codebooks: int) -> None:
        """Keeps loss and accuracy of each codebook: logits [B, T·Q, V], labels [B, T·Q] → [2, Q]."""
        with torch.no_grad():
            losses = token_losses(logits, labels, num_codebooks).mean(dim=0)
            hits = (logits.argmax(dim=-1) == labels).float().view(len(labels), -1, num_codebooks)
            self.codebooks = torch.stack([losses, hits.mean(dim=(0, 1))])

    def metrics(self, accelerator: Accelerator) -> Metrics:
        """Means over all processes since the window began; NaN where there was no finite loss.

        Args:
            accelerator: of the run.
        """
        elapsed = max(time.monotonic() - self.begin, 1e-9)
        losses = torch.stack(self.losses)
        finite = torch.isfinite(losses)
        sums = torch.stack([torch.where(finite, losses, 0.0).sum(), finite.sum().to(losses.dtype)])
        total, count = accelerator.reduce(sums, "sum").tolist()
        found: Metrics = {
            "loss": total / count if count else math.nan,
            "learning_rate": self.learning_rate,
            "gradient_norm": float(self.gradient_norm),
            "tokens_per_second": self.tokens / elapsed,
        }
        if self.codebooks is not None:
            per_codebook = accelerator.reduce(self.codebooks, "mean").tolist()
            found |= {"codebook_losses": per_codebook[0], "codebook_accuracy": per_codebook[1]}
        return found
