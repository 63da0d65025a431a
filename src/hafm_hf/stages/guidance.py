"""Guidance by the conditioning, and what a whole song says of the next tokens, cut to the windows that are generated.

Between the composite, which estimates a vocal's beats and chords as a whole, and the loops that decode the stages
window by window. Dimensions: B batch, K conditioning streams, T tokens of a song, n of a window, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ..configuration_hafm import HAFMStageConfig


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


@dataclass(frozen=True)
class TokenGuidance:
    """For the tokens to come of a batch; either can be missing.

    Args:
        changes (float [B, n]): what is taken off the score of holding the token before.
        added (float [B, n, V]): what is added to the scores.
    """

    changes: torch.Tensor | None = None
    added: torch.Tensor | None = None

    def to(self, device: torch.device) -> "TokenGuidance":
        """The same on another device."""
        return TokenGuidance(*(None if each is None else each.to(device) for each in (self.changes, self.added)))


@dataclass(frozen=True)
class SongGuidance:
    """What a song says; either can be missing.

    Args:
        changes (float32 [T]): how much likelier than usual a token is another than the one before.
        known ([T] or [T, C]): what is known of each token, such as how likely each chord is there, or its part of
            the beat. It is kept instead of the scores of all tokens, which for an hour would be too many.
        token_scores: what is known of n tokens → their scores (float [n, V]).
        weight: of those scores.
    """

    changes: torch.Tensor | None = None
    known: torch.Tensor | None = None
    token_scores: Callable[[torch.Tensor], torch.Tensor] | None = None
    weight: float = 1.0

    def changes_of(self, first: int, count: int) -> torch.Tensor | None:
        """Changes of tokens [first, first + count), 0 behind the song's end: float32 [count]."""
        if self.changes is None:
            return None
        there = self.changes[first : first + count]
        return F.pad(there, (0, count - len(there)))

    def added_to(self, first: int, count: int) -> torch.Tensor | None:
        """What is added to the scores of tokens [first, first + count), 0 behind the end: float32 [count, V]."""
        if self.known is None or self.token_scores is None:
            return None
        there = self.weight * self.token_scores(self.known[first : first + count])
        return F.pad(there, (0, 0, 0, count - len(there)))


def window_guidance(
    songs: Sequence[SongGuidance | None], firsts: Sequence[int], count: int, device: torch.device
) -> TokenGuidance | None:
    """The guidance of `count` tokens of each song, from its own first one on.

    Args:
        songs: one a row; None says nothing.
        firsts: tokens before the window in each song.
        count: n.
        device: of the result.

    Returns:
        None where no song says anything; rows that say nothing are 0.
    """
    silent = SongGuidance()
    pairs = [(song or silent, first) for song, first in zip(songs, firsts, strict=True)]
    changes = [song.changes_of(first, count) for song, first in pairs]
    added = [song.added_to(first, count) for song, first in pairs]
    if all(rows is None for rows in (*changes, *added)):
        return None
    return TokenGuidance(_stacked(changes, device), _stacked(added, device))


def _stacked(rows: Sequence[torch.Tensor | None], device: torch.device) -> torch.Tensor | None:
    """Rows of one shape, 0 where one is missing; None where all are."""
    there = next((row for row in rows if row is not None), None)
    if there is None:
        return None
    return torch.stack([torch.zeros_like(there) if row is None else row for row in rows]).to(device)
