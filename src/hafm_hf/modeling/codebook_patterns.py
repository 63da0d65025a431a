# SPDX-License-Identifier: Apache-2.0
"""How the Q codes of a frame become slots of a stage's target: the patterns "flat" and "delay".

*Tokens* are a target's codes frame by frame, all codebooks of frame 0, then of frame 1 …: int64 [B, T·Q]. Corpora,
labels, windows and random numbers are in tokens, whatever the pattern. A *slot* is a place in the sequence of the
decoder: slot s predicts some codes, and slot s + 1 reads them; slot 0 reads BOS. A batch of slots has R rows a
sequence, int64 [B·R, L], so that `generate()` sees a batch of plain sequences:

    flat   (the paper)               R = 1, L = T·Q        slot s predicts codebook s mod Q of frame ⌊s / Q⌋
    delay  (MusicGen, Copet et al.   R = Q, L = T + Q − 1  slot s predicts, in row q, codebook q of frame s − q
           2023, arXiv 2306.05284)

Under "delay" the Q rows of a slot are read as one sum of embeddings and predicted by Q heads at once. Codebook q of a
frame still sees all lower codebooks of its frame, since they stand in earlier slots. Where a row has no frame, before
its first and behind its last, stands BOS.

Dimensions: B sequences, T frames, Q codebooks, R rows a sequence, L slots, P frames that are known, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from .configuration_hafm import HAFMStageConfig

# marks a token that is not given but to be generated
FREE = -1


@dataclass(frozen=True)
class SlotPlan:
    """What the slots of a generation hold and are drawn with.

    Args:
        known (int64 [B·R, p]): predictions of the first slots, which are there already.
        uniforms (float32 [B·R, n], *optional*): random numbers of the n slots to come.
        forced (int64 [B·R, n], *optional*): predictions to take instead of drawing, −1 where to draw.
        slots: n.
    """

    known: torch.Tensor
    uniforms: torch.Tensor | None
    forced: torch.Tensor | None
    slots: int


@dataclass(frozen=True)
class CodebookPattern:
    """The arrangement of a target's codes in slots: one code a slot, unless a subclass says otherwise.

    Args:
        num_codebooks: Q.
    """

    num_codebooks: int

    @property
    def rows(self) -> int:
        """R, the rows of slots that make one sequence: codes that a slot predicts."""
        return 1

    @property
    def slots_per_frame(self) -> int:
        """Slots from the first codebook of a frame to that of the next; slot s and s + this are alike."""
        return self.num_codebooks // self.rows

    def slots(self, frames: int) -> int:
        """L, the slots that predict all codes of the first `frames` frames."""
        return frames * self.slots_per_frame + self.rows - 1 if frames else 0

    def frames(self, slots: int) -> int:
        """Frames whose codes are all final when `slots` slots have been predicted."""
        return max(slots - self.rows + 1, 0) // self.slots_per_frame

    def new_slots(self, known_frames: int, frames: int) -> int:
        """Steps that it takes to generate `frames` frames behind `known_frames`."""
        return self.slots(known_frames + frames) - known_frames * self.slots_per_frame

    def frame_of(self, slot: torch.Tensor) -> torch.Tensor:
        """The frame whose first codebook a slot (int64 [n]) predicts, or predicted last: where it stands in time."""
        return slot // self.slots_per_frame

    def arrange(self, tokens: torch.Tensor, fill: float) -> torch.Tensor:
        """Values of tokens [B, T·Q] as slots [B·R, L], with `fill` where a slot has no frame."""
        return tokens

    def codebook(self, slots: torch.Tensor, codebook: int) -> torch.Tensor:
        """What slots [B·R, L, …] say of one codebook, frame by frame: a view [B, T, …]."""
        return slots[:, codebook :: self.num_codebooks]

    def tokens(self, slots: torch.Tensor) -> torch.Tensor:
        """Slots [B·R, L, …] as tokens [B, T·Q, …], the inverse of `arrange`."""
        return torch.stack([self.codebook(slots, book) for book in range(self.num_codebooks)], dim=2).flatten(1, 2)

    def inputs(self, tokens: torch.Tensor, bos_token_id: int) -> torch.Tensor:
        """What the slots read under teacher forcing: int64 [B·R, L] for tokens (int64 [B, T·Q]), BOS first.

        BOS also stands for negative ids: labels that are ignored (−100) have no embedding.
        """
        shifted = F.pad(self.arrange(tokens, bos_token_id)[:, :-1], (1, 0), value=bos_token_id)
        return shifted.masked_fill(shifted < 0, bos_token_id)

    def hide(self, input_ids: torch.Tensor, frames: int | torch.Tensor, bos_token_id: int) -> torch.Tensor:
        """Input slots (int64 [B·R, L]) with BOS where a row has no frame; `frames` (T, or int64 [B]) of each."""
        return input_ids

    def plan(
        self,
        known: torch.Tensor,
        new_tokens: int,
        bos_token_id: int,
        uniforms: torch.Tensor | None = None,
        forced: torch.Tensor | None = None,
        frames: torch.Tensor | None = None,
    ) -> SlotPlan:
        """Plans the slots that generate `new_tokens` tokens behind those that are known.

        Args:
            known (int64 [B, P·Q]): tokens that come before.
            new_tokens: how many tokens each sequence gets.
            bos_token_id: BOS.
            uniforms (float32 [B, new_tokens], *optional*): the tokens' random numbers.
            forced (int64 [B, new_tokens], *optional*): tokens to take instead of drawing, −1 where to draw.
            frames (int64 [B], *optional*): frames of each sequence, those that are known included, where some end
                before the others; what is generated behind a sequence's end means nothing.
        """
        return SlotPlan(known, uniforms, forced, new_tokens)


class FlatPattern(CodebookPattern):
    """One code a slot, which has a frame in any case: the paper's."""

    def tokens(self, slots: torch.Tensor) -> torch.Tensor:
        """The slots themselves, of parts of frames too."""
        return slots


class DelayPattern(CodebookPattern):
    """All codebooks in each slot, each one slot behind the one before it."""

    @property
    def rows(self) -> int:
        """One for each codebook."""
        return self.num_codebooks

    def arrange(self, tokens: torch.Tensor, fill: float) -> torch.Tensor:
        """Row q of a sequence begins q slots late."""
        books = tokens.unflatten(1, (-1, self.num_codebooks)).transpose(1, 2)
        # Q more places a row than frames, and then one less than that: each row starts one later than the one before
        padded = F.pad(books, (0, self.num_codebooks), value=fill).flatten(1)
        return padded[:, : -self.num_codebooks].unflatten(1, (self.num_codebooks, -1)).flatten(0, 1)

    def codebook(self, slots: torch.Tensor, codebook: int) -> torch.Tensor:
        """Row `codebook` without its late beginning."""
        frames = self.frames(slots.shape[1])
        return slots[codebook :: self.num_codebooks, codebook : codebook + frames]

    def hide(self, input_ids: torch.Tensor, frames: int | torch.Tensor, bos_token_id: int) -> torch.Tensor:
        """What slot s reads in row q is of frame s − 1 − q."""
        rows = torch.arange(self.num_codebooks, device=input_ids.device)[:, None]
        frame = torch.arange(input_ids.shape[1], device=input_ids.device) - 1 - rows
        last = frames if isinstance(frames, int) else frames.to(input_ids.device)[:, None, None]
        nothing = ((frame < 0) | (frame >= last)).expand(len(input_ids) // len(rows), -1, -1).flatten(0, 1)
        return input_ids.masked_fill(nothing, bos_token_id)

    def plan(
        self,
        known: torch.Tensor,
        new_tokens: int,
        bos_token_id: int,
        uniforms: torch.Tensor | None = None,
        forced: torch.Tensor | None = None,
        frames: torch.Tensor | None = None,
    ) -> SlotPlan:
        """Slots of which a part is known are among those to come, with that part forced.

        Raises:
            ValueError: unless known and new tokens are whole frames.
        """
        books, count = self.num_codebooks, known.shape[1]
        if count % books or new_tokens % books:
            raise ValueError(
                f"The delay pattern of {books} codebooks generates whole frames, not {new_tokens} tokens behind "
                f"{count}: ask for multiples of {books}."
            )
        wanted = known.new_full((len(known), new_tokens), FREE) if forced is None else forced.to(known.device)
        tokens = torch.cat([known, wanted], dim=1)
        if frames is not None:
            place = torch.arange(tokens.shape[1], device=tokens.device) // books
            tokens = tokens.masked_fill(place >= frames.to(tokens.device)[:, None], bos_token_id)
        slots, before = self.arrange(tokens, bos_token_id), count // books
        if uniforms is not None:
            uniforms = self.arrange(F.pad(uniforms, (count, 0), value=1.0), 1.0)[:, before:]
        return SlotPlan(slots[:, :before], uniforms, slots[:, before:], slots.shape[1] - before)


PATTERNS: dict[str, type[CodebookPattern]] = {"flat": FlatPattern, "delay": DelayPattern}


def codebook_pattern(config: HAFMStageConfig) -> CodebookPattern:
    """The pattern that a stage's configuration names."""
    return PATTERNS[config.codebook_pattern](config.num_codebooks)
