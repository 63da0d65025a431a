# SPDX-License-Identifier: Apache-2.0
"""A composite on disk: one repository with a subfolder for each part, so that every part keeps its own configuration
and generation settings and loads by itself with `subfolder=`.
"""

import json
import os
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from ..audio.feature_extraction_hafm import HAFMFeatureExtractor
from ..listening.modeling_harmony import HAFMHarmonyModel
from ..modeling.modeling_hafm import STAGE_MODELS
from ..modeling.stage_table import STAGES
from ..pretrained.loading import HUB_OPTIONS, load_strictly, model_source, write_checksums
from ..pretrained.saving import UPLOAD_OPTIONS, HAFMHubMixin, write_auto_map, write_repository_files
from ..pretrained.style_sounds import read_style_sounds, write_style_sounds
from ..tokenizers.codecs import codec_class
from ..tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel
from .configuration_accompaniment import HAFMConfig
from .modeling_separator import HAFMSeparatorModel
from .placing import place_part

PARTS: dict[str, type[PreTrainedModel]] = {
    "semantic_tokenizer": HAFMSemanticTokenizerModel,
    **STAGE_MODELS,
    # its class is that of its family, by its configuration
    "codec": PreTrainedModel,
    "harmony": HAFMHarmonyModel,
    "separator": HAFMSeparatorModel,
}
# a composite may be without these
OPTIONAL_PARTS = ("fine", "harmony", "separator")


class CompositeSavingMixin(HAFMHubMixin):
    """Loading and saving part by part."""

    config: HAFMConfig
    sampling_rate: int
    # of the feature extractor that was loaded beside the model, to be saved with it again
    feature_extractor_config: dict[str, Any] = {}
    # how each style sounds, as OGG files by its name: `styles/NAME.ogg` of the repository
    style_sounds: dict[str, bytes] = {}

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Loads a composite from a folder or the hub, part by part.

        Args:
            pretrained_model_name_or_path: folder or hub id; the bundled hafm-tiny if None or "hafm-tiny".
            kwargs: as for any `from_pretrained` (`config`, `semantic_config={…}`, `revision`, `token`, `cache_dir` …).
                `attn_implementation` and `dtype` hold for the stages; `dtype` is float32 if not given or "auto",
                however they are stored. Tokenizer and codec stay in float32, so that tokens do not depend on it.
                `device_map` is a device, or "auto" and the like for the stages, with `max_memory` for all of them
                together; the rest is small, and stays whole on the first device.

        Returns:
            The composite in evaluation mode; with `output_loading_info=True` a pair of it and a dict of what was
            missing, unexpected or misshapen: nothing, since that is refused.

        Raises:
            ValueError: if a part's weights are not exactly those that its configuration asks for, or on a device_map
                of modules.
            OSError: if a part or its safetensors file is missing.
        """
        composite: Any = cls
        source = model_source(pretrained_model_name_or_path, **kwargs)
        subfolder = kwargs.pop("subfolder", "")
        dtype = _stage_dtype(kwargs)
        informed = kwargs.pop("output_loading_info", False)
        for name in ("use_safetensors", "trust_remote_code", "_from_auto", "adapter_kwargs"):
            kwargs.pop(name, None)
        hub = {name: value for name, value in kwargs.items() if name in HUB_OPTIONS}
        stored = HAFMConfig.from_pretrained(source, subfolder=subfolder, **hub)
        config, attention = _asked_config(stored, kwargs)
        parts: dict[str, Any] = {}
        for name, part_class in part_classes(config).items():
            options = dict(kwargs, subfolder="/".join(filter(None, (subfolder, name))), use_safetensors=True)
            options["dtype"] = dtype if name in STAGES else torch.float32
            place_part(options, name, parts)
            if name in attention:
                options["attn_implementation"] = attention[name]
            asked, own = (getattr(each, f"{name}_config") for each in (config, stored))
            # as it is stored a part knows best
            if own is None or asked.to_dict() != own.to_dict():
                options["config"] = asked
            with _without_bars(source):
                parts[name] = load_strictly(part_class, source, **options)
        model = composite.from_parts(**parts)
        model.config.plays_stems = config.plays_stems
        model.name_or_path = str(source)
        model.feature_extractor_config = _feature_extractor_config(source, subfolder=subfolder, **hub)
        model.style_sounds = read_style_sounds(source, model.styles, subfolder=subfolder, **hub)
        # strict loading leaves nothing of these to tell
        problems: Any = {name: set() for name in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")}
        return (model.eval(), problems) if informed else model.eval()

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | os.PathLike[str],
        *,
        is_main_process: bool = True,
        state_dict: dict[str, torch.Tensor] | None = None,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Writes config.json, feature extractor, sounds of styles, the files of a hub repository, and each part into
        its subfolder.

        Args:
            save_directory: the folder.
            is_main_process: False in the other processes of a training; they write no files.
            state_dict: weights to write instead of the model's own, under the names that they have in it.
            push_to_hub: upload the model with its own weights, too.
            repo_id: where to; the folder's name if not given.
            kwargs: as for any `save_pretrained`, and when uploading those of `push_to_hub`.

        Raises:
            ValueError: if `state_dict` lacks weights of the model, or holds others.
        """
        upload = {name: kwargs.pop(name) for name in UPLOAD_OPTIONS if name in kwargs}
        if state_dict is not None and is_main_process:
            self._check_names(state_dict)
        folder = Path(save_directory)
        for name in part_classes(self.config):
            weights = None if state_dict is None else _weights_of(name, state_dict)
            part = getattr(self, name)
            # the others too, which may hold a share of the weights that the main process writes
            part.save_pretrained(folder / name, is_main_process=is_main_process, state_dict=weights, **kwargs)
        if not is_main_process:
            return
        write_checksums(folder, only_again=True)
        self._write_repository(folder)
        if push_to_hub:
            self.push_to_hub(repo_id or folder.name, **upload)

    def _write_repository(self, folder: Path) -> None:
        """Everything of a repository that does not belong to one of the parts."""
        self.config.architectures = [type(self).__name__]
        config = _without_paths(self.config.to_dict())
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        write_auto_map(folder, self.config, type(self))
        write_repository_files(folder)
        write_style_sounds(folder, self.style_sounds)
        extractor = {**self.feature_extractor_config, "sampling_rate": self.sampling_rate}
        HAFMFeatureExtractor(**extractor).save_pretrained(folder)

    def _check_names(self, state_dict: dict[str, torch.Tensor]) -> None:
        """Refuses weights that are not, name by name, those of the model: parts without them cannot be loaded."""
        model: Any = self
        own = model.state_dict().keys()
        for problem, names in (("lacks", own - state_dict.keys()), ("should not hold", state_dict.keys() - own)):
            if names:
                raise ValueError(
                    f"state_dict {problem} {min(names)} ({len(names)} names in all); give all of model.state_dict(), "
                    "or nothing to save the model's own weights."
                )


def part_classes(config: HAFMConfig) -> dict[str, type[PreTrainedModel]]:
    """The parts that a composite of this configuration has, by name."""
    classes = PARTS | {"codec": codec_class(config.codec_config)}
    return {name: kind for name, kind in classes.items() if getattr(config, f"{name}_config") is not None}


def check_names(parts: Container[str]) -> None:
    """Raises ValueError unless all parts that every composite has are among these."""
    missing = [name for name in PARTS if name not in parts and name not in OPTIONAL_PARTS]
    if missing:
        raise ValueError(f"Name every part; missing: {', '.join(missing)}.")


def _asked_config(stored: HAFMConfig, kwargs: dict[str, Any]) -> tuple[HAFMConfig, dict[str, str]]:
    """Takes what a caller of `from_pretrained` asks of the configuration out of its options.

    Args:
        stored: what the checkpoint says.
        kwargs: `config`, `attn_implementation` and overrides such as `semantic_config={…}` are taken.

    Returns:
        The configuration that is asked for, and the attention of each stage for which one is.

    Raises:
        ValueError: attention for what is no stage.
    """
    given, attention = kwargs.pop("config", None), kwargs.pop("attn_implementation", None)
    if given is not None and not isinstance(given, HAFMConfig):
        given = HAFMConfig.from_pretrained(given)
    own = (*HAFMConfig.sub_configs, "plays_stems")
    overrides = {name: kwargs.pop(name) for name in own if name in kwargs}
    config = HAFMConfig.from_dict((stored if given is None else given).to_dict(), **overrides)
    names = {f"{name}_config": name for name in STAGES}
    if attention is None:
        # AutoModel and pipeline() have put it into the configuration that they give
        attention = {each: getattr(getattr(given, each, None), "_attn_implementation", None) for each in names}
    elif not isinstance(attention, dict):
        attention = dict.fromkeys(names, attention)
    if unknown := sorted(set(attention) - set(names)):
        raise ValueError(f"attn_implementation names {unknown[0]!r}; it can be of {', '.join(names)}.")
    return config, {names[each]: value for each, value in attention.items() if value is not None}


@contextmanager
def _without_bars(source: str | os.PathLike[str]) -> Iterator[None]:
    """While a part is read from a folder: five bars that are full at once say nothing. Downloads keep theirs."""
    if not os.path.isdir(source) or not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


def _stage_dtype(options: dict[str, Any]) -> Any:
    """Takes what a caller of `from_pretrained` asks for out of its options."""
    dtype, deprecated = options.pop("dtype", None), options.pop("torch_dtype", None)
    dtype = deprecated if dtype is None else dtype
    # pipeline() always asks for "auto"; weights stored in half to save space are not meant to be computed in it
    return torch.float32 if dtype in (None, "auto") else dtype


def _feature_extractor_config(source: str | os.PathLike[str], **hub: Any) -> dict[str, Any]:
    """Of the feature extractor beside a composite; empty where there is none."""
    try:
        return HAFMFeatureExtractor.get_feature_extractor_dict(source, **hub)[0]
    except OSError:
        return {}


def _weights_of(part: str, state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A part's weights out of those of the composite, under the names that they have in the part."""
    prefix = f"{part}."
    return {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}


def _without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without the places its parts were loaded from, and the code that they were loaded by."""
    kept = {name: value for name, value in config.items() if name not in ("_name_or_path", "auto_map")}
    return {name: _without_paths(value) if isinstance(value, dict) else value for name, value in kept.items()}
