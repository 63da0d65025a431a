# SPDX-License-Identifier: Apache-2.0
"""Which tensor of a checkpoint is which of our weights, by shapes, order, numbers, siblings and words in the keys.

Weights that we stack (a table or a head for each codebook) come from one tensor each. A mapping file overrules what is
found here; `{}` stands in it for the number of a layer, and `[]` for that of a codebook:

    semantic:
      config: {window_seconds: 10.0}        # where it departs from what the shapes say, and from the paper
      keys:
        model.layers.{}.attention_norm.weight: blocks.{}.norm1.weight
        model.target_embedding.weight: "embeddings.[].weight"
      leave_out: [rope.inv_freq]
"""

import re
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import torch

from hafm_hf.accompaniment.parts import stage_parts
from hafm_hf.modeling.configuration_stage import HAFMStageConfig

Shape = tuple[int, ...]
# a number that stands alone in a key: layers.3.norm1.weight has the number 3
NUMBER = re.compile(r"(?<![A-Za-z0-9])\d+(?![A-Za-z0-9])")
LAYER = re.compile(r"layers\.(\d+)\.")
STACKED = ("conditioning_embedding.weight", "target_embedding.weight", "heads.weight", "heads.bias")
# matrices of a layer, by our names
QKV = "attention.qkv_proj.weight"
OUTPUT = "attention.o_proj.weight"
UP = "feed_forward.up_proj.weight"
DOWN = "feed_forward.down_proj.weight"
# words in the key of a table, by stage: those of conditioning streams, and those of the target
CONDITIONING_WORDS = re.compile(r"cond|ctx|context|source|src|vocal|voice|encoder|prefix|memory")
TARGET_WORDS = re.compile(r"target|tgt|output|decoder|tok_emb")
STREAM_WORDS = {
    "semantic": (r"vocal|voice", r"inst"),
    "coarse": (r"semantic", r"coarse|acoustic|codec"),
    "fine": (r"coarse", r"fine"),
}
# of the coarse stage's two conditioning streams
VOCAL_WORDS = re.compile(r"vocal|voice")
INSTRUMENTAL_WORDS = re.compile(r"inst")
# words in the key of a layer's tensor
ATTENTION_WORDS = re.compile(r"att|norm_?1|ln_?1|pre_?norm_?a")
QKV_WORDS = re.compile(rf"{ATTENTION_WORDS.pattern}|qkv")
FEED_FORWARD_WORDS = re.compile(r"ff|mlp|feed|norm_?2|ln_?2")
# larger sizes are no number of heads
MOST_HEADS = 64
# tensors of a layer, at least: four matrices, and norms of the block and of the heads
LEAST_TENSORS = 8
LAYER_MATRICES = 4


@dataclass
class Mapping:
    """Where a stage's weights are.

    Args:
        keys: the keys of each of our weights; several for those that we stack.
        guessed: what only the order in the file says: "tables", which tables are the target's, or "streams", which of
            the coarse stage's conditioning tables is the vocal's.
        config: fields of the stage's configuration that the mapping file states.
    """

    keys: dict[str, list[str]]
    guessed: set[str] = field(default_factory=set)
    config: dict[str, Any] = field(default_factory=dict)


def map_keys(stage: str, tensors: dict[str, torch.Tensor], stated: dict[str, Any] | None = None) -> Mapping:
    """Maps all tensors of a stage.

    Args:
        stage: semantic, coarse or fine.
        tensors: by key, in the order of the file.
        stated: the stage's part of a mapping file, which overrules what keys and shapes show.

    Raises:
        ValueError: not every tensor is used exactly once, or not every weight is filled; the message lists both.
    """
    stated = stated or {}
    if unknown := set(stated) - {"config", "keys", "leave_out"}:
        raise ValueError(
            f"The mapping of {stage} holds {', '.join(sorted(unknown))}; it may hold config, keys, leave_out."
        )
    left_out = stated.get("leave_out", [])
    problems = [f"{key} is to be left out, but does not exist" for key in left_out if key not in tensors]
    shapes = {key: tuple(value.shape) for key, value in tensors.items() if key not in left_out}
    mapping, gaps = _propose(stage, shapes)
    mapping.config = dict(stated.get("config", {}))
    problems += gaps
    _overrule(mapping, shapes, stated.get("keys", {}))

    config = stage_config(stage, mapping, shapes)
    our_shapes = _our_shapes(stage, config)
    used = [key for keys in mapping.keys.values() for key in keys]
    twice = sorted({key for key in used if used.count(key) > 1})
    for name, keys in mapping.keys.items():
        if name not in our_shapes:
            continue
        shape = _unstacked(name, our_shapes[name])
        for key in keys:
            # a matrix may be transposed
            if shapes.get(key) not in (shape, shape[::-1]):
                problems.append(f"{name} {shape} does not fit {key} {shapes.get(key)}")
    missing = [f"  {name} {shape}" for name, shape in our_shapes.items() if name not in mapping.keys]
    unused = [f"  {key} {shape}" for key, shape in shapes.items() if key not in used]
    problems += [f"{key} is used twice" for key in twice]
    if missing or unused or problems:
        table = list(problems)
        if missing:
            table += ["our weights that nothing fills:", *missing]
        if unused:
            table += ["tensors of the checkpoint that are left over:", *unused]
        raise ValueError(f"The checkpoint does not fit the {stage} stage; write a --mapping.\n" + "\n".join(table))
    return mapping


def stage_config(stage: str, mapping: Mapping, shapes: dict[str, Shape]) -> HAFMStageConfig:
    """The stage's configuration: sizes from the shapes of what is mapped, the rest is the paper's.

    Args:
        stage: semantic, coarse or fine.
        mapping: which may lack weights; fields that its file states overrule.
        shapes: of the checkpoint's tensors by key.
    """
    config_class = stage_parts()[stage].model_class.config_class

    def shape(name: str) -> Shape:
        """Shape of the (first) tensor of our weight; () if there is none."""
        keys = mapping.keys.get(name)
        return shapes.get(keys[0], ()) if keys else ()

    sizes: dict[str, Any] = {}
    layers = {int(match[1]) for name in mapping.keys if (match := LAYER.search(name))}
    if layers:
        sizes["num_hidden_layers"] = len(layers)
    head_norm = shape("model.layers.0.attention.q_norm.weight")  # [d]
    output, down = (shape(f"model.layers.0.{name}") for name in (OUTPUT, DOWN))  # [D, H · d], [D, inner]
    if head_norm and output:
        head_dim = head_norm[0]
        sizes |= {"hidden_size": output[0], "head_dim": head_dim, "num_attention_heads": output[1] // head_dim}
    if down:
        sizes["intermediate_size"] = down[1]
    bias = shape("model.relative_attention_bias.weight")
    if bias and "num_attention_heads" in sizes:
        # buckets by heads, or transposed
        if bias[1] == sizes["num_attention_heads"]:
            sizes["relative_attention_num_buckets"] = bias[0]
        else:
            sizes["relative_attention_num_buckets"] = bias[1]
    if head_shape := shape("heads.weight"):
        sizes["codebook_sizes"] = [head_shape[0]] * len(mapping.keys["heads.weight"])
    if tables := mapping.keys.get("model.conditioning_embedding.weight"):
        # the last row is the mask
        codes = [shapes[key][0] - 1 for key in tables if key in shapes]
        if stage == "fine":
            # one source of several codebooks, not several sources
            sizes["conditioning_codebook_sizes"] = [codes]
        else:
            sizes["conditioning_codebook_sizes"] = [[size] for size in codes]
    sizes["feed_forward_bias"] = f"model.layers.0.{UP.replace('weight', 'bias')}" in mapping.keys
    sizes["head_bias"] = "heads.bias" in mapping.keys
    return config_class(**{**sizes, **mapping.config})


def assembled(stage: str, mapping: Mapping, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A stage's weights: float32 by our names, stacked where we stack; a missing quantizer embedding is zeros.

    Args:
        stage: semantic, coarse or fine.
        mapping: the keys of each weight.
        tensors: of the checkpoint by key.
    """
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    state = {}
    for name, shape in _our_shapes(stage, stage_config(stage, mapping, shapes), optional=True).items():
        if name not in mapping.keys:
            state[name] = torch.zeros(shape)
            continue
        values = []
        for key in mapping.keys[name]:
            value = tensors[key].float()
            # of two shapes that fit (`map_keys`), the other one is transposed
            if tuple(value.shape) != _unstacked(name, shape):
                value = value.t()
            values.append(value)
        if name.endswith(STACKED) and len(values) == shape[0]:
            state[name] = torch.stack(values)
        else:
            state[name] = values[0].contiguous()
    return state


def _our_shapes(stage: str, config: HAFMStageConfig, optional: bool = False) -> dict[str, Shape]:
    """Shapes of a stage's weights by our names, for its configuration.

    With `optional`, also that of a quantizer embedding with a single row, which the original may lack.
    """
    with torch.device("meta"):
        state = stage_parts()[stage].model_class(config).state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    if config.num_codebooks == 1 and not optional:
        # a single codebook needs none; the published semantic stage has none
        del shapes["model.quantizer_embedding.weight"]
    return shapes


def _unstacked(name: str, shape: Shape) -> Shape:
    """Shape of one of the tensors of which our weight of this name and shape is stacked; or that shape if it isn't."""
    return shape[1:] if name.endswith(STACKED) else shape


def _overrule(mapping: Mapping, shapes: dict[str, Shape], stated: dict[str, str]) -> None:
    """Replaces proposed keys by those that the mapping file states, and drops proposals for the same tensors.

    Patterns that match no tensor do nothing here: `map_keys` reports the weights that nothing fills and the tensors
    that are left over.

    Args:
        mapping: the proposal, changed in place.
        shapes: of the checkpoint's tensors.
        stated: patterns of keys by patterns of our names, with `{}` for a layer and `[]` for a codebook.
    """
    stated_keys: dict[str, list[str]] = {}  # by our names
    # any number in a key may be a layer's
    all_numbers = {match[0] for key in shapes for match in NUMBER.finditer(key)}
    for name, pattern in stated.items():
        # "" for weights outside the layers
        numbers = sorted(all_numbers, key=int) if "{}" in name else [""]
        for number in numbers:
            key = pattern.replace("{}", number)
            keys = [key]
            if "[]" in pattern:
                # there can be no more codebooks than tensors
                numbered = [key.replace("[]", str(book)) for book in range(len(shapes))]
                keys = [numbered_key for numbered_key in numbered if numbered_key in shapes]
            # a layer that does not exist is no fault of the pattern
            if keys and (number == "" or keys[0] in shapes):
                stated_keys[name.replace("{}", number)] = keys
    stated_tensors = {key for keys in stated_keys.values() for key in keys}
    kept = {
        name: keys
        for name, keys in mapping.keys.items()
        if name not in stated_keys and not stated_tensors.intersection(keys)
    }  # fmt: skip
    mapping.keys = {**kept, **stated_keys}


def _propose(stage: str, shapes: dict[str, Shape]) -> tuple[Mapping, list[str]]:
    """Maps what the checkpoint's keys and shapes show, without a mapping file.

    Args:
        stage: semantic, coarse or fine.
        shapes: of the checkpoint's tensors by key, in the order of the file.

    Returns:
        The mapping, which may lack weights, and a sentence for each tensor or layer that is missing from the stack.
    """
    mapping = Mapping({})
    prefix, layers = _layers(shapes)
    if not layers:
        return mapping, []
    first = layers[min(layers)]
    gaps = [
        f"layer {number} of {prefix} is missing"
        for number in range(max(layers) + 1)
        if number not in layers
    ]  # fmt: skip
    # once each, in the order of the file
    all_suffixes = dict.fromkeys(suffix for layer in layers.values() for suffix in layer)
    gaps += [
        f"{prefix}{number}{suffix} is missing, which other layers have"
        for number, layer in layers.items()
        for suffix in all_suffixes
        if suffix not in layer
    ]
    # T5's bias of positions has a row or column for each head
    head_counts = {size for shape in shapes.values() if len(shape) == 2 for size in shape if size <= MOST_HEADS}
    roles = _layer_roles({suffix: shapes[key] for suffix, key in first.items()}, head_counts)
    for number, layer in layers.items():
        for name, suffix in roles.items():
            if suffix in layer:
                mapping.keys[f"model.layers.{number}.{name}"] = [layer[suffix]]
    inside = {key for layer in layers.values() for key in layer.values()}
    outside = {key: shape for key, shape in shapes.items() if key not in inside}
    if roles:
        width = shapes[first[roles[OUTPUT]]][0]
        _map_outside(stage, outside, width, mapping)
    return mapping, gaps


def _layers(shapes: dict[str, Shape]) -> tuple[str, dict[int, dict[str, str]]]:
    """Finds the stack of layers among the keys.

    Returns:
        The text before the layers' numbers ("" if there is no stack), and by number the keys of each layer, by the
        text after the number (its suffix).
    """
    # a number in a key may be a layer's or not: every text before one may be the stack's
    stacks: dict[str, dict[int, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for key in shapes:
        for match in NUMBER.finditer(key):
            prefix = key[: match.start()]
            suffix = key[match.end() :]
            stacks[prefix][int(match[0])][suffix] = key

    def matrices(layer: dict[str, str]) -> int:
        """How many of a layer's tensors are matrices."""
        return sum(len(shapes[key]) == 2 for key in layer.values())

    complete = {
        prefix: stack
        for prefix, stack in stacks.items()
        if max(map(len, stack.values())) >= LEAST_TENSORS and max(map(matrices, stack.values())) == LAYER_MATRICES
    }
    if not complete:
        return "", {}
    prefix = max(complete, key=lambda text: len(complete[text]))
    return prefix, {number: dict(layer) for number, layer in sorted(complete[prefix].items())}


def _sibling(key: str) -> str:
    """Key of the bias beside a weight."""
    return f"{key.rpartition('.')[0]}.bias"


def _leaning(key: str, towards: re.Pattern[str], away: re.Pattern[str]) -> int:
    """1 if a key has words of `towards` only, −1 if of `away` only, 0 if of both or of neither."""
    has_towards = towards.search(key) is not None
    has_away = away.search(key) is not None
    if has_towards and not has_away:
        return 1
    if has_away and not has_towards:
        return -1
    return 0


def _layer_roles(shapes: dict[str, Shape], sizes: set[int]) -> dict[str, str]:
    """Finds which of a layer's tensors is which, by shapes, and where these leave it open by words.

    Args:
        shapes: of the layer's tensors, by suffix (the text of a key after the layer's number).
        sizes: possible numbers of heads.

    Returns:
        Suffixes by our names; empty if no assignment fits.
    """
    matrices = [name for name, shape in shapes.items() if len(shape) == 2]
    vectors = [name for name, shape in shapes.items() if len(shape) == 1]
    biases = {_sibling(name) for name in matrices if _sibling(name) in shapes}
    # each assignment that fits: minus how well the names agree, its number, the matrices, the norms of the heads; the
    # smallest agrees best, and is the first of those that do
    fitting: list[tuple[int, int, tuple[str, ...], list[str]]] = []
    for qkv, output, up, down in permutations(matrices):
        width, inner = shapes[output]  # D, and H heads of d: H · d
        # of queries and keys, [d] each
        head_norms = [name for name in vectors if name not in biases and shapes[name] != (width,)]
        fits = (
            shapes[qkv] == (3 * inner, width)
            and shapes[down][0] == width
            and shapes[up] == (2 * shapes[down][1], width)
            and len(head_norms) == 2
            and shapes[head_norms[0]] == shapes[head_norms[1]]
            and inner % shapes[head_norms[0]][0] == 0
            and inner // shapes[head_norms[0]][0] in sizes
            and not {_sibling(qkv), _sibling(output)} & biases
        )
        if fits:
            agreement = _leaning(qkv, QKV_WORDS, FEED_FORWARD_WORDS)
            fitting.append((-agreement, len(fitting), (qkv, output, up, down), head_norms))
    if not fitting:
        return {}
    _, _, (qkv, output, up, down), head_norms = min(fitting)
    width = shapes[output][0]
    roles = {QKV: qkv, OUTPUT: output, UP: up, DOWN: down}
    for name, matrix in ((UP, up), (DOWN, down)):
        if _sibling(matrix) in biases:
            roles[name.replace("weight", "bias")] = _sibling(matrix)
    # only the product of both weights has an effect, so their order has none
    roles |= dict(zip(("attention.q_norm.weight", "attention.k_norm.weight"), head_norms, strict=True))
    norms = [name for name in vectors if name not in biases and shapes[name] == (width,)]
    if len(norms) == 2:
        # the attention's first
        norms.sort(key=lambda name: _leaning(name, FEED_FORWARD_WORDS, ATTENTION_WORDS))
        roles |= dict(zip(("attention_norm.weight", "feed_forward_norm.weight"), norms, strict=True))
    return roles


def _map_outside(stage: str, shapes: dict[str, Shape], width: int, mapping: Mapping) -> None:
    """Maps what belongs to no layer: tables, heads, the bias of positions, the last norm.

    Args:
        stage: semantic, coarse or fine.
        shapes: of the tensors outside the layers.
        width: D.
        mapping: gets what is found.
    """
    # tables and heads, [rows, D]: the number of rows by key
    tables = {key: shape[0] for key, shape in shapes.items() if len(shape) == 2 and shape[1] == width}
    # T5's bias is the only other matrix: buckets by heads
    other_matrices = [key for key, shape in shapes.items() if len(shape) == 2 and key not in tables]
    biases = {_sibling(key) for key in tables if _sibling(key) in shapes}
    norms = [key for key, shape in shapes.items() if shape == (width,) and key not in biases]
    if len(other_matrices) == 1:
        mapping.keys["model.relative_attention_bias.weight"] = other_matrices
    if len(norms) == 1:
        mapping.keys["model.norm.weight"] = norms
    # a codebook has a head with a row for each code, and a table with one more, for BOS
    row_counts = sorted(set(tables.values()), reverse=True)
    sizes = [count - 1 for count in row_counts if count - 1 in row_counts]
    by_size = {size: [key for key, count in tables.items() if count == size] for size in sizes}

    def likely_heads(size: int) -> int:
        """How many of the tables with `size` rows have a bias, or "head" in their keys."""
        return sum(_sibling(key) in biases or "head" in key for key in by_size[size])

    # the size with most of them; of equal ones the largest
    sizes.sort(key=likely_heads, reverse=True)
    if not sizes:
        return
    size = sizes[0]
    heads = _in_order(by_size[size])
    mapping.keys["heads.weight"] = heads
    if all(_sibling(key) in biases for key in heads):
        mapping.keys["heads.bias"] = [_sibling(key) for key in heads]
    sources = len(stage_parts()[stage].reads)
    streams = len(heads) if stage == "fine" else sources
    # the other tables by their numbers of rows
    small_tables = {
        sources + 1: "model.segment_embedding.weight",
        len(heads): "model.quantizer_embedding.weight",
    }
    for count, name in small_tables.items():
        keys = [key for key, number in tables.items() if number == count and key not in heads]
        if len(keys) == 1:
            mapping.keys[name] = keys
    used = {key for keys in mapping.keys.values() for key in keys}
    unused_tables = [key for key in tables if key not in used]
    if len(unused_tables) == streams + len(heads) and streams:
        _map_tables(stage, unused_tables, {key: tables[key] for key in unused_tables}, size, streams, mapping)


def _map_tables(stage: str, keys: list[str], rows: dict[str, int], size: int, streams: int, mapping: Mapping) -> None:
    """Divides the tables into those of the conditioning's streams and those of the target's codebooks.

    Args:
        stage: semantic, coarse or fine.
        keys: of the tables, in the order of the file.
        rows: number of each table's rows.
        size: number of codes of a target's codebook.
        streams: number of the conditioning's tables.
        mapping: gets both, and "guessed" if only the order in the file divides them.
    """
    words_read, words_written = (re.compile(words) for words in STREAM_WORDS[stage])

    def side(key: str) -> int:
        """1 if words say that a table is the conditioning's, −1 if the target's, 0 if they say nothing."""
        return _leaning(key, CONDITIONING_WORDS, TARGET_WORDS) or _leaning(key, words_read, words_written)

    # the conditioning's first: those that are too small or large for the target, then by words
    ordered = sorted(keys, key=lambda key: (rows[key] == size + 1, -side(key)))
    if {rows[key] for key in keys} == {size + 1}:
        # all tables are alike: words must distinguish the last of one side from the first of the other
        last_source = side(ordered[streams - 1])
        first_target = side(ordered[streams])
        if last_source <= first_target:
            mapping.guessed.add("tables")
            ordered = keys
    sources = _in_order(ordered[:streams])
    if stage == "coarse":

        def source(key: str) -> int:
            """1 if words say that a table is the instrumental's, −1 if the vocal's, 0 if they say nothing."""
            return _leaning(key, INSTRUMENTAL_WORDS, VOCAL_WORDS)

        if source(sources[0]) == source(sources[1]):
            mapping.guessed.add("streams")
        sources.sort(key=source)  # the vocal's first
    mapping.keys["model.conditioning_embedding.weight"] = sources
    mapping.keys["model.target_embedding.weight"] = _in_order(ordered[streams:])


def _in_order(keys: list[str]) -> list[str]:
    """Keys by the numbers in them, as in heads.0, heads.1; otherwise in the order of the file."""
    return sorted(keys, key=lambda key: [int(number) for number in re.findall(r"\d+", key)])
