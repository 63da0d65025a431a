# SPDX-License-Identifier: Apache-2.0
"""What moves the weights of a stage: AdamW, as in the paper, or Muon for the layers' matrices.

Muon (Jordan et al. 2024) makes the update of a matrix orthogonal, so that directions with small gradients are learnt
as well; embeddings, heads, norms and biases stay with AdamW. Its updates are scaled to AdamW's size (Liu et al. 2025,
"Muon is Scalable for LLM Training"), so both share one learning rate.
"""

import math

import torch
from torch import nn

from .arguments import RunArguments

MUON_MOMENTUM = 0.95


def make_optimizers(model: nn.Module, run: RunArguments) -> list[torch.optim.Optimizer]:
    """Optimizers that have every trainable parameter of a stage once between them; they share the learning rate.

    Args:
        model: a stage.
        run: `optimizer`, learning rate, betas and weight decay.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    matrices = {
        name: parameter
        for name, parameter in trained.items()
        if run.optimizer == "muon" and ".layers." in name and parameter.ndim == 2
    }
    others = [parameter for name, parameter in trained.items() if name not in matrices]
    betas = (run.adam_beta1, run.adam_beta2)
    optimizers: list[torch.optim.Optimizer] = []
    if others:
        optimizers.append(torch.optim.AdamW(others, run.learning_rate, betas, weight_decay=run.weight_decay))
    if matrices:
        optimizers.append(
            torch.optim.Muon(
                matrices.values(), run.learning_rate, run.weight_decay, MUON_MOMENTUM, adjust_lr_fn="match_rms_adamw"
            )
        )
    return optimizers


def scheduled_rate(step: int, warmup_steps: int, passed: float, peak: float, final: float) -> float:
    """Learning rate of optimiser step `step` (0-based): linear warm-up to `peak`, then a half cosine to `final`.

    Args:
        step (int): steps done before this one.
        warmup_steps (int): over which the rate rises.
        passed (float): share of what follows the warm-up that has passed; below 0 and above 1 count as 0 and 1.
        peak, final (float): highest and last rate.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return final + (peak - final) * (1 + math.cos(math.pi * min(max(passed, 0.0), 1.0))) / 2
