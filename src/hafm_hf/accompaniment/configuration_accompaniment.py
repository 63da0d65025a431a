# SPDX-License-Identifier: Apache-2.0
"""Configuration of the composite; those of its parts are next to their models."""

from dataclasses import field, replace
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from ..modeling.configuration_stage import HAFMFineConfig
from ..pretrained.checks import check_range
from ..tokenizers.configuration_codec import CodecFormat, check_codec_config, codec_format, describe_codec
from ..tokenizers.pitch_contour import CONTOUR_RATE
from .parts import PARTS, VOCAL_STREAM, StageEntry, stage_parts


def _default_config(name: str) -> SubConfigSpec:
    """What `HAFMConfig.NAME_config` is by default, for the part of that name in `PARTS`."""
    part = PARTS[name]
    if name == "codec":
        # may be of any family that `codec_format` supports
        return SubConfigSpec(AutoConfig, model_type="encodec")
    return SubConfigSpec(part.model_class.config_class, optional=part.optional)


@strict
class HAFMConfig(PreTrainedConfig):
    r"""The composite: semantic tokenizer, three stages and codec, each saved in a subfolder of one repository.

    Args:
        semantic_tokenizer_config, semantic_config, coarse_config, fine_config, codec_config (`PreTrainedConfig` or
            `dict`, *optional*): The parts; the paper's if not given. `fine_config=None` makes a two-stage composite.
        listener_config (`PreTrainedConfig` or `dict`, *optional*): The listener, which estimates lead sheets; no
            listener if not given.
        ear_config (`PreTrainedConfig` or `dict`, *optional*): A pretrained network whose features the listener reads,
            in the form of a semantic tokenizer; none if not given.
        separator_config (`PreTrainedConfig` or `dict`, *optional*): The separator; no stems if not given.
    """

    model_type = "hafm"
    # what a part's configuration is if it is not given, for every row of `parts.PARTS`
    sub_configs_defaults: ClassVar[dict[str, Any]] = {f"{name}_config": _default_config(name) for name in PARTS}

    semantic_tokenizer_config: Any = None
    semantic_config: Any = None
    coarse_config: Any = None
    fine_config: Any = field(default_factory=HAFMFineConfig)
    codec_config: Any = None
    listener_config: Any = None
    ear_config: Any = None
    separator_config: Any = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Sets the configurations of stages added with `add_stage`, which have no field; None if not given."""
        for name in self.sub_configs_defaults:
            if not hasattr(self, name):
                setattr(self, name, kwargs.pop(name, None))
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As for any configuration, but refuses that of a single part: the other parts would get the paper's sizes.

        Raises:
            ValueError: `config_dict` has the `model_type` of something else than a composite.
        """
        if (kind := config_dict.get("model_type", cls.model_type)) != cls.model_type:
            raise ValueError(f"This config.json is for model_type {kind!r}, not for a composite; use AutoModel.")
        return super().from_dict(config_dict, **kwargs)

    @property
    def codec_format(self) -> CodecFormat:
        """Rates, codebooks and channels of the codec, both of its input and of its output."""
        return codec_format(self.codec_config)

    def describe_part(self, name: str) -> dict[str, str]:
        """Describes the rates, vocabulary and architecture of a part ("semantic", "codec" …) in words."""
        config = getattr(self, f"{name}_config")
        return describe_codec(config) if name == "codec" else config.describe()

    def validate_agreement(self) -> None:
        """Refuses parts whose vocabularies or rates do not match.

        Raises:
            ValueError: names the value that does not fit, and the one needed.
        """
        check_codec_config(self.codec_config)
        tokenizer = self.semantic_tokenizer_config
        codec = self.codec_format
        configs = {name: getattr(self, f"{name}_config") for name in stage_parts()}
        configs = {name: config for name, config in configs.items() if config is not None}
        # codebook sizes and frame rate of each token stream
        sizes = {VOCAL_STREAM: [tokenizer.num_clusters]}
        rates = {VOCAL_STREAM: tokenizer.frame_rate}
        for name, config in configs.items():
            stage = stage_parts()[name]
            sizes[stage.writes] = config.codebook_sizes if stage.acoustic else sizes[VOCAL_STREAM]
            rates[stage.writes] = codec.frame_rate if stage.acoustic else rates[VOCAL_STREAM]

        for name, config in configs.items():
            stage = stage_parts()[name]
            sizes_read = [sizes[stream] for stream in stage.reads]
            _check_equal(f"{name} conditioning", config.conditioning_codebook_sizes, sizes_read)
            _check_equal(f"{name} target", config.codebook_sizes, sizes[stage.writes])
            stage_rates = (config.conditioning_frame_rate, config.frame_rate)
            _check_equal(f"{name} frame rates", stage_rates, (rates[stage.reads[0]], rates[stage.writes]))

        # sizes of the codebooks that the acoustic stages generate, which follow each other without a gap
        codebooks: list[int] = []
        for name, config in configs.items():
            if stage_parts()[name].acoustic:
                _check_equal(f"first_codebook of {config.model_type}", config.first_codebook, len(codebooks))
                codebooks += config.codebook_sizes
        _check_equal("codec codebooks", set(codebooks), {codec.codebook_size})
        check_range("number of codec codebooks in use", len(codebooks), codec.num_codebooks)

        if self.separator_config is not None:
            separator = self.separator_config
            # the separator reads at the codec's output rate or at its input rate
            if separator.sampling_rate != codec.output_sampling_rate:
                _check_equal("separator sampling rate", separator.sampling_rate, codec.sampling_rate)
            for samples in (separator.n_fft, separator.hop_length):
                # raises ValueError if it would not be a whole number of samples
                separator.at_rate(samples, codec.output_sampling_rate)
        if self.listener_config is not None:
            _check_equal("semantic tokenizer frame rate", tokenizer.frame_rate, CONTOUR_RATE)
            if not tokenizer.beat_line:
                raise ValueError("The listener needs a semantic tokenizer with a beat line; set beat_line.")
        ear_width = 0
        if self.ear_config is not None:
            ear = self.ear_config
            _check_equal("ear", (ear.sampling_rate, ear.frame_rate), (tokenizer.sampling_rate, CONTOUR_RATE))
            ear_width = ear.hubert_config.hidden_size
        width_read = 0
        if self.listener_config is not None:
            width_read = self.listener_config.ear_size
        _check_equal("ear_size of the listener", width_read, ear_width)


def _check_equal(name: str, value: Any, needed: Any) -> None:
    """Raises ValueError if a value of one part, called `name` in the message, is not what the others need."""
    if value != needed:
        raise ValueError(f"The parts do not fit: {name} is {value}, but the other parts need {needed}.")


def add_stage(name: str, stage: StageEntry) -> None:
    """Adds an optional stage to the table of parts, as a user of the package; it runs after those before it.

    Args:
        name: of the part; the composite's configuration gets a `NAME_config`.
        stage: the row of the table.
    """
    PARTS[name] = replace(stage, optional=True)
    HAFMConfig.sub_configs_defaults[f"{name}_config"] = _default_config(name)
