# SPDX-License-Identifier: Apache-2.0
"""Where the parts of a composite are loaded to by `device_map`, and what of the memory is left for the next one.

Beside `saving` on the path of the data.
"""

import os
from collections.abc import Mapping
from typing import Any

import torch
from transformers import PreTrainedModel

from ..modeling.stage_table import STAGES

# of `from_pretrained`: what goes with a device map that places the modules of a model one by one
SPREAD = ("auto", "balanced", "balanced_low_0", "sequential")
SPREAD_OPTIONS = ("max_memory", "offload_folder", "offload_buffers")


def place_part(options: dict[str, Any], name: str, loaded: Mapping[str, PreTrainedModel]) -> None:
    """Turns `device_map` and `max_memory` of a composite into those of one of its parts.

    Args:
        options: of the part's `from_pretrained`; changed in place.
        name: of the part.
        loaded: the parts that are there already, by name.

    Raises:
        ValueError: a device map of modules, which have other names in the part.
    """
    device_map = options.get("device_map")
    if isinstance(device_map, Mapping) and set(device_map) != {""}:
        raise ValueError(
            f"device_map is {dict(device_map)!r}; a composite takes a device, {', '.join(SPREAD)}: load its parts by "
            "themselves for another map, and join them with from_parts."
        )
    if not isinstance(device_map, str) or device_map not in SPREAD:
        return
    if name not in STAGES:
        # tokenizer and codec read weights outside of forward, which offloading knows nothing of
        for option in ("device_map", *SPREAD_OPTIONS):
            options.pop(option, None)
        if torch.accelerator.is_available():
            options["device_map"] = {"": torch.accelerator.current_accelerator()}
        return
    if options.get("max_memory"):
        options["max_memory"] = _left(options["max_memory"], [part for each, part in loaded.items() if each in STAGES])
    if options.get("offload_folder"):
        # the modules of the stages have the same names
        options["offload_folder"] = os.path.join(options["offload_folder"], name)


def _left(max_memory: Mapping[Any, int | str], stages: list[PreTrainedModel]) -> dict[Any, int]:
    """What the stages that are loaded leave of each device's memory, in bytes."""
    from accelerate.utils import convert_file_size_to_int

    left = {device: convert_file_size_to_int(size) for device, size in max_memory.items()}
    for stage in stages:
        # without a map all of it is on one device
        for module, device in (getattr(stage, "hf_device_map", None) or {"": stage.device.type}).items():
            size = sum(each.numel() * each.element_size() for each in stage.get_submodule(module).parameters())
            if device in left:
                left[device] = max(left[device] - size, 0)
    return left
