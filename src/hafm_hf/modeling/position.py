# SPDX-License-Identifier: Apache-2.0
"""Where each token stands, what it may see, and the relative bias of attention: schemes "index" and "time".

The sequence of a stage is [source 0 | … | source S−1 | target]; a place
in it is called a slot. Slot t of the target reads what slot t − 1 has predicted (BOS for t = 0), and its time is that
of the frame it predicts, which the codebook pattern knows.

Scheme "index" is the paper's: a causal T5 bias on the distance in the sequence. Under it the distance between a
conditioning token at 50 Hz and the target tokens at 75 Hz × 4 that sound at the same instant changes along the clip
and with its length. Scheme "time" biases conditioning keys by the signed difference in time instead, in conditioning
frames, one table per source; the difference is 0 for tokens that sound together, wherever they are in the clip.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from .codebook_patterns import codebook_pattern
from .configuration_hafm import HAFMStageConfig

# by how much, in nats per doubling of the distance, the sharpest head starts by preferring what is near
LOCALITY = 3.0


@dataclass
class TokenLayout:
    """Attributes of n slots; rows of a batch differ only where padding does.

    Args:
        slot (int64 [n]): place in the sequence, padding counted.
        source (int64 [n]): conditioning source of the slot, S for the target.
        frame (int64 [1 or B, n]): conditioning frame that sounds when the slot's token (for the target: its
            prediction) does, counted from the row's first, padding skipped.
        position (int64 [1 or B, n]): place in the row's sequence, padding skipped.
        valid (bool [1 or B, n]): whether the slot is a token rather than padding.
    """

    slot: torch.Tensor
    source: torch.Tensor
    frame: torch.Tensor
    position: torch.Tensor
    valid: torch.Tensor

    def select(self, slots: torch.Tensor) -> "TokenLayout":
        """Attributes of some slots (int64 [m])."""
        return TokenLayout(
            self.slot[slots],
            self.source[slots],
            self.frame[:, slots],
            self.position[:, slots],
            self.valid[:, slots],
        )


def token_layout(
    config: HAFMStageConfig,
    conditioning_frames: int,
    target_slots: int,
    conditioning_mask: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    device: torch.device | None = None,
) -> TokenLayout:
    """Lays out [conditioning | target].

    Args:
        config: the stage's configuration.
        conditioning_frames: T_c, frames of each conditioning source.
        target_slots: slots of the target, those of a static cache that are still empty included.
        conditioning_mask (bool [B, T_c], *optional*): False where the conditioning is padding.
        attention_mask ([B, m], m ≤ target_slots, *optional*): 0 where the target is padding; later slots are tokens.
        device: where to put the result.

    Returns:
        The layout of all S · T_c + target_slots slots.
    """
    sources = config.num_prepended_sources
    if not sources:
        conditioning_frames, conditioning_mask = 0, None
    cond_frame = torch.arange(conditioning_frames, device=device)[None]
    if conditioning_mask is not None:
        # the target begins with the row's first frame, which padding may stand before
        cond_frame = conditioning_mask.long().cumsum(-1) - 1
    target = torch.arange(target_slots, device=device)
    # integer arithmetic: 75 Hz frame i starts inside 50 Hz frame ⌊i · 50 / 75⌋, exactly
    acoustic_frame = codebook_pattern(config).frame_of(target)
    target_frame = acoustic_frame * config.conditioning_frame_rate // config.frame_rate
    frame = torch.cat([cond_frame.repeat(1, sources), target_frame.expand(len(cond_frame), -1)], dim=1)
    slot = torch.arange(frame.shape[1], device=device)
    # not slot // conditioning_frames: compiled by torch 2.13 it leaves what is no whole multiple unset
    lengths = [*[conditioning_frames] * sources, target_slots]
    source = torch.cat([torch.full((n,), number, device=device) for number, n in enumerate(lengths)])
    if conditioning_mask is None and attention_mask is None:
        return TokenLayout(slot, source, frame, slot[None], torch.ones_like(slot[None], dtype=torch.bool))
    masks = [m for m in (conditioning_mask, attention_mask) if m is not None]
    valid = torch.ones(masks[0].shape[0], len(slot), dtype=torch.bool, device=device)
    if conditioning_mask is not None:
        valid[:, : sources * conditioning_frames] = conditioning_mask.bool().repeat(1, sources)
    if attention_mask is not None:
        start = sources * conditioning_frames
        valid[:, start : start + attention_mask.shape[1]] = attention_mask.bool()
    return TokenLayout(slot, source, frame, valid.cumsum(-1) - 1, valid)


def visible(config: HAFMStageConfig, query: TokenLayout, key: TokenLayout) -> torch.Tensor:
    """Which keys each query may attend to: bool [1 or B, n_query, n_key].

    Causal over [conditioning | target]; under the time scheme, conditioning sees the whole conditioning. Padding is
    never seen.
    """
    seen = key.slot[None, :] <= query.slot[:, None]
    if config.position_scheme == "time":
        target = config.num_prepended_sources
        seen = seen | ((query.source < target)[:, None] & (key.source < target)[None, :])
    return seen[None] & key.valid[:, None, :]


def causal_bucket(distance: torch.Tensor, num_buckets: int, max_distance: int) -> torch.Tensor:
    """T5's bucket of a distance ≥ 0: half of the buckets exact, the rest logarithmic up to `max_distance`."""
    exact = num_buckets // 2
    scale = (num_buckets - exact) / math.log(max_distance / exact)
    log_bucket = exact + (torch.log(distance.clamp(min=1).float() / exact) * scale).long()
    return torch.where(distance < exact, distance, log_bucket.clamp(max=num_buckets - 1))


def signed_bucket(distance: torch.Tensor, num_buckets: int, max_distance: int) -> torch.Tensor:
    """Bucket of a distance of either sign: 0 and the past in the lower half, the future in the upper."""
    half = num_buckets // 2
    return causal_bucket(distance.abs(), half, max_distance) + half * (distance < 0)


def _bucket_starts(num_buckets: int, max_distance: int) -> torch.Tensor:
    """Smallest distance in each bucket, or in the next one that has any: float [num_buckets]."""
    buckets = causal_bucket(torch.arange(max_distance + 1), num_buckets, max_distance)
    return torch.searchsorted(buckets, torch.arange(num_buckets)).clamp(max=max_distance).float()


class RelativeAttentionBias(nn.Module):
    """Learnt bias on attention logits, one table for all layers, computed once per forward.

    `weight` holds the causal buckets on sequence distance and, under the time scheme, the signed buckets on
    time of each conditioning source behind them.
    """

    def __init__(self, config: HAFMStageConfig) -> None:
        super().__init__()
        self.config = config
        buckets = self._causal_buckets = config.relative_attention_num_buckets
        if config.position_scheme == "time":
            buckets += config.num_prepended_sources * config.time_attention_num_buckets
        self.weight = nn.Parameter(torch.empty(buckets, config.num_attention_heads))

    def locality(self) -> torch.Tensor:
        """What the time scheme's table starts from: the nearer in time the likelier, float [buckets, H].

        Learnt from noise, a table needs thousands of steps of Adam until it outweighs content. Head 0 starts sharply
        at the same instant, the last head without preference, those between them in even steps; target keys are
        judged alike, by frames, so that neither the voice nor the history is drowned by the other's numbers.
        """
        config = self.config
        per_frame = codebook_pattern(config).slots_per_frame * config.frame_rate / config.conditioning_frame_rate
        target = _bucket_starts(config.relative_attention_num_buckets, config.relative_attention_max_distance)
        half = _bucket_starts(config.time_attention_num_buckets // 2, config.time_attention_max_distance)
        apart = torch.cat([target / per_frame, *[half] * (2 * config.num_prepended_sources)])
        steepness = torch.linspace(LOCALITY, 0.0, config.num_attention_heads)
        return -steepness * torch.log2(1 + apart)[:, None]

    def buckets(self, query: TokenLayout, key: TokenLayout) -> torch.Tensor:
        """Row of the table for each pair: int64 [1 or B, n_query, n_key]."""
        config = self.config
        # beyond its limit every distance shares one bucket, so a short table holds them all
        limit = config.relative_attention_max_distance
        table = causal_bucket(torch.arange(limit + 1, device=key.slot.device), self._causal_buckets, limit)
        distance = query.position[:, :, None] - key.position[:, None, :]
        sequence = table[distance.clamp(0, limit)]
        if config.position_scheme == "index":
            return sequence
        limit = config.time_attention_max_distance
        table = torch.arange(-limit, limit + 1, device=key.slot.device)
        table = signed_bucket(table, config.time_attention_num_buckets, limit) + self._causal_buckets
        apart = query.frame[:, :, None] - key.frame[:, None, :]
        time = table[apart.clamp(-limit, limit) + limit] + key.source * config.time_attention_num_buckets
        return torch.where(key.source == config.num_prepended_sources, sequence, time)

    def forward(self, query: TokenLayout, key: TokenLayout, seen: torch.Tensor | None = None) -> torch.Tensor:
        """Bias of each head for each pair: float [1 or B, H, n_query, n_key].

        Where `seen` (bool [1 or B, n_query, n_key]) is False, it is the lowest number.
        """
        buckets = self.buckets(query, key)
        if seen is not None:
            # a row behind the last bucket
            buckets = torch.where(seen, buckets, self.weight.shape[0])
        table = F.pad(self.weight, (0, 0, 0, 1), value=torch.finfo(self.weight.dtype).min)
        # heads forward, as attention reads it
        return F.embedding(buckets, table).permute(0, 3, 1, 2).contiguous()
