"""Makes transformers' Auto classes and `pipeline()` know HAFM, as soon as they are there.

Each function here is called when the module it names has been imported, at once if it has been already. So whoever
imports `hafm_hf` finds everything registered, in either order, and pays for transformers and torch when using them.
"""

import logging
from collections.abc import Callable
from typing import Any

from .import_hook import ImportWatcher

TASK = "vocal-accompaniment"


def _installed(kind: Any) -> Any:
    """A class whose code comes with the package: transformers is not to copy it beside weights that are saved."""
    kind.register_for_auto_class = classmethod(lambda cls, auto_class=None: None)
    return kind


def register_configurations() -> None:
    """`AutoConfig` knows the composite and its parts, but for the codec, which is transformers' own."""
    from transformers.models.auto.configuration_auto import AutoConfig

    from .. import configuration_hafm as configurations

    for config_class in (
        configurations.HAFMSemanticConfig,
        configurations.HAFMCoarseConfig,
        configurations.HAFMFineConfig,
        configurations.HAFMSemanticTokenizerConfig,
        configurations.HAFMHarmonyConfig,
        configurations.HAFMSeparatorConfig,
        configurations.HAFMConfig,
    ):
        AutoConfig.register(config_class.model_type, _installed(config_class), exist_ok=True)


def register_models() -> None:
    """`AutoModel` knows every model, `AutoModelForCausalLM` the stages."""
    from transformers.models.auto.modeling_auto import AutoModel, AutoModelForCausalLM

    from ..accompaniment.modeling_accompaniment import HAFMForVocalAccompaniment
    from ..accompaniment.modeling_separator import HAFMSeparatorModel
    from ..lead_sheet.modeling_harmony import HAFMHarmonyModel
    from ..semantic_tokenizer import HAFMSemanticTokenizer
    from ..stages.modeling_hafm import STAGE_MODELS

    for stage_class in STAGE_MODELS.values():
        AutoModel.register(stage_class.config_class, _installed(stage_class), exist_ok=True)
        AutoModelForCausalLM.register(stage_class.config_class, stage_class, exist_ok=True)
    for model_class in (HAFMForVocalAccompaniment, HAFMSemanticTokenizer, HAFMHarmonyModel, HAFMSeparatorModel):
        AutoModel.register(model_class.config_class, _installed(model_class), exist_ok=True)


def register_feature_extractor() -> None:
    """`AutoFeatureExtractor` knows that of the composite."""
    from transformers.models.auto.feature_extraction_auto import AutoFeatureExtractor

    from ..audio.feature_extraction_hafm import HAFMFeatureExtractor
    from ..configuration_hafm import HAFMConfig

    AutoFeatureExtractor.register(HAFMConfig, _installed(HAFMFeatureExtractor), exist_ok=True)


def register_task() -> None:
    """`pipeline()` knows the task, with the bundled model as its default."""
    from transformers.models.auto.modeling_auto import AutoModel
    from transformers.pipelines import PIPELINE_REGISTRY

    from ..accompaniment.pipeline_hafm import HAFMPipeline
    from ..hub.loading import BUNDLED_MODEL

    if TASK in PIPELINE_REGISTRY.supported_tasks:
        return
    PIPELINE_REGISTRY.register_pipeline(
        TASK,
        pipeline_class=HAFMPipeline,
        pt_model=AutoModel,
        default={"model": (str(BUNDLED_MODEL), "main")},
        type="audio",
    )
    # pipeline() warns of every default; this one comes with the package and does not change beneath anybody
    logging.getLogger("transformers.pipelines").addFilter(lambda record: str(BUNDLED_MODEL) not in record.getMessage())


REGISTRATIONS: dict[str, Callable[[], None]] = {
    "transformers.models.auto.configuration_auto": register_configurations,
    "transformers.models.auto.modeling_auto": register_models,
    "transformers.models.auto.feature_extraction_auto": register_feature_extractor,
    "transformers.pipelines": register_task,
}


def register_when_imported() -> None:
    """Registers with what is imported of transformers, and with the rest when it will be."""
    ImportWatcher(REGISTRATIONS, packages=("transformers", __name__.partition(".")[0])).start()
