# SPDX-License-Identifier: Apache-2.0
"""Both decoding loops, fed and read as tokens: int64 [batch, tokens], frame by frame with all codebooks."""

from typing import Any

import torch

from hafm_hf.modeling.codebook_patterns import as_tokens
from hafm_hf.modeling.fast_loop import FastGenerator
from hafm_hf.modeling.sampling import RandomNumbers, WindowBatch


def uniforms_for(batch: int, count: int, seed: int = 5) -> torch.Tensor:
    """Random numbers to draw tokens with, other ones for each sequence: float32 [batch, count], above 0, at most 1."""
    return torch.stack([RandomNumbers(seed, variation=row).uniforms(0, count) for row in range(batch)])


def batch_of(
    stage: Any,
    conditioning: torch.Tensor,
    steps: int,
    uniforms: torch.Tensor | None = None,
    known: torch.Tensor | None = None,
    forced: torch.Tensor | None = None,
    conditioning_mask: torch.Tensor | None = None,
) -> WindowBatch:
    """The decoding loops' input, from tokens in place of codes; `steps` tokens, in whole frames, are to be generated.

    All other arguments are those of `WindowBatch`, tokens being [batch, tokens] instead of [batch, codebooks, frames].
    """
    books = stage.config.num_codebooks

    def codes(tokens: torch.Tensor | None) -> torch.Tensor | None:
        """Tokens [batch, frames · codebooks] as [batch, codebooks, frames]."""
        return None if tokens is None else tokens.unflatten(1, (-1, books)).transpose(1, 2)

    assert steps % books == 0
    return WindowBatch(conditioning, steps // books, codes(uniforms), codes(known), codes(forced), conditioning_mask)


class TokenDecoder(FastGenerator):
    """The fast loop with settings of its own, which gives tokens and records the guided scores of every step.

    `scores`: for each step float [batch · codes of a slot, size of the codebook].
    """

    def __init__(
        self,
        stage: Any,
        guidance_scale: float = 1.0,
        temperature: float = 1.0,
        top_k: int = 0,
        history_free_guidance: float = 0.0,
        compile: bool = False,
    ) -> None:
        """Takes the stage, and settings that replace those of its generation config."""
        config = stage.decoding_config(guidance_scale=guidance_scale, temperature=temperature, top_k=top_k)
        config.history_free_guidance = history_free_guidance
        super().__init__(stage, config, compile)
        self.scores: list[torch.Tensor] = []

    def generate(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The new tokens of `batch_of` these arguments."""
        return as_tokens(self.codes(batch_of(self.stage, *args, **kwargs)))

    def draw(self, scores: torch.Tensor, uniforms: torch.Tensor | None) -> torch.Tensor:
        """Records the scores, then draws tokens from them."""
        self.scores.append(scores.float())
        return super().draw(scores, uniforms)


def decode(
    decoding: str, stage: Any, settings: tuple[float | None, float | None, int | None], *args: Any, **kwargs: Any
) -> torch.Tensor:
    """The new tokens of `batch_of` these arguments by a loop.

    Args:
        decoding: "fast" or "reference".
        settings: guidance scale, temperature, top-k; None for the stage's own.
    """
    scale, temperature, top_k = settings
    config = stage.decoding_config(guidance_scale=scale, temperature=temperature, top_k=top_k)
    batch = batch_of(stage, *args, **kwargs)
    if decoding == "fast":
        return as_tokens(FastGenerator(stage, config).codes(batch))
    return as_tokens(stage.continue_batch(batch, config))
