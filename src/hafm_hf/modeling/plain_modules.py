# SPDX-License-Identifier: Apache-2.0
"""Whether a stage may be read by the fast loop, which takes weights out of modules and never runs them.

In front of the fast loop on the path of the data.
"""

from typing import Any

import torch
from torch import nn

from . import layers, modeling_hafm
from .heartbeat import Heartbeat
from .kernels import HAFMRMSNorm

PLAIN = {
    nn.Embedding,
    nn.Linear,
    nn.ModuleList,
    HAFMRMSNorm,
    layers.HAFMAttention,
    modeling_hafm.HAFMCodebookEmbedding,
    modeling_hafm.HAFMCodebookHeads,
    modeling_hafm.HAFMDecoder,
    layers.HAFMDecoderLayer,
    layers.HAFMGatedFeedForward,
}
# these the fast loop runs as they are
RUN = {
    "model.conditioning_embedding", "model.lead_sheet_embedding", "model.conditioning_mixer",
    "model.conditioning_mixer.around", "model.relative_attention_bias",
}  # fmt: skip
# leaves its hooks in a model that was once asked for hidden states; they change nothing
CAPTURE = "transformers.utils.output_capturing"


def check_plain_modules(stage: Any) -> None:
    """Refuses a stage whose modules compute something else than their weights say.

    Raises:
        ValueError: naming the first adapter, quantised layer, hook or offloaded module, and what to do.
    """
    for part in ("model", "heads"):
        for name, module in getattr(stage, part).named_modules(prefix=part):
            if name not in RUN and (reason := _departure(module)):
                raise ValueError(
                    f"The fast loop reads a stage's weights, and {name} {reason}. Merge adapters into the weights "
                    'with merge_and_unload(), or choose decoding="reference".'
                )


def _departure(module: nn.Module) -> str:
    """What makes a module another one than its weights say; empty if nothing does."""
    if type(module) not in PLAIN:
        return f"is a {type(module).__module__}.{type(module).__name__}"
    if hasattr(module, "_hf_hook") or "forward" in vars(module):
        return "has another forward (weights that are offloaded or spread over devices have)"
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    if any(not _changes_nothing(hook) for hook in hooks):
        return "has a hook"
    if any(type(value.data) is not torch.Tensor for value in module.parameters(recurse=False)):
        return "has weights that are no plain tensors"
    return ""


def _changes_nothing(hook: Any) -> bool:
    owner, name = getattr(hook, "__self__", None), getattr(hook, "__name__", "")
    # peft leaves the last one behind when adapters are merged: it asks for a gradient of the embeddings
    return (
        isinstance(owner, Heartbeat)
        or getattr(hook, "__module__", None) == CAPTURE
        or name == "make_inputs_require_grads"
        or name == "make_inputs_require_grad"
    )
