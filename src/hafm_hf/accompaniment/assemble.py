# SPDX-License-Identifier: Apache-2.0
"""Joins separately trained parts into one composite; incompatible parts are refused."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_NAME

from ..atomic_files import replace_folder
from ..audio.feature_extraction_hafm import HAFMFeatureExtractor
from ..pretrained.loading import codec_fingerprint, load_strictly, model_source, tokenizer_fingerprint, write_checksums
from ..pretrained.saving import read_style_sounds
from ..tokenizers.codecs import load_codec
from .configuration_accompaniment import HAFMConfig
from .modeling_accompaniment import HAFMForVocalAccompaniment
from .parts import PARTS, check_names, part_classes, stage_parts

# the best settings for stages conditioned on a lead sheet (docs/generation.md), unless others have been chosen
LEAD_SHEET_SETTINGS = {
    "semantic": {"guidance_scale": 2.0, "history_free_guidance": 0.5, "temperature": 0.6},
    "coarse": {"guidance_scale": 1.0, "temperature": 0.65},
    "fine": {"guidance_scale": 1.0},
}
STAGE_DTYPES = ("float32", "bfloat16", "float16")


def assemble_composite(
    parts: Mapping[str, str | None], output: Path, stage_dtype: str = "bfloat16", base: str | None = None
) -> float:
    """Loads the parts, joins them and writes the composite atomically.

    The tokenizer and the codec's encoder keep their precision: tokens must not depend on how a composite is stored.
    Stages that read a lead sheet and still generate by the paper's settings are given `LEAD_SHEET_SETTINGS`.

    Args:
        parts: folder or hub id of each part, by its name in the composite; optional ones may be missing, and with a
            `base`, so may any other.
        output: folder for the composite; an existing composite is replaced, other files never are.
        stage_dtype: precision in which the stages are stored, one of STAGE_DTYPES; unless it is float32, the codec's
            decoder is stored in float16, which changes its samples by about a thousandth of their level.
        base: folder or hub id of a composite ("hafm-tiny" for the bundled one) that provides the other parts.

    Returns:
        Size of the composite's files in MB.

    Raises:
        ValueError: for a missing part, an unknown precision, parts whose vocabularies, rates or tokenizers do not
            match, or an output folder that holds other files.
        OSError: if a part cannot be found.
    """
    sources = {name: PartSource(source) for name, source in parts.items() if source}
    if base is not None:
        sources = _sources_in(base) | sources
    check_names(sources)
    if stage_dtype not in STAGE_DTYPES:
        raise ValueError(f"stage_dtype is {stage_dtype!r}; choose one of {', '.join(STAGE_DTYPES)}.")
    _check_output(output)

    loaded = _load(sources, stage_dtype)
    _check_tokenizers(loaded)
    _set_lead_sheet_defaults(loaded)
    try:
        composite = HAFMForVocalAccompaniment.from_parts(**loaded)
    except StrictDataclassClassValidationError as error:
        raise ValueError(str(error.__cause__ or error)) from error
    if base is not None:
        composite.style_sounds = read_style_sounds(model_source(base), composite.styles)
        composite.feature_extractor_config = HAFMFeatureExtractor.get_feature_extractor_dict(model_source(base))[0]

    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{output.name}.part-", dir=output.parent) as scratch:
        temporary = Path(scratch) / "new"
        composite.save_pretrained(temporary)
        if stage_dtype != "float32":
            _store_decoder_as_float16(temporary / "codec" / SAFE_WEIGHTS_NAME)
        write_checksums(temporary)
        # a strict load proves the files good before they replace anything
        HAFMForVocalAccompaniment.from_pretrained(temporary)
        # README and style examples of the composite that is replaced are kept
        if (output / "README.md").exists():
            shutil.copy2(output / "README.md", temporary / "README.md")
        if (output / "styles").exists():
            shutil.copytree(output / "styles", temporary / "styles", dirs_exist_ok=True)
        size = sum(file.stat().st_size for file in temporary.rglob("*") if file.is_file()) / 1e6
        replace_folder(temporary, output)
    return size


@dataclass(frozen=True)
class PartSource:
    """Where a part is stored.

    Args:
        model: folder or hub id of the part, or of a composite that has it.
        subfolder: of the part in that composite; empty for a part by itself.
    """

    model: str | os.PathLike[str]
    subfolder: str = ""


def _sources_in(composite: str) -> dict[str, PartSource]:
    """The sources of all parts of a composite (folder or hub id), by the part's name."""
    source = model_source(composite)
    config = HAFMConfig.from_pretrained(source)
    return {name: PartSource(source, name) for name in part_classes(config)}


def _load(sources: Mapping[str, PartSource], stage_dtype: str) -> dict[str, PreTrainedModel]:
    """Loads parts from their sources, by name: stages in `stage_dtype` ("bfloat16" …), others as stored."""
    loaded: dict[str, PreTrainedModel] = {}
    for name, part in PARTS.items():
        if name not in sources:
            continue
        source = sources[name]
        if name == "codec":
            loaded[name] = load_codec(source.model, subfolder=source.subfolder).model
        elif name in stage_parts():
            dtype = getattr(torch, stage_dtype)
            loaded[name] = load_strictly(part.model_class, source.model, subfolder=source.subfolder, dtype=dtype)
        else:
            loaded[name] = load_strictly(part.model_class, source.model, subfolder=source.subfolder)
    return loaded


def _store_decoder_as_float16(weights: Path) -> None:
    """Converts the decoder in `weights`, a codec's safetensors file, to half precision in place.

    Codes do not depend on the decoder.
    """
    tensors = load_file(weights)
    for name, tensor in tensors.items():
        if name.startswith("decoder."):
            tensors[name] = tensor.half()
    save_file(tensors, weights, metadata={"format": "pt"})


def _set_lead_sheet_defaults(parts: Mapping[str, PreTrainedModel]) -> None:
    """Applies `LEAD_SHEET_SETTINGS` to stages that read a lead sheet and still have the paper's generation config.

    The generation configs of these parts (by name) are changed in place.
    """
    for name in LEAD_SHEET_SETTINGS.keys() & parts.keys():
        stage: Any = parts[name]
        settings = LEAD_SHEET_SETTINGS[name]
        config = stage.generation_config
        paper = stage.default_generation_config()
        is_untouched = all(getattr(config, key, None) == getattr(paper, key) for key in settings)
        if is_untouched and stage.config.lead_sheet_streams:
            config.update(**settings)


def _check_output(output: Path) -> None:
    """Refuses an output folder that holds anything but a composite, as its contents would be lost.

    Raises:
        ValueError: it does, or the path is a file.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file; name a folder.")
    if not output.exists() or not any(output.iterdir()):
        return
    try:
        config = json.loads((output / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = None
    if not isinstance(config, dict) or config.get("model_type") != HAFMConfig.model_type:
        raise ValueError(f"{output} holds files that are not a composite; name another folder.")


def _check_tokenizers(parts: Mapping[str, PreTrainedModel]) -> None:
    """Refuses a tokenizer or codec whose weights (centroids, codebooks) differ from those a stage was trained on.

    Args:
        parts: all parts of the composite by name.

    Raises:
        ValueError: names the stage and the fingerprints.
    """
    fingerprints = {
        "semantic_tokenizer": tokenizer_fingerprint(parts["semantic_tokenizer"]),
        "codec": codec_fingerprint(parts["codec"]),
    }
    for stage in stage_parts():
        if stage not in parts:
            continue
        for name, expected in parts[stage].config.tokenizers.items():
            if fingerprints[name] != expected:
                raise ValueError(
                    f"The parts do not fit: the {stage} stage was trained on tokens of the {name.replace('_', ' ')} "
                    f"{expected}, but this one is {fingerprints[name]}; name the one that tokenised its corpus."
                )
