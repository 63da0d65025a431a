# SPDX-License-Identifier: Apache-2.0
"""The fast loop with everything at a fixed address, so that a GPU replays a whole step as one CUDA graph.

Beside the fast loop on the path of the data. On a GPU the loop's hundred small kernels a layer cost their launches; a
graph of them is launched once. A graph reads and writes the same memory every time, so what changes from step to step
(the token, its slot, the biases, the random numbers) lies in tensors that the step itself counts through, and every
step attends to the whole cache, whose empty part has the lowest number as its bias.

On another device the same step runs without a graph: that is how the tests compare it with the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from .codebook_patterns import CodebookPattern
from .position import TokenLayout
from .sampling import FREE, draw

# steps whose biases and random numbers lie ready at once
BLOCK = 64
# runs before a capture, in which libraries make what they keep
WARM_UPS = 3

Step = Callable[[], None]


class Decoder(Protocol):
    """What the steps need of the fast loop (`fast_loop.FastDecoder`)."""

    stage: Any
    pattern: CodebookPattern
    rows: int
    times: int
    temperature: float
    top_k: int
    layers: list[Any]
    layout: TokenLayout
    first_slot: int
    added: torch.Tensor | None

    def limited(self, scores: torch.Tensor, target: int) -> torch.Tensor:
        """Scores (float [B·C, V]) without columns beyond the target's codebook."""

    def slot_scores(
        self,
        ids: torch.Tensor,
        kind: int,
        slot: int | torch.Tensor,
        views: list[tuple[torch.Tensor, torch.Tensor]],
        bias: torch.Tensor,
    ) -> torch.Tensor:
        """Scores (float [B·C, V]) of a slot of a kind, which reads the tokens `ids` (int64 [B·C])."""


class StaticLoop:
    """Steps of one decoder for one number of rows and one length of the cache.

    Args:
        decoder: with its caches open.
        bias_rows: 1, or the decoder's rows where their padding differs.
        sampled: whether tokens are drawn; otherwise the likeliest are taken.
    """

    def __init__(self, decoder: Decoder, bias_rows: int, sampled: bool) -> None:
        self.decoder, self.sampled = decoder, sampled
        cache = self.cache = decoder.layers[0].cache
        heads, slots = cache.shape[2:4]
        codes = decoder.rows // decoder.times * decoder.pattern.rows
        counter = torch.zeros(1, dtype=torch.long, device=cache.device)
        self.slot, self.place = counter, counter.clone()
        self.token = counter.new_zeros(codes)
        self.tokens = counter.new_zeros(BLOCK, codes)
        self.forced = counter.new_full((BLOCK, codes), FREE)
        self.uniforms = torch.ones(BLOCK, codes, device=cache.device)
        self.biases = cache.new_zeros(BLOCK, bias_rows, heads, 1, slots)
        self.added: torch.Tensor | None = None
        if decoder.added is not None:
            self.added = torch.zeros(BLOCK, codes, decoder.added.shape[2], device=cache.device)
        self.views = [layer.until(slots) for layer in decoder.layers]
        self.steps = [self._prepared(kind) for kind in range(decoder.pattern.slots_per_frame)]

    def fits(self, bias_rows: int, sampled: bool) -> bool:
        """Whether another window of the decoder can use these steps: its caches and biases are the same."""
        same = self.cache is self.decoder.layers[0].cache and (self.added is None) == (self.decoder.added is None)
        return same and bias_rows == self.biases.shape[1] and sampled == self.sampled

    def run(
        self,
        tokens: torch.Tensor,
        known: int,
        uniforms: torch.Tensor | None,
        forced: torch.Tensor | None,
        report: Callable[[int], None] | None,
    ) -> None:
        """Fills tokens (int64 [B·C, n]) behind its first column, `known` slots being there.

        Args:
            tokens: predictions of the slots to come.
            known: slots before them.
            uniforms (float32 [B·C, n]), forced (int64 [B·C, n]), report: as in `FastDecoder`.
        """
        self.token.copy_(tokens[:, 0])
        count = tokens.shape[1]
        for start in range(1, count, BLOCK):
            stop = min(start + BLOCK, count)
            self._load(known + start, stop - start)
            if self.added is not None and self.decoder.added is not None:
                self.added[: stop - start] = self.decoder.added[:, start:stop].transpose(0, 1)
            if uniforms is not None:
                self.uniforms[: stop - start] = uniforms[:, start:stop].t()
            if forced is not None:
                self.forced[: stop - start] = forced[:, start:stop].t().to(self.forced.device)
            else:
                self.forced.fill_(FREE)
            for target in range(known + start, known + stop):
                self.steps[target % len(self.steps)]()
                if report is not None:
                    report(1)
            # progress is not to run ahead of the GPU by more than a block
            tokens[:, start:stop] = self.tokens[: stop - start].t()
            self._wait()

    def _load(self, target: int, count: int) -> None:
        """Gets ready for `count` steps from slot `target` of the target on."""
        decoder = self.decoder
        self.slot.fill_(decoder.first_slot + target)
        self.place.zero_()
        query = torch.arange(count, device=self.slot.device) + self.slot
        biases = decoder.stage.model.attention_bias(decoder.layout, query)
        self.biases[:count] = biases.movedim(2, 0).unsqueeze(3).to(self.biases.dtype)

    def _step(self, kind: int) -> None:
        decoder = self.decoder
        bias = self.biases.index_select(0, self.place)[0]
        scores = decoder.slot_scores(self.token, kind, self.slot, self.views, bias)
        if self.added is not None:
            scores = scores + self.added.index_select(0, self.place)[0]
        scores = decoder.limited(scores, kind)
        numbers = self.uniforms.index_select(0, self.place)[0] if self.sampled else None
        drawn = draw(scores, numbers, decoder.temperature, decoder.top_k)
        forced = self.forced.index_select(0, self.place)[0]
        self.token.copy_(torch.where(forced == FREE, drawn, forced))
        self.tokens.index_copy_(0, self.place, self.token[None])
        self.slot.add_(1)
        self.place.add_(1)

    def _prepared(self, kind: int) -> Step:
        """The step of one kind of slot: as a graph on a GPU, as it is elsewhere."""

        def step() -> None:
            self._step(kind)

        if self.slot.device.type != "cuda":
            return step
        # what these runs leave in the caches lies behind everything that is read before it is written again
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self.slot.fill_(self.biases.shape[-1] - 1)
                self.place.zero_()
                step()
        torch.cuda.current_stream().wait_stream(stream)
        self.slot.fill_(self.biases.shape[-1] - 1)
        self.place.zero_()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        return graph.replay

    def _wait(self) -> None:
        if self.slot.device.type == "cuda":
            torch.cuda.current_stream().synchronize()
