"""The model classes of the three stages by the names that recipes and commands use."""

from ..modeling_hafm import (
    HAFMCoarseForCausalLM,
    HAFMFineForCausalLM,
    HAFMSemanticForCausalLM,
    HAFMStageForCausalLM,
)

STAGE_MODELS: dict[str, type[HAFMStageForCausalLM]] = {
    "semantic": HAFMSemanticForCausalLM,
    "coarse": HAFMCoarseForCausalLM,
    "fine": HAFMFineForCausalLM,
}
