# SPDX-License-Identifier: Apache-2.0
"""The private parts of transformers that the package uses: each is listed here, and exists."""

import importlib
import inspect
import pkgutil
from typing import Any

import transformers
from transformers.generation import GenerationMixin
from transformers.pipelines import Pipeline

# private names of transformers' classes that the package overrides, calls or reads
PRIVATE: dict[type, tuple[str, ...]] = {
    GenerationMixin: (
        *"_expand_inputs_for_generation _get_logits_processor _prepare_cache_for_generation".split(),
        *"_prepare_generated_length _prepare_generation_config _prepare_model_inputs".split(),
        *"_validate_generation_mode".split(),
    ),
    transformers.PreTrainedModel: (
        *"_can_compile_fullgraph _can_record_outputs _init_weights _input_embed_layer".split(),
        *"_no_split_modules _skip_keys_device_placement _supports_attention_backend".split(),
        *"_supports_flash_attn _supports_flex_attn _supports_sdpa".split(),
    ),
    Pipeline: (
        *"_forward _load_feature_extractor _load_image_processor _load_processor _load_tokenizer".split(),
        *"_load_video_processor _sanitize_parameters".split(),
    ),
    transformers.PreTrainedConfig: ("_attn_implementation",),
}
# names of transformers' modules that the package imports, though they are undocumented
INTERNAL = {
    "transformers.configuration_utils": ("SubConfigSpec",),
    "transformers.generation.configuration_utils": ("GenerationMode",),
    "transformers.initialization": ("no_init_weights",),
    "transformers.modeling_layers": ("GradientCheckpointingLayer",),
    "transformers.modeling_utils": ("ALL_ATTENTION_FUNCTIONS",),
    "transformers.pipelines": ("PIPELINE_REGISTRY",),
    "transformers.utils": ("can_return_tuple", "cached_file"),
    "transformers.utils.generic": ("merge_with_config_defaults",),
    "transformers.utils.output_capturing": ("capture_outputs",),
}
# arguments of cached_files, to which cached_file passes them
PRIVATE_ARGUMENTS = ("_raise_exceptions_for_missing_entries", "_raise_exceptions_for_connection_errors")


def test_the_private_and_internal_names_exist() -> None:
    owners: dict[Any, tuple[str, ...]] = {
        **PRIVATE,
        **{importlib.import_module(name): INTERNAL[name] for name in INTERNAL},
    }
    missing = [f"{owner}: {name}" for owner, names in owners.items() for name in names if not hasattr(owner, name)]
    assert not missing
    assert set(PRIVATE_ARGUMENTS) <= set(inspect.signature(transformers.utils.hub.cached_files).parameters)


def test_every_overridden_private_name_is_listed() -> None:
    named = {name for names in PRIVATE.values() for name in names}
    overridden: set[str] = set()
    for module in map(importlib.import_module, modules()):
        for each in vars(module).values():
            # not those that the module has imported
            if inspect.isclass(each) and each.__module__ == module.__name__:
                overridden |= overridden_by(each)
    assert "_sanitize_parameters" in overridden
    assert overridden <= named


def overridden_by(our_class: type) -> set[str]:
    """Private names of a class that it overrides of one of transformers' classes."""
    bases = [base for base in our_class.__mro__[1:] if base.__module__.startswith("transformers.")]
    private = [name for name in vars(our_class) if name.startswith("_") and not name.startswith("__")]
    return {name for name in private if name != "_abc_impl" and any(name in vars(base) for base in bases)}


def modules() -> list[str]:
    """Modules of the package that may subclass transformers' classes."""
    folders = ("accompaniment", "listening", "modeling", "tokenizers")
    found: list[str] = []
    for folder in folders:
        package: Any = importlib.import_module(f"hafm_hf.{folder}")
        found += [f"{package.__name__}.{module.name}" for module in pkgutil.iter_modules(package.__path__)]
    return found
