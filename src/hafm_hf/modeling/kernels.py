# SPDX-License-Identifier: Apache-2.0
"""What training on a CPU needs and PyTorch has no fused kernel for: attention with a learnt bias, and RMSNorm.

Between position and the decoder on the path of the data; the decoder uses them in training only. Where an
attention bias is learnt, PyTorch's fused CPU kernel does not apply, and its fallback writes the whole matrix of scores
several times over. Blocks of queries keep the scores in the cache, leave out keys that causality hides, and store no
scores for the backward pass.

Dimensions: B batch, H heads, L queries, n keys, d width of a head, D width.
"""

from typing import Any

import torch
from torch import nn

# queries at once: the scores of 8 heads and 1000 keys stay within a few megabytes
QUERY_BLOCK = 128


def trains_on_cpu(tensor: torch.Tensor) -> bool:
    """Whether a gradient will be wanted of plain CPU code; a compiler fuses by itself."""
    return tensor.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling()


class BiasGradient:
    """Where the layers of one forward pass add up the gradient of the bias that they share, in place.

    The first layer, whose backward pass comes last, hands the sum on; to the others the bias has no gradient of its
    own. Left to autograd, each layer would fill, add and throw away a matrix of all pairs.
    """

    def __init__(self, bias: torch.Tensor) -> None:
        self.wanted = bias.requires_grad
        self.like = bias.detach()
        self.total: torch.Tensor | None = None

    def rows(self, queries: int) -> torch.Tensor:
        """The sum so far for the last `queries` rows, to be added to."""
        if self.total is None:
            self.total = torch.zeros_like(self.like)
        return self.total[:, :, self.total.shape[2] - queries :]

    def take(self) -> torch.Tensor | None:
        """The sum, which is forgotten here."""
        total, self.total = self.total, None
        return total


def blocked_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor,
    gradient: BiasGradient,
    scaling: float,
    prefix: int,
) -> torch.Tensor:
    """Attention with a bias that holds causality, a block of queries at a time.

    Args:
        query (float [B, H, L, d]): the last L slots of a sequence.
        key, value (float [B, H, n, d]): of the whole sequence.
        bias (float [1 or B, H, L, n]): added to the scaled scores; the layer that hands the gradient on gets it whole.
        gradient: of the bias, shared by all layers.
        scaling (float): factor of the scores.
        prefix (int): the first slots, which may all see each other; 0 under a purely causal bias.

    Returns:
        float [B, L, H, d].
    """
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    return _BlockedAttention.apply(query, key, value, bias, gradient, scaling, prefix)


class _BlockedAttention(torch.autograd.Function):
    """Softmax(scaling · q kᵀ + bias) v, whose weights are computed again in the backward pass rather than kept."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bias: torch.Tensor,
        gradient: BiasGradient,
        scaling: float,
        prefix: int,
    ) -> torch.Tensor:
        batch, heads, length, width = query.shape
        output = query.new_empty(batch, length, heads, width)
        # rows inside: a block of the bias stays in the cache for all of them
        for begin, end, seen in _blocks(length, key.shape[2], prefix):
            for row in range(batch):
                weights = _weights(query, key, bias, scaling, row, begin, end, seen)
                output[row, begin:end] = torch.bmm(weights, value[row, :, :seen]).transpose(0, 1)
        ctx.save_for_backward(query, key, value, bias)
        ctx.gradient, ctx.scaling, ctx.prefix = gradient, scaling, prefix
        return output

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, bias = ctx.saved_tensors
        upstream = grads[0].transpose(1, 2)
        grad_query, grad_key, grad_value = _slots_first(query), _slots_first(key).zero_(), _slots_first(key).zero_()
        grad_bias = ctx.gradient.rows(query.shape[2]) if ctx.gradient.wanted else None
        for begin, end, seen in _blocks(query.shape[2], key.shape[2], ctx.prefix):
            for row in range(query.shape[0]):
                weights = _weights(query, key, bias, ctx.scaling, row, begin, end, seen)
                block = upstream[row, :, begin:end]
                grad_value[row, :, :seen] += torch.bmm(weights.transpose(1, 2), block)
                grad_weights = torch.bmm(block, value[row, :, :seen].transpose(1, 2))
                grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
                if grad_bias is not None:
                    # a bias without a batch gathers the gradients of all rows
                    grad_bias[min(row, len(bias) - 1), :, begin:end, :seen] += grad_scores
                grad_query[row, :, begin:end] = torch.bmm(grad_scores, key[row, :, :seen])
                grad_key[row, :, :seen] += torch.bmm(grad_scores.transpose(1, 2), query[row, :, begin:end])
        handed_on = ctx.gradient.take() if ctx.needs_input_grad[3] else None
        return grad_query.mul_(ctx.scaling), grad_key.mul_(ctx.scaling), grad_value, handed_on, None, None, None


def _slots_first(like: torch.Tensor) -> torch.Tensor:
    """Uninitialised [B, H, n, d] that lies in memory as [B, n, H, d], the order in which projections leave it."""
    batch, heads, slots, width = like.shape
    return like.new_empty(batch, slots, heads, width).transpose(1, 2)


def _blocks(queries: int, keys: int, prefix: int) -> list[tuple[int, int, int]]:
    """Blocks of queries, which are the last of the slots, as (begin, end, keys that any of them may see)."""
    before = keys - queries
    blocks = [(begin, min(begin + QUERY_BLOCK, queries)) for begin in range(0, queries, QUERY_BLOCK)]
    return [
        (begin, end, max(before + end, prefix) if before + begin < prefix else before + end) for begin, end in blocks
    ]


def _weights(
    query: torch.Tensor,
    key: torch.Tensor,
    bias: torch.Tensor,
    scaling: float,
    row: int,
    begin: int,
    end: int,
    seen: int,
) -> torch.Tensor:
    """Attention weights [H, end − begin, seen] of a block of one row, in the precision of the query."""
    added = bias[min(row, len(bias) - 1), :, begin:end, :seen]
    transposed = key[row, :, :seen].transpose(1, 2)
    if query.dtype == bias.dtype:
        return torch.softmax(torch.baddbmm(added, query[row, :, begin:end], transposed, alpha=scaling), dim=-1)
    # half precision: scores are added to the bias, and normalised, in the bias's own
    scores = torch.bmm(query[row, :, begin:end], transposed).to(bias.dtype).mul_(scaling).add_(added)
    return torch.softmax(scores, dim=-1).to(query.dtype)


class HAFMRMSNorm(nn.RMSNorm):
    """RMSNorm over the last dimension, with a backward pass in two passes over memory for training on a CPU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., D] → [..., D]."""
        if self.training and x.dtype == torch.float32 == self.weight.dtype and trains_on_cpu(x):
            return _RMSNorm.apply(x, self.weight, self.eps)
        return super().forward(x)


class _RMSNorm(torch.autograd.Function):
    """x / √(mean x² + ε) · weight.

    The gradient is LayerNorm's with a mean of zero, for which there is a kernel, less the share that centring takes.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        scale = norm.square_().mul_(1 / x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return torch.mul(x, scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        upstream, width = grads[0].contiguous(), x.shape[-1]
        grad, grad_weight, _ = torch.ops.aten.native_layer_norm_backward(
            upstream, x.contiguous(), [width], torch.zeros_like(scale), scale, weight, None, [True, True, False]
        )
        return grad.add_((upstream @ weight)[..., None].mul_(scale).div_(width)), grad_weight, None
