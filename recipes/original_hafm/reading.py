# SPDX-License-Identifier: Apache-2.0
"""Reads a checkpoint as training scripts save them (weights, optimiser, counters), without running anything in it."""

import pickle
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

STATE = "model_state"
# prefixes that DistributedDataParallel and torch.compile add to every key
WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")
# what training scripts leave beside weights: scalars, paths and configurations; their values are not needed
LEFT_BESIDE = re.compile(
    r"numpy(\.core|\._core)?\.multiarray\.(scalar|_reconstruct)|numpy\.(ndarray|dtype|dtypes\.\w+)"
    r"|argparse\.Namespace|types\.SimpleNamespace|collections\.defaultdict|easydict\.EasyDict|pathlib\.\w*Path"
    r"|omegaconf\.[\w.]+|typing\.Any"
)


class Inert:
    """Stands in for an object in a checkpoint: it takes anything, keeps nothing, and runs nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Ignores all arguments."""

    def __setstate__(self, state: Any) -> None:
        """Ignores the state."""


@dataclass
class Checkpoint:
    """A stage's checkpoint; tensors stay on disk until they are read.

    Args:
        path: the file.
        tensors: weights by key, without wrappers' prefixes, in the order of the file.
        second_moments: AdamW's `exp_avg_sq` by the same keys, where the file has them in an order that fits.
        step: the number of training steps, if the file says.
        remarks: what is unusual, one sentence each.
    """

    path: Path
    tensors: dict[str, torch.Tensor]
    second_moments: dict[str, torch.Tensor] = field(default_factory=dict)
    step: int | None = None
    remarks: list[str] = field(default_factory=list)


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a stage's checkpoint, without running code; tensors are mapped into memory, and read when they are used.

    Raises:
        ValueError: the file is damaged, names code beyond what `LEFT_BESIDE` lists, has no `model_state` of tensors,
            weights that are not finite, two keys that differ in prefixes only, or fewer weights than the optimiser.
    """
    content = _load(path)
    state = None
    if isinstance(content, dict):
        state = content.get(STATE)
    if (
        not isinstance(state, dict)
        or not state
        or not all(isinstance(value, torch.Tensor) for value in state.values())
    ):
        raise ValueError(f"{path} has no {STATE!r} of tensors, which is where the originals keep their weights.")

    tensors = {WRAPPERS.sub("", key): value for key, value in state.items()}
    if len(tensors) != len(state):
        raise ValueError(f"{path}: two keys are the same without the prefixes module. and _orig_mod.")
    for key, value in tensors.items():
        if not bool(value.isfinite().all()):
            raise ValueError(f"{path}: {key} holds NaN or infinite weights.")

    checkpoint = Checkpoint(path, tensors, step=_step(content))
    precisions = {str(value.dtype).removeprefix("torch.") for value in tensors.values() if value.is_floating_point()}
    if precisions != {"float32"}:
        checkpoint.remarks.append(f"Its weights are stored in {' and '.join(sorted(precisions))}.")
    # under any name
    optimizer = next((value for value in content.values() if _is_optimizer(value)), None)
    if optimizer is None:
        checkpoint.remarks.append("It has no optimiser's state, which would show which rows were trained.")
    else:
        _read_moments(checkpoint, optimizer)
    return checkpoint


def _load(path: Path) -> Any:
    """Reads a checkpoint without running code; objects that `LEFT_BESIDE` lists become `Inert`.

    Raises:
        ValueError: it is damaged, or holds more than weights, plain values and such objects.
    """
    try:
        named = get_unsafe_globals_in_checkpoint(str(path))
        if refused := sorted(name for name in named if not LEFT_BESIDE.fullmatch(name)):
            raise ValueError(
                f"{path} names {', '.join(refused)}, which could run code when it is read; ask its publisher for the "
                "bare weights."
            )
        with safe_globals([(Inert, name) for name in named]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} holds more than weights and plain values, and is not read.") from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a PyTorch checkpoint.") from error


def _step(content: dict[str, Any]) -> int | None:
    """The number of training steps, if a checkpoint's content says it."""
    step = content.get("global_step")
    return step if isinstance(step, int) else None


def _is_optimizer(value: Any) -> bool:
    """Whether a value of a checkpoint has the form of an optimiser's `state_dict`."""
    return isinstance(value, dict) and "state" in value and isinstance(value.get("param_groups"), list)


def _read_moments(checkpoint: Checkpoint, optimizer: dict[str, Any]) -> None:
    """Finds each weight's second moments for the checkpoint, or adds a remark that they are in no known order.

    The optimiser numbers its parameters by group, and names none, so an order fits if all shapes do.

    Args:
        checkpoint: gets them.
        optimizer: its `state_dict`.

    Raises:
        ValueError: the optimiser has trained more weights than there are.
    """
    # of the parameters that were trained, in the optimiser's order
    parameter_numbers = [number for group in optimizer["param_groups"] for number in group["params"]]
    weights = {key: value for key, value in checkpoint.tensors.items() if value.is_floating_point()}
    if len(parameter_numbers) > len(weights):
        raise ValueError(
            f"{checkpoint.path} has {len(weights)} weights, and its optimiser trained {len(parameter_numbers)}: "
            "a part is missing."
        )
    matrices = [key for key, value in weights.items() if value.ndim > 1]
    vectors = [key for key, value in weights.items() if value.ndim < 2]
    # in the order of the file; or in two groups, since vectors often have no weight decay
    for keys in (list(weights), matrices + vectors, vectors + matrices):
        moments = {
            key: optimizer["state"][number]["exp_avg_sq"]
            for key, number in zip(keys, parameter_numbers, strict=False)
            if "exp_avg_sq" in optimizer["state"].get(number, {})
        }
        if (
            moments
            and len(parameter_numbers) == len(keys)
            and all(moments[key].shape == weights[key].shape for key in moments)
        ):
            checkpoint.second_moments = moments
            return
    checkpoint.remarks.append("Its optimiser's state is in another order than its weights, and is not used.")
