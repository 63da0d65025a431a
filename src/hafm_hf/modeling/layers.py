# SPDX-License-Identifier: Apache-2.0
"""A layer of the decoder: self-attention with QK-norm and a bias on positions, then a gated feed-forward.

Below the decoder on the path of the data.

Dimensions: B batch, L slots, m of them that ask, n keys, H heads of d, D width.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_hafm import HAFMStageConfig
from .kernels import BiasGradient, HAFMRMSNorm, blocked_attention

# inner widths that are a multiple of this keep vector and tensor units busy: 8 numbers in half, 16 in full precision
KERNEL_WIDTH = 16


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    position_bias: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention written out: query [B, H, L, d], key, value [B, H, n, d] → [B, L, H, d], weights [B, H, L, n]."""
    scores = query @ key.transpose(-1, -2) * scaling
    for term in (position_bias, attention_mask):
        if term is not None:
            scores = scores + term
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    output = F.dropout(weights, p=dropout, training=module.training) @ value
    return output.transpose(1, 2).contiguous(), weights


class HAFMAttention(nn.Module):
    """Self-attention with one fused projection, no bias, and RMSNorm over each head of q and of k (QK-norm)."""

    def __init__(self, config: HAFMStageConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.scaling = config.head_dim**-0.5
        # the bias that the decoder hands over already holds causality and padding
        self.is_causal = False
        inner = config.num_attention_heads * config.head_dim
        self.qkv_proj = nn.Linear(config.hidden_size, 3 * inner, bias=False)
        self.o_proj = nn.Linear(inner, config.hidden_size, bias=False)
        self.q_norm = HAFMRMSNorm(config.head_dim, eps=config.rms_norm_eps)
        self.k_norm = HAFMRMSNorm(config.head_dim, eps=config.rms_norm_eps)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_bias: torch.Tensor,
        past_key_values: Cache | None = None,
        bias_gradient: BiasGradient | None = None,
        prefix: int = 0,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """hidden_states [B, L, D], position_bias [1 or B, H, m, n] → output [B, m, D] and weights if kept.

        The bias has a row for each of the last m ≤ L slots; the slots before them are keys and values only. With
        `bias_gradient` the layer trains on a CPU, by `blocked_attention`; the first `prefix` slots may see each other.
        """
        batch, length, _ = hidden_states.shape
        asking = position_bias.shape[2]
        qkv = self.qkv_proj(hidden_states).view(batch, length, 3, self.config.num_attention_heads, -1)
        query, key, value = qkv.unbind(2)
        if asking < length:
            query = query[:, length - asking :]
        # normalised as they lie in memory; the heads move forward in the view only
        query = self.q_norm(query).transpose(1, 2)
        key, value = self.k_norm(key).transpose(1, 2), value.transpose(1, 2)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        if bias_gradient is not None:
            output = blocked_attention(query, key, value, position_bias, bias_gradient, self.scaling, prefix)
            return self.o_proj(output.flatten(2)), None
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, weights = attend(
            self,
            query,
            key,
            value,
            None,
            scaling=self.scaling,
            dropout=self.config.attention_dropout if self.training else 0.0,
            position_bias=position_bias,
        )
        return self.o_proj(output.reshape(batch, asking, -1)), weights


class HAFMGatedFeedForward(nn.Module):
    """GEGLU: (GELU(x W1) ⊙ x W2) W3, with W1 and W2 fused."""

    def __init__(self, config: HAFMStageConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[B, L, D] → [B, L, D]."""
        if not self.training or type(self.up_proj) is not nn.Linear or type(self.down_proj) is not nn.Linear:
            gate, up = self.up_proj(hidden_states).chunk(2, dim=-1)
            return self.down_proj(F.gelu(gate) * up)
        # zeros fill the inner width (1365 in the paper) up to what matrix kernels like; GELU(0) · 0 adds nothing
        inner = self.down_proj.in_features
        fill = -inner % KERNEL_WIDTH
        gate, up = (F.linear(hidden_states, F.pad(part, (0, 0, 0, fill))) for part in self.up_proj.weight.chunk(2))
        return F.linear(F.gelu(gate) * up, F.pad(self.down_proj.weight, (0, fill)))


class HAFMDecoderLayer(GradientCheckpointingLayer):
    """Pre-norm attention and feed-forward, each with a residual."""

    def __init__(self, config: HAFMStageConfig, layer_idx: int) -> None:
        super().__init__()
        self.attention_norm = HAFMRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.attention = HAFMAttention(config, layer_idx)
        self.feed_forward_norm = HAFMRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.feed_forward = HAFMGatedFeedForward(config)

    def forward(self, hidden_states: torch.Tensor, position_bias: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """[B, L, D] → [B, m, D], the last m slots, for which the bias [1 or B, H, m, n] has rows."""
        attended, _ = self.attention(self.attention_norm(hidden_states), position_bias, **kwargs)
        if attended.shape[1] < hidden_states.shape[1]:
            hidden_states = hidden_states[:, -attended.shape[1] :]
        hidden_states = hidden_states + attended
        return hidden_states + self.feed_forward(self.feed_forward_norm(hidden_states))
