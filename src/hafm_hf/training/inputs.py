# SPDX-License-Identifier: Apache-2.0
"""What a stage reads in a training step: its history, with spans hidden or swapped, and whether it is conditioned.

At 50 Hz the previous token predicts the next so well that a small model can ignore its conditioning. History dropout
hides spans of the history (the target tokens generated so far) from the input, so that the model must use the vocal.
History swap replaces spans with another track's tokens: in generation, the model's own mistakes leave a history that
does not fit the vocal, and it must have learnt to recover. The loss stands with the model (`codebook_loss`).

Dimensions: B samples, T target frames, Q codebooks, C codes per slot; a slot is a position of the target in the
decoder's sequence.
"""

from collections.abc import Iterable

import numpy as np
import torch

from ..modeling.codebook_patterns import codebook_pattern
from ..modeling.configuration_stage import HAFMStageConfig
from .arguments import CorruptionArguments


def draw_seeds(seed: int, samples: Iterable[int] | torch.Tensor, purpose: str) -> list[int]:
    """One seed per sample, for random draws of a given purpose; different purposes give independent draws.

    Args:
        seed: the run's.
        samples (iterable, or int64 [B]): numbers of the samples.
        purpose: any word.

    Returns:
        Hashes of 32 bits: torch's CPU generator ignores higher bits, so seeds that differ only there would draw alike.
    """
    purpose_number = int.from_bytes(purpose.encode(), "big")
    seeds = []
    for sample in samples:
        sequence = np.random.SeedSequence((seed, int(sample), purpose_number))
        seeds.append(int(sequence.generate_state(1)[0]))
    return seeds


def drawn_frames(
    labels: torch.Tensor, num_codebooks: int, p: float, mean_span: float, seeds: Iterable[int]
) -> torch.Tensor:
    """Draws random spans of whole frames, to be hidden or swapped.

    Each sample draws its own rate, uniform on the widest interval around p within [0, 1], and is cut into segments of
    geometrically distributed length (in frames; a mean below 1 counts as 1), each of which is drawn at that rate. Its
    spans depend on its own seed only, so they do not change with how a batch is divided.

    Args:
        labels (int64 [B, T·Q]): target tokens, of which only shape and device are used.
        num_codebooks: Q, tokens per frame.
        p: expected share of drawn frames, 0..1.
        mean_span: mean length of a span, in frames.
        seeds: one for each of the B samples.

    Returns:
        bool [B, T·Q], True for the tokens of drawn frames.
    """
    frames = labels.shape[1] // num_codebooks
    # of the interval of rates
    half_width = min(p, 1.0 - p)
    drawn = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        rate = p - half_width + 2.0 * half_width * torch.rand(1, generator=generator)
        begins_segment = torch.rand(frames, generator=generator) < 1.0 / max(mean_span, 1.0)
        # index of each frame's segment, 0 to frames
        segment = begins_segment.long().cumsum(dim=0)
        draw_of_segment = torch.rand(frames + 1, generator=generator)
        drawn.append(draw_of_segment[segment] < rate)
    return torch.stack(drawn).repeat_interleave(num_codebooks, dim=1).to(labels.device)


def history_inputs(
    batch: dict[str, torch.Tensor],
    config: HAFMStageConfig,
    corruption: CorruptionArguments,
    dropout: float,
    seed: int,
) -> torch.Tensor:
    """Input ids of a micro-batch: the history with swapped and hidden spans of whole frames.

    Args:
        batch: B samples of `TokenCrops`: `labels` (int64 [B, T·Q], Q tokens for each of T frames), `sample` (int64
            [B], the samples' numbers) and, when history is swapped, `strangers` (int64 [B, T·Q], targets of other
            tracks).
        config: the stage's configuration.
        corruption: share of swapped history, and mean lengths of spans.
        dropout (float): expected share of hidden frames, 0..1.
        seed: the run's.

    Returns:
        int64 [B·C, slots], with C rows per sample (1 for the flat codebook pattern, Q for delay), shifted right by one
        slot and starting with BOS (paper, "Training").
    """
    history = batch["labels"]
    assert config.bos_token_id is not None
    if "strangers" in batch:
        span = corruption.history_swap_span_seconds * config.frame_rate
        seeds = draw_seeds(seed, batch["sample"], "swap")
        swapped = drawn_frames(history, config.num_codebooks, corruption.history_swap, span, seeds)
        history = torch.where(swapped, batch["strangers"], history)
    if dropout > 0.0:
        span = corruption.history_span_seconds * config.frame_rate
        seeds = draw_seeds(seed, batch["sample"], "dropout")
        hidden = drawn_frames(history, config.num_codebooks, dropout, span, seeds)
        history = history.masked_fill(hidden, config.bos_token_id)
    return codebook_pattern(config).inputs(history, config.bos_token_id)


def unconditioned_rows(p: float, seed: int, samples: torch.Tensor) -> torch.Tensor:
    """Which samples are trained without conditioning (guidance dropout, paper §3.5): bool [B], on their device.

    Args:
        p: expected share of samples without conditioning, 0..1.
        seed: the run's.
        samples (int64 [B]): numbers of the samples.
    """
    seeds = draw_seeds(seed, samples, "guidance")
    # each uniform in [0, 1)
    draws = [torch.rand(1, generator=torch.Generator().manual_seed(sample_seed)) for sample_seed in seeds]
    return (torch.cat(draws) < p).to(samples.device)
