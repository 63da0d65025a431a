# SPDX-License-Identifier: Apache-2.0
"""Configurations of the composite and of its separator; those of the other parts are next to their models."""

from dataclasses import field
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from ..lead_sheet.vocabulary import STEMS
from ..listening.configuration_listener import HAFMListenerConfig
from ..modeling.configuration_hafm import STAGES, HAFMCoarseConfig, HAFMFineConfig, HAFMSemanticConfig
from ..pretrained.checks import MAX_DILATIONS, MAX_SAMPLING_RATE, MAX_WIDTH, check_range
from ..tokenizers.configuration_codec import check_codec_config, codec_format, describe_codec
from ..tokenizers.configuration_semantic_tokenizer import HAFMSemanticTokenizerConfig
from ..tokenizers.pitch_line import LINE_RATE


@strict
class HAFMSeparatorConfig(PreTrainedConfig):
    r"""The network that splits an instrumental into its stems, an optional part of the composite.

    Args:
        sampling_rate (`int`): Sampling rate of the codec, in Hz.
        n_fft (`int`): Window length of the spectrogram, in samples.
        hop_length (`int`): Samples between two windows; `n_fft` is a multiple of it, at least twice as large.
        channels (`int`): Width of the convolutions.
        num_layers (`int`): Number of convolutions, with dilations of 1, 2, 4 … windows; four of them see ± 30 windows.
        dropout (`float`): Dropout probability in training.
    """

    model_type = "hafm_separator"
    role: ClassVar[str] = "the separator, which splits an instrumental into stems"

    sampling_rate: int = 24_000
    n_fft: int = 1280
    hop_length: int = 320
    channels: int = 192
    num_layers: int = 4
    dropout: float | int = 0.0

    def describe(self) -> dict[str, str]:
        """Describes rates, vocabulary and architecture in words, for `hafm info` and the model cards."""
        return {
            "rates": f"{self.sampling_rate} Hz, {self.sampling_rate / self.hop_length:g} spectra/s",
            "vocabulary": f"instrumental → {', '.join(STEMS)}",
            "architecture": f"{self.num_layers} dilated convolutions × {self.channels} over spectra, masks",
        }

    def validate_sizes(self) -> None:
        """Refuses sizes out of range."""
        check_range("sampling_rate", self.sampling_rate, MAX_SAMPLING_RATE)
        check_range("n_fft", self.n_fft, MAX_WIDTH)
        check_range("hop_length", self.hop_length, self.n_fft // 2)
        check_range("channels", self.channels, MAX_WIDTH)
        check_range("num_layers", self.num_layers, MAX_DILATIONS)
        if self.n_fft % self.hop_length:
            raise ValueError(f"n_fft is {self.n_fft}; it must be a multiple of hop_length, {self.hop_length}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be at least 0 and below 1.")


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
    sub_configs_defaults: ClassVar[dict[str, Any]] = {
        "semantic_tokenizer_config": HAFMSemanticTokenizerConfig,
        "semantic_config": HAFMSemanticConfig,
        "coarse_config": HAFMCoarseConfig,
        "fine_config": SubConfigSpec(HAFMFineConfig, optional=True),
        # may be of any family that `codec_format` supports
        "codec_config": SubConfigSpec(AutoConfig, model_type="encodec"),
        "listener_config": SubConfigSpec(HAFMListenerConfig, optional=True),
        "ear_config": SubConfigSpec(HAFMSemanticTokenizerConfig, optional=True),
        "separator_config": SubConfigSpec(HAFMSeparatorConfig, optional=True),
    }

    semantic_tokenizer_config: Any = None
    semantic_config: Any = None
    coarse_config: Any = None
    fine_config: Any = field(default_factory=HAFMFineConfig)
    codec_config: Any = None
    listener_config: Any = None
    ear_config: Any = None
    separator_config: Any = None

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Raises ValueError for the config of a single part: the other parts would silently get the paper's sizes."""
        if (kind := config_dict.get("model_type", cls.model_type)) != cls.model_type:
            raise ValueError(f"This config.json is for model_type {kind!r}, not for a composite; use AutoModel.")
        return super().from_dict(config_dict, **kwargs)

    def describe_part(self, name: str) -> dict[str, str]:
        """Describes the rates, vocabulary and architecture of a part ("semantic", "codec" …) in words."""
        config = getattr(self, f"{name}_config")
        return describe_codec(config) if name == "codec" else config.describe()

    def validate_agreement(self) -> None:
        """Refuses parts whose vocabularies or rates do not match."""
        check_codec_config(self.codec_config)
        tokenizer = self.semantic_tokenizer_config
        codec = codec_format(self.codec_config)
        stages = {name: getattr(self, f"{name}_config") for name in STAGES}
        clusters = ([tokenizer.num_clusters], tokenizer.frame_rate)
        stages = {name: config for name, config in stages.items() if config is not None}
        acoustic = [name for name in stages if STAGES[name].acoustic]
        streams = {STAGES[name].writes: (stages[name].codebook_sizes, codec.frame_rate) for name in acoustic}
        streams |= {"vocal_semantic": clusters, "instrumental_semantic": clusters}
        for name, config in stages.items():
            read, (sizes, rate) = [streams[each] for each in STAGES[name].reads], streams[STAGES[name].writes]
            _check_equal(f"{name} conditioning", config.conditioning_codebook_sizes, [sizes for sizes, _ in read])
            _check_equal(f"{name} target", config.codebook_sizes, sizes)
            rates = (config.conditioning_frame_rate, config.frame_rate)
            _check_equal(f"{name} frame rates", rates, (read[0][1], rate))
        codebooks = [size for name in acoustic for size in stages[name].codebook_sizes]
        _check_equal("codec codebooks", set(codebooks), {codec.codebook_size})
        check_range("number of codec codebooks in use", len(codebooks), codec.num_codebooks)
        if self.separator_config is not None:
            _check_equal("separator sampling rate", self.separator_config.sampling_rate, codec.sampling_rate)
        if self.listener_config is not None:
            _check_equal("semantic tokenizer frame rate", tokenizer.frame_rate, LINE_RATE)
            if not tokenizer.beat_line:
                raise ValueError("The listener needs a semantic tokenizer with a beat line; set beat_line.")
        if (ear := self.ear_config) is not None:
            _check_equal("ear", (ear.sampling_rate, ear.frame_rate), (tokenizer.sampling_rate, LINE_RATE))
        heard = 0 if self.listener_config is None else self.listener_config.ear_size
        _check_equal("ear_size of the listener", heard, 0 if ear is None else ear.hubert_config.hidden_size)


def _check_equal(name: str, found: Any, wanted: Any) -> None:
    if found != wanted:
        raise ValueError(f"The parts do not fit: {name} is {found}, but the other parts need {wanted}.")
