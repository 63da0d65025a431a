"""Makes transformers' Auto classes and `pipeline()` know HAFM; called when the package is imported."""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.pipelines import PIPELINE_REGISTRY

from .accompaniment_hafm import BUNDLED_MODEL, HAFMForVocalAccompaniment
from .configuration_hafm import (
    HAFMCoarseConfig,
    HAFMConfig,
    HAFMFineConfig,
    HAFMSemanticConfig,
    HAFMSemanticTokenizerConfig,
)
from .feature_extraction_hafm import HAFMFeatureExtractor
from .modeling_hafm import HAFMCoarseForCausalLM, HAFMFineForCausalLM, HAFMSemanticForCausalLM
from .pipeline_hafm import HAFMPipeline
from .semantic_tokenizer_hafm import HAFMSemanticTokenizer

TASK = "vocal-accompaniment"
STAGES: dict[type[PreTrainedConfig], type[PreTrainedModel]] = {
    HAFMSemanticConfig: HAFMSemanticForCausalLM,
    HAFMCoarseConfig: HAFMCoarseForCausalLM,
    HAFMFineConfig: HAFMFineForCausalLM,
}


def register() -> None:
    """Registers configurations, models, feature extractor and the task; doing so again changes nothing."""
    others = {HAFMConfig: HAFMForVocalAccompaniment, HAFMSemanticTokenizerConfig: HAFMSemanticTokenizer}
    for config_class, model_class in (STAGES | others).items():
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        AutoModel.register(config_class, model_class, exist_ok=True)
    for config_class, model_class in STAGES.items():
        AutoModelForCausalLM.register(config_class, model_class, exist_ok=True)
    AutoFeatureExtractor.register(HAFMConfig, HAFMFeatureExtractor, exist_ok=True)
    PIPELINE_REGISTRY.register_pipeline(
        TASK,
        pipeline_class=HAFMPipeline,
        pt_model=AutoModel,
        default={"model": (str(BUNDLED_MODEL), "main")},
        type="audio",
    )
