# SPDX-License-Identifier: Apache-2.0
"""Registers HAFM with transformers' Auto classes and `pipeline()`; `import hafm_hf` calls `register`."""

import logging
from typing import Any

TASK = "vocal-accompaniment"


def register() -> None:
    """Registers configurations, models, feature extractor and task with transformers; may be called repeatedly."""
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForCausalLM
    from transformers.pipelines import PIPELINE_REGISTRY

    from .accompaniment.configuration_accompaniment import HAFMConfig
    from .accompaniment.modeling_accompaniment import HAFMForVocalAccompaniment
    from .accompaniment.parts import PARTS, StageEntry
    from .accompaniment.pipeline_hafm import HAFMPipeline
    from .audio.feature_extraction_hafm import HAFMFeatureExtractor
    from .pretrained.loading import BUNDLED_MODEL
    from .tokenizers.modeling_spectral_codec import HAFMSpectralModel

    for name, part in PARTS.items():
        # of the classes that may be the codec, only this one is not transformers' own
        model_class: Any = HAFMSpectralModel if name == "codec" else part.model_class
        config_class = _without_code_copies(model_class.config_class)
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        AutoModel.register(config_class, _without_code_copies(model_class), exist_ok=True)
        if isinstance(part, StageEntry):
            AutoModelForCausalLM.register(config_class, model_class, exist_ok=True)
    AutoConfig.register(HAFMConfig.model_type, _without_code_copies(HAFMConfig), exist_ok=True)
    AutoModel.register(HAFMConfig, _without_code_copies(HAFMForVocalAccompaniment), exist_ok=True)
    AutoFeatureExtractor.register(HAFMConfig, _without_code_copies(HAFMFeatureExtractor), exist_ok=True)
    if TASK not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(
            TASK,
            pipeline_class=HAFMPipeline,
            pt_model=AutoModel,
            default={"model": (str(BUNDLED_MODEL), "main")},
            type="audio",
        )
        # pipeline() warns about every default model; this one comes with the package and cannot change unnoticed
        logger = logging.getLogger("transformers.pipelines")
        logger.addFilter(lambda record: str(BUNDLED_MODEL) not in record.getMessage())


def _without_code_copies(registered_class: Any) -> Any:
    """Makes `register_for_auto_class` of a class do nothing; the class is changed and returned.

    Otherwise transformers would copy the code of our classes next to saved weights.
    """
    registered_class.register_for_auto_class = classmethod(lambda cls, auto_class=None: None)
    return registered_class
