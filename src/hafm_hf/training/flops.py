# SPDX-License-Identifier: Apache-2.0
"""How much arithmetic a training step needs, and how much a device can do: model FLOP utilisation.

The count is of matrix products that the model cannot do without (forward once, backward twice): causal attention
counts its visible pairs only, the last layer its target slots only. Utilisation is that count over time and peak.
"""

import time
from dataclasses import dataclass

import torch

from ..modeling.codebook_patterns import codebook_pattern
from ..modeling.configuration_hafm import HAFMStageConfig

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
