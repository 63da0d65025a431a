# SPDX-License-Identifier: Apache-2.0
"""What a run says about itself between two log lines: losses, speed, memory, waiting for data."""

import math
import time
from collections.abc import Iterator
from typing import TypeVar

import psutil
import torch

from accelerate import Accelerator

from .objective import token_losses
from .validation import Metrics

T = TypeVar("T")


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
        self.waited = 0.0
        self.codebooks: torch.Tensor | None = None

    def pause(self, seconds: float) -> None:
        """Takes time that was not training (validation, saving) out of the window."""
        self.begin += seconds

    def waiting(self, batches: Iterator[T]) -> Iterator[T]:
        """Passes batches on and adds up the time that is spent waiting for them."""
        while True:
            began = time.monotonic()
            batch = next(batches, None)
            self.waited += time.monotonic() - began
            if batch is None:
                return
            yield batch

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
            "data_share": self.waited / elapsed,
            "memory_gb": memory_gb(accelerator.device),
        }
        if self.codebooks is not None:
            per_codebook = accelerator.reduce(self.codebooks, "mean").tolist()
            found |= {"codebook_losses": per_codebook[0], "codebook_accuracy": per_codebook[1]}
        return found


def memory_gb(device: torch.device) -> float:
    """Memory in GB: the most that this process has held of its GPU, or what it holds of the machine without one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return psutil.Process().memory_info().rss / 1e9
