"""HAFM for the Hugging Face ecosystem: a singing voice in, its accompaniment out.

Importing this package makes transformers' Auto classes know the configurations, models and feature extractor, and
`pipeline()` the task `vocal-accompaniment`. Neither transformers nor torch is imported before it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .registration import register_when_imported

if TYPE_CHECKING:
    from .accompaniment.modeling_accompaniment import HAFMAccompanimentOutput, HAFMForVocalAccompaniment
    from .accompaniment.modeling_separator import HAFMSeparatorModel
    from .accompaniment.options import GenerationOptions
    from .accompaniment.pipeline_hafm import HAFMPipeline
    from .audio.feature_extraction_hafm import HAFMFeatureExtractor
    from .audio.files import HAFMAudioError
    from .configuration_hafm import (
        HAFMCoarseConfig,
        HAFMConfig,
        HAFMFineConfig,
        HAFMHarmonyConfig,
        HAFMSemanticConfig,
        HAFMSemanticTokenizerConfig,
        HAFMSeparatorConfig,
    )
    from .hub.loading import BUNDLED_MODEL
    from .lead_sheet.lead_sheet import LeadSheet
    from .lead_sheet.modeling_harmony import HAFMHarmonyModel
    from .semantic_tokenizer import HAFMSemanticTokenizer
    from .stages.generation_hafm import ClassifierFreeGuidance, CodebookLogitsProcessor
    from .stages.modeling_hafm import HAFMCoarseForCausalLM, HAFMFineForCausalLM, HAFMSemanticForCausalLM

    __version__: str

__all__ = [
    "BUNDLED_MODEL",
    "ClassifierFreeGuidance",
    "CodebookLogitsProcessor",
    "GenerationOptions",
    "HAFMAccompanimentOutput",
    "HAFMAudioError",
    "HAFMCoarseConfig",
    "HAFMCoarseForCausalLM",
    "HAFMConfig",
    "HAFMFeatureExtractor",
    "HAFMFineConfig",
    "HAFMFineForCausalLM",
    "HAFMForVocalAccompaniment",
    "HAFMHarmonyConfig",
    "HAFMHarmonyModel",
    "HAFMPipeline",
    "HAFMSemanticConfig",
    "HAFMSemanticForCausalLM",
    "HAFMSemanticTokenizer",
    "HAFMSemanticTokenizerConfig",
    "HAFMSeparatorConfig",
    "HAFMSeparatorModel",
    "LeadSheet",
]

_NAMES = {
    "accompaniment.modeling_accompaniment": ("HAFMAccompanimentOutput", "HAFMForVocalAccompaniment"),
    "accompaniment.modeling_separator": ("HAFMSeparatorModel",),
    "accompaniment.options": ("GenerationOptions",),
    "hub.loading": ("BUNDLED_MODEL",),
    "audio.files": ("HAFMAudioError",),
    "configuration_hafm": (
        "HAFMCoarseConfig",
        "HAFMConfig",
        "HAFMFineConfig",
        "HAFMHarmonyConfig",
        "HAFMSemanticConfig",
        "HAFMSemanticTokenizerConfig",
        "HAFMSeparatorConfig",
    ),
    "audio.feature_extraction_hafm": ("HAFMFeatureExtractor",),
    "stages.generation_hafm": ("ClassifierFreeGuidance", "CodebookLogitsProcessor"),
    "lead_sheet.modeling_harmony": ("HAFMHarmonyModel",),
    "lead_sheet.lead_sheet": ("LeadSheet",),
    "stages.modeling_hafm": ("HAFMCoarseForCausalLM", "HAFMFineForCausalLM", "HAFMSemanticForCausalLM"),
    "accompaniment.pipeline_hafm": ("HAFMPipeline",),
    "semantic_tokenizer": ("HAFMSemanticTokenizer",),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}


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
    return sorted({*globals(), *__all__, "__version__"})


register_when_imported()
