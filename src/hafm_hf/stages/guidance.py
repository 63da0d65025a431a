"""What a whole song says of the next tokens of its accompaniment, cut to the windows that are generated.

Between the composite, which estimates a vocal's beats and chords as a whole, and the loops that decode the semantic
and the coarse stage window by window. Dimensions: B batch, T tokens of a song, n of a window, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F


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
