# SPDX-License-Identifier: Apache-2.0
"""LoRA: fine-tuning small adapters beside frozen weights (Hu et al. 2021, arXiv 2106.09685), through `peft`.

What is saved is an ordinary stage: the adapters are merged into a copy of the weights first.
"""

import copy
from importlib.util import find_spec
from typing import Any

from transformers import PreTrainedModel

# every linear layer of the decoder; embeddings, heads and the relative bias stay as they were published
TARGETS = ["qkv_proj", "o_proj", "up_proj", "down_proj"]


def add_adapters(model: PreTrainedModel, rank: int, alpha: int, dropout: float = 0.0) -> Any:
    """A stage whose linear layers carry adapters of `rank`; only those are trained.

    Raises:
        ImportError: without `peft`.
    """
    if find_spec("peft") is None:
        raise ImportError("lora_rank needs peft; install it with: pip install 'hafm-hf[train]'.")
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=TARGETS))


def plain_stage(model: Any) -> PreTrainedModel:
    """The stage itself, or for a stage with adapters a copy with the adapters merged into its weights."""
    if hasattr(model, "merge_and_unload"):
        return copy.deepcopy(model).merge_and_unload()
    return model
