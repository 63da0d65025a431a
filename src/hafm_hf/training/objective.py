# SPDX-License-Identifier: Apache-2.0
"""Training inputs and validation losses of a stage: history dropout, history swap, and paired losses.

At 50 Hz the previous token predicts the next so well that a small model can ignore its conditioning. History dropout
hides spans of the history (the target tokens generated so far) from the input, so that the model must use the vocal.
History swap replaces spans with another track's tokens: in generation, the model's own mistakes leave a history that
does not fit the vocal, and it must have learnt to recover. The paired difference, the loss with another clip's
conditioning minus the loss with the right one, tells whether the model uses the vocal.
"""

import math
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from ..modeling.codebook_patterns import CodebookPattern, codebook_pattern


def draw_seeds(seed: int, samples: Iterable[int] | torch.Tensor, purpose: str) -> list[int]:
    """One seed per sample, for random draws of a given purpose; different purposes give independent draws.

    Hashed to 32 bits: torch's CPU generator ignores higher bits, so seeds that differ only there would draw alike.
    """
    words = int.from_bytes(purpose.encode(), "big")
    return [int(np.random.SeedSequence((seed, int(sample), words)).generate_state(1)[0]) for sample in samples]


def drawn_frames(
    labels: torch.Tensor, num_codebooks: int, p: float, mean_span: float, seeds: Iterable[int]
) -> torch.Tensor:
    """Draws spans of whole frames: a bool mask shaped like `labels` (int64 [B, T·Q]), True for a share p on average.

    Each sample draws its own rate, uniform on the widest interval around p within [0, 1], and is cut into segments of
    geometrically distributed length (in frames; a mean below 1 counts as 1), each of which is drawn at that rate. Its
    spans depend on its own seed only, so they do not change with how a batch is divided.
    """
    frames, half, drawn = labels.shape[1] // num_codebooks, min(p, 1.0 - p), []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        rate = p - half + 2.0 * half * torch.rand(1, generator=generator)
        segment = (torch.rand(frames, generator=generator) < 1.0 / max(mean_span, 1.0)).long().cumsum(dim=0)
        drawn.append(torch.rand(frames + 1, generator=generator)[segment] < rate)
    return torch.stack(drawn).repeat_interleave(num_codebooks, dim=1).to(labels.device)


def drop_history(
    history: torch.Tensor,
    bos_token_id: int,
    pattern: CodebookPattern,
    p: float,
    mean_span: float,
    seeds: Iterable[int],
) -> torch.Tensor:
    """Teacher-forcing input with random spans of the history replaced by BOS.

    All codebooks of a hidden frame are hidden.

    Args:
        history (int64 [B, T·Q]): target tokens, possibly with spans of another track's.
        bos_token_id (int): id that replaces hidden tokens.
        pattern (CodebookPattern): the stage's codebook pattern.
        p (float): expected share of hidden frames, 0..1.
        mean_span (float): mean length of a span in frames.
        seeds (iterable of B ints): one per sample.

    Returns:
        int64 [B·R, L] input ids, shifted right by one slot, starting with BOS (paper, "Training").
    """
    if p > 0.0:
        hidden = drawn_frames(history, pattern.num_codebooks, p, mean_span, seeds)
        history = history.masked_fill(hidden, bos_token_id)
    return pattern.inputs(history, bos_token_id)


def null_rows(p: float, seeds: Iterable[int]) -> torch.Tensor:
    """Which samples are trained without conditioning (guidance dropout, paper §3.5): bool [B], from B seeds."""
    draws = [torch.rand(1, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.cat(draws) < p


def token_losses(logits: torch.Tensor, labels: torch.Tensor, num_codebooks: int) -> torch.Tensor:
    """Negative log-likelihood in nats, per sample and codebook.

    Args:
        logits (float [B, T·Q, V]): in the order of the labels (`CodebookPattern.tokens`).
        labels (int64 [B, T·Q]): target tokens, -100 ignored.
        num_codebooks (int): Q.

    Returns:
        float32 [B, Q], averaged over the frames that are not ignored.
    """
    losses = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="none")
    shape = (labels.shape[0], -1, num_codebooks)
    counted = (labels != -100).view(shape).sum(dim=1).clamp(min=1)
    return losses.view(shape).sum(dim=1) / counted


@torch.no_grad()
def paired_losses(
    model: PreTrainedModel, conditioning_ids: torch.Tensor, shuffled_ids: torch.Tensor | None, labels: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Losses of the same targets under the right conditioning, another clip's, and none.

    Args:
        model: a stage, in evaluation mode.
        conditioning_ids, shuffled_ids (int64 [B, K, T_c]): the clips' own conditioning, and that of other clips; if
            `shuffled_ids` is None, `shuffled` is omitted.
        labels (int64 [B, T·Q]): target tokens.

    Returns:
        `matched`, `shuffled`, `none` (float32 [B, Q]) in nats.
    """
    pattern = codebook_pattern(model.config)
    input_ids = pattern.inputs(labels, model.config.bos_token_id)
    null = torch.ones(len(labels), dtype=torch.bool, device=labels.device)
    cases = {"matched": (conditioning_ids, None), "shuffled": (shuffled_ids, None), "none": (conditioning_ids, null)}
    if shuffled_ids is None:
        del cases["shuffled"]
    losses = {}
    for name, (ids, mask) in cases.items():
        # forward, not the call: these shapes would make a compiled training graph recompile
        output = model.forward(input_ids=input_ids, conditioning_ids=ids, null_conditioning=mask, use_cache=False)
        losses[name] = token_losses(pattern.tokens(output.logits), labels, pattern.num_codebooks)
    return losses


def clustered_mean(values: torch.Tensor, clusters: list[str]) -> tuple[float, float]:
    """Mean over clips and its standard error over tracks: clips of one track are not independent.

    Args:
        values (float [N]): one value per clip.
        clusters (list of N strings): the track of each clip.
    """
    names = sorted(set(clusters))
    index = torch.tensor([names.index(name) for name in clusters])
    totals = torch.zeros(len(names), dtype=torch.float64).index_add_(0, index, values.double())
    counts = torch.bincount(index, minlength=len(names)).double()
    mean = totals.sum() / counts.sum()
    if len(names) < 2:
        return float(mean), math.nan
    # linearised variance of the ratio of totals to counts: exact for clusters of equal size
    residuals = (totals - mean * counts) / counts.mean()
    return float(mean), float(residuals.std(correction=1) / math.sqrt(len(names)))


def other_tracks(tracks: list[str]) -> list[int] | None:
    """For each clip, the index of a clip of another track, whose conditioning it is paired with.

    Clips are sorted by track and rotated by half their number, so that each clip's conditioning is used exactly once.
    None if one track has more than half of the clips, since no such pairing exists then.
    """
    order = sorted(range(len(tracks)), key=lambda clip: (tracks[clip], clip))
    largest = max(tracks.count(name) for name in set(tracks))
    if 2 * largest > len(tracks):
        return None
    partners = [0] * len(tracks)
    for place, clip in enumerate(order):
        partners[clip] = order[(place + len(tracks) // 2) % len(tracks)]
    return partners
