# SPDX-License-Identifier: Apache-2.0
"""Converts original PyTorch checkpoints (ar_semantic, ar_coarse, ar_fine, each with ckpt_best.pt) to stage folders.

    python recipes/convert_checkpoint.py ORIGINAL                                 # names and shapes of both sides
    python recipes/convert_checkpoint.py ORIGINAL OUT --mapping mapping.yaml

No checkpoint has been published, so the original weight names are unknown: a mapping file gives the source of each of
our weights. `{}` stands for the layer index and `[]` for the codebook index, if the original has a table for each:

    semantic:
      config: {hidden_size: 512, num_hidden_layers: 12}     # where it departs from the paper's
      keys:
        model.layers.{}.attention_norm.weight: blocks.{}.norm1.weight
        model.target_embedding.weight: "embeddings.[].weight"
        model.norm.weight: norm.weight
      leave_out: [rope.inv_freq]

Weights that are missing, left over, of another shape or not finite are rejected.
"""

import pickle
import re
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
import yaml
from transformers import PreTrainedModel

from hafm_hf.accompaniment.parts import stage_parts
from running import run_recipe

CHECKPOINT, STATE = "ckpt_best.pt", "model_state"
# prefixes that DistributedDataParallel and torch.compile add to every key
WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")
LAYER = re.compile(r"layers\.(\d+)\.")


def load_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """Loads the tensors of an original checkpoint, with wrappers' prefixes removed; no code in the file is run.

    Raises:
        ValueError: the file contains more than tensors, has no `model_state`, has weights that are not finite, or two
            keys that differ in prefixes only.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors, and such a file can run code when it is read; ask its publisher for the "
            "bare weights."
        ) from error
    except (RuntimeError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as a PyTorch checkpoint.") from error
    state = content.get(STATE) if isinstance(content, dict) else None
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path} has no {STATE!r} of tensors, which is where the originals keep their weights.")
    for key, value in state.items():
        if not bool(value.isfinite().all()):
            raise ValueError(f"{path}: {key} holds NaN or infinite weights.")
    tensors = {WRAPPERS.sub("", key): value for key, value in state.items()}
    if len(tensors) != len(state):
        raise ValueError(f"{path}: two keys are the same without the prefixes module. and _orig_mod.")
    return tensors


def their_keys(name: str, keys: dict[str, str]) -> tuple[str, bool] | None:
    """The original key of one of our weights, and whether it has a key per codebook; None if it is not mapped."""
    layer = LAYER.search(name)
    pattern = keys.get(LAYER.sub("layers.{}.", name), keys.get(name))
    if pattern is None:
        return None
    return pattern.replace("{}", layer[1] if layer else ""), "[]" in pattern


def convert_stage(name: str, tensors: dict[str, torch.Tensor], mapping: dict[str, Any]) -> PreTrainedModel:
    """A stage with the original weights.

    Args:
        name: semantic, coarse or fine.
        tensors: the original tensors by key.
        mapping: this stage's part of the mapping file, with "config", "keys" and "leave_out".

    Raises:
        ValueError: the mapping doesn't use every tensor and fill every weight, or shapes differ.
    """
    if unknown := set(mapping) - {"config", "keys", "leave_out"}:
        raise ValueError(
            f"The mapping of {name} holds {', '.join(sorted(unknown))}; it may hold config, keys, leave_out."
        )
    model = stage_parts()[name].model_class(stage_parts()[name].model_class.config_class(**mapping.get("config", {})))
    rest, state, problems = dict(tensors), {}, []
    for key in mapping.get("leave_out", []):
        if rest.pop(key, None) is None:
            problems.append(f"{key} is to be left out, but does not exist")
    for ours, weight in model.state_dict().items():
        source = their_keys(ours, mapping.get("keys", {}))
        if source is None:
            problems.append(f"{ours} {tuple(weight.shape)} is not in the mapping")
            continue
        key, stacked = source
        wanted = [key.replace("[]", str(book)) for book in range(len(weight))] if stacked else [key]
        if missing := [each for each in wanted if each not in rest]:
            problems.append(f"{ours} needs {missing[0]}, which the checkpoint does not hold or which is used twice")
            continue
        found = [rest.pop(each).float() for each in wanted]
        shapes = {tuple(each.shape) for each in found}
        if shapes != {tuple(weight.shape[1:] if stacked else weight.shape)}:
            problems.append(f"{ours} {tuple(weight.shape)} does not fit {key} {shapes}")
            continue
        state[ours] = torch.stack(found) if stacked else found[0]
    problems += [f"{key} {tuple(value.shape)} is left over" for key, value in rest.items()]
    if problems:
        raise ValueError(f"The checkpoint does not fit the {name} stage:\n  " + "\n  ".join(problems))
    model.load_state_dict(state, strict=True)
    return model.eval()


def show(name: str, tensors: dict[str, torch.Tensor]) -> None:
    """Prints weight names and shapes of the original and of our stage at the paper's size."""
    with torch.device("meta"):
        ours = stage_parts()[name].model_class(stage_parts()[name].model_class.config_class()).state_dict()
    for title, state in ((f"{name}, original", tensors), (f"{name}, ours", ours)):
        typer.echo(title)
        for key, value in state.items():
            typer.echo(f"  {key} {tuple(value.shape)}")


def main(
    original: Annotated[Path, typer.Argument(help="Folder with ar_semantic, ar_coarse, ar_fine.", file_okay=False)],
    out: Annotated[Path | None, typer.Argument(help="Folder for the stages.", file_okay=False)] = None,
    mapping: Annotated[Path | None, typer.Option(help="YAML file that maps our weights to theirs.")] = None,
) -> None:
    """Converts the stages that exist, or without a mapping, prints the names that it needs."""
    paths = {name: original / f"ar_{name}" / CHECKPOINT for name in stage_parts()}
    stages = {name: load_checkpoint(path) for name, path in paths.items() if path.is_file()}
    if not stages:
        raise ValueError(f"{original} holds none of {', '.join(f'ar_{name}/{CHECKPOINT}' for name in stage_parts())}.")
    if out is None or mapping is None:
        for name, tensors in stages.items():
            show(name, tensors)
        return
    said = yaml.safe_load(mapping.read_text()) or {}
    models = {name: convert_stage(name, tensors, said.get(name, {})) for name, tensors in stages.items()}
    for name, model in models.items():
        if (out / name).exists():
            raise ValueError(f"{out / name} exists; name another folder.")
        model.save_pretrained(out / name)
        typer.echo(f"wrote {out / name}")


if __name__ == "__main__":
    run_recipe(lambda: typer.run(main))
