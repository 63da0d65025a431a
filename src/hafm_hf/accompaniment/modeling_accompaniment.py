# SPDX-License-Identifier: Apache-2.0
"""The composite of all parts, from vocal to accompaniment: making, loading and saving it.

`parts` is the table of its parts, and `generation_accompaniment` generates with them. Each part is stored in its own
subfolder of one repository with its configuration and generation config, and can be loaded alone (`subfolder=`).
"""

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import FEATURE_EXTRACTOR_NAME, logging

from ..audio.feature_extraction_hafm import HAFMFeatureExtractor
from ..lead_sheet.lead_sheet import LeadSheet
from ..lead_sheet.vocabulary import STEMS
from ..listening.encoder import HAFMVocalEncoder
from ..listening.modeling_listener import HAFMListenerModel
from ..modeling.modeling_stage import HAFMStageForCausalLM
from ..pretrained.loading import HUB_OPTIONS, LOADING_FAULTS, find_file, load_strictly, model_source, write_checksums
from ..pretrained.saving import (
    HAFMModelMixin,
    read_style_sounds,
    write_auto_map,
    write_repository_files,
    write_style_sounds,
)
from ..tokenizers.codecs import Codec, as_codec
from ..tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel
from .configuration_accompaniment import HAFMConfig
from .generation_accompaniment import HAFMAccompanimentGenerationMixin, Waveform
from .modeling_separator import HAFMSeparatorModel
from .parts import PARTS, check_names, part_classes, stage_parts


class HAFMForVocalAccompaniment(HAFMAccompanimentGenerationMixin, HAFMModelMixin, PreTrainedModel):
    """Semantic tokenizer, semantic, coarse and fine stage, and codec, as one model that takes and returns audio.

    Without a `fine` stage only the coarse codebooks are decoded. Optional are a `listener`, which estimates tempo,
    chords and key; an `ear`, a HuBERT whose features the listener reads as well; and a `separator`, which splits the
    instrumental into stems.
    `generate` and `stream` are those of `HAFMAccompanimentGenerationMixin`.

    Args:
        config (`HAFMConfig`): configurations of the parts.
        parts (`dict[str, PreTrainedModel]`, *optional*): existing parts to use, by name; the others are created.
    """

    config_class = HAFMConfig
    config: HAFMConfig
    main_input_name = "vocals"
    input_modalities = ("audio",)
    _no_split_modules: list[str] = []
    _supports_sdpa = True
    semantic_tokenizer: HAFMSemanticTokenizerModel
    codec: PreTrainedModel
    listener: HAFMListenerModel | None
    ear: HAFMSemanticTokenizerModel | None
    separator: HAFMSeparatorModel | None
    # configuration of the feature extractor loaded with the model, with which it is saved again
    feature_extractor_config: dict[str, Any] = {}
    # an audio example (OGG) of each style by its name: `styles/NAME.ogg` in the repository
    style_sounds: dict[str, bytes] = {}

    def __init__(self, config: HAFMConfig, parts: dict[str, PreTrainedModel] | None = None) -> None:
        super().__init__(config)
        self.listener = None
        self.ear = None
        self.separator = None
        for name, part_class in part_classes(config).items():
            part = (parts or {}).get(name)
            if part is None:
                part = part_class(getattr(config, f"{name}_config"))
            setattr(self, name, part)
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Does nothing: each part initialises its own weights."""

    def train(self, mode: bool = True) -> "HAFMForVocalAccompaniment":
        """Sets the mode of the stages only, and keeps the other parts in evaluation mode.

        In training mode the codec would update its running mean as it decodes.
        """
        super().train(mode)
        for name in part_classes(self.config).keys() - stage_parts().keys():
            getattr(self, name).eval()
        return self

    @classmethod
    def can_generate(cls) -> bool:
        """False: this `generate` is not GenerationMixin's; it takes audio and chains the stages."""
        return False

    @classmethod
    def from_parts(cls, **parts: PreTrainedModel) -> "HAFMForVocalAccompaniment":
        """Joins a `semantic_tokenizer`, `semantic` and `coarse` stage, a `codec`, and optional parts.

        Args:
            parts: the parts by their names in `PARTS`; they are used as they are, not copied.

        Raises:
            ValueError: if a required part is missing.
            StrictDataclassClassValidationError: if their vocabularies or rates do not match.
        """
        check_names(parts)
        # None for optional parts that are missing: left out, they would get the paper's configuration
        configs: dict[str, Any] = {f"{name}_config": None for name, part in PARTS.items() if part.optional}
        configs |= {f"{name}_config": part.config for name, part in parts.items()}
        # the composite's configuration also sets its parts' attention implementation, and would reset it if not given
        attention = {name: config._attn_implementation for name, config in configs.items() if config is not None}
        config = HAFMConfig(**configs, attn_implementation=attention)
        return cls(config, parts)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Loads a composite from a folder or the hub, part by part.

        Args:
            pretrained_model_name_or_path: folder or hub id; the bundled hafm-tiny if None or "hafm-tiny".
                (`pipeline()` does not accept that name; pass no model, or `hafm_hf.BUNDLED_MODEL`.)
            kwargs: as for any `from_pretrained` (`config`, `semantic_config={…}`, `revision`, `token`, `cache_dir` …).
                `attn_implementation` and `dtype` apply to the stages; `dtype` is float32 if not given or "auto",
                whatever the stored precision. Tokenizer and codec stay in float32, so that tokens do not depend on it.
                `device_map` is a single device, as such or as {"": device}, or "auto" or another of its strategies.

        Returns:
            The composite in evaluation mode; with `output_loading_info` also the loading faults, always empty.

        Raises:
            ValueError: if a part's weights do not match its configuration exactly, or if `device_map` or `dtype` names
                several devices or precisions.
            OSError: if a part or its safetensors file is missing.
        """
        source = model_source(pretrained_model_name_or_path, **kwargs)
        device = kwargs.pop("device_map", None)
        with_info = kwargs.pop("output_loading_info", False)
        if isinstance(device, Mapping):
            if set(device) != {""}:
                raise ValueError(f'device_map is {device}; a model has one device: "cuda", or {{"": "cuda"}}.')
            device = device[""]
        if device in ("auto", "balanced", "balanced_low_0", "sequential"):
            device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
        # AutoModel and `pipeline()` pass these on; parts are always read from safetensors, without remote code
        for name in ("use_safetensors", "trust_remote_code", "_from_auto", "adapter_kwargs"):
            kwargs.pop(name, None)
        hub = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
        stored = HAFMConfig.from_pretrained(source, **hub)
        model = cls.from_parts(**load_parts(source, stored, kwargs, **hub))
        model.name_or_path = str(source)
        # without a stored feature extractor, `save_pretrained` writes the default one
        if find_file(source, FEATURE_EXTRACTOR_NAME, hub):
            model.feature_extractor_config = HAFMFeatureExtractor.get_feature_extractor_dict(source, **hub)[0]
        model.style_sounds = read_style_sounds(source, model.styles, **hub)
        model.eval()
        if device is not None:
            model.to(device)
        if with_info:
            return model, {fault: set() for fault in LOADING_FAULTS}
        return model

    def _save_files(self, folder: Path, is_main_process: bool = True, **kwargs: Any) -> None:
        """Writes config.json, feature extractor, style examples, the files of a hub repository, and each part into
        its subfolder; in distributed training only the main process writes.

        Args:
            folder: of the composite.
            is_main_process: whether this is the process that writes.
            kwargs: further options of `save_pretrained`, for each part.

        Raises:
            TypeError: if a `state_dict` is given; load it into the model first.
            ValueError: if a part has adapters.
        """
        if kwargs.pop("state_dict", None) is not None:
            raise TypeError("A composite saves its own weights; load the state_dict with load_state_dict first.")
        for name in part_classes(self.config):
            part = getattr(self, name)
            if getattr(part, "peft_config", None):
                raise ValueError(f"{name} has adapters, which a composite can't hold; merge them: merge_and_unload().")
            # a part that has been replaced has its own configuration
            setattr(self.config, f"{name}_config", part.config)
            # in every process: each may hold a shard of the weights that the main one writes
            part.save_pretrained(folder / name, is_main_process=is_main_process, **kwargs)
        if not is_main_process:
            return
        write_checksums(folder, only_existing=True)
        self.config.architectures = [type(self).__name__]
        (folder / "config.json").write_text(config_json(self.config), encoding="utf-8")
        write_auto_map(folder, self.config, type(self))
        write_repository_files(folder)
        write_style_sounds(folder, self.style_sounds)
        self.feature_extractor().save_pretrained(folder)

    def feature_extractor(self) -> HAFMFeatureExtractor:
        """The feature extractor that is saved with the model; its rate is that at which the model listens."""
        rate = self.semantic_tokenizer.config.sampling_rate
        return HAFMFeatureExtractor(**{**self.feature_extractor_config, "sampling_rate": rate})

    @property
    def sampling_rate(self) -> int:
        """Sampling rate of the codec's output, and thus of instrumentals, in Hz."""
        return self.config.codec_format.output_sampling_rate

    @property
    def codec_interface(self) -> Codec:
        """The codec behind the interface that codecs of all families share."""
        return as_codec(self.codec)

    @property
    def stages(self) -> dict[str, HAFMStageForCausalLM]:
        """The stages by name, in the order in which they run."""
        return {name: getattr(self, name) for name in part_classes(self.config) if name in stage_parts()}

    @property
    def encoder(self) -> HAFMVocalEncoder:
        """A new encoder with this model's modules, which computes from a vocal what the stages read."""
        stage_configs = {name: stage.config for name, stage in self.stages.items()}
        return HAFMVocalEncoder(self.semantic_tokenizer, self.listener, self.ear, stage_configs)

    @property
    def stems(self) -> tuple[str, ...]:
        """Names of the stems that the instrumental can be split into; none without a separator."""
        return () if self.separator is None else STEMS

    @property
    def styles(self) -> tuple[str, ...]:
        """Names of the styles that the model can play."""
        return self.encoder.styles

    def parameter_counts(self) -> dict[str, int]:
        """Number of parameters of each part by name, and their sum as "total"."""
        counts = {name: getattr(self, name).num_parameters() for name in part_classes(self.config)}
        return counts | {"total": sum(counts.values())}

    def complete_lead_sheet(
        self, vocal: Waveform, sampling_rate: int, lead_sheet: LeadSheet | Mapping[str, Any] | None = None
    ) -> LeadSheet:
        """Adds the model's estimates to what is known of a song; they can be corrected and passed back.

        Args:
            vocal (float32 [N]): mono.
            sampling_rate: in Hz.
            lead_sheet: what is known, a lead sheet or a dict of its fields; None: nothing.

        Returns:
            The lead sheet with beats if the tokenizer finds at least two, and chords and key if there is a `listener`.

        Raises:
            ValueError: if the vocal is empty or not mono, or chords are given by the bar and there are no beats.
        """
        (checked,) = self.feature_extractor().vocals(vocal, sampling_rate)
        given = None
        if lead_sheet is not None:
            given = LeadSheet.given(lead_sheet)
        return self.encoder.lead_sheet(checked, given)


def load_parts(
    source: str | os.PathLike[str], stored: HAFMConfig, options: dict[str, Any], **hub: Any
) -> dict[str, PreTrainedModel]:
    """Loads the parts of a composite.

    Args:
        source: folder or hub id.
        stored: the composite's configuration as stored there.
        options: those of `from_pretrained` other than `hub`: `config`, `attn_implementation`, `dtype` and overrides
            such as `semantic_config={…}`; the rest are passed on to every part.
        hub: keyword arguments among HUB_OPTIONS, such as `revision` and `subfolder`.

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
    """Pops the options that concern the configuration from `options`, in place.

    Args:
        stored: the composite's configuration as stored.
        options: as for `load_parts`.

    Returns:
        The configuration given, or else the stored one, with the overrides of parts; and the stages' attention
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
    """A composite's configuration as text for its config.json.

    The entries that say where parts were loaded from (`_name_or_path`, `auto_map`) are left out.
    """

    def without_origins(values: dict[str, Any]) -> dict[str, Any]:
        """A copy of the values, nested ones as well, without these entries."""
        remaining: dict[str, Any] = {}
        for name, value in values.items():
            if isinstance(value, dict):
                value = without_origins(value)
            if name not in ("_name_or_path", "auto_map"):
                remaining[name] = value
        return remaining

    return json.dumps(without_origins(config.to_dict()), indent=2, sort_keys=True) + "\n"
