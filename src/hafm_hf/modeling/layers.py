# SPDX-License-Identifier: Apache-2.0
"""Building blocks of the decoder: position bias, layers, embeddings and heads, the conditioning mixer.

With the fusion "sum" (all bundled stages), the sequence of a stage is the target's slots only; with "prepend", it is
[source 0 | … | source S−1 | target]. A position in it is called a slot. Slot t of the target reads what slot t − 1
has predicted (BOS for t = 0); its time is that of the frame it predicts, which depends on the codebook pattern.

Scheme "index" is the paper's: a causal T5 bias on the distance in the sequence. With it, the distance between a
conditioning token at 50 Hz and the target tokens at 75 Hz × 4 of the same instant changes along the clip and with its
length. Scheme "time" biases conditioning keys by the signed difference in time instead, in conditioning frames, with
one table per source; the difference is 0 for simultaneous tokens, wherever they are in the clip.

Dimensions: B batch, C codes per slot, L slots, m query slots, n keys, H heads of d, D width, I inner width of the
feed-forward, T_c conditioning frames, S conditioning sources, V size of a target codebook, Q target codebooks.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .codebook_patterns import codebook_pattern
from .configuration_stage import HAFMStageConfig

# inner widths are padded to a multiple of this for vector and tensor units: 8 numbers in half, 16 in full precision
KERNEL_WIDTH = 16
# queries of one head at a time in training on a CPU: their scores over 2,000 keys are a megabyte, a core's cache
CHUNK = 128
# partial sums of each bucket's gradient: neighbouring keys share a bucket, and would wait for each other's addition
LANES = 8
# initial slope of the sharpest head's time bias: how many nats it loses per doubling of the distance
LOCALITY = 3.0


@dataclass
class SlotLayout:
    """Attributes of n slots; rows of a batch differ only in their padding.

    Args:
        slot (int64 [n]): index in the sequence, padding counted.
        source (int64 [n]): index of the slot's conditioning source; for the target, the number of sources.
        frame (int64 [1 or B, n]): conditioning frame at the instant of the slot's token (for the target, of its
            prediction), counted from the row's first, padding skipped.
        position (int64 [1 or B, n]): index in the row's sequence, padding skipped.
        valid (bool [1 or B, n]): whether the slot is a token rather than padding.
    """

    slot: torch.Tensor
    source: torch.Tensor
    frame: torch.Tensor
    position: torch.Tensor
    valid: torch.Tensor

    def select(self, slots: torch.Tensor) -> "SlotLayout":
        """The attributes of the slots with these indices (int64 [m]), in their order."""
        return SlotLayout(
            self.slot[slots], self.source[slots], self.frame[:, slots], self.position[:, slots], self.valid[:, slots]
        )


def slot_layout(
    config: HAFMStageConfig,
    conditioning_frames: int,
    target_slots: int,
    conditioning_mask: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    device: torch.device | None = None,
) -> SlotLayout:
    """Source, instant and position of each slot of the sequence [conditioning | target], and whether it is padding.

    Args:
        config: the stage's configuration.
        conditioning_frames: T_c, frames of each conditioning source.
        target_slots: slots of the target, including the empty ones of a static cache.
        conditioning_mask (bool [B, T_c], *optional*): False where the conditioning is padding.
        attention_mask ([B, m], m ≤ target_slots, *optional*): 0 where the target is padding; slots after the first m
            are tokens.
        device: where to put the result.

    Returns:
        The layout of all S · T_c + target_slots slots, S being the number of sources with slots of their own: none
        with the fusion "sum".
    """
    num_sources = config.num_prepended_sources
    if not num_sources:
        # the conditioning is added to the target's slots
        conditioning_frames = 0
        conditioning_mask = None
    source_frame = torch.arange(conditioning_frames, device=device)[None]
    if conditioning_mask is not None:
        # the target starts at the row's first real frame, which padding may precede
        source_frame = conditioning_mask.long().cumsum(-1) - 1
    predicted_frame = codebook_pattern(config).frame_of(torch.arange(target_slots, device=device))
    # integer arithmetic: 75 Hz frame i starts inside 50 Hz frame ⌊i · 50 / 75⌋, exactly
    target_frame = predicted_frame * config.conditioning_frame_rate // config.frame_rate
    frame = torch.cat([source_frame.repeat(1, num_sources), target_frame.expand(len(source_frame), -1)], dim=1)
    slot = torch.arange(frame.shape[1], device=device)

    # not slot // conditioning_frames: compiled by torch 2.13, that leaves the remainder unset
    segments = [torch.full((conditioning_frames,), number, device=device) for number in config.prepended_sources]
    # the target, numbered S, comes last
    segments.append(torch.full((target_slots,), num_sources, device=device))
    source = torch.cat(segments)

    if conditioning_mask is None and attention_mask is None:
        return SlotLayout(slot, source, frame, slot[None], torch.ones_like(slot[None], dtype=torch.bool))
    masks = [mask for mask in (conditioning_mask, attention_mask) if mask is not None]
    valid = torch.ones(masks[0].shape[0], len(slot), dtype=torch.bool, device=device)
    if conditioning_mask is not None:
        valid[:, : num_sources * conditioning_frames] = conditioning_mask.bool().repeat(1, num_sources)
    if attention_mask is not None:
        target_start = num_sources * conditioning_frames
        valid[:, target_start : target_start + attention_mask.shape[1]] = attention_mask.bool()
    return SlotLayout(slot, source, frame, valid.cumsum(-1) - 1, valid)


def visible(config: HAFMStageConfig, query: SlotLayout, key: SlotLayout) -> torch.Tensor:
    """Which keys each query may attend to: bool [1 or B, n_query, n_key].

    Causal over [conditioning | target], except that under the time scheme the conditioning is bidirectional. Padding
    is never visible.

    Args:
        config: the stage's configuration.
        query, key: layouts of the n_query query slots and the n_key key slots.
    """
    seen = key.slot[None, :] <= query.slot[:, None]  # [n_query, n_key]
    if config.position_scheme == "time":
        # sources are numbered before the target
        target = config.num_prepended_sources
        both_conditioning = (query.source < target)[:, None] & (key.source < target)[None, :]
        seen = seen | both_conditioning
    return seen[None] & key.valid[:, None, :]


def causal_bucket(distance: torch.Tensor, num_buckets: int, max_distance: int) -> torch.Tensor:
    """T5's buckets of relative positions: half of them exact, the rest logarithmic up to `max_distance`.

    Args:
        distance (int64 [...]): distances ≥ 0.
        num_buckets: number of buckets.
        max_distance: all distances from this one on are in the last bucket.

    Returns:
        Bucket of each distance, int64 [...], from 0 to num_buckets − 1.
    """
    exact = num_buckets // 2
    scale = (num_buckets - exact) / math.log(max_distance / exact)
    # distances below `exact`, which include 0, do not use the logarithm
    log_bucket = exact + (torch.log(distance.clamp(min=1).float() / exact) * scale).long()
    return torch.where(distance < exact, distance, log_bucket.clamp(max=num_buckets - 1))


def signed_bucket(distance: torch.Tensor, num_buckets: int, max_distance: int) -> torch.Tensor:
    """Buckets of distances of either sign, half of them for each sign; within a half, those of `causal_bucket`.

    Args:
        distance (int64 [...]): query − key, so negative for keys in the future.
        num_buckets: number of buckets for both signs together.
        max_distance: all distances of this size or more are in the last bucket of their half.

    Returns:
        Bucket of each distance, int64 [...]: the lower half for distances ≥ 0, the upper for negative ones.
    """
    half = num_buckets // 2
    return causal_bucket(distance.abs(), half, max_distance) + half * (distance < 0)


def _bucket_starts(num_buckets: int, max_distance: int) -> torch.Tensor:
    """Smallest distance in each bucket of `causal_bucket`, float [num_buckets]; for empty ones, that of the next."""
    bucket_of_distance = causal_bucket(torch.arange(max_distance + 1), num_buckets, max_distance)
    return torch.searchsorted(bucket_of_distance, torch.arange(num_buckets)).clamp(max=max_distance).float()


class RelativeAttentionBias(nn.Module):
    """Learnt bias on attention logits, one table for all layers, computed once per forward.

    `weight` (float [buckets, heads]) has a row for each causal bucket of the distance in the sequence, followed under
    the time scheme by a row for each signed bucket of the difference in time, source by source.

    Args:
        config: the stage's configuration.
    """

    def __init__(self, config: HAFMStageConfig) -> None:
        super().__init__()
        self.config = config
        self._num_causal_buckets = config.relative_attention_num_buckets
        num_buckets = self._num_causal_buckets
        if config.position_scheme == "time":
            num_buckets += config.num_prepended_sources * config.time_attention_num_buckets
        self.weight = nn.Parameter(torch.empty(num_buckets, config.num_attention_heads))

    def locality(self) -> torch.Tensor:
        """Initial values of the time scheme's table, which favour keys close in time: float [buckets, heads].

        Starting from noise, a table takes thousands of Adam steps to outweigh content. Head 0 starts sharply focused
        on the same instant, the last head without preference, the others evenly in between. Distances to target keys
        are also measured in frames, so that neither voice nor history dominates by its number of tokens.
        """
        config = self.config
        target_rate = codebook_pattern(config).slots_per_frame * config.frame_rate  # slots a second
        slots_per_conditioning_frame = target_rate / config.conditioning_frame_rate
        slot_distance = _bucket_starts(config.relative_attention_num_buckets, config.relative_attention_max_distance)
        # of one source, in its past or in its future
        frame_distance = _bucket_starts(config.time_attention_num_buckets // 2, config.time_attention_max_distance)
        past_and_future = [frame_distance] * (2 * config.num_prepended_sources)
        # of each bucket, in conditioning frames
        distance = torch.cat([slot_distance / slots_per_conditioning_frame, *past_and_future])
        steepness = torch.linspace(LOCALITY, 0.0, config.num_attention_heads)
        return -steepness * torch.log2(1 + distance)[:, None]

    def buckets(self, query: SlotLayout, key: SlotLayout) -> torch.Tensor:
        """Row of `weight` for each pair of a query slot and a key slot: int64 [1 or B, n_query, n_key].

        The row depends on the distance in the sequence or, for conditioning keys under the time scheme, on the
        difference in time. Target keys after their query, which are hidden, have the row of distance 0.
        """
        config = self.config
        # all distances beyond the longest share its bucket, so a short lookup table covers them
        longest = config.relative_attention_max_distance
        distances = torch.arange(longest + 1, device=key.slot.device)
        row_of_distance = causal_bucket(distances, self._num_causal_buckets, longest)
        distance = query.position[:, :, None] - key.position[:, None, :]
        sequence_rows = row_of_distance[distance.clamp(0, longest)]
        if config.position_scheme == "index":
            return sequence_rows

        limit = config.time_attention_max_distance
        differences = torch.arange(-limit, limit + 1, device=key.slot.device)
        # rows for time follow those for distance in the sequence
        row_of_difference = self._num_causal_buckets + signed_bucket(
            differences, config.time_attention_num_buckets, limit
        )
        time = query.frame[:, :, None] - key.frame[:, None, :]  # in conditioning frames
        first_source_rows = row_of_difference[time.clamp(-limit, limit) + limit]
        time_rows = first_source_rows + key.source * config.time_attention_num_buckets
        is_target = key.source == config.num_prepended_sources
        return torch.where(is_target, sequence_rows, time_rows)

    def forward(self, query: SlotLayout, key: SlotLayout, seen: torch.Tensor | None = None) -> torch.Tensor:
        """Bias of each head for each pair of a query and a key: float [1 or B, H, n_query, n_key].

        Args:
            query, key: layouts of the n_query query slots and the n_key key slots.
            seen (bool [1 or B, n_query, n_key], *optional*): whether each query sees each key. Where it is False, the
                bias is the lowest number of its dtype; None if all are seen.
        """
        buckets = self.buckets(query, key)
        if seen is not None:
            # the row after the last bucket, which `_table` adds
            buckets = torch.where(seen, buckets, self.weight.shape[0])
        # heads to the second axis, in the memory layout that attention reads
        return F.embedding(buckets, self._table()).permute(0, 3, 1, 2).contiguous()

    def by_bucket(self, query: SlotLayout, key: SlotLayout, seen: torch.Tensor) -> "BucketedBias":
        """The bias of `forward` in the form that `chunked_attention` reads.

        Args:
            query, key: layouts of the m query slots and the n key slots.
            seen (bool [1 or B, m, n]): whether each query sees each key. Where it is False, the bias is the lowest
                number of its dtype.
        """
        # hidden keys have the row after the last bucket, which `_table` adds
        buckets = torch.where(seen, self.buckets(query, key), self.weight.shape[0])
        table = self._table()
        # head by head, at once in the memory layout that attention reads
        by_head = table.detach().t().contiguous().index_select(1, buckets.flatten())  # [H, pairs]
        values = by_head.unflatten(1, buckets.shape).transpose(0, 1)
        key_stops = torch.arange(1, seen.shape[2] + 1, device=seen.device)
        # of each query, the end of the last key that any row of the batch sees
        reach = (seen.any(0) * key_stops).amax(dim=1)
        return BucketedBias(values, table, buckets, reach)

    def _table(self) -> torch.Tensor:
        """The weights and, after the last bucket, a row for hidden keys: float [buckets + 1, H]."""
        return F.pad(self.weight, (0, 0, 0, 1), value=torch.finfo(self.weight.dtype).min)


@dataclass
class BucketedBias:
    """A learnt position bias of m queries and n keys for H heads, whose gradient is summed by bucket.

    Args:
        values (float [1 or B, H, m, n]): the bias; it has no gradient itself.
        table (float [buckets + 1, H]): the table that the values come from; its last row is for hidden pairs.
        buckets (int64 [1 or B, m, n]): row of the table for each pair of a query and a key.
        reach (int64 [m]): for each query, the index after the last key that it may see in any row of the batch.
    """

    values: torch.Tensor
    table: torch.Tensor
    buckets: torch.Tensor
    reach: torch.Tensor

    @property
    def shape(self) -> torch.Size:
        """Shape of the bias, [1 or B, H, m, n], as a tensor would have it."""
        return self.values.shape


def last_rows(bias: torch.Tensor | BucketedBias, queries: int) -> torch.Tensor | BucketedBias:
    """The bias (float [1 or B, heads, m, keys]) of the last `queries` of its m query slots only."""
    if isinstance(bias, torch.Tensor):
        return bias[:, :, -queries:]
    return BucketedBias(bias.values[:, :, -queries:], bias.table, bias.buckets[:, -queries:], bias.reach[-queries:])


def chunked_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: BucketedBias, scaling: float
) -> torch.Tensor:
    """Softmax(scaling · q kᵀ + bias) v for training on a CPU: exact, and about as fast as PyTorch's causal kernel.

    That kernel has no gradient for a bias; what PyTorch runs instead computes and keeps all pairs, hidden ones too.
    Here the weights of a chunk of queries are computed again in the backward pass, where the gradient of the bias is
    summed into its table at once. Under autocast it computes in float32, which is faster here than half precision.

    Args:
        query (float [B, H, m, d]): queries of the last m slots; H heads of width d.
        key, value (float [B, H, n, d]): keys and values of all n slots.
        bias: position bias of m queries and n keys.
        scaling: factor of the scores q kᵀ.

    Returns:
        float [B, m, H, d].
    """
    return _attend(query, key, value, bias.table, bias.values, bias.buckets, bias.reach, scaling)


# operators of torch, so that torch.compile calls them instead of unrolling their loops
@torch.library.custom_op("hafm::chunked_attention", mutates_args=(), device_types="cpu")
def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    table: torch.Tensor,
    bias: torch.Tensor,
    buckets: torch.Tensor,
    reach: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """`chunked_attention` with the fields of its bias, since operators of torch take no dataclasses.

    Args:
        query (float [B, H, m, d]), key, value (float [B, H, n, d]), scaling: as for `chunked_attention`.
        table (float [buckets + 1, H]), buckets (int64 [1 or B, m, n]): read in the backward pass only, which sums the
            gradient of the bias by bucket.
        bias (float [1 or B, H, m, n]): added to the scores.
        reach (int64 [m]): for each query, the index after the last key that it may see.

    Returns:
        float [B, m, H, d].
    """
    output = _zeros_slots_first(query)
    for queries, keys in _chunks(reach):
        for head in range(query.shape[1]):
            q = query[:, head, queries]
            k = key[:, head, keys]
            weights = _chunk_weights(q, k, bias[:, head, queries, keys], scaling)  # [B, queries, keys]
            output[:, queries, head] = weights @ value[:, head, keys]
    return output


@torch.library.custom_op("hafm::chunked_attention_backward", mutates_args=(), device_types="cpu")
def _gradients(
    upstream: torch.Tensor,
    output: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    table: torch.Tensor,
    bias: torch.Tensor,
    buckets: torch.Tensor,
    reach: torch.Tensor,
    scaling: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of `_attend`: of query, key and value, each [B, slots, H, d], and of the table, [H, buckets + 1].

    B batch, m query slots, n keys, H heads of width d.

    Args:
        upstream, output (float [B, m, H, d]): the output's gradient, and the output.
        query (float [B, H, m, d]), key, value (float [B, H, n, d]), table (float [buckets + 1, H]), bias (float [1 or
            B, H, m, n]), buckets (int64 [1 or B, m, n]), reach (int64 [m]), scaling: the arguments of `_attend`.
    """
    grad_query = _zeros_slots_first(query)
    grad_key = _zeros_slots_first(key)
    grad_value = _zeros_slots_first(value)
    grad_table = table.new_zeros(query.shape[1], len(table) * LANES)
    # a score's gradient is its weight · (the weight's gradient − the mean of these over the keys)
    minus_mean = -(upstream * output).sum(dim=-1, keepdim=True)
    for queries, keys in _chunks(reach):
        pairs = buckets[:, queries, keys]  # [1 or B, queries, keys]
        # index of the partial sum to which each pair's gradient is added: neighbouring keys of a bucket use different
        # ones, and so need not wait for each other
        partial_sums = (pairs * LANES + torch.arange(keys.stop) % LANES).flatten()
        for head in range(query.shape[1]):
            q = query[:, head, queries]
            k = key[:, head, keys]
            v = value[:, head, keys]
            grad = upstream[:, queries, head]
            weights = _chunk_weights(q, k, bias[:, head, queries, keys], scaling)  # [B, queries, keys]
            grad_scores = torch.baddbmm(minus_mean[:, queries, head], grad, v.mT).mul_(weights)
            grad_table[head].scatter_add_(0, partial_sums, grad_scores.sum_to_size(pairs.shape).flatten())
            grad_query[:, queries, head].baddbmm_(grad_scores, k, alpha=scaling)
            grad_key[:, keys, head].baddbmm_(grad_scores.mT, q, alpha=scaling)
            grad_value[:, keys, head].baddbmm_(weights.mT, grad)
    return grad_query, grad_key, grad_value, grad_table.unflatten(1, (-1, LANES)).sum(dim=2)


def _chunks(reach: torch.Tensor) -> list[tuple[slice, slice]]:
    """Cuts the queries into chunks of CHUNK.

    Args:
        reach (int64 [m]): for each query, the index after the last key that it may see in any row of the batch.

    Returns:
        For each chunk, the slice of its queries and that of the keys up to the last one that any of them may see.
    """
    chunks = []
    for begin in range(0, len(reach), CHUNK):
        queries = slice(begin, begin + CHUNK)
        keys = slice(0, int(reach[queries].max()))
        chunks.append((queries, keys))
    return chunks


def _chunk_weights(query: torch.Tensor, key: torch.Tensor, bias: torch.Tensor, scaling: float) -> torch.Tensor:
    """Attention weights of one head, float [B, queries, keys].

    Args:
        query (float [B, queries, d]), key (float [B, keys, d]): of this head, whose width is d.
        bias (float [1 or B, queries, keys]): added to the scores.
        scaling: factor of the scores q kᵀ.
    """
    return torch.baddbmm(bias, query, key.mT, alpha=scaling).softmax(dim=-1)


def _zeros_slots_first(by_head: torch.Tensor) -> torch.Tensor:
    """Zeros like `by_head` (float [B, heads, slots, d]) in the memory order of projections: [B, slots, heads, d]."""
    batch, heads, slots, head_dim = by_head.shape
    return by_head.new_zeros(batch, slots, heads, head_dim)


def _save_for_gradients(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    """Keeps in `ctx` what `_backward` reads: the output of `_attend` and its arguments, of which scaling is last."""
    tensors = inputs[:-1]
    ctx.scaling = inputs[-1]
    ctx.save_for_backward(output, *tensors)


def _backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """Gradients of the eight arguments of `_attend`.

    Args:
        ctx: torch's context of this call, filled by `_save_for_gradients`.
        upstream (float [B, queries, heads, d]): gradient of the output.

    Returns:
        The gradients of query, key, value and table; None for `bias`, whose gradient goes to the table, and for
        `buckets`, `reach` and `scaling`.
    """
    grad_query, grad_key, grad_value, grad_table = _gradients(upstream, *ctx.saved_tensors, ctx.scaling)
    by_head = [grad.transpose(1, 2) for grad in (grad_query, grad_key, grad_value)]  # [B, H, slots, d]
    return (*by_head, grad_table.T, None, None, None, None)


_attend.register_fake(lambda query, *_: _zeros_slots_first(query))
_gradients.register_fake(
    lambda _upstream, _output, query, key, value, table, *_: (
        *(_zeros_slots_first(by_head) for by_head in (query, key, value)),
        table.new_empty(query.shape[1], len(table)),
    )
)
_attend.register_autograd(_backward, setup_context=_save_for_gradients)
_attend.register_autocast("cpu", torch.float32)
# a backward pass may run under autocast, too
_gradients.register_autocast("cpu", torch.float32)


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
    """Attention by plain products, as the interface of transformers' attention functions asks.

    Args:
        module: the attention layer; there is dropout only while it is in training.
        query (float [B, H, L, d]), key, value (float [B, H, n, d]): of L query slots and n keys, for H heads of width
            d.
        attention_mask, position_bias (float, broadcast to [B, H, L, n], *optional*): added to the scores.
        scaling: factor of the scores q kᵀ.
        dropout: probability that an attention weight is dropped.
        kwargs: ignored.

    Returns:
        The output, float [B, L, H, d], and the attention weights, float [B, H, L, n], before dropout.
    """
    scores = query @ key.transpose(-1, -2) * scaling
    for term in (position_bias, attention_mask):
        if term is not None:
            scores = scores + term
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    output = F.dropout(weights, p=dropout, training=module.training) @ value
    return output.transpose(1, 2).contiguous(), weights


class HAFMAttention(nn.Module):
    """Self-attention with one fused projection, no bias, and RMSNorm over each head of q and of k (QK-norm).

    Args:
        config: the stage's configuration.
        layer_idx: index of the layer, under which a cache stores its keys and values.
    """

    def __init__(self, config: HAFMStageConfig, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.scaling = config.head_dim**-0.5
        # the position bias from the decoder already masks the future and padding
        self.is_causal = False
        inner = config.num_attention_heads * config.head_dim
        self.qkv_proj = nn.Linear(config.hidden_size, 3 * inner, bias=False)
        self.o_proj = nn.Linear(inner, config.hidden_size, bias=False)
        self.q_norm = nn.RMSNorm(config.head_dim, eps=config.rms_norm_eps)
        self.k_norm = nn.RMSNorm(config.head_dim, eps=config.rms_norm_eps)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_bias: torch.Tensor | BucketedBias,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attention of the last m of L new slots, m as in the bias; the others are keys and values only.

        Args:
            hidden_states (float [B, L, D]): the new slots; D, width.
            position_bias (float [1 or B, H, m, n]): for H heads and all n keys, cached ones included; the lowest
                number of its dtype hides a key.
            cache: keys and values of earlier slots, to which those of the L slots are added.
            kwargs: for the attention function of `config._attn_implementation`.

        Returns:
            The output, float [B, m, D], and the attention weights, float [B, H, m, n], or None if the attention
            function does not return any.
        """
        batch, length, _ = hidden_states.shape
        queries = position_bias.shape[2]
        qkv = self.qkv_proj(hidden_states).view(batch, length, 3, self.config.num_attention_heads, -1)
        query, key, value = qkv.unbind(2)
        if queries < length:
            query = query[:, length - queries :]
        # normalised in their memory layout; heads come to the second axis only in the view
        query = self.q_norm(query).transpose(1, 2)
        key = self.k_norm(key).transpose(1, 2)
        value = value.transpose(1, 2)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        if isinstance(position_bias, BucketedBias):
            output = chunked_attention(query, key, value, position_bias, self.scaling)
            return self.o_proj(output.reshape(batch, queries, -1)), None
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        output, weights = attend(
            self,
            query,
            key,
            value,
            None,
            scaling=self.scaling,
            dropout=self.config.attention_dropout if self.training else 0.0,
            position_bias=position_bias,
            **kwargs,
        )
        return self.o_proj(output.reshape(batch, queries, -1)), weights


class HAFMGatedFeedForward(nn.Module):
    """GEGLU: (GELU(x W1) ⊙ x W2) W3, with W1 and W2 fused, and with biases if `config.feed_forward_bias`."""

    def __init__(self, config: HAFMStageConfig) -> None:
        super().__init__()
        bias = config.feed_forward_bias
        self.up_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=bias)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The feed-forward of each slot: float [B, slots, width] → [B, slots, width]."""
        # no padding in inference, whose few rows are not worth a padded copy of the weights, nor for replacements of
        # the linear layers, such as adapters, whose `weight` is only a part of what they compute
        if not self.training or type(self.up_proj) is not nn.Linear or type(self.down_proj) is not nn.Linear:
            gate, up = self.up_proj(hidden_states).chunk(2, dim=-1)
            return self.down_proj(F.gelu(gate) * up)

        # pads the inner width (1365 in the paper) with zeros for faster matrix kernels; GELU(0) · 0 adds nothing
        inner = self.down_proj.in_features
        fill = -inner % KERNEL_WIDTH
        gate_weight, up_weight = self.up_proj.weight.chunk(2)  # [inner, width] each
        gate_bias = None
        up_bias = None
        if self.up_proj.bias is not None:
            gate_bias, up_bias = F.pad(self.up_proj.bias.view(2, inner), (0, fill))
        gate = F.linear(hidden_states, F.pad(gate_weight, (0, 0, 0, fill)), gate_bias)
        up = F.linear(hidden_states, F.pad(up_weight, (0, 0, 0, fill)), up_bias)
        return F.linear(F.gelu(gate) * up, F.pad(self.down_proj.weight, (0, fill)), self.down_proj.bias)


class LayerWeights(NamedTuple):
    """Everything that a decoder layer computes with, for `fast_loop`.

    The loop unpacks it, so that a weight that is added here is a type error there until it is used.

    D width, H heads of width d, I inner width of the feed-forward.

    Args:
        attention_norm, feed_forward_norm (float [D]), query_norm, key_norm (float [d]): weights of the RMSNorms.
        qkv (float [3·H·d, D]), output (float [D, H·d]): matrices of the attention.
        scaling: factor of the scores.
        up (float [2·I, D]), up_bias (float [2·I] or None), down (float [D, I]), down_bias (float [D] or None):
            weights of the feed-forward, whose gate comes first in `up`.
    """

    attention_norm: torch.Tensor
    qkv: torch.Tensor
    query_norm: torch.Tensor
    key_norm: torch.Tensor
    scaling: float
    output: torch.Tensor
    feed_forward_norm: torch.Tensor
    up: torch.Tensor
    up_bias: torch.Tensor | None
    down: torch.Tensor
    down_bias: torch.Tensor | None


class HAFMDecoderLayer(GradientCheckpointingLayer):
    """Pre-norm attention and feed-forward, each with a residual.

    Args:
        config: the stage's configuration.
        layer_idx: index of the layer, under which a cache stores its keys and values.
    """

    def __init__(self, config: HAFMStageConfig, layer_idx: int) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.attention = HAFMAttention(config, layer_idx)
        self.feed_forward_norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.feed_forward = HAFMGatedFeedForward(config)

    def forward(
        self, hidden_states: torch.Tensor, position_bias: torch.Tensor | BucketedBias, **kwargs: Any
    ) -> torch.Tensor:
        """Runs the layer on the last m of L new slots; the others are keys and values only.

        Args:
            hidden_states (float [B, L, D]): the new slots; D, width.
            position_bias (float [1 or B, H, m, n]): for H heads and all n keys, cached ones included.
            kwargs: those of `HAFMAttention.forward`, such as the cache.

        Returns:
            float [B, m, D].
        """
        attended, _ = self.attention(self.attention_norm(hidden_states), position_bias, **kwargs)
        if attended.shape[1] < hidden_states.shape[1]:
            hidden_states = hidden_states[:, -attended.shape[1] :]
        hidden_states = hidden_states + attended
        return hidden_states + self.feed_forward(self.feed_forward_norm(hidden_states))

    def weights(self) -> LayerWeights:
        """The weights that `forward` computes with."""
        return LayerWeights(
            attention_norm=self.attention_norm.weight,
            qkv=self.attention.qkv_proj.weight,
            query_norm=self.attention.q_norm.weight,
            key_norm=self.attention.k_norm.weight,
            scaling=self.attention.scaling,
            output=self.attention.o_proj.weight,
            feed_forward_norm=self.feed_forward_norm.weight,
            up=self.feed_forward.up_proj.weight,
            up_bias=self.feed_forward.up_proj.bias,
            down=self.feed_forward.down_proj.weight,
            down_bias=self.feed_forward.down_proj.bias,
        )


class HAFMCodebookEmbedding(nn.Module):
    """One embedding table per codebook, each with an additional last entry, which is BOS in the target's tables.

    Tables of codebooks of unequal size are padded to the largest.

    Args:
        codebook_sizes: number of codes of each codebook.
        hidden_size: width of the embeddings.
    """

    def __init__(self, codebook_sizes: list[int], hidden_size: int) -> None:
        super().__init__()
        self.table_size = max(codebook_sizes) + 1
        self.weight = nn.Parameter(torch.empty(len(codebook_sizes), self.table_size, hidden_size))

    def forward(self, ids: torch.Tensor, codebooks: torch.Tensor) -> torch.Tensor:
        """Embeds ids.

        Args:
            ids (int64 [..., n]): each a code of its codebook, or the additional last entry of its table.
            codebooks (int64 [n]): codebook of each of the n ids.

        Returns:
            float [..., n, D]; D, width.
        """
        return F.embedding(ids + codebooks * self.table_size, self.weight.flatten(0, 1))


class HAFMCodebookHeads(nn.Module):
    """One linear head per target codebook: of Q heads, number t mod Q reads slot t; under the delay pattern, all do.

    The heads have biases if `config.head_bias`.

    Args:
        config: the stage's configuration.
    """

    def __init__(self, config: HAFMStageConfig) -> None:
        super().__init__()
        self.codes_per_slot = codebook_pattern(config).codes_per_slot
        self.weight = nn.Parameter(torch.empty(config.num_codebooks, config.codebook_size, config.hidden_size))
        self.bias = nn.Parameter(torch.empty(config.num_codebooks, config.codebook_size)) if config.head_bias else None

    def forward(self, hidden_states: torch.Tensor, target_indices: torch.Tensor) -> torch.Tensor:
        """Logits of the codes that slots predict.

        Args:
            hidden_states (float [B, L, D]): of L consecutive slots of the target; D, width.
            target_indices (int64 [L]): indices of these slots in the target.

        Returns:
            float [B·C, L, V] for codebooks of V codes. With C = Q codes per slot, Q being the number of codebooks,
            every head reads every slot; with C = 1, head s mod Q reads slot s.
        """
        num_codebooks = self.weight.shape[0]
        bias = None
        if self.codes_per_slot > 1:
            if self.bias is not None:
                bias = self.bias.flatten()
            logits = F.linear(hidden_states, self.weight.flatten(0, 1), bias).unflatten(2, (num_codebooks, -1))
            return logits.transpose(1, 2).flatten(0, 1)
        if num_codebooks == 1:
            if self.bias is not None:
                bias = self.bias[0]
            return F.linear(hidden_states, self.weight[0], bias)
        length = hidden_states.shape[1]
        if length == 1:
            # one step of decoding: computes one head instead of Q
            codebook = target_indices % num_codebooks
            if self.bias is not None:
                bias = self.bias.index_select(0, codebook)[0]
            return F.linear(hidden_states, self.weight.index_select(0, codebook)[0], bias)
        # the slots are read in groups of Q, each with the heads in the same order: that of the first slot comes first
        order = (torch.arange(num_codebooks, device=target_indices.device) + target_indices[0]) % num_codebooks
        weight = self.weight.index_select(0, order)
        num_groups = (length + num_codebooks - 1) // num_codebooks
        padded = F.pad(hidden_states, (0, 0, 0, num_groups * num_codebooks - length))
        groups = padded.unflatten(1, (num_groups, num_codebooks))  # [B, groups, Q, D]
        logits = torch.einsum("btqd,qvd->btqv", groups, weight)
        if self.bias is not None:
            logits = logits + self.bias.index_select(0, order)
        return logits.flatten(1, 2)[:, :length]


class HAFMConditioningMixer(nn.Module):
    """Mixes local context into each conditioning frame: x + W₂ GELU(depthwise convolution of W₁ x).

    With fusion "sum" (optional for melodies in AudioCraft's MusicGen; also for chords in JASCO, arXiv 2406.10970), the
    conditioning is added to the target's slots of the same instant, and the sequence is less than half as long. Target
    slots then do not see the conditioning of other instants, so a frame must also tell what begins just after it or
    has just ended. There are no biases, so null conditioning stays 0.

    Args:
        config: the stage's configuration; `conditioning_context` frames to each side of a frame are mixed in.
    """

    def __init__(self, config: HAFMStageConfig) -> None:
        super().__init__()
        width = config.hidden_size
        context = config.conditioning_context
        self.in_proj = nn.Linear(width, width, bias=False)
        self.around = nn.Conv1d(width, width, 2 * context + 1, padding=context, groups=width, bias=False)
        self.out_proj = nn.Linear(width, width, bias=False)

    def forward(self, frames: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Adds to each conditioning frame what surrounds it.

        Args:
            frames (float [B, T_c, D]): embedded conditioning: T_c frames of width D.
            mask (bool [B, T_c], *optional*): False where the conditioning is padding, which counts as zeros.

        Returns:
            float [B, T_c, D].
        """
        if mask is not None:
            frames = frames.masked_fill(~mask[..., None].bool(), 0.0)
        around = self.around(self.in_proj(frames).transpose(1, 2)).transpose(1, 2)
        return frames + self.out_proj(F.gelu(around))


def at_slots(frames: torch.Tensor, slot_frames: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Gathers the conditioning frames at the instants of the target's slots.

    Args:
        frames (float [B, T_c, D]): the conditioning: T_c frames of width D.
        slot_frames (int64 [L]): conditioning frame at the instant of each of L slots, counted from the row's first
            that is not padding; later ones than the row's last are clamped to it.
        mask (bool [B, T_c], *optional*): False where a row's conditioning is padding, on either side.

    Returns:
        float [B, L, D].
    """
    if mask is None:
        return frames.index_select(1, slot_frames.clamp(max=frames.shape[1] - 1))
    present = mask.long()
    # the row's first and last frame that are not padding
    first = present.argmax(dim=1, keepdim=True)  # [B, 1]
    last = first + present.sum(dim=1, keepdim=True) - 1
    indices = torch.minimum(first + slot_frames, last).clamp(min=0)  # [B, L]
    return frames.gather(1, indices[..., None].expand(-1, -1, frames.shape[2]))
