# SPDX-License-Identifier: Apache-2.0
"""What both decoding loops share: the batch of rows that they continue, each row's random numbers, and sampling.

A random number depends on (seed, stage, variation, codebook and frame in the song) only, so a row's codes do not
depend on the other rows of the batch, on how the song is cut into windows, on the order in which windows are
generated, or on which loop generates them.

Dimensions: B sequences, Q codebooks, T frames to generate, P frames before them, V codes of a codebook, K
conditioning streams, T_c conditioning frames.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

# random bits per number: all numbers of 24 bits are exact in float32
BITS = 24
# numbers that Philox generates per counter value
NUMBERS_PER_COUNT = 4

# called with 1 after each decoding step, and with 0 between the layers of a longer pass; an exception that it raises
# ends the generation
StepReport = Callable[[int], None]


def for_guidance(tensor: torch.Tensor, guidance_scale: float) -> torch.Tensor:
    """Doubles a batch (dimension 0) for guidance, the conditional half first; a scale of 1 needs no second half."""
    return tensor if guidance_scale == 1.0 else torch.cat([tensor, tensor])


def null_rows(tensor: torch.Tensor, guidance_scale: float) -> torch.Tensor | None:
    """Which rows see no conditioning after `for_guidance` has doubled those of a tensor [B, …]: the second half.

    Returns:
        bool [2B]; None for a scale of 1, with which there is no guidance and the rows are not doubled.
    """
    if guidance_scale == 1.0:
        return None
    return torch.arange(2 * len(tensor), device=tensor.device) >= len(tensor)


@dataclass(frozen=True)
class RandomNumbers:
    """Random access to the random numbers of one row, by a counter-based generator (Philox; Salmon et al. 2011).

    Args:
        seed: of the whole generation.
        stage: index of the stage, in the order in which they run.
        variation: index of the accompaniment among those of one vocal.
    """

    seed: int
    stage: int = 0
    variation: int = 0

    def of_frames(self, first: int, frames: int, num_codebooks: int) -> torch.Tensor:
        """Numbers for the codes of the frames [first, first + frames): float32 [num_codebooks, frames]."""
        return self.uniforms(first * num_codebooks, frames * num_codebooks).view(frames, num_codebooks).t()

    def uniforms(self, start: int, count: int) -> torch.Tensor:
        """The row's numbers of index [start, start + count): float32 [count], above 0 and at most 1."""
        # Philox can start at a counter value only
        counter, skipped = divmod(start, NUMBERS_PER_COUNT)
        key = np.array([self.seed % 2**64, self.stage << 32 | self.variation], dtype=np.uint64)
        generator = np.random.Philox(key=key, counter=np.array([counter, 0, 0, 0], dtype=np.uint64))
        # the upper bits of Philox's 64
        integers = generator.random_raw(skipped + count)[skipped:] >> np.uint64(64 - BITS)
        # + 1 keeps them above 0, for which `draw` could choose codes of zero probability
        return torch.from_numpy(((integers + np.uint64(1)) * 2.0**-BITS).astype(np.float32))


@dataclass(frozen=True)
class WindowBatch:
    """Rows that a decoding loop continues together.

    Args:
        conditioning_ids (int64 [B, K, T_c]): K conditioning streams of T_c frames.
        frames: T, the number of frames to generate for each row.
        uniforms (float32 [B, Q, T], *optional*): random numbers of the codes of Q codebooks; None to take the
            likeliest codes.
        known (int64 [B, Q, P], *optional*): codes of the P frames that come before.
        kept (int64 [B, Q, T], *optional*): codes to use instead of sampling, −1 where to sample.
        conditioning_mask (bool [B, T_c], *optional*): False where the conditioning is padding.
    """

    conditioning_ids: torch.Tensor
    frames: int
    uniforms: torch.Tensor | None = None
    known: torch.Tensor | None = None
    kept: torch.Tensor | None = None
    conditioning_mask: torch.Tensor | None = None


def draw(
    scores: torch.Tensor, uniforms: torch.Tensor | None, temperature: float = 1.0, top_k: int = 0
) -> torch.Tensor:
    """Samples one code per row by inverting the cumulative distribution over the vocabulary.

    Args:
        scores (float [B·C, V]): logits of V codes in each row: C codes of a slot for each of B sequences.
        uniforms (float32 [B·C]): one number per row, above 0 and at most 1; None for the likeliest code.
        temperature: divides the logits.
        top_k: number of likeliest codes to sample from; 0 for all.

    Returns:
        int64 [B·C].
    """
    if uniforms is None:
        return scores.argmax(-1)
    scores = scores.float() / temperature
    if 0 < top_k < scores.shape[-1]:
        scores = scores.masked_fill(scores < _kth_largest(scores, top_k), -float("inf"))
    cumulative = scores.softmax(-1).cumsum(-1)
    # codes of zero probability are never chosen, because numbers are above 0 and at most 1
    drawn = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:])[:, 0]
    # for NaN scores the search ends after the last code
    return drawn.clamp_(max=scores.shape[-1] - 1)


def _kth_largest(scores: torch.Tensor, k: int) -> torch.Tensor:
    """The k-th largest score of each row: float32 [rows, codes] → float32 [rows, 1]."""
    if scores.device.type != "cpu":
        return scores.topk(k).values[:, -1:]
    # NumPy's partition takes a third of the time of torch's topk for 12 rows of 1,024
    return torch.from_numpy(np.partition(scores.detach().numpy(), -k, axis=-1)[:, -k, None])


def with_kept(drawn: torch.Tensor, kept: torch.Tensor | None, step: int) -> torch.Tensor:
    """Replaces sampled tokens by those to keep.

    Args:
        drawn (int64 [rows]): tokens sampled in decoding step `step`.
        kept (int64 [rows, n], *optional*): tokens to use in each of the n steps instead, −1 where to sample.
        step: index of the step, from 0.

    Returns:
        int64 [rows].
    """
    if kept is None:
        return drawn
    kept_now = kept[:, step].to(drawn.device)
    return torch.where(kept_now < 0, drawn, kept_now)
