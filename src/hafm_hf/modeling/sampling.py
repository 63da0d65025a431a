# SPDX-License-Identifier: Apache-2.0
"""How tokens are chosen: guidance by the conditioning, a stream of random numbers for each row, and drawing by them.

Both decoding loops use it. A random number belongs to (seed, stage, sample, flat position in the song) and to nothing
else, so a row's tokens do not depend on its neighbours in the batch, on how the song is cut into windows, on the order
in which windows are generated, or on which loop generates them.

Dimensions: B sequences, V codes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from transformers.generation import LogitsProcessor

# marks a token that is not given but to be generated
FREE = -1
# 24 random bits are exact in float32
BITS = 24
# numbers that Philox makes from one value of its counter
NUMBERS_PER_COUNT = 4


def for_guidance(tensor: torch.Tensor, guidance_scale: float) -> torch.Tensor:
    """Rows (of dimension 0) as guidance needs them: twice, conditional ones first; as they are for a scale of 1."""
    return tensor if guidance_scale == 1.0 else torch.cat([tensor, tensor])


def null_rows(tensor: torch.Tensor, guidance_scale: float) -> torch.Tensor | None:
    """Which rows of `for_guidance(tensor, …)` see no conditioning: bool [2B]; None for a scale of 1."""
    if guidance_scale == 1.0:
        return None
    return torch.arange(2 * len(tensor), device=tensor.device) >= len(tensor)


@dataclass(frozen=True)
class RandomStream:
    """Random access to one row's numbers, by a counter-based generator (Philox; Salmon et al. 2011).

    Args:
        seed: of the whole generation.
        stage: number of the stage, in the order in which they run.
        sample: number of the accompaniment, for one vocal.
    """

    seed: int
    stage: int = 0
    sample: int = 0

    def uniforms(self, start: int, count: int) -> torch.Tensor:
        """Numbers of the flat positions [start, start + count): float32 [count], above 0 and at most 1."""
        first, skipped = divmod(start, NUMBERS_PER_COUNT)
        key = np.array([self.seed % 2**64, self.stage << 32 | self.sample], dtype=np.uint64)
        generator = np.random.Philox(key=key, counter=np.array([first, 0, 0, 0], dtype=np.uint64))
        raw = generator.random_raw(skipped + count)[skipped:] >> np.uint64(64 - BITS)
        return torch.from_numpy(((raw + np.uint64(1)) * 2.0**-BITS).astype(np.float32))


def draw(
    scores: torch.Tensor, uniforms: torch.Tensor | None, temperature: float = 1.0, top_k: int = 0
) -> torch.Tensor:
    """Draws one code a row by the inverse of the cumulative distribution, in the order of the vocabulary.

    Args:
        scores (float [B, V]): logits.
        uniforms (float32 [B]): one number a row, above 0 and at most 1; None takes the likeliest code.
        temperature: the logits are divided by it.
        top_k: only the `top_k` likeliest codes can be drawn; 0 for all.

    Returns:
        int64 [B].
    """
    if uniforms is None:
        return scores.argmax(-1)
    scores = scores.float() / temperature
    if 0 < top_k < scores.shape[-1]:
        scores = scores.masked_fill(scores < _largest(scores, top_k), -float("inf"))
    cumulative = scores.softmax(-1).cumsum(-1)
    # a number above 0 never lands on a code without probability, nor one of at most 1 beyond the last code with any
    found = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:])[:, 0]
    # of scores that are no numbers it lands behind the last
    return found.clamp_(max=scores.shape[-1] - 1)


def _largest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """The `count`-th largest of each row, float32 [B, V] → [B, 1]."""
    if scores.device.type != "cpu":
        return scores.topk(count).values[:, -1:]
    # NumPy finds it without sorting and without branches: a third of the time of torch's topk for 12 rows of 1,024
    return torch.from_numpy(np.partition(scores.detach().numpy(), -count, axis=-1)[:, -count, None])


def force(drawn: torch.Tensor, forced: torch.Tensor | None, step: int) -> torch.Tensor:
    """Tokens drawn (int64 [B]), or those that `forced` (int64 [B, n]) has for `step` where it is not −1."""
    if forced is None:
        return drawn
    wanted = forced[:, step].to(drawn.device)
    return torch.where(wanted < 0, drawn, wanted)


class StreamSampling(LogitsProcessor):
    """Lets `generate()` draw from given numbers: leaves each row the one code that its number chooses.

    It must be the last processor, behind temperature and top-k.

    Args:
        uniforms (float32 [B, n]): one number for each row and token to be generated.
        known (int): tokens in `input_ids`, BOS among them, when generation begins.
        forced (int64 [B, n], *optional*): tokens to take instead of drawing, −1 where to draw.
        report: called with 1 after each step; what it raises ends the generation.
    """

    def __init__(
        self,
        uniforms: torch.Tensor,
        known: int,
        forced: torch.Tensor | None = None,
        report: Callable[[int], None] | None = None,
    ) -> None:
        self.uniforms = uniforms
        self.known = known
        self.forced = forced
        self.report = report

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """scores (float [B, V]) → float [B, V], −inf but for one code a row."""
        step = input_ids.shape[1] - self.known
        chosen = force(draw(scores, self.uniforms[:, step]), self.forced, step)
        # BOS, which is forced where a slot has no frame, is none of the codes; `CodebookPattern.hide` puts it there
        chosen = chosen.clamp(max=scores.shape[1] - 1)
        if self.report is not None:
            self.report(1)
        return torch.full_like(scores, -float("inf")).scatter(1, chosen[:, None], 0.0)
