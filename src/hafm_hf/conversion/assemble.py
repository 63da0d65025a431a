"""Joins parts that were trained apart into one composite, and refuses parts that do not fit each other."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import PreTrainedModel

from ..accompaniment_hafm import OPTIONAL_PARTS, PARTS, STAGES, HAFMForVocalAccompaniment
from ..codec import load_encodec
from ..loading import fingerprint, load_strictly

# weight of what chords say where nobody has chosen one: the bundled model's
HARMONY_GUIDANCE = 4.0
STAGE_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def assemble_composite(
    parts: Mapping[str, str], output: Path, stage_dtype: str = "bf16", limit_mb: float | None = None
) -> float:
    """Loads the parts, joins them and writes the composite, whole or not at all; returns its size in MB.

    The tokenizer and the codec keep their precision: tokens must not depend on how a composite is stored.

    Args:
        parts: folder or hub id of each part, by its name in the composite; `harmony` may be missing.
        output: folder of the composite; one that is there is replaced.
        stage_dtype: fp32, bf16 or fp16, how the stages are stored.
        limit_mb: the size that the composite may have.

    Raises:
        ValueError: for a missing part, an unknown precision, parts whose vocabularies, rates or tokenizers do not fit
            each other, or a composite over the limit.
        OSError: when a part is not there.
    """
    missing = [name for name in PARTS if not parts.get(name)]
    if missing:
        raise ValueError(f"Name every part; missing: {', '.join(missing)}.")
    if stage_dtype not in STAGE_DTYPES:
        raise ValueError(f"stage_dtype is {stage_dtype!r}; choose one of {', '.join(STAGE_DTYPES)}.")
    loaded: dict[str, PreTrainedModel] = {
        name: load_strictly(PARTS[name], parts[name], dtype=STAGE_DTYPES[stage_dtype]) for name in STAGES
    }
    loaded["semantic_tokenizer"] = load_strictly(PARTS["semantic_tokenizer"], parts["semantic_tokenizer"])
    loaded["codec"] = load_encodec(parts["codec"])
    for name, kind in OPTIONAL_PARTS.items():
        if parts.get(name):
            loaded[name] = load_strictly(kind, parts[name])
    _check_tokenizers(loaded)
    config = loaded["semantic"].generation_config
    if "harmony" in loaded and not getattr(config, "harmony_guidance", 0.0):
        config.harmony_guidance = HARMONY_GUIDANCE
    try:
        composite = HAFMForVocalAccompaniment.from_parts(**loaded)
    except StrictDataclassClassValidationError as error:
        raise ValueError(str(error.__cause__ or error)) from error
    temporary = output.with_name(output.name + ".part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        composite.save_pretrained(temporary)
        # what was written can be read, strictly, before anyone relies on it
        HAFMForVocalAccompaniment.from_pretrained(temporary)
        size = sum(file.stat().st_size for file in temporary.rglob("*") if file.is_file()) / 1e6
        if limit_mb is not None and size > limit_mb:
            raise ValueError(
                f"The composite has {size:.1f} MB, over the limit of {limit_mb} MB: choose smaller parts."
            )
        shutil.rmtree(output, ignore_errors=True)
        temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return size


def _check_tokenizers(parts: Mapping[str, PreTrainedModel]) -> None:
    """Refuses a tokenizer or codec whose weights (centroids, codebooks) are not those that a stage has learnt."""
    made = {name: fingerprint(parts[name]) for name in ("semantic_tokenizer", "codec")}
    wanted = {f"the {stage} stage": parts[stage].config.tokenizers for stage in STAGES}
    if "harmony" in parts and parts["harmony"].config.semantic_tokenizer:
        wanted["the harmony"] = {"semantic_tokenizer": parts["harmony"].config.semantic_tokenizer}
    for part, tokenizers in wanted.items():
        for name, learnt in tokenizers.items():
            if made[name] != learnt:
                raise ValueError(
                    f"The parts do not fit: {part} has learnt tokens of the {name.replace('_', ' ')} "
                    f"{learnt}, but this one is {made[name]}; name the one that tokenised its corpus."
                )
