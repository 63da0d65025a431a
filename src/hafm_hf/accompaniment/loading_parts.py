# SPDX-License-Identifier: Apache-2.0
"""Loads the parts of a composite, each from its own subfolder of one repository: every part keeps its own
configuration and generation config, and can be loaded by itself with `subfolder=`.
"""

import json
import os
from contextlib import ExitStack
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from ..pretrained.loading import load_strictly
from .configuration_accompaniment import HAFMConfig
from .parts import part_classes, stage_parts


def load_parts(
    source: str | os.PathLike[str], stored: HAFMConfig, options: dict[str, Any], **hub: Any
) -> dict[str, PreTrainedModel]:
    """Loads the parts of a composite.

    Args:
        source: folder or hub id.
        stored: the composite's configuration as stored there.
        options: those of `from_pretrained` other than `hub`: `config`, `attn_implementation`, `dtype` and overrides
            such as `semantic_config={…}`; the rest are passed on to every part.
        hub: keyword arguments among HUB_OPTIONS.

    Returns:
        The parts by name, on the CPU.

    Raises:
        ValueError, OSError: as for `load_strictly`.
    """
    options = dict(options)
    subfolder = hub.pop("subfolder", "")
    dtype = options.pop("dtype", None)
    # the older name of the option
    torch_dtype = options.pop("torch_dtype", None)
    if dtype is None:
        dtype = torch_dtype
    if dtype in (None, "auto"):
        # pipeline() always passes "auto"; weights stored in half precision are still meant to be used in float32
        dtype = torch.float32
    config, attention = _pop_config(stored, options)
    for name, value in (("dtype", dtype), ("attn_implementation", attention)):
        if isinstance(value, dict):
            raise ValueError(f"{name} is {value}; all stages have one {name}.")

    parts: dict[str, PreTrainedModel] = {}
    for name, part_class in part_classes(config).items():
        # tokens must not depend on the precision that is asked for
        part_options: dict[str, Any] = {"dtype": torch.float32}
        if name in stage_parts():
            part_options["dtype"] = dtype
            if attention is not None:
                part_options["attn_implementation"] = attention
        part_config = getattr(config, f"{name}_config")
        stored_config = getattr(stored, f"{name}_config")
        # unless it is overridden, let the part read the config that is stored with it
        if stored_config is None or part_config.to_dict() != stored_config.to_dict():
            part_options["config"] = part_config
        part_folder = "/".join(filter(None, (subfolder, name)))
        with ExitStack() as quietly:
            # each part would show a progress bar
            if logging.is_progress_bar_enabled():
                logging.disable_progress_bar()
                quietly.callback(logging.enable_progress_bar)
            parts[name] = load_strictly(part_class, source, **options, **hub, subfolder=part_folder, **part_options)
    return parts


def _pop_config(stored: HAFMConfig, options: dict[str, Any]) -> tuple[HAFMConfig, str | None]:
    """Pops from `options` what concerns the configuration.

    Returns:
        The configuration given, or else the `stored` one, with the overrides of parts; and the stages' attention
        implementation, None if it is not given.
    """
    given = options.pop("config", None)
    attention = options.pop("attn_implementation", None)
    if given is not None and not isinstance(given, HAFMConfig):
        given = HAFMConfig.from_pretrained(given)
    overrides = {name: options.pop(name) for name in HAFMConfig.sub_configs if name in options}
    base = stored if given is None else given
    config = HAFMConfig.from_dict(base.to_dict(), **overrides)
    if attention is None and given is not None:
        # AutoModel and pipeline() put it into the configuration that they pass
        attention = given.semantic_config._attn_implementation
    return config, attention


def config_json(config: HAFMConfig) -> str:
    """A composite's configuration as JSON for its config.json.

    Without what depends on where the parts were loaded from (`_name_or_path`, `auto_map`).
    """

    def without_origins(values: dict[str, Any]) -> dict[str, Any]:
        """The values without origins, at all levels."""
        remaining: dict[str, Any] = {}
        for name, value in values.items():
            if isinstance(value, dict):
                value = without_origins(value)
            if name not in ("_name_or_path", "auto_map"):
                remaining[name] = value
        return remaining

    return json.dumps(without_origins(config.to_dict()), indent=2, sort_keys=True) + "\n"
