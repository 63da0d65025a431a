# SPDX-License-Identifier: Apache-2.0
"""What the fast loop refuses to read: adapters that are not merged, hooks, quantised and offloaded layers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from accelerate import cpu_offload
from hafm_hf.modeling.fast_loop import FastDecoder
from hafm_hf.modeling.heartbeat import Heartbeat
from hafm_hf.modeling.windows import DecodingOptions, decode_window
from hafm_hf.training.adapters import add_adapters
from modeling.test_modeling import FRAMES, conditioning_for
from tiny_models import tiny_stage


def tokens_of(stage: Any, decoding: str) -> torch.Tensor:
    conditioning = conditioning_for(stage)
    count = stage.config.target_length(FRAMES)
    uniforms = torch.rand(len(conditioning), count, generator=torch.Generator().manual_seed(0))
    known = conditioning.new_empty(len(conditioning), 0)
    return decode_window(stage, conditioning, count, uniforms, DecodingOptions(decoding), known)


def test_adapters_are_refused_until_they_are_merged() -> None:
    stage = tiny_stage("coarse", initializer_range=0.1)
    plain = tokens_of(stage, "fast")
    torch.manual_seed(0)
    adapted = add_adapters(stage, rank=2, alpha=8)
    for name, value in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(value)
    with pytest.raises(ValueError, match=r'merge_and_unload\(\), or choose decoding="reference"'):
        FastDecoder(stage)
    expected = tokens_of(stage, "reference")
    assert not torch.equal(expected, plain)
    assert torch.equal(tokens_of(adapted.merge_and_unload(), "fast"), expected)


def hooked(stage: Any) -> None:
    stage.model.layers[1].register_forward_hook(lambda module, args, output: 2 * output)


def hooked_before(stage: Any) -> None:
    stage.model.layers[0].attention.o_proj.register_forward_pre_hook(lambda module, args: args)


def quantised(stage: Any) -> None:
    stage.model = torch.ao.quantization.quantize_dynamic(stage.model, {nn.Linear}, dtype=torch.qint8)


def reparametrised(stage: Any) -> None:
    nn.utils.parametrizations.weight_norm(stage.model.layers[0].feed_forward.down_proj)


def scaled_heads(stage: Any) -> None:
    stage.heads.forward = lambda *args: torch.zeros(1)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (hooked, "model.layers.1 has a hook"),
        (hooked_before, "model.layers.0.attention.o_proj has a hook"),
        (quantised, "is a torch.ao.nn.quantized.dynamic"),
        (reparametrised, "feed_forward.down_proj is a .*ParametrizedLinear"),
        (scaled_heads, "heads has another forward"),
        (cpu_offload, "has another forward"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_more_than_its_weights_is_refused(change: Callable[[Any], object], named: str) -> None:
    stage = tiny_stage("coarse")
    change(stage)
    with pytest.raises(ValueError, match=named):
        FastDecoder(stage)


def test_watchers_are_no_reason_to_refuse() -> None:
    stage = tiny_stage("coarse")
    plain = tokens_of(stage, "fast")
    stage(conditioning_ids=conditioning_for(stage), labels=plain, output_hidden_states=True)
    with Heartbeat(stage, lambda *_: None):
        assert torch.equal(tokens_of(stage, "fast"), plain)
