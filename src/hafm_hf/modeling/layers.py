# SPDX-License-Identifier: Apache-2.0
"""What the decoder is made of: its layers, the tables at both of its ends, and what mixes added conditioning.

Dimensions: B batch, R rows a sequence, L slots, m of them that ask, n keys, H heads of d, D width, T_c conditioning
frames, V size of a target codebook.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .codebook_patterns import codebook_pattern
from .configuration_hafm import HAFMStageConfig

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
        self.q_norm = nn.RMSNorm(config.head_dim, eps=config.rms_norm_eps)
        self.k_norm = nn.RMSNorm(config.head_dim, eps=config.rms_norm_eps)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_bias: torch.Tensor,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """hidden_states [B, L, D], position_bias [1 or B, H, m, n] → output [B, m, D] and weights if kept.

        The bias has a row for each of the last m ≤ L slots; the slots before them are keys and values only.
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
        self.attention_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.attention = HAFMAttention(config, layer_idx)
        self.feed_forward_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.feed_forward = HAFMGatedFeedForward(config)

    def forward(self, hidden_states: torch.Tensor, position_bias: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """[B, L, D] → [B, m, D], the last m slots, for which the bias [1 or B, H, m, n] has rows."""
        attended, _ = self.attention(self.attention_norm(hidden_states), position_bias, **kwargs)
        if attended.shape[1] < hidden_states.shape[1]:
            hidden_states = hidden_states[:, -attended.shape[1] :]
        hidden_states = hidden_states + attended
        return hidden_states + self.feed_forward(self.feed_forward_norm(hidden_states))


class HAFMCodebookEmbedding(nn.Module):
    """One embedding table a codebook, each with a last entry, for BOS in the target's.

    Tables of unequal codebooks are padded to the largest one.
    """

    def __init__(self, codebook_sizes: list[int], hidden_size: int) -> None:
        super().__init__()
        self.table_size = max(codebook_sizes) + 1
        self.weight = nn.Parameter(torch.empty(len(codebook_sizes), self.table_size, hidden_size))

    def forward(self, ids: torch.Tensor, codebooks: torch.Tensor) -> torch.Tensor:
        """ids (int64 [..., n]) of codebooks (int64 [n]) → float [..., n, D]."""
        return F.embedding(ids + codebooks * self.table_size, self.weight.flatten(0, 1))


class HAFMCodebookHeads(nn.Module):
    """One linear layer a target codebook: head t mod Q reads slot t, under the delay pattern all heads every slot."""

    def __init__(self, config: HAFMStageConfig) -> None:
        super().__init__()
        self.rows = codebook_pattern(config).rows
        self.weight = nn.Parameter(torch.empty(config.num_codebooks, config.codebook_size, config.hidden_size))

    def forward(self, hidden_states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """hidden_states [B, L, D] of consecutive slots (targets, int64 [L]) → logits [B·R, L, V]."""
        num_codebooks = self.weight.shape[0]
        if self.rows > 1:
            logits = F.linear(hidden_states, self.weight.flatten(0, 1)).unflatten(2, (num_codebooks, -1))
            return logits.transpose(1, 2).flatten(0, 1)
        if num_codebooks == 1:
            return F.linear(hidden_states, self.weight[0])
        length = hidden_states.shape[1]
        if length == 1:
            return F.linear(hidden_states, self.weight.index_select(0, targets % num_codebooks)[0])
        # frames are counted from the first target on, so its head comes first
        order = torch.arange(num_codebooks, device=targets.device) + targets[0]
        weight = self.weight.index_select(0, order % num_codebooks)
        count = (length + num_codebooks - 1) // num_codebooks
        frames = F.pad(hidden_states, (0, 0, 0, count * num_codebooks - length)).unflatten(1, (count, num_codebooks))
        return torch.einsum("btqd,qvd->btqv", frames, weight).flatten(1, 2)[:, :length]


class HAFMConditioningMixer(nn.Module):
    """Lets every frame of the conditioning know those around it: x + W₂ GELU(depthwise convolution of W₁ x).

    Where conditioning is added to the target's slots (fusion "sum", as MusicGen's melodies of AudioCraft may be, and
    JASCO's chords, arXiv 2406.10970), a slot holds that of its own instant; the sequence is less than half as long.
    Slots of the target do not see the conditioning of other instants, so what begins just after a slot, or has just
    ended, has to stand in its frame. Without biases, conditioning that is null stays 0.
    """

    def __init__(self, config: HAFMStageConfig) -> None:
        super().__init__()
        width, context = config.hidden_size, config.conditioning_context
        self.in_proj = nn.Linear(width, width, bias=False)
        self.around = nn.Conv1d(width, width, 2 * context + 1, padding=context, groups=width, bias=False)
        self.out_proj = nn.Linear(width, width, bias=False)

    def forward(self, frames: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Frames, float [B, T_c, D], likewise; those that a mask (bool [B, T_c]) calls padding count as silence."""
        if mask is not None:
            frames = frames.masked_fill(~mask[..., None].bool(), 0.0)
        around = self.around(self.in_proj(frames).transpose(1, 2)).transpose(1, 2)
        return frames + self.out_proj(F.gelu(around))


def at_slots(frames: torch.Tensor, slot_frames: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The conditioning at the instants of the target's slots.

    Args:
        frames (float [B, T_c, D]): the conditioning.
        slot_frames (int64 [L]): the conditioning's frame that sounds with each slot, counted from the row's first;
            behind the last it is the last.
        mask (bool [B, T_c], *optional*): False where a row's conditioning is padding, on either side.

    Returns:
        float [B, L, D].
    """
    if mask is None:
        return frames.index_select(1, slot_frames.clamp(max=frames.shape[1] - 1))
    present = mask.long()
    first = present.argmax(dim=1, keepdim=True)
    places = torch.minimum(first + slot_frames, first + present.sum(dim=1, keepdim=True) - 1).clamp(min=0)
    return frames.gather(1, places[..., None].expand(-1, -1, frames.shape[2]))
