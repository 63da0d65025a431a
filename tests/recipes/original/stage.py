# SPDX-License-Identifier: Apache-2.0
"""An implementation of HAFM's stages that shares nothing with the package: module, forward pass, training, files.

It can be laid out in every way that names and shapes of a checkpoint leave open (`DrawnLayout`). `with_layout` moves
the weights of a trained stage to another of these layouts, with the same outputs.
"""

import argparse
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

# hidden size, attention heads, size of a head, size of the feed-forward layer, blocks
WIDTH, HEADS, HEAD, INNER, LAYERS = 40, 3, 12, 106, 2
# by stage, the sources of its conditioning; a source is a list of streams whose embeddings are summed
SOURCES = {
    "semantic": [["vocal_semantic"]],
    "coarse": [["vocal_semantic"], ["inst_semantic"]],
    "fine": [["coarse_0", "coarse_1", "coarse_2", "coarse_3"]],
}
# frames per second of the conditioning and of the target
RATES = {"semantic": (50, 50), "coarse": (50, 75), "fine": (75, 75)}
# tokens in a training sequence of the paper
LENGTHS = {"semantic": 1000, "coarse": 2000, "fine": 1125}
BATCH = 12
# length of a training crop here
SECONDS = {"semantic": 1.0, "coarse": 0.4, "fine": 0.4}


@dataclass(frozen=True)
class DrawnLayout:
    """How an original is laid out.

    Args:
        gate: which half of the fused feed-forward is the gate, 0 or 1.
        qkv: the order of queries, keys and values.
        by_head: whether each head has its own q, k and v beside each other.
        quantizer: whose quantizer embedding a slot gets: "slot" or "input".
        table: whose table a slot's input is read from: "input" or "slot".
        first: the table of the first slot's BOS, under "input": "last" or "first".
        segments: numbers of the segments of the coarse stage's sources and target.
        exchanged: whether the instrumental comes before the vocal in the coarse stage's sequence.
        plus_one: whether norms multiply by 1 + weight.
        distance: largest distance of the position bias; 0 for the length of the paper's sequence.
        null: "zeros", "segment" or "mask".
    """

    gate: int = 0
    qkv: str = "qkv"
    by_head: bool = False
    quantizer: str = "slot"
    table: str = "input"
    first: str = "last"
    segments: tuple[int, int, int] = (0, 1, 2)
    exchanged: bool = False
    plus_one: bool = False
    distance: int = 0
    null: str = "zeros"

    def numbers(self, sources: int) -> list[int]:
        """Segment numbers of the sources, in order, and last of the target.

        Args:
            sources: how many there are, 1 or 2.
        """
        if sources == 2:
            return list(self.segments)
        return [0, 1] if self.segments[0] < self.segments[2] else [1, 0]


class Norm(nn.Module):
    """RMS norm over the last dimension."""

    def __init__(self, width: int, drawn: DrawnLayout) -> None:
        """Takes the size of that dimension, and the layout."""
        super().__init__()
        self.plus_one = drawn.plus_one
        self.weight = nn.Parameter(torch.zeros(width) if drawn.plus_one else torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised `x` (float [..., width]), of the same shape."""
        scale = 1 + self.weight if self.plus_one else self.weight
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6) * scale


class Block(nn.Module):
    """A transformer block: attention with normalised queries and keys, then a gated feed-forward layer."""

    def __init__(self, drawn: DrawnLayout) -> None:
        """Takes the layout."""
        super().__init__()
        self.drawn = drawn
        self.norm1 = Norm(WIDTH, drawn)
        self.qkv = nn.Linear(WIDTH, 3 * HEADS * HEAD, bias=False)
        self.out_proj = nn.Linear(HEADS * HEAD, WIDTH, bias=False)
        self.q_norm = Norm(HEAD, drawn)
        self.k_norm = Norm(HEAD, drawn)
        self.norm2 = Norm(WIDTH, drawn)
        self.w_in = nn.Linear(WIDTH, 2 * INNER)
        self.w_out = nn.Linear(INNER, WIDTH)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Hidden states (float [batch, length, WIDTH]) of the next layer; `bias` (float [HEADS, length, length])."""
        fused = self.qkv(self.norm1(x))
        shape = (HEADS, 3, HEAD) if self.drawn.by_head else (3, HEADS, HEAD)
        fused = fused.view(*x.shape[:2], *shape)
        three = fused.unbind(3 if self.drawn.by_head else 2)
        query, key, value = (three[self.drawn.qkv.index(letter)].transpose(1, 2) for letter in "qkv")
        scores = self.q_norm(query) @ self.k_norm(key).transpose(2, 3) / math.sqrt(HEAD) + bias
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(*x.shape[:2], -1)
        x = x + self.out_proj(mixed)
        halves = self.w_in(self.norm2(x)).split(INNER, dim=-1)
        return x + self.w_out(F.gelu(halves[self.drawn.gate]) * halves[1 - self.drawn.gate])


class OriginalStage(nn.Module):
    """A stage; its keys are those of the first of both styles of names."""

    def __init__(self, name: str, drawn: DrawnLayout, clusters: int, codes: int) -> None:
        """Draws random weights.

        Args:
            name: "semantic", "coarse" or "fine".
            drawn: the layout.
            clusters: number of semantic tokens.
            codes: size of a codebook.
        """
        super().__init__()
        self.name, self.drawn = name, drawn
        self.books = 1 if name == "semantic" else 4
        self.size = clusters if name == "semantic" else codes
        self.rows = rows = (codes if name == "fine" else clusters) + 1
        streams = [stream for source in SOURCES[name] for stream in source]
        self.cond_embeddings = nn.ModuleDict({stream: nn.Embedding(rows, WIDTH) for stream in streams})
        self.target_embeddings = nn.ModuleList([nn.Embedding(self.size + 1, WIDTH) for _ in range(self.books)])
        if self.books > 1:
            self.quantizer_embedding = nn.Embedding(self.books, WIDTH)
        self.segment_embedding = nn.Embedding(len(SOURCES[name]) + 1, WIDTH)
        self.rel_pos_bias = nn.Embedding(32, HEADS)
        self.layers = nn.ModuleList([Block(drawn) for _ in range(LAYERS)])
        self.norm = Norm(WIDTH, drawn)
        self.heads = nn.ModuleList([nn.Linear(WIDTH, self.size) for _ in range(self.books)])
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.1)

    def forward(self, conditioning: torch.Tensor, tokens: torch.Tensor, null: torch.Tensor) -> torch.Tensor:
        """Logits of all tokens, each from those before it.

        Args:
            conditioning (int64 [batch, streams, frames]): the streams of all sources, in the order of `SOURCES`.
            tokens (int64 [batch, length]): the target, frame by frame with all its codebooks.
            null (bool [batch]): which sequences are without conditioning.

        Returns:
            float [batch, length, codes].
        """
        drawn, books = self.drawn, self.books
        numbers = drawn.numbers(len(SOURCES[self.name]))
        # the embedded sources: [batch, frames, WIDTH] each
        parts = []
        place = 0
        for source, streams in enumerate(SOURCES[self.name]):
            ids = [conditioning[:, place + number] for number in range(len(streams))]
            place += len(streams)
            if drawn.null == "mask":
                mask = self.rows - 1
                ids = [torch.where(null[:, None], mask, each) for each in ids]
            summed = sum(self.cond_embeddings[stream](each) for stream, each in zip(streams, ids, strict=True))
            segment = self.segment_embedding.weight[numbers[source]]
            if drawn.null == "segment":
                summed = torch.where(null[:, None, None], torch.zeros_like(summed), summed)
            summed = summed + segment
            if drawn.null == "zeros":
                summed = torch.where(null[:, None, None], torch.zeros_like(summed), summed)
            parts.append(summed)
        if drawn.exchanged:
            parts.reverse()
        # BOS, whose id follows the codes, then each token as input of the next slot
        inputs = torch.cat([torch.full_like(tokens[:, :1], self.size), tokens[:, :-1]], dim=1)
        # the embedding table of each slot's input
        columns = []
        for slot in range(inputs.shape[1]):
            if drawn.table == "slot":
                table = slot % books
            elif slot == 0:
                table = books - 1 if drawn.first == "last" else 0
            else:
                table = (slot - 1) % books
            columns.append(table)
        weights = torch.stack([table.weight for table in self.target_embeddings])  # type: ignore[misc]
        target = weights[torch.tensor(columns), inputs] + self.segment_embedding.weight[numbers[-1]]
        if books > 1:
            slots = torch.arange(inputs.shape[1])
            row = slots % books if drawn.quantizer == "slot" else (slots - 1) % books
            target = target + self.quantizer_embedding.weight[row]
        x = torch.cat([*parts, target], dim=1)
        bias = self.positions(x.shape[1])
        for layer in self.layers:
            x = layer(x, bias)
        x = self.norm(x[:, -inputs.shape[1] :])
        frames = x.unflatten(1, (-1, books))
        return torch.stack([head(frames[:, :, book]) for book, head in enumerate(self.heads)], dim=2).flatten(1, 2)

    def positions(self, length: int) -> torch.Tensor:
        """T5's position bias of a causal sequence: float [HEADS, length, length], queries by keys.

        Distances below 16 have a bucket each; larger ones, up to the furthest, share 16 more on a logarithmic scale.
        """
        furthest = self.drawn.distance or LENGTHS[self.name]
        apart = torch.arange(length)[:, None] - torch.arange(length)[None]
        large = 16 + (torch.log(apart.clamp(min=1) / 16) / math.log(furthest / 16) * 16).long().clamp(max=15)
        bucket = torch.where(apart < 16, apart.clamp(min=0), large)
        bias = self.rel_pos_bias(bucket).permute(2, 0, 1)
        return bias.masked_fill(apart < 0, -torch.inf)


def trained(stage: OriginalStage, songs: list[Any], steps: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Trains on random crops of songs, a tenth of them without conditioning.

    Args:
        stage: the stage, which is changed.
        songs: their tokens.
        steps: how many batches.
        seed: of the crops.

    Returns:
        AdamW's second moments by the weight's key.
    """
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(stage.parameters(), lr=4e-3, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps, pct_start=0.1)
    # frames of a crop of the conditioning, and of the target
    read, written = (round(SECONDS[stage.name] * rate) for rate in RATES[stage.name])
    # possible starts of a crop per second, each at a whole frame of both
    unit = 25 if RATES[stage.name] == (50, 75) else RATES[stage.name][0]
    for _ in range(steps):
        conditioning = []
        tokens = []
        for _ in range(BATCH):
            song = songs[int(torch.randint(len(songs), (), generator=draw))]
            streams, target = streams_of(stage.name, song)
            units = streams.shape[1] * unit // RATES[stage.name][0]
            start = int(torch.randint(units - round(SECONDS[stage.name] * unit) + 1, (), generator=draw))
            first, then = (start * rate // unit for rate in RATES[stage.name])
            conditioning.append(streams[:, first : first + read])
            tokens.append(target[:, then : then + written].t().flatten())
        null = torch.rand(BATCH, generator=draw) < 0.1
        targets = torch.stack(tokens)
        loss = F.cross_entropy(stage(torch.stack(conditioning), targets, null).mT, targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(stage.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return {name: optimizer.state[value]["exp_avg_sq"] for name, value in stage.named_parameters()}


def streams_of(name: str, song: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What a stage reads of a song, int64 [streams, frames], and what it writes, int64 [codebooks, frames]."""
    if name == "semantic":
        return song.vocal[None], song.instrumental[None]
    if name == "coarse":
        return torch.stack([song.vocal, song.instrumental]), song.codes[:4]
    return song.codes[:4], song.codes[4:8]


def with_layout(
    name: str, state: dict[str, torch.Tensor], drawn: DrawnLayout, moments: bool = False
) -> dict[str, torch.Tensor]:
    """Weights of a stage in the default layout, moved to those of another layout with the same outputs.

    Args:
        name: "semantic", "coarse" or "fine".
        state: the weights by key.
        drawn: the other layout.
        moments: whether `state` has second moments instead, which are moved in the same way; those of rows that
            nothing reads are zeros.
    """
    out = {key: value.clone() for key, value in state.items()}
    books = sum(key.startswith("target_embeddings") for key in state)
    for layer in range(LAYERS):
        prefix = f"layers.{layer}."
        q, k, v = state[f"{prefix}qkv.weight"].view(3, HEADS, HEAD, WIDTH)
        three = [{"q": q, "k": k, "v": v}[letter] for letter in drawn.qkv]
        out[f"{prefix}qkv.weight"] = torch.stack(three, dim=1 if drawn.by_head else 0).reshape(-1, WIDTH)
        if drawn.gate == 1:
            for kind in ("weight", "bias"):
                out[f"{prefix}w_in.{kind}"] = state[f"{prefix}w_in.{kind}"].roll(INNER, dims=0)
    if drawn.plus_one and not moments:
        for key in out:
            if "norm" in key:
                out[key] -= 1
    tables = [state[f"target_embeddings.{book}.weight"].clone() for book in range(books)]
    if books > 1:
        quantizer = state["quantizer_embedding.weight"]
        if drawn.quantizer != "slot":
            out["quantizer_embedding.weight"] = torch.stack([quantizer[(row + 1) % books] for row in range(books)])
        if drawn.table == "slot":
            tables = [tables[book - 1] for book in range(books)]
        elif drawn.first == "first":
            tables[0][-1] = tables[-1][-1]
            tables[-1][-1] = 0 if moments else 0.1 * torch.randn(WIDTH)
    out |= {f"target_embeddings.{book}.weight": table for book, table in enumerate(tables)}
    segments = state["segment_embedding.weight"].clone()
    # of the random mask of each stream
    seed = 0
    for source, streams in enumerate(SOURCES[name]):
        for place, stream in enumerate(streams):
            key = f"cond_embeddings.{stream}.weight"
            if drawn.null != "zeros" and place == 0 and not moments:
                # the base's null is nothing at all, so the segment is in the table
                out[key] += segments[source]
            if drawn.null == "mask":
                draw = torch.Generator().manual_seed(seed)
                mask = torch.full((WIDTH,), 1e-6) if moments else 0.1 * torch.randn(WIDTH, generator=draw)
                # added to all rows and subtracted from the segment: masks sum to nothing, tokens to what they did
                if not moments:
                    out[key] = out[key] + mask
                    # the segment itself is in the first stream's table
                    segments[source] = (0 if place == 0 else segments[source]) - mask
                out[key][-1] = mask
            seed += 1
        if drawn.null == "segment" and not moments:
            segments[source] = 0
    numbers = drawn.numbers(len(SOURCES[name]))
    out["segment_embedding.weight"] = torch.stack([segments[numbers.index(row)] for row in range(len(numbers))])
    return out


def renamed(key: str, style: str) -> str:
    """A key in another code base's style of names, in which layers come first and tables are numbered."""
    if style == "long":
        return key
    words = {
        "cond_embeddings.": "ctx_tokens.", "target_embeddings.": "tgt_tok_", "quantizer_embedding.weight": "level.w",
        "segment_embedding.weight": "part.w", "rel_pos_bias.weight": "t5.table", "layers.": "decoder.block_",
        ".norm1.weight": ".ln_attn.scale", ".norm2.weight": ".ln_mlp.scale", ".qkv.": ".attn.to_qkv.",
        ".out_proj.": ".attn.to_out.", ".q_norm.weight": ".attn.qn.scale", ".k_norm.weight": ".attn.kn.scale",
        ".w_in.": ".mlp.0.", ".w_out.": ".mlp.2.", "norm.weight": "ln_f.scale", "heads.": "logits.",
    }  # fmt: skip
    for ours, theirs in words.items():
        key = key.replace(ours, theirs)
    return key


def save(
    path: Path,
    state: dict[str, torch.Tensor],
    moments: dict[str, torch.Tensor],
    style: str = "long",
    prefix: str = "",
    dtype: torch.dtype = torch.float32,
    **more: Any,
) -> None:
    """Writes a checkpoint as training scripts do: weights, AdamW, scaler, counters, arguments.

    Args:
        path: the file.
        state, moments: weights and second moments by key.
        style: "long" for our names of weights, "short" for others with the layers first.
        prefix: of every name.
        dtype: of the stored weights.
        more: further entries of the checkpoint.
    """
    keys = sorted(state, key=lambda key: not key.startswith("layers.")) if style == "short" else list(state)
    groups = {"lr": 1e-4, "betas": (0.9, 0.98), "weight_decay": 0.01, "params": list(range(len(keys)))}
    kept = {
        number: {"step": torch.tensor(300.0), "exp_avg": torch.zeros_like(state[key]), "exp_avg_sq": moments[key]}
        for number, key in enumerate(keys)
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "epoch": 3,
        "global_step": 100_000,
        "model_state": {prefix + renamed(key, style): state[key].to(dtype) for key in keys},
        "optimizer_state": {"state": kept, "param_groups": [groups]},
        "scaler_state": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 17},
        "best_val_loss": np.float64(3.2),
        "args": argparse.Namespace(lr=3e-4, out="runs"),
        **more,
    }
    torch.save(content, path)


def of(drawn: DrawnLayout, **changes: Any) -> DrawnLayout:
    """A drawing with some values changed."""
    return replace(drawn, **changes)
