"""A stage through songs without windows: the last seconds stay in the cache, older ones leave, and nothing restarts.

An alternative to `windows.StageRun` for stages with the time-aligned position scheme, where a place in the cache
says nothing and a bias on differences in time says all. Conditioning comes in chunks: a chunk's tokens see each other
and the conditioning before them, not what is to come, as in live use. Cost and memory of a second of audio are the
same at every length, and there are no borders; but a stage has been trained on conditioning that is seen whole, so
the music is not that of windows.
"""

from collections.abc import Callable
from typing import Any

import torch

from ..stages.guidance import TokenGuidance, window_guidance
from ..stages.position import TokenLayout, visible
from ..stages.sampling import draw, force
from .fast_loop import FastDecoder
from .windows import DecodingOptions, SongRow

# conditioning that is appended, and tokens that are generated, at once
CHUNK_SECONDS = 1.0


class RollingDecoder(FastDecoder):
    """A decoder whose cache holds the last seconds of conditioning and target, in the order of their coming.

    Args:
        stage: HAFMStageForCausalLM of the time-aligned scheme.
        batch: rows.
        seconds: what stays in the cache; the stage's training length suits it.
        kwargs: guidance_scale, temperature, top_k, weights, as for `FastDecoder`.

    Raises:
        ValueError: for a stage of another position scheme.
    """

    def __init__(self, stage: Any, batch: int, seconds: float, **kwargs: Any) -> None:
        super().__init__(stage, **kwargs)
        config = self.config
        if config.position_scheme != "time":
            raise ValueError(f"Rolling needs position_scheme 'time'; this stage has {config.position_scheme!r}.")
        self.kept_frames = round(seconds * config.conditioning_frame_rate)
        rows = 2 * batch if self.guided else batch
        per_second = config.num_conditioning_sources * config.conditioning_frame_rate
        per_second += config.num_codebooks * config.frame_rate
        # the chunk before a clearing and the one after it are there beside what is kept
        self._prepare(rows, round((seconds + 2 * CHUNK_SECONDS) * per_second) + 1)
        device = stage.model.norm.weight.device
        self.recent: torch.Tensor | None = None
        self.marks = torch.empty(3, 0, dtype=torch.long, device=device)
        self.last = torch.full((batch,), config.codebook_size, dtype=torch.long, device=device)
        self.target = 0

    @torch.no_grad()
    def advance(
        self,
        conditioning_ids: torch.Tensor,
        first_frame: int,
        new_tokens: int,
        uniforms: torch.Tensor | None,
        forced: torch.Tensor | None = None,
        report: Callable[[int], None] | None = None,
        guidance: TokenGuidance | None = None,
    ) -> torch.Tensor:
        """Appends a chunk of conditioning and generates the tokens that go with it.

        Args:
            conditioning_ids (int64 [B, K, n]): the next frames.
            first_frame: their place in the song.
            new_tokens: how many tokens each row gets.
            uniforms (float32 [B, new_tokens]): the rows' random numbers; None takes the likeliest codes.
            forced (int64 [B, new_tokens], *optional*): tokens to take instead of drawing, −1 where to draw.
            report: called with 1 after each step.
            guidance: what the songs say of these tokens.

        Returns:
            int64 [B, new_tokens].
        """
        self._clear(first_frame)
        self._append(conditioning_ids, first_frame)
        self._hear_recent(conditioning_ids, new_tokens, guidance)
        config, slot = self.config, self.marks.shape[1]
        targets = torch.arange(self.target, self.target + new_tokens, device=self.marks.device)
        frames = targets // config.num_codebooks * config.conditioning_frame_rate // config.frame_rate
        kind = torch.full_like(targets, config.num_conditioning_sources)
        self.marks = torch.cat([self.marks, torch.stack([kind, frames, targets])], dim=1)
        self._lay_out(self._layout(), first_slot=slot - self.target)
        tokens = torch.empty(len(self.last), new_tokens, dtype=torch.long, device=self.marks.device)
        with self.threads:
            for step in range(new_tokens):
                scores = self._guided(self._step(self.last, self.target), self.last, self.target, step)
                numbers = None if uniforms is None else uniforms[:, step].to(scores.device)
                self.last = force(draw(scores, numbers, self.temperature, self.top_k), forced, step)
                tokens[:, step] = self.last
                self.target += 1
                if report is not None:
                    report(1)
        return tokens

    def _hear_recent(self, conditioning_ids: torch.Tensor, new_tokens: int, guidance: TokenGuidance | None) -> None:
        """What guides a chunk: its song, and the conditioning (int64 [B, K, n]) that is still kept."""
        before = conditioning_ids[:, :, :0] if self.recent is None else self.recent[:, :, -self.kept_frames :]
        self.recent = torch.cat([before, conditioning_ids], dim=2)
        first = self.config.target_length(self.recent.shape[-1]) - new_tokens
        self._hear(self.recent, None, first, new_tokens, guidance)

    def _layout(self) -> TokenLayout:
        """Where the slots of the cache stand: sources, frames and flat positions are `marks`, int64 [3, n]."""
        source, frame, position = self.marks
        slot = torch.arange(len(source), device=source.device)
        valid = torch.ones_like(position[None], dtype=torch.bool)
        return TokenLayout(slot, source, frame[None], position[None], valid)

    def _clear(self, now: int) -> None:
        """Lets go of slots that lie more than the kept length before frame `now`."""
        kept = (self.marks[1] >= now - self.kept_frames).nonzero()[:, 0]
        if len(kept) == self.marks.shape[1]:
            return
        for layer in self.layers:
            layer.keep(kept)
        self.marks = self.marks[:, kept]

    def _append(self, conditioning_ids: torch.Tensor, first_frame: int) -> None:
        """Takes conditioning (int64 [B, K, n]) through all layers into the cache."""
        model, sources = self.stage.model, self.config.num_conditioning_sources
        ids = self._double(conditioning_ids)
        assert ids is not None
        null = torch.arange(len(ids), device=ids.device) >= len(conditioning_ids) if self.guided else None
        x = model.embed_conditioning(ids, null)
        first, count = self.marks.shape[1], x.shape[1]
        frames = first_frame + torch.arange(ids.shape[-1], device=ids.device)
        kind = torch.arange(sources, device=ids.device).repeat_interleave(len(frames))
        self.marks = torch.cat(
            [self.marks, torch.stack([kind, frames.repeat(sources), torch.zeros_like(kind)])], dim=1
        )
        layout = self._layout()
        asking = layout.select(layout.slot[first:])
        # the conditioning never sees the target, which in a window comes behind it
        seen = visible(self.config, asking, layout) & (layout.source < sources)
        bias = model.relative_attention_bias(asking, layout, seen)
        bias = bias.to(self.layers[0].like.dtype)
        x = x.flatten(0, 1).float()
        for layer in self.layers:
            x = layer.extend(x, first, count, bias)


class RollingRun:
    """One stage through the songs of a batch, chunk by chunk; used as `windows.StageRun` is.

    Args:
        stage: HAFMStageForCausalLM of the time-aligned scheme.
        rows: the songs, all of one length.
        seconds_per_unit: as for `StageRun`.
        options: how to decode.
        report: called with 1 after each step.

    Raises:
        ValueError: for a stage of another position scheme, another decoding than the fast one, or unequal lengths.
    """

    def __init__(
        self,
        stage: Any,
        rows: list[SongRow],
        seconds_per_unit: float,
        options: DecodingOptions,
        report: Callable[[int], None] | None = None,
    ) -> None:
        if options.decoding != "fast":
            raise ValueError(f"Rolling is a mode of the fast loop; decoding is {options.decoding!r}.")
        if len({row.units for row in rows}) != 1:
            # the end of a shorter song would see padding in its last chunk
            raise ValueError("Rolling takes songs of one length together; generate the others by themselves.")
        config = stage.config
        self.stage, self.rows, self.report = stage, rows, report
        self.unit_conditioning = round(config.conditioning_frame_rate * seconds_per_unit)
        self.unit_tokens = round(config.frame_rate * seconds_per_unit) * config.num_codebooks
        self.units, self.done = rows[0].units, 0
        self.chunk = max(round(CHUNK_SECONDS / seconds_per_unit), 1)
        self.decoder = RollingDecoder(
            stage,
            len(rows),
            stage.generation_config.window_seconds,
            **options.decoder(stage),
        )

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.units * self.unit_tokens

    @property
    def needs(self) -> int | None:
        """Units of conditioning that the next chunk needs; None when nothing is left to do."""
        return None if self.done == self.units else min(self.done + self.chunk, self.units)

    def run(self, conditioning: list[torch.Tensor]) -> list[torch.Tensor]:
        """Everything that is left; returns the codes int64 [Q, T] of each row."""
        while self.needs is not None:
            self.advance(conditioning)
        return [self.codes(row) for row in range(len(self.rows))]

    def advance(self, conditioning: list[torch.Tensor]) -> None:
        """Generates the next chunk from the conditioning so far, int64 [K, T_c] for each row."""
        until = self.needs
        assert until is not None
        frames = slice(self.done * self.unit_conditioning, until * self.unit_conditioning)
        first, new = self.done * self.unit_tokens, (until - self.done) * self.unit_tokens
        forced = [row.forced(first, new) for row in self.rows]
        tokens = self.decoder.advance(
            torch.stack([row[:, frames] for row in conditioning]),
            frames.start,
            new,
            torch.stack([row.stream.uniforms(first, new) for row in self.rows]),
            torch.stack(forced) if any(row.given is not None for row in self.rows) else None,
            self.report,
            window_guidance([row.guidance for row in self.rows], [first] * len(self.rows), new, self.stage.device),
        )
        for row, generated in zip(self.rows, tokens, strict=True):
            row.flat = torch.cat([row.flat.to(generated.device), generated])
        self.done = until

    def final_units(self, row: int) -> int:
        """Units of a row that there are."""
        return len(self.rows[row].flat) // self.unit_tokens

    def codes(self, row: int) -> torch.Tensor:
        """Codes of a row so far: int64 [Q, T]."""
        return self.rows[row].flat.unflatten(0, (-1, self.stage.config.num_codebooks)).t()
