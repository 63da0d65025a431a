# SPDX-License-Identifier: Apache-2.0
"""HAFM for the Hugging Face ecosystem: a singing voice in, its accompaniment out.

Importing this package registers the configurations, models and feature extractor with transformers' Auto classes, and
the task `vocal-accompaniment` with `pipeline()`.

Dimensions in docstrings, unless a module or a function says otherwise: B batch, N (or n) samples, C channels, T frames
(T_v of the semantic tokens, 50 a second, T_a of the codec, T_c of a stage's conditioning), Q codebooks, K conditioning
streams, R lead-sheet rows, D width, H heads.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # `as` tells type checkers that these names are re-exported
    from .accompaniment.configuration_accompaniment import HAFMConfig as HAFMConfig
    from .accompaniment.configuration_separator import HAFMSeparatorConfig as HAFMSeparatorConfig
    from .accompaniment.generation_accompaniment import HAFMAccompanimentOutput as HAFMAccompanimentOutput
    from .accompaniment.modeling_accompaniment import HAFMForVocalAccompaniment as HAFMForVocalAccompaniment
    from .accompaniment.modeling_separator import HAFMSeparatorModel as HAFMSeparatorModel
    from .accompaniment.options import GenerationOptions as GenerationOptions
    from .accompaniment.pipeline_hafm import HAFMPipeline as HAFMPipeline
    from .audio.errors import HAFMAudioError as HAFMAudioError
    from .audio.feature_extraction_hafm import HAFMFeatureExtractor as HAFMFeatureExtractor
    from .lead_sheet.lead_sheet import LeadSheet as LeadSheet
    from .listening.configuration_listener import HAFMListenerConfig as HAFMListenerConfig
    from .listening.modeling_listener import HAFMListenerModel as HAFMListenerModel
    from .modeling.configuration_stage import HAFMCoarseConfig as HAFMCoarseConfig
    from .modeling.configuration_stage import HAFMFineConfig as HAFMFineConfig
    from .modeling.configuration_stage import HAFMSemanticConfig as HAFMSemanticConfig
    from .modeling.modeling_stage import HAFMCoarseForCausalLM as HAFMCoarseForCausalLM
    from .modeling.modeling_stage import HAFMFineForCausalLM as HAFMFineForCausalLM
    from .modeling.modeling_stage import HAFMSemanticForCausalLM as HAFMSemanticForCausalLM
    from .pretrained.loading import BUNDLED_MODEL as BUNDLED_MODEL
    from .tokenizers.configuration_codec import HAFMSpectralConfig as HAFMSpectralConfig
    from .tokenizers.configuration_semantic_tokenizer import HAFMSemanticTokenizerConfig as HAFMSemanticTokenizerConfig
    from .tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel as HAFMSemanticTokenizerModel
    from .tokenizers.modeling_spectral_codec import HAFMSpectralModel as HAFMSpectralModel

    __version__: str

_NAMES = {
    "accompaniment.configuration_accompaniment": ("HAFMConfig",),
    "accompaniment.configuration_separator": ("HAFMSeparatorConfig",),
    "accompaniment.modeling_accompaniment": ("HAFMForVocalAccompaniment",),
    "accompaniment.modeling_separator": ("HAFMSeparatorModel",),
    "accompaniment.options": ("GenerationOptions",),
    "accompaniment.pipeline_hafm": ("HAFMPipeline",),
    "accompaniment.generation_accompaniment": ("HAFMAccompanimentOutput",),
    "audio.errors": ("HAFMAudioError",),
    "audio.feature_extraction_hafm": ("HAFMFeatureExtractor",),
    "lead_sheet.lead_sheet": ("LeadSheet",),
    "listening.configuration_listener": ("HAFMListenerConfig",),
    "listening.modeling_listener": ("HAFMListenerModel",),
    "modeling.configuration_stage": ("HAFMCoarseConfig", "HAFMFineConfig", "HAFMSemanticConfig"),
    "modeling.modeling_stage": ("HAFMCoarseForCausalLM", "HAFMFineForCausalLM", "HAFMSemanticForCausalLM"),
    "pretrained.loading": ("BUNDLED_MODEL",),
    "tokenizers.configuration_semantic_tokenizer": ("HAFMSemanticTokenizerConfig",),
    "tokenizers.configuration_codec": ("HAFMSpectralConfig",),
    "tokenizers.modeling_semantic_tokenizer": ("HAFMSemanticTokenizerModel",),
    "tokenizers.modeling_spectral_codec": ("HAFMSpectralModel",),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("hafm-hf")
    elif name in _MODULES:
        value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names, imported or not."""
    return sorted([*__all__, "__version__"])


# the `hafm` command (hafm_command.py) shows `--help` without transformers; it registers when it loads a model
if not os.environ.get("HAFM_COMMAND_LINE"):
    from .registration import register

    register()
