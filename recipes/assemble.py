"""Joins a semantic tokenizer, three stages and a codec into one composite folder that `from_pretrained` reads.

python recipes/assemble.py --semantic_tokenizer DIR --semantic DIR --coarse DIR --fine DIR --codec DIR --output_dir DIR
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import HfArgumentParser

from hafm_hf.accompaniment_hafm import HAFMForVocalAccompaniment
from hafm_hf.codec import load_encodec
from hafm_hf.modeling_hafm import HAFMCoarseForCausalLM, HAFMFineForCausalLM, HAFMSemanticForCausalLM
from hafm_hf.semantic_tokenizer_hafm import HAFMSemanticTokenizer

logger = logging.getLogger("hafm_hf.recipes.assemble")
STAGE_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class AssembleArguments:
    """The parts (folders or hub names), and where the composite goes."""

    semantic_tokenizer: str = ""
    semantic: str = ""
    coarse: str = ""
    fine: str = ""
    codec: str = ""
    output_dir: str = ""
    stage_dtype: str = field(default="bf16", metadata={"help": "fp32, bf16 or fp16: how the stages are stored"})
    limit_mb: float | None = field(default=None, metadata={"help": "refuse a composite larger than this"})


def assemble(arguments: AssembleArguments) -> Path:
    """Joins the parts; `HAFMConfig` refuses those whose vocabularies or rates do not fit each other.

    The tokenizer and the codec keep their precision: tokens must not depend on how a composite is stored.

    Raises:
        ValueError: for a missing part, an unknown precision, parts that do not fit, or a composite over the limit.
    """
    missing = [
        name
        for name in ("semantic_tokenizer", *("semantic", "coarse", "fine"), "codec", "output_dir")
        if not getattr(arguments, name)
    ]
    if missing:
        raise ValueError(f"Name every part and the output folder; missing: {', '.join(missing)}.")
    if arguments.stage_dtype not in STAGE_DTYPES:
        raise ValueError(f"stage_dtype is {arguments.stage_dtype!r}; choose one of {', '.join(STAGE_DTYPES)}.")
    dtype = STAGE_DTYPES[arguments.stage_dtype]
    composite = HAFMForVocalAccompaniment.from_parts(
        semantic_tokenizer=HAFMSemanticTokenizer.from_pretrained(arguments.semantic_tokenizer),
        semantic=HAFMSemanticForCausalLM.from_pretrained(arguments.semantic, dtype=dtype),
        coarse=HAFMCoarseForCausalLM.from_pretrained(arguments.coarse, dtype=dtype),
        fine=HAFMFineForCausalLM.from_pretrained(arguments.fine, dtype=dtype),
        codec=load_encodec(arguments.codec),
    )
    output = Path(arguments.output_dir)
    composite.save_pretrained(output)
    HAFMForVocalAccompaniment.from_pretrained(
        output
    )  # what was written can be read, strictly, before anyone relies on it
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file()) / 1e6
    if arguments.limit_mb is not None and size > arguments.limit_mb:
        raise ValueError(
            f"{output} has {size:.1f} MB, over the limit of {arguments.limit_mb} MB: choose smaller parts."
        )
    logger.info("%s: %.1f MB", output, size)
    return output


def main() -> None:
    """Reads the arguments and assembles."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    assemble(HfArgumentParser(AssembleArguments).parse_args_into_dataclasses()[0])


if __name__ == "__main__":
    main()
