# SPDX-License-Identifier: Apache-2.0
"""Codebook patterns, "flat" and "delay": how the Q codes of a frame are arranged in a stage's target sequence.

*Codes* are int64 [B, Q, T]. *Tokens* are the same frame by frame, all codebooks of frame 0, then of frame 1 …: int64
[B, T·Q], the form of corpora and labels. A *slot* is a position in the decoder's sequence: slot s predicts some codes,
and slot s + 1 reads them; slot 0 reads BOS. A batch of slots has C rows per sequence, int64 [B·C, L], so that
`generate()` sees a batch of plain sequences:

    flat   (the paper)               C = 1, L = T·Q        slot s predicts codebook s mod Q of frame ⌊s / Q⌋
    delay  (MusicGen, Copet et al.   C = Q, L = T + Q − 1  slot s predicts, in row q, codebook q of frame s − q
           2023, arXiv 2306.05284)

Under "delay" the embeddings of a slot's Q rows are summed on input, and Q heads predict all rows at once. Codebook q
of a frame still sees all lower codebooks of its frame, since they are in earlier slots. BOS fills the slots of a row
before its first frame and after its last.

Dimensions: B sequences, T frames, Q codebooks, C codes per slot, L slots, P known frames, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from .configuration_stage import HAFMStageConfig

# marks a code to be generated rather than kept
FREE = -1


def as_tokens(codes: torch.Tensor) -> torch.Tensor:
    """Codes [B, Q, T] as tokens [B, T·Q]: all Q codebooks of frame 0, then of frame 1 …."""
    return codes.transpose(1, 2).flatten(1)


@dataclass(frozen=True)
class SlotPlan:
    """Known and fixed predictions, and random numbers, of the slots of one generation.

    Each slot predicts C codes for each of B sequences.

    Args:
        known (int64 [B·C, p]): predictions of the p slots before those to generate.
        uniforms (float32 [B·C, n], *optional*): random numbers of the n slots to generate.
        fixed (int64 [B·C, n], *optional*): predictions to use instead of sampling, −1 where to sample: codes of kept
            spans and, under the delay pattern always, BOS where a slot has no frame.
        num_slots: n.
    """

    known: torch.Tensor
    uniforms: torch.Tensor | None
    fixed: torch.Tensor | None
    num_slots: int


@dataclass(frozen=True)
class CodebookPattern:
    """Arranges a target's codes in slots; the base class puts one code in each slot.

    Args:
        num_codebooks: Q.
    """

    num_codebooks: int

    @property
    def codes_per_slot(self) -> int:
        """C, the number of codes that a slot predicts, each in a row of its own."""
        return 1

    @property
    def slots_per_frame(self) -> int:
        """Slots from the first codebook of a frame to that of the next: the period of the pattern."""
        return self.num_codebooks // self.codes_per_slot

    def num_slots(self, frames: int) -> int:
        """L, the number of slots that predict all codes of the first `frames` frames."""
        if not frames:
            return 0
        # under the delay pattern, the last frame's last codebook comes Q − 1 slots after its first
        return frames * self.slots_per_frame + self.codes_per_slot - 1

    def num_frames(self, slots: int) -> int:
        """Number of frames that are complete when `slots` slots have been predicted."""
        return max(slots - self.codes_per_slot + 1, 0) // self.slots_per_frame

    def new_slots(self, known_frames: int, frames: int) -> int:
        """Number of decoding steps that generate `frames` frames after `known_frames` known ones."""
        return self.num_slots(known_frames + frames) - known_frames * self.slots_per_frame

    def frame_of(self, slot: torch.Tensor) -> torch.Tensor:
        """Position in time of slots (int64 [n]): the frame of the latest first-codebook code up to each slot."""
        return slot // self.slots_per_frame

    def arrange(self, tokens: torch.Tensor, fill: float) -> torch.Tensor:
        """Arranges values of tokens, such as ids or random numbers, in slots.

        Args:
            tokens ([B, T·Q]): one value for each token of T frames of Q codebooks.
            fill: the value where a slot has no frame.

        Returns:
            [B·C, L]: L slots of C codes, C rows per sequence.
        """
        return tokens

    def codebook(self, slots: torch.Tensor, codebook: int) -> torch.Tensor:
        """Values of one codebook (its index) in slots [B·C, L, …], frame by frame: a view [B, T, …]."""
        return slots[:, codebook :: self.num_codebooks]

    def tokens(self, slots: torch.Tensor) -> torch.Tensor:
        """Slots [B·C, L, …] as tokens [B, T·Q, …], the inverse of `arrange`: T frames of Q codebooks.

        Slots of the flat pattern, which are tokens already, may end within a frame.
        """
        return slots

    def inputs(self, tokens: torch.Tensor, bos_token_id: int) -> torch.Tensor:
        """Decoder inputs for teacher forcing: BOS, then all slots of the tokens but the last.

        BOS also replaces negative ids: ignored labels (−100) have no embedding.

        Args:
            tokens (int64 [B, T·Q]): T frames of Q codebooks.
            bos_token_id: BOS.

        Returns:
            int64 [B·C, L]: L slots of C codes.
        """
        shifted = F.pad(self.arrange(tokens, bos_token_id)[:, :-1], (1, 0), value=bos_token_id)
        return shifted.masked_fill(shifted < 0, bos_token_id)

    def hide(self, input_ids: torch.Tensor, frames: int | torch.Tensor, bos_token_id: int) -> torch.Tensor:
        """Puts BOS into inputs of slots that have no code to read; the flat pattern has no such slots.

        Args:
            input_ids (int64 [B·C, L]): inputs of L slots, BOS first, in C rows per sequence.
            frames: number of frames of all sequences, or of each, int64 [B].
            bos_token_id: BOS.

        Returns:
            int64 [B·C, L].
        """
        return input_ids

    def frame(self, slots: torch.Tensor, number: int) -> torch.Tensor:
        """The codes, [B, Q], of frame `number`, counted from 0.

        Args:
            slots ([B·C, L]): predictions of slots, of which the first predicts codebook 0 of frame 0.
            number: index of the frame.
        """
        return slots[:, number * self.num_codebooks : (number + 1) * self.num_codebooks]

    def plan(
        self,
        known: torch.Tensor,
        frames: int,
        bos_token_id: int,
        uniforms: torch.Tensor | None = None,
        kept: torch.Tensor | None = None,
        row_frames: torch.Tensor | None = None,
    ) -> SlotPlan:
        """Plans the slots that generate `frames` frames after the known ones.

        Args:
            known (int64 [B, Q, P]): codes of the P frames that come before, Q codebooks each.
            frames: T, the number of frames to generate for each sequence.
            bos_token_id: BOS.
            uniforms (float32 [B, Q, T], *optional*): the codes' random numbers.
            kept (int64 [B, Q, T], *optional*): codes to use instead of sampling, −1 where to sample.
            row_frames (int64 [B], *optional*): length of each sequence in frames, known ones included, if some end
                before others; codes generated past a sequence's end are meaningless.

        Returns:
            Known codes, random numbers and kept codes, arranged in slots, and the number of slots to generate.
        """
        if uniforms is not None:
            uniforms = as_tokens(uniforms)
        if kept is not None:
            kept = as_tokens(kept)
        return SlotPlan(as_tokens(known), uniforms, kept, frames * self.num_codebooks)


class DelayPattern(CodebookPattern):
    """All codebooks in each slot, each delayed by one slot against the one before it."""

    @property
    def codes_per_slot(self) -> int:
        """C, the number of codes that a slot predicts: one for each codebook."""
        return self.num_codebooks

    def arrange(self, tokens: torch.Tensor, fill: float) -> torch.Tensor:
        """Delays codebook q by q slots, with `fill` in the gaps.

        Args:
            tokens ([B, T·Q]): one value for each token of T frames of Q codebooks.
            fill: the value where a slot has no frame.

        Returns:
            [B·Q, T + Q − 1]: Q rows per sequence, one for each codebook.
        """
        rows = tokens.unflatten(1, (-1, self.num_codebooks)).transpose(1, 2)  # [B, Q, T]
        # rows are padded by Q, flattened, and cut again one shorter, so that each starts one later than the one before
        flat = F.pad(rows, (0, self.num_codebooks), value=fill).flatten(1)  # [B, Q · (T + Q)]
        delayed = flat[:, : -self.num_codebooks].unflatten(1, (self.num_codebooks, -1))  # [B, Q, T + Q − 1]
        return delayed.flatten(0, 1)

    def codebook(self, slots: torch.Tensor, codebook: int) -> torch.Tensor:
        """Values of one codebook (its index) in slots [B·Q, L, …] without their delay: a view [B, T, …]."""
        frames = self.num_frames(slots.shape[1])
        return slots[codebook :: self.num_codebooks, codebook : codebook + frames]

    def tokens(self, slots: torch.Tensor) -> torch.Tensor:
        """Slots [B·Q, L, …] without their delays, as tokens [B, T·Q, …]: all Q codebooks of frame 0, of frame 1 …."""
        codebooks = [self.codebook(slots, codebook) for codebook in range(self.num_codebooks)]  # [B, T, …] each
        return torch.stack(codebooks, dim=2).flatten(1, 2)

    def hide(self, input_ids: torch.Tensor, frames: int | torch.Tensor, bos_token_id: int) -> torch.Tensor:
        """Puts BOS into the inputs of slots that read no frame: in row q, slot s reads a code of frame s − 1 − q.

        Args:
            input_ids (int64 [B·Q, L]): inputs of L slots, Q rows per sequence.
            frames: number of frames of all sequences, or of each, int64 [B].
            bos_token_id: BOS.

        Returns:
            int64 [B·Q, L].
        """
        rows = torch.arange(self.num_codebooks, device=input_ids.device)[:, None]
        frame = torch.arange(input_ids.shape[1], device=input_ids.device) - 1 - rows  # [Q, L]
        stop = frames if isinstance(frames, int) else frames.to(input_ids.device)[:, None, None]
        without_frame = (frame < 0) | (frame >= stop)  # [Q, L] or [B, Q, L]
        sequences = len(input_ids) // self.num_codebooks
        without_frame = without_frame.expand(sequences, -1, -1).flatten(0, 1)  # [B·Q, L]
        return input_ids.masked_fill(without_frame, bos_token_id)

    def frame(self, slots: torch.Tensor, number: int) -> torch.Tensor:
        """The codes, [B, Q], of a frame: one of each row, each a slot later than the one before.

        Args:
            slots ([B·Q, L]): predictions of slots, of which the first predicts codebook 0 of frame 0.
            number: index of the frame.
        """
        return slots.unflatten(0, (-1, self.num_codebooks))[..., number:].diagonal(dim1=1, dim2=2)

    def plan(
        self,
        known: torch.Tensor,
        frames: int,
        bos_token_id: int,
        uniforms: torch.Tensor | None = None,
        kept: torch.Tensor | None = None,
        row_frames: torch.Tensor | None = None,
    ) -> SlotPlan:
        """Plans the slots that generate `frames` frames after the known ones; arguments as in `CodebookPattern`.

        Slots that are known in part are generated again, with the known part kept.
        """
        batch, _, known_frames = known.shape
        if kept is None:
            kept = known.new_full((batch, self.num_codebooks, frames), FREE)
        codes = torch.cat([known, kept.to(known.device)], dim=2)  # [B, Q, P + T]
        if row_frames is not None:
            ended = torch.arange(codes.shape[2], device=codes.device) >= row_frames.to(codes.device)[:, None]
            codes = codes.masked_fill(ended[:, None], bos_token_id)
        slots = self.arrange(as_tokens(codes), bos_token_id)  # [B·C, L]
        if uniforms is not None:
            # numbers of slots without a frame, and of known ones, are never used: 1.0 fills their places
            padded = F.pad(uniforms, (known_frames, 0), value=1.0)  # [B, Q, P + T]
            uniforms = self.arrange(as_tokens(padded), 1.0)[:, known_frames:]
        # a frame's first codebook is in the slot of the same number, so the first P slots are known as a whole
        return SlotPlan(slots[:, :known_frames], uniforms, slots[:, known_frames:], slots.shape[1] - known_frames)


PATTERNS: dict[str, type[CodebookPattern]] = {"flat": CodebookPattern, "delay": DelayPattern}


def codebook_pattern(config: HAFMStageConfig) -> CodebookPattern:
    """The pattern that a stage's configuration names."""
    return PATTERNS[config.codebook_pattern](config.num_codebooks)
