# SPDX-License-Identifier: Apache-2.0
"""Refuses what a stage would otherwise compute silently wrong numbers from: ids, masks and rows that do not fit.

Dimensions: B sequences, R rows a sequence, L target slots, Q target codebooks, K conditioning streams, T_c frames.
"""

from collections.abc import Callable

import torch

from .codebook_patterns import codebook_pattern
from .configuration_hafm import HAFMStageConfig


def check_rows(rows: int = 1, *, input_ids: torch.Tensor | None = None, **tensors: torch.Tensor | None) -> None:
    """Refuses inputs of different numbers of sequences.

    Args:
        rows: R, rows of `input_ids` that make one sequence.
        input_ids (int64 [B·R, L], *optional*): what the slots read.
        tensors: others by name, whose first dimension is B.

    Raises:
        ValueError: naming them and their sequences.
    """
    # in rows: while a model is exported these are symbols, which products relate and quotients do not
    counts = {name: tensor.shape[0] * rows for name, tensor in tensors.items() if tensor is not None}
    if input_ids is not None:
        counts["input_ids"] = input_ids.shape[0]
    # one by one: while a model is exported they are symbols, which no set holds
    if any(count != next(iter(counts.values())) for count in counts.values()):
        counted = ", ".join(f"{name} {count / rows:g}" for name, count in counts.items())
        raise ValueError(
            f"The inputs have different numbers of sequences: {counted}; each sequence needs all of them."
        )


def check_conditioning(
    config: HAFMStageConfig,
    conditioning_ids: torch.Tensor | None,
    conditioning_mask: torch.Tensor | None = None,
    cached: bool = False,
) -> torch.Tensor:
    """The conditioning, int64 [B, K, T_c]; refuses another shape, a mask that is not [B, T_c], and unknown ids.

    Where it is `cached`, the ids were looked at before.

    Raises:
        ValueError: naming the shape or the id.
    """
    streams = config.num_conditioning_streams
    if conditioning_ids is None or conditioning_ids.ndim != 3 or conditioning_ids.shape[1] != streams:
        shape = None if conditioning_ids is None else tuple(conditioning_ids.shape)
        raise ValueError(f"conditioning_ids has shape {shape}; this stage needs [B, {streams}, T_c].")
    batch, _, frames = conditioning_ids.shape
    if frames == 0:
        raise ValueError("conditioning_ids has no frames; a stage needs at least one.")
    if conditioning_mask is not None and conditioning_mask.shape != (batch, frames):
        raise ValueError(f"conditioning_mask has shape {tuple(conditioning_mask.shape)}, not ({batch}, {frames}).")
    if not cached:
        books = torch.arange(streams, device=conditioning_ids.device)[:, None]
        check_ids("conditioning_ids", conditioning_ids, config.conditioning_sizes, books)
    return conditioning_ids


def check_targets(
    config: HAFMStageConfig, input_ids: torch.Tensor, targets: torch.Tensor, attention_mask: torch.Tensor | None = None
) -> None:
    """Refuses target ids that no codebook has, and padding in front of tokens.

    Args:
        config: of the stage.
        input_ids (int64 [B·R, L]): what the slots read, as the codebook pattern arranges it.
        targets (int64 [L]): the numbers of the slots.
        attention_mask ([B, m], *optional*): 0 where the target is padding.

    Raises:
        ValueError: naming the id, or the side on which padding goes.
    """
    codebooks = (targets - 1) % config.num_codebooks
    if codebook_pattern(config).rows > 1:
        codebooks = torch.arange(input_ids.shape[0], device=input_ids.device)[:, None] % config.num_codebooks
    # BOS may stand in any codebook
    ids = input_ids.masked_fill(input_ids == config.codebook_size, 0)
    check_ids("input_ids", ids, config.codebook_sizes, codebooks)
    if attention_mask is not None:
        # a slot's place says which codebook and which instant it predicts, so padding cannot stand before a token
        follows = (attention_mask[:, 1:] <= attention_mask[:, :-1]).all()
        _require(follows, lambda: "attention_mask has padding before or between tokens; pad targets on the right.")


def check_ids(name: str, ids: torch.Tensor, sizes: list[int], codebooks: torch.Tensor) -> None:
    """Refuses ids below 0 or beyond their codebooks (int64, which broadcast to the ids) of these sizes.

    On a CPU an error names the id. On a GPU, which must not wait, it is an assertion on the device; what is compiled
    or exported checks nothing.

    Raises:
        ValueError: naming the id and the limit.
    """
    alike = len(set(sizes)) == 1
    # one number where it is enough, for which no device has to wait
    limits = sizes[0] if alike else torch.tensor(sizes, device=ids.device)[codebooks]
    known = (ids >= 0) & (ids < limits)

    def message() -> str:
        if ids.device.type != "cpu":
            return f"{name} holds an id that its codebook does not have."
        worst = tuple((~known).nonzero()[0])
        largest = sizes[int(codebooks.expand_as(ids)[worst])] - 1
        return f"{name} holds {int(ids[worst])}; the ids of that codebook are 0 to {largest}."

    _require(known.all(), message)


def _require(holds: torch.Tensor, message: Callable[[], str]) -> None:
    if torch.compiler.is_compiling():
        return
    if holds.device.type == "cuda":
        torch._assert_async(holds, message())
    elif holds.device.type == "cpu" and not bool(holds):
        raise ValueError(message())
