# SPDX-License-Identifier: Apache-2.0
"""What a run says about itself between two log lines: losses, speed, utilisation, memory, waiting for data.

Utilisation is the arithmetic that a step needs over time and the device's peak. The count is of matrix products that
the model cannot do without (forward once, backward twice): causal attention counts its visible pairs only, the last
layer its target slots only.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import psutil
import torch

from accelerate import Accelerator

from ..modeling.codebook_patterns import codebook_pattern
from ..modeling.configuration_hafm import HAFMStageConfig
from .objective import token_losses
from .validation import Metrics

T = TypeVar("T")
# dense FLOP/s of tensor cores in fp16 and bf16, from the makers' data sheets
GPU_PEAKS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "A40": 149.7e12,
    "A10": 125e12,
    "L40S": 362e12,
    "L4": 121e12,
    "T4": 65e12,
    "4090": 165e12,
}
BACKWARD_AND_FORWARD = 3


@dataclass(frozen=True)
class Peak:
    """What a device can do in FLOP/s, and where that number comes from."""

    flops: float
    source: str


def step_flops(config: HAFMStageConfig, conditioning_frames: int, rows: int) -> float:
    """FLOP of a training step.

    Args:
        config: the stage.
        conditioning_frames: T_c of a crop.
        rows: crops in the step.
    """
    width, inner = config.hidden_size, config.num_attention_heads * config.head_dim
    conditioning = config.num_prepended_sources * conditioning_frames
    tokens = config.target_length(conditioning_frames)
    target = codebook_pattern(config).slots(tokens // config.num_codebooks)
    slots = conditioning + target
    projections, rest = 3 * width * inner, inner * width + 3 * width * config.intermediate_size
    pairs = slots * (slots + 1) // 2
    if config.position_scheme == "time":
        pairs += conditioning * (conditioning - 1) // 2
    target_pairs = target * conditioning + target * (target + 1) // 2
    layers = config.num_hidden_layers - 1
    products = layers * (slots * (projections + rest) + 2 * pairs * inner)
    products += slots * projections + target * rest + 2 * target_pairs * inner
    products += tokens * width * config.codebook_size
    if config.conditioning_fusion == "sum":
        products += conditioning_frames * width * (2 * width + 2 * config.conditioning_context + 1)
    return 2.0 * BACKWARD_AND_FORWARD * rows * products


def device_peak(device: torch.device, dtype: torch.dtype = torch.float32) -> Peak:
    """The device's peak: from the data sheet where we know it, otherwise that of a large matrix product, measured."""
    if device.type == "cuda" and dtype in (torch.float16, torch.bfloat16):
        name = torch.cuda.get_device_name(device)
        for key, flops in GPU_PEAKS.items():
            if key in name:
                return Peak(flops, f"data sheet of the {name}, dense {dtype}")
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    # on one thread its own time, so that a busy machine doesn't lower the peak
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    now = time.process_time if alone else time.perf_counter
    for _ in range(5):
        begin = now()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, now() - begin)
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return Peak(2 * size**3 / best, f"measured: {size}³ matrix product in {dtype}{threads}")


class LossWindow:
    """What has happened since the last log line; numbers stay on the device until it is written."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forgets everything: a new window begins now."""
        self.begin = time.monotonic()
        self.losses: list[torch.Tensor] = []
        self.tokens = 0
        self.steps = 0
        self.learning_rate = 0.0
        self.gradient_norm: torch.Tensor | float = 0.0
        self.waited = 0.0
        self.codebooks: torch.Tensor | None = None

    def pause(self, seconds: float) -> None:
        """Takes time that was not training (validation, saving, samples) out of the window."""
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

    def metrics(self, accelerator: Accelerator, flops_per_step: float, peak: float) -> Metrics:
        """Means over all processes since the window began; NaN where there was no finite loss.

        Args:
            accelerator: of the run.
            flops_per_step: arithmetic of an optimiser step over all processes.
            peak: FLOP/s of one process's device.
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
            "model_flop_utilisation": flops_per_step * self.steps / elapsed / (peak * accelerator.num_processes),
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
