# SPDX-License-Identifier: Apache-2.0
"""The tables of a stage that there is one of for each codebook: embeddings and heads.

At both ends of the decoder on the path of the data. Dimensions: B batch, R rows a sequence, L slots, D width, V size
of the largest target codebook.
"""

import torch
from torch import nn
from torch.nn import functional as F

from .codebook_patterns import codebook_pattern
from .configuration_hafm import HAFMStageConfig


class HAFMCodebookEmbedding(nn.Module):
    """One embedding table a codebook, each with a last row for the mask token (conditioning) or BOS (target).

    Tables of unequal codebooks are padded to the largest one.
    """

    def __init__(self, codebook_sizes: list[int], hidden_size: int) -> None:
        super().__init__()
        self.rows = max(codebook_sizes) + 1
        self.weight = nn.Parameter(torch.empty(len(codebook_sizes), self.rows, hidden_size))

    def forward(self, ids: torch.Tensor, codebooks: torch.Tensor) -> torch.Tensor:
        """ids (int64 [..., n]) of codebooks (int64 [n]) → float [..., n, D]."""
        return F.embedding(ids + codebooks * self.rows, self.weight.flatten(0, 1))


class HAFMCodebookHeads(nn.Module):
    """One linear layer a target codebook: head t mod Q reads slot t, under the delay pattern all heads every slot."""

    def __init__(self, config: HAFMStageConfig) -> None:
        super().__init__()
        self.rows = codebook_pattern(config).rows
        self.weight = nn.Parameter(torch.empty(config.num_codebooks, config.codebook_size, config.hidden_size))

    def forward(self, hidden_states: torch.Tensor, targets: torch.Tensor, first: int | None = None) -> torch.Tensor:
        """hidden_states [B, L, D] of consecutive slots (targets, int64 [L]) → logits [B·R, L, V].

        `first` is the first of the targets, where it is known without asking a device.
        """
        num_codebooks = self.weight.shape[0]
        if self.rows > 1:
            logits = F.linear(hidden_states, self.weight.flatten(0, 1)).unflatten(2, (num_codebooks, -1))
            return logits.transpose(1, 2).flatten(0, 1)
        if num_codebooks == 1:
            return F.linear(hidden_states, self.weight[0])
        length = hidden_states.shape[1]
        if length == 1:
            return F.linear(hidden_states, self.weight.index_select(0, targets % num_codebooks)[0])
        weight: torch.Tensor = self.weight
        if first is None or first % num_codebooks:
            # frames are counted from the first target on, so its head comes first
            order = torch.arange(num_codebooks, device=targets.device) + targets[0]
            weight = weight.index_select(0, order % num_codebooks)
        count = (length + num_codebooks - 1) // num_codebooks
        frames = F.pad(hidden_states, (0, 0, 0, count * num_codebooks - length)).unflatten(1, (count, num_codebooks))
        logits = torch.einsum("btqd,qvd->btqv", frames, weight).flatten(1, 2)
        # whether a view is the whole depends on the length, for which an exported graph would then be made
        return logits.narrow_copy(1, 0, length) if torch.compiler.is_compiling() else logits[:, :length]
