# SPDX-License-Identifier: Apache-2.0
"""What names and shapes leave open about a checkpoint, as one vector of choices, and how a choice becomes our weights.

All choices but two fold into the weights; the order of the sources in the sequence and the largest distance of the
position bias are configuration values of a stage. The first value of each choice is the paper's.
"""

from dataclasses import dataclass
from itertools import permutations
from typing import Any

import torch
from transformers import PreTrainedConfig

TABLES = "model.conditioning_embedding.weight"
TARGETS = "model.target_embedding.weight"
QUANTIZER = "model.quantizer_embedding.weight"
SEGMENTS = "model.segment_embedding.weight"
# the numbers of the segments of the first source, the second and the target; with one source, its and the target's
SEGMENT_ORDERS = {
    "sources, then target": (0, 1, 2),
    "target, then sources": (1, 2, 0),
    "sources exchanged, then target": (1, 0, 2),
    "target, then sources exchanged": (2, 1, 0),
}
# the distance from which on all share T5's last bucket; "length" is that of the training sequence, as in the paper
LENGTH = "length"
CHOICES: dict[str, tuple[Any, ...]] = {
    "gate": ("first half", "second half"),
    "order": ("qkv", *("".join(each) for each in permutations("qkv") if "".join(each) != "qkv")),
    "split": ("[3, H, d]", "[H, 3, d]"),
    "norms": ("weight", "1 + weight"),
    "tables": ("as in the file", "exchanged"),
    "streams": ("as in the file", "exchanged"),
    "sources": ("vocal, instrumental", "instrumental, vocal"),
    "quantizer": ("of the slot's own codebook", "of its input's"),
    "input_table": ("of the input's codebook", "of the slot's own"),
    "first_table": ("last codebook's", "first codebook's"),
    "segments": tuple(SEGMENT_ORDERS),
    "distance": (LENGTH, 128, 256, 512, 1000, 1024, 2048),
    "null": ("zeros, with the segment", "zeros", "the mask row"),
}
TITLES = {
    "gate": "gate of the feed-forward",
    "order": "order of q, k and v",
    "split": "fused q, k, v",
    "norms": "weights of the norms",
    "tables": "which tables are the target's",
    "streams": "which table is the vocal's",
    "sources": "order of the coarse stage's sources",
    "quantizer": "quantizer embedding",
    "input_table": "table of a slot's input",
    "first_table": "table of the first slot's BOS",
    "segments": "order of the segments",
    "distance": "largest distance of the position bias",
    "null": "null conditioning",
}


@dataclass(frozen=True)
class Layout:
    """One value of each of `CHOICES`; the defaults are the paper's."""

    gate: str = CHOICES["gate"][0]
    order: str = CHOICES["order"][0]
    split: str = CHOICES["split"][0]
    norms: str = CHOICES["norms"][0]
    tables: str = CHOICES["tables"][0]
    streams: str = CHOICES["streams"][0]
    sources: str = CHOICES["sources"][0]
    quantizer: str = CHOICES["quantizer"][0]
    input_table: str = CHOICES["input_table"][0]
    first_table: str = CHOICES["first_table"][0]
    segments: str = CHOICES["segments"][0]
    distance: int | str = CHOICES["distance"][0]
    null: str = CHOICES["null"][0]


PAPER = Layout()


def folded(state: dict[str, torch.Tensor], config: PreTrainedConfig, layout: Layout) -> dict[str, torch.Tensor]:
    """A stage's weights as our module reads them, for weights by our names in a layout of the original.

    Args:
        state: by our names; it is not changed.
        config: the stage's configuration.
        layout: that of the original.
    """
    weights = dict(state)
    for name, value in state.items():
        if name.endswith("qkv_proj.weight"):
            weights[name] = _fused(value, layout, config.num_attention_heads)
        elif ".up_proj." in name and layout.gate != PAPER.gate:
            # the gate is the other half of the rows
            weights[name] = torch.cat(value.chunk(2)[::-1])
        elif name.endswith("norm.weight") and layout.norms != PAPER.norms:
            weights[name] = 1 + value
    _fold_tables(weights, config, layout)
    return weights


def layout_config(config: PreTrainedConfig, layout: Layout) -> dict[str, Any]:
    """The fields of a stage's configuration that a layout sets, by name: the two choices that no weight can express.

    Args:
        config: the stage's; it is not changed.
        layout: that of the original.
    """
    fields: dict[str, Any] = {"source_order": []}
    if layout.sources != PAPER.sources and config.num_conditioning_sources == 2:
        fields["source_order"] = [1, 0]
    if layout.distance == LENGTH:
        # LENGTH: as long as a crop in training, which the default configuration, the paper's, knows
        fields["relative_attention_max_distance"] = type(config)().relative_attention_max_distance
    else:
        fields["relative_attention_max_distance"] = layout.distance
    return fields


def _fused(weight: torch.Tensor, layout: Layout, heads: int) -> torch.Tensor:
    """The weight of a fused projection, rearranged to the order q, k, v, each by heads: [3 · H · d, D].

    Args:
        weight ([3 · H · d, D], d the size of a head, D the width): in the layout's order and split.
        layout: that of the original.
        heads: H.
    """
    if layout.split == PAPER.split:
        parts = weight.unflatten(0, (3, heads, -1))
    else:
        parts = weight.unflatten(0, (heads, 3, -1)).transpose(0, 1)
    return torch.cat([parts[layout.order.index(letter)].flatten(0, 1) for letter in "qkv"])


def _fold_tables(weights: dict[str, torch.Tensor], config: PreTrainedConfig, layout: Layout) -> None:
    """Changes embeddings so that our module, which reads them as the paper does, computes what the original did.

    Args:
        weights: by our names, changed in place: the tables of the conditioning ([K, V + 1, D]: K streams of all
            sources, V codes, D width) and of the target ([Q, V + 1, D]: Q codebooks), whose last rows are the mask
            and BOS, the quantizer embedding ([Q, D]), and the segment embedding ([sources + 1, D]).
        config: the stage's configuration.
        layout: that of the original.
    """
    conditioning = weights[TABLES].clone()
    target = weights[TARGETS].clone()
    quantizer = weights[QUANTIZER]
    segments = weights[SEGMENTS]
    sources = config.num_conditioning_sources
    bos = config.codebook_size
    if layout.tables != PAPER.tables and conditioning.shape == target.shape:
        conditioning, target = target, conditioning
    if layout.streams != PAPER.streams and sources == 2:
        conditioning = conditioning.flip(0)
    # our slot t reads a token of codebook t − 1 from that codebook's table, and BOS from the last one's
    if layout.input_table != PAPER.input_table:
        # the first slot's own table, with its BOS, becomes the last one
        target = target.roll(-1, dims=0)
    elif layout.first_table != PAPER.first_table:
        target[-1, bos] = target[0, bos]
    if layout.quantizer != PAPER.quantizer:
        quantizer = quantizer.roll(1, dims=0)
    order = list(SEGMENT_ORDERS[layout.segments])
    if sources == 1:
        # without the second source, only the order of the first one and the target is left
        of_source, _, of_target = order
        order = [0, 1] if of_source < of_target else [1, 0]
    segments = segments[order].clone()
    first = 0
    # our null conditioning is zeros in place of the sum of a source's tables, and its segment
    for source, sizes in enumerate(config.conditioning_codebook_sizes):
        own_tables = slice(first, first + len(sizes))
        if layout.null == "zeros":
            # the segment moves into one of the tables, so that it vanishes with it
            conditioning[first] += segments[source]
            segments[source] = 0
        elif layout.null == "the mask row":
            # the mask rows move into the segment, so that they stay when the tables vanish
            mask = conditioning[own_tables, sizes[0]].clone()  # the last row of each table
            conditioning[own_tables] -= mask[:, None]
            segments[source] += mask.sum(0)
        first += len(sizes)
    weights.update({TABLES: conditioning, TARGETS: target, QUANTIZER: quantizer, SEGMENTS: segments})
