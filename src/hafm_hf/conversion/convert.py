# SPDX-License-Identifier: Apache-2.0
"""From the published PyTorch checkpoints to stage folders: weights are matched by structure, never by luck.

Off the path of the data. The key names of the originals are unknown, so a weight finds its place by its layer and its
shape; where several places have one shape, words in the key must tell them apart. Whatever stays ambiguous or left
over is refused, with a mapping file as the way out. See docs/hub.md.
"""

import pickle
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PreTrainedConfig, PreTrainedModel

from ..modeling.modeling_hafm import STAGE_MODELS
from .structure import Match, Slot, match_structure

CHECKPOINT = "ckpt_best.pt"
STATE = "model_state"
STEP = "global_step"
# what DistributedDataParallel and torch.compile put in front of every key
WRAPPERS = ("module.", "_orig_mod.")
MAPPING_FIELDS = ("config", "keys")


class HAFMConversionError(ValueError):
    """The checkpoint cannot be converted; the message says why, and what a mapping file would have to say."""


@dataclass
class ConvertedStage:
    """One stage, loaded.

    Args:
        name: "semantic", "coarse" or "fine".
        model: with the original's weights.
        matches: which original key became which weight, and why.
        step: training steps the checkpoint states.
    """

    name: str
    model: PreTrainedModel
    matches: list[Match]
    step: int | None


@dataclass
class StageMapping:
    """What a mapping file says of a stage: configuration fields, and slots for keys (None: leave the key out)."""

    config: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, str | None] = field(default_factory=dict)


def convert(original: str | Path, mapping: str | Path | None = None) -> list[ConvertedStage]:
    """Reads the stages in a folder of original checkpoints.

    Args:
        original: holds ar_semantic, ar_coarse and ar_fine, or some of them, each with ckpt_best.pt.
        mapping: YAML or JSON file that overrides the matching, {stage: {"config": {field: value}, "keys": {original
            key: slot, or null to leave it out}}}.

    Raises:
        HAFMConversionError: on files that hold more than tensors, on keys whose place is ambiguous, on keys left over,
            on places left empty, and on weights that are not finite.
    """
    original, mappings = Path(original), load_mapping(mapping)
    found = {name: original / f"ar_{name}" / CHECKPOINT for name in STAGE_MODELS}
    there = {name: path for name, path in found.items() if path.is_file()}
    if not there:
        raise HAFMConversionError(
            f"{original} holds none of {', '.join(f'ar_{name}/{CHECKPOINT}' for name in STAGE_MODELS)}."
        )
    return [convert_stage(name, path, mappings.get(name, StageMapping())) for name, path in there.items()]


def convert_stage(name: str, path: Path, mapping: StageMapping) -> ConvertedStage:
    """Reads one stage; raises as `convert` does."""
    tensors, step = load_checkpoint(path)
    config = STAGE_MODELS[name].config_class(**mapping.config)
    slots = expected_slots(config)
    # on the meta device the model only says which weights it has
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in STAGE_MODELS[name](config).state_dict().items()}
    tensors = _split_stacked(tensors, shapes)
    given = expand_wildcards(mapping.keys, tensors)
    sizes = {key: tuple(value.shape) for key, value in tensors.items()}
    matches, problems = match_structure(sizes, slots, config.num_hidden_layers, given)
    if problems:
        raise HAFMConversionError(
            f"{path} does not fit a {name} stage of {config.num_hidden_layers} layers × {config.hidden_size}:\n  "
            + "\n  ".join(problems)
            + "\nA mapping file (--mapping) can say where keys belong; see docs/hub.md."
        )
    state = assemble_state(tensors, matches, shapes)
    model = STAGE_MODELS[name](config)
    model.load_state_dict(state, strict=True)
    return ConvertedStage(name, model.eval(), matches, step)


def load_mapping(path: str | Path | None) -> dict[str, StageMapping]:
    """Reads a mapping file.

    Raises:
        HAFMConversionError: on unknown stages or fields.
    """
    if path is None:
        return {}
    content = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    if not isinstance(content, dict) or set(content) - set(STAGE_MODELS):
        raise HAFMConversionError(f"{path} must map {', '.join(STAGE_MODELS)} to what they need.")
    for name, stage in content.items():
        if not isinstance(stage, dict) or set(stage) - set(MAPPING_FIELDS):
            raise HAFMConversionError(f"{path}: {name} may hold {' and '.join(MAPPING_FIELDS)}.")
    return {name: StageMapping(**stage) for name, stage in content.items()}


def load_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], int | None]:
    """Tensors and training step of an original checkpoint; no code in the file is run.

    Raises:
        HAFMConversionError: if the file is a pickle of more than tensors and plain values, or has no `model_state`.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise HAFMConversionError(
            f"{path} holds more than tensors, and such a file can run code when it is read: refused. "
            "Ask its publisher for the bare weights."
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise HAFMConversionError(f"{path} cannot be read as a PyTorch checkpoint.") from error
    state = content.get(STATE) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state:
        raise HAFMConversionError(f"{path} has no {STATE!r}; the published checkpoints keep their weights there.")
    tensors = {}
    for key, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise HAFMConversionError(f"{path}: {key} is a {type(value).__name__}, not a tensor.")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise HAFMConversionError(f"{path}: {key} holds NaN or infinite weights.")
        tensors[_unwrapped(str(key))] = value
    if len(tensors) != len(state):
        raise HAFMConversionError(f"{path}: keys coincide once {' and '.join(WRAPPERS)} are taken off.")
    step = content.get(STEP)
    return tensors, int(step) if isinstance(step, (int, float)) else None


def expected_slots(config: PreTrainedConfig) -> list[Slot]:
    """Every place that a weight of an original can take in a stage, with the words that its key may have there.

    Ours are stacked, one row a codebook, layer or not; the original's are single: a slot is one of them.
    """
    width, inner = config.hidden_size, config.num_attention_heads * config.head_dim
    head, middle = (config.head_dim,), config.intermediate_size
    slots = []
    for layer in range(config.num_hidden_layers):
        for name, shape, words in (
            ("attention_norm", (width,), "attn attention att mha norm1 ln1 input"),
            ("attention.qkv_proj", (3 * inner, width), "qkv wqkv in"),
            ("attention.q_norm", head, "q query qn qnorm"),
            ("attention.k_norm", head, "k key kn knorm"),
            ("attention.o_proj", (width, inner), "o out wo o_proj out_proj"),
            ("feed_forward_norm", (width,), "ff ffn mlp feed_forward geglu norm2 ln2 post_attention"),
            ("feed_forward.up_proj", (2 * middle, width), "up w1 w12 fc1 gate wi in"),
            ("feed_forward.down_proj", (width, middle), "down w2 w3 fc2 wo out"),
        ):
            slots.append(Slot(f"model.layers.{layer}.{name}.weight", shape, layer=layer, words=_words(words)))
    slots += _embedding_slots(config)
    slots.append(Slot("model.norm.weight", (width,), words=_words("final norm ln_f")))
    return slots


def _embedding_slots(config: PreTrainedConfig) -> list[Slot]:
    width, buckets = config.hidden_size, config.relative_attention_num_buckets
    sources = config.conditioning_codebook_sizes
    streams = [size for source in sources for size in source]
    if len(set(streams)) > 1 or len(set(config.codebook_sizes)) > 1:
        raise HAFMConversionError(f"Codebooks of one table must be of one size: {streams}, {config.codebook_sizes}.")
    conditioning, target = "cond conditioning condition context ctx src source prefix", "target tgt"
    if config.model_type == "hafm_fine":
        conditioning, target = f"{conditioning} coarse", f"{target} fine"
    elif len(streams) == 1:
        conditioning, target = f"{conditioning} vocal vocals voice", f"{target} inst instrumental accompaniment"
    # the two sources of the coarse stage
    each = ["vocal vocals voice", "inst instrumental accompaniment"] if len(sources) == 2 else [""] * len(streams)

    def family(name: str, sizes: list[int], words: str, extra: int, singles: Iterable[str]) -> list[Slot]:
        return [
            Slot(name, (size + extra, width), index=i, words=_words(words), own_words=_words(single))
            for i, (size, single) in enumerate(zip(sizes, singles, strict=True))
        ]

    nothing = [""] * config.num_codebooks
    return [
        *family("model.conditioning_embedding.weight", streams, conditioning, 1, each),
        *family("model.target_embedding.weight", config.codebook_sizes, target, 1, nothing),
        *family("heads.weight", config.codebook_sizes, "head heads lm_head logits classifier", 0, nothing),
        Slot(
            "model.quantizer_embedding.weight",
            (config.num_codebooks, width),
            words=_words("quantizer quant codebook level offset"),
        ),
        Slot("model.segment_embedding.weight", (len(sources) + 1, width), words=_words("segment seg type")),
        Slot(
            "model.relative_attention_bias.weight",
            (buckets, config.num_attention_heads),
            words=_words("rel relative bias t5 rpe"),
        ),
    ]


def expand_wildcards(keys: dict[str, str | None], there: Iterable[str]) -> dict[str, str | None]:
    """Writes out `blocks.*.n1: model.layers.*.attention_norm.weight`; * is a number in a key, and its rank in a slot.

    Raises:
        HAFMConversionError: if a key with * fits nothing, or * stands in the slot alone.
    """
    expanded: dict[str, str | None] = {}
    for key, label in keys.items():
        if "*" not in key:
            if label is not None and "*" in label:
                raise HAFMConversionError(f"The mapping of {key} has a * in its slot, {label}, but none in the key.")
            expanded[key] = label
            continue
        pattern = re.compile(r"(\d+)".join(re.escape(part) for part in key.split("*")))
        if pattern.groups > 1:
            raise HAFMConversionError(f"The mapping names {key}; one * is what it may hold.")
        found = sorted((int(match.group(1)), match.group()) for each in there if (match := pattern.fullmatch(each)))
        if not found:
            raise HAFMConversionError(f"The mapping names {key}, which fits no key of the checkpoint.")
        for rank, (_, each) in enumerate(found):
            expanded[each] = None if label is None else label.replace("*", str(rank))
    return expanded


def assemble_state(
    tensors: dict[str, torch.Tensor], matches: list[Match], shapes: dict[str, tuple[int, ...]]
) -> dict[str, torch.Tensor]:
    """Our float32 state dict: matched tensors, those of one codebook each stacked."""
    state: dict[str, torch.Tensor] = {}
    for match in matches:
        if match.slot is None:
            continue
        tensor = tensors[match.key].float()
        if match.slot.index is None:
            state[match.slot.name] = tensor
        else:
            table = state.setdefault(match.slot.name, torch.empty(shapes[match.slot.name]))
            table[match.slot.index] = tensor
    return state


def save_converted(stages: list[ConvertedStage], output: str | Path) -> list[Path]:
    """Writes each stage into a folder of its name (safetensors, configuration, generation settings).

    Raises:
        HAFMConversionError: if one of the folders is there already.
    """
    folders = [Path(output) / stage.name for stage in stages]
    taken = [str(folder) for folder in folders if folder.exists()]
    if taken:
        raise HAFMConversionError(f"{', '.join(taken)} exists; name another folder.")
    for stage, folder in zip(stages, folders, strict=True):
        stage.model.save_pretrained(folder)
    return folders


def _split_stacked(tensors: dict[str, torch.Tensor], shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Tensors with three axes, which can only be tables that are stacked already, as one table each."""
    stacked = {shape for shape in shapes.values() if len(shape) == 3}
    split = {}
    for key, tensor in tensors.items():
        if tuple(tensor.shape) in stacked:
            split.update({f"{key}.{i}": table for i, table in enumerate(tensor)})
        else:
            split[key] = tensor
    return split


def _unwrapped(key: str) -> str:
    while wrapper := next((wrapper for wrapper in WRAPPERS if key.startswith(wrapper)), None):
        key = key[len(wrapper) :]
    return key


def _words(text: str) -> frozenset[str]:
    return frozenset(word.replace("_", "") for word in text.split())
