# SPDX-License-Identifier: Apache-2.0
"""Optimizers of a stage: AdamW, as in the paper, or Muon for the weight matrices of the layers.

Muon (Jordan et al. 2024) orthogonalises the update of a matrix, so that directions with small gradients are learnt as
well; embeddings, heads, norms and biases stay with AdamW. Its updates are scaled to AdamW's RMS (Liu et al. 2025,
"Muon is Scalable for LLM Training"), so both share one learning rate.
"""

import math
from typing import Any

import torch
from torch import nn

from .arguments import OptimizationArguments

MUON_MOMENTUM = 0.95
# usual RMS of AdamW's updates, to which Liu et al. scale Muon's
ADAMW_RMS = 0.2


class FullPrecisionMuon(torch.optim.Muon):
    """torch's Muon with Nesterov momentum and `match_rms_adamw`, whose matrix products are in the weights' precision.

    torch computes them in bfloat16, which many CPUs only emulate: there the optimiser took three quarters of a step.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Updates the weights that have gradients; returns the loss that `closure` computes, or None without one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                momentum = state["momentum_buffer"].lerp_(weight.grad, 1 - group["momentum"])
                # Nesterov momentum
                update = orthogonal(weight.grad.lerp(momentum, group["momentum"]), group)
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                # an orthogonal update has RMS 1 / √(longer side)
                weight.add_(update, alpha=-group["lr"] * ADAMW_RMS * math.sqrt(max(weight.shape)))
        return loss


def orthogonal(update: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
    """Orthogonalises an update by Newton-Schulz iteration (Jordan et al. 2024).

    Args:
        update (float [m, n]): update of a weight matrix.
        group: Muon's parameter group, with `ns_coefficients`, `ns_steps` and `eps` (the smallest norm to divide by).

    Returns:
        float [m, n] with the update's singular vectors and singular values around 1.
    """
    # the smaller of the two Gram matrices is cheaper
    if update.shape[0] > update.shape[1]:
        return orthogonal(update.T, group).T
    matrix = update / update.norm().clamp(min=group["eps"])
    a, b, c = group["ns_coefficients"]
    for _ in range(group["ns_steps"]):
        # X ← a X + (b G + c G²) X with the Gram matrix G = X Xᵀ
        gram = matrix @ matrix.T
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        matrix = torch.addmm(matrix, polynomial, matrix, beta=a)
    return matrix


def make_optimizers(model: nn.Module, arguments: OptimizationArguments) -> list[torch.optim.Optimizer]:
    """Optimizers that between them cover every trainable parameter of a stage once, with one learning rate.

    Args:
        model: a stage, whose frozen parameters are left out.
        arguments: `optimizer` ("adamw" or "muon"), learning rate, AdamW's betas, and weight decay.

    Returns:
        AdamW; with "muon", AdamW for the other parameters and Muon for the matrices of the layers, without an
        optimizer that would have no parameters.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    matrices = {
        name: parameter
        for name, parameter in trained.items()
        if arguments.optimizer == "muon" and ".layers." in name and parameter.ndim == 2
    }
    others = [parameter for name, parameter in trained.items() if name not in matrices]
    betas = (arguments.adam_beta1, arguments.adam_beta2)
    optimizers: list[torch.optim.Optimizer] = []
    if others:
        optimizers.append(
            torch.optim.AdamW(others, arguments.learning_rate, betas, weight_decay=arguments.weight_decay)
        )
    if matrices:
        muon = torch.optim.Muon
        on_cpu = next(iter(matrices.values())).device.type == "cpu"
        # training in bf16 implies a CPU that supports it natively
        if on_cpu and arguments.mixed_precision != "bf16":
            muon = FullPrecisionMuon
        optimizers.append(
            muon(
                matrices.values(),
                arguments.learning_rate,
                arguments.weight_decay,
                MUON_MOMENTUM,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return optimizers


def scheduled_rate(step: int, warmup_steps: int, passed: float, peak: float, final: float) -> float:
    """Learning rate of optimiser step `step` (0-based): linear warm-up to `peak`, then a half cosine to `final`.

    Args:
        step (int): steps done before this one.
        warmup_steps (int): length of the warm-up in steps.
        passed (float): fraction of the run after warm-up that has passed, clipped to 0..1.
        peak, final (float): highest and final rate.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    clipped = min(max(passed, 0.0), 1.0)
    return final + (peak - final) * (1 + math.cos(math.pi * clipped)) / 2
