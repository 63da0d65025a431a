"""HAFM for the Hugging Face ecosystem: a singing voice in, its accompaniment out.

Importing this package registers the configurations, models and feature extractor with transformers' Auto classes and
the task `vocal-accompaniment` with `pipeline()`.
"""

from importlib.metadata import version

from .accompaniment_hafm import BUNDLED_MODEL, HAFMAccompanimentOutput, HAFMForVocalAccompaniment
from .audio import HAFMAudioError
from .configuration_hafm import (
    HAFMCoarseConfig,
    HAFMConfig,
    HAFMFineConfig,
    HAFMSemanticConfig,
    HAFMSemanticTokenizerConfig,
)
from .feature_extraction_hafm import HAFMFeatureExtractor
from .generation_hafm import ClassifierFreeGuidance, CodebookLogitsProcessor
from .modeling_hafm import HAFMCoarseForCausalLM, HAFMFineForCausalLM, HAFMSemanticForCausalLM
from .pipeline_hafm import HAFMPipeline
from .registration import register
from .semantic_tokenizer_hafm import HAFMSemanticTokenizer

__version__ = version("hafm-hf")
__all__ = [
    "BUNDLED_MODEL",
    "ClassifierFreeGuidance",
    "CodebookLogitsProcessor",
    "HAFMAccompanimentOutput",
    "HAFMAudioError",
    "HAFMCoarseConfig",
    "HAFMCoarseForCausalLM",
    "HAFMConfig",
    "HAFMFeatureExtractor",
    "HAFMFineConfig",
    "HAFMFineForCausalLM",
    "HAFMForVocalAccompaniment",
    "HAFMPipeline",
    "HAFMSemanticConfig",
    "HAFMSemanticForCausalLM",
    "HAFMSemanticTokenizer",
    "HAFMSemanticTokenizerConfig",
]

register()
