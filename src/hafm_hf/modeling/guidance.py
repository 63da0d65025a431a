# SPDX-License-Identifier: Apache-2.0
"""Guidance by the conditioning: the rows that it needs, and what it makes of their scores.

Of both loops that decode a stage. Dimensions: B batch, R rows of all kinds, K conditioning streams, T_c frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .configuration_hafm import HAFMStageConfig


@dataclass(frozen=True)
class ConditioningGuidance:
    """Classifier-free guidance by the voice and, apart from it, by the lead sheet.

    ℓ = ℓ_null + λ (ℓ_voice − ℓ_null) + μ (ℓ_told − ℓ_voice), where the rows of ℓ_null see no conditioning, those of
    ℓ_voice a lead sheet of which nothing is known, and those of ℓ_told all. Of several sources it is that of
    InstructPix2Pix (arXiv 2211.09800, eq. 3), as JASCO has it; with μ = λ that of the paper (§3.5).

    Args:
        scale: λ; 1 means none.
        lead_sheet: μ; λ if None.
    """

    scale: float = 1.0
    lead_sheet: float | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """The rows that each sequence needs, of "told", "voice" and "null"; those whose scores cancel are left out."""
        voice = self.lead_sheet is not None and self.lead_sheet != self.scale
        return ("told", *(["voice"] if voice else []), *(["null"] if self.scale != 1.0 else []))

    @property
    def scales(self) -> tuple[float, ...]:
        """The weight of what each kind of rows says beyond the next."""
        weights = {"voice": self.lead_sheet, "null": self.scale}
        return tuple(weight for kind in self.kinds[1:] if (weight := weights[kind]) is not None)

    def repeat(self, tensor: torch.Tensor) -> torch.Tensor:
        """Rows (of dimension 0) once for each kind."""
        return torch.cat([tensor] * len(self.kinds)) if len(self.kinds) > 1 else tensor

    def conditioning(self, config: HAFMStageConfig, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Conditioning (int64 [B, K, T_c]) for each kind, int64 [R, K, T_c], and the rows without any, bool [R].

        Which stem a row is to play is no part of a lead sheet, and stays.
        """
        kinds = self.kinds
        if len(kinds) == 1:
            return ids, None
        streams = torch.tensor(lead_sheet_rows(config), device=ids.device)
        unknown = ids.masked_fill(streams[:, None], 0) if "voice" in kinds else ids
        repeated = torch.cat([unknown if kind == "voice" else ids for kind in kinds])
        null = torch.arange(len(repeated), device=ids.device) >= len(repeated) - len(ids)
        return repeated, null if kinds[-1] == "null" else None

    def combine(self, values: torch.Tensor) -> torch.Tensor:
        """What is linear in the scores (float [R, …], kind by kind) as guidance makes it of all kinds: [B, …]."""
        return combine(values, self.scales)


def combine(values: torch.Tensor, scales: Sequence[float]) -> torch.Tensor:
    """Rows of n + 1 kinds (float [(n + 1) · B, …]) as x_n + Σ scales[i] (x_i − x_{i+1}): float [B, …]."""
    parts = values.chunk(len(scales) + 1)
    result = parts[-1]
    for scale, above, below in reversed(list(zip(scales, parts, parts[1:], strict=False))):
        result = result + scale * (above - below)
    return result


def lead_sheet_rows(config: HAFMStageConfig) -> list[bool]:
    """Which conditioning streams say something of a lead sheet; which stem to play is none of it."""
    return [False] * config.num_token_streams + [name != "stem" for name in config.lead_sheet_streams]
