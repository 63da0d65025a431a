# SPDX-License-Identifier: Apache-2.0
"""Stages whose feed-forward layers and heads have biases: sizes, training, both loops, adapters, saving."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional as F

from decoding import TokenDecoder, decode, uniforms_for
from modeling.test_modeling import FRAMES, STAGES_AND_PATTERNS, both_logits, conditioning_for, targets_for
from tiny_models import STAGES, biased_stage, placed, tiny_stage

# stage, codebook pattern, and position of the conditioning (`placed`)
CASES = [*((*each, "index") for each in STAGES_AND_PATTERNS), ("semantic", "flat", "sum"), ("coarse", "delay", "sum")]


@pytest.mark.parametrize(
    ("name", "parameters"), [("semantic", 38_567_148), ("coarse", 42_513_144), ("fine", 44_098_808)]
)
def test_paper_size_stages_with_biases_have_the_published_parameter_counts(name: str, parameters: int) -> None:
    config_class, model_class = STAGES[name]
    with torch.device("meta"):
        stage = model_class(config_class(feed_forward_bias=True, head_bias=True))
    assert stage.num_parameters() == parameters


@pytest.mark.parametrize("name", STAGES)
def test_biases_start_as_zeros_and_are_absent_by_default(name: str) -> None:
    plain, biased = (
        dict(tiny_stage(name, feed_forward_bias=has, head_bias=has).named_parameters()) for has in (False, True)
    )
    added = {key: value for key, value in biased.items() if key not in plain}
    layers = [f"model.layers.{n}.feed_forward.{part}_proj.bias" for n in range(2) for part in ("up", "down")]
    assert sorted(added) == sorted([*layers, "heads.bias"])
    assert not any(value.any() for value in added.values())


def test_the_feed_forward_is_a_biased_geglu() -> None:
    module = biased_stage("coarse").model.layers[0].feed_forward
    # [batch, slots, width]
    x = torch.randn(2, 5, 24)
    gate, up = F.linear(x, module.up_proj.weight, module.up_proj.bias).chunk(2, dim=-1)
    expected = F.linear(F.gelu(gate) * up, module.down_proj.weight, module.down_proj.bias)
    for training in (False, True):
        torch.testing.assert_close(module.train(training)(x), expected)


def test_the_head_of_each_codebook_adds_its_own_bias() -> None:
    stage = biased_stage("coarse")
    hidden_states = torch.randn(2, 8, 24)
    for first in range(4):
        logits = stage.heads(hidden_states, torch.arange(8) + first)
        for slot in range(8):
            # slots go through the four codebooks in turn
            book = (first + slot) % 4
            expected = F.linear(hidden_states[:, slot], stage.heads.weight[book], stage.heads.bias[book])
            torch.testing.assert_close(logits[:, slot], expected)
            alone = stage.heads(hidden_states[:, slot : slot + 1], torch.tensor([first + slot]))
            torch.testing.assert_close(alone[:, 0], expected)


@pytest.mark.parametrize(("name", "pattern", "how"), CASES)
@pytest.mark.parametrize("compile", [False, True])
def test_scores_of_the_fast_loop_equal_the_forward(name: str, pattern: str, how: str, compile: bool) -> None:
    stage = biased_stage(name, codebook_pattern=pattern, **placed(how))
    conditioning = conditioning_for(stage, batch=2, frames=24)
    steps = stage.config.target_length(24)
    decoder = TokenDecoder(stage, guidance_scale=3.0, temperature=0.9, top_k=6, compile=compile)
    tokens = decoder.generate(conditioning, steps, uniforms_for(2, steps))
    conditional, unconditional = both_logits(stage, conditioning, labels=tokens)
    expected = unconditional + 3.0 * (conditional - unconditional)
    assert float((torch.stack(decoder.scores, dim=1) - expected).abs().max()) <= 1e-3


@pytest.mark.parametrize("decoding", ["fast", "reference"])
@pytest.mark.parametrize(("name", "pattern"), STAGES_AND_PATTERNS)
def test_both_loops_draw_the_same_tokens(name: str, pattern: str, decoding: str) -> None:
    stage = biased_stage(name, codebook_pattern=pattern)
    conditioning = conditioning_for(stage)
    steps = stage.config.target_length(FRAMES)
    numbers = uniforms_for(len(conditioning), steps)
    settings = (3.0, 0.8, 7)  # guidance scale, temperature, top-k
    expected = TokenDecoder(stage, *settings).generate(conditioning, steps, numbers)
    tokens = decode(decoding, stage, settings, conditioning, steps, numbers)
    assert torch.equal(tokens, expected)


@pytest.mark.parametrize("pattern", ["flat", "delay"])
def test_bfloat16_scores_stay_close_to_float32(pattern: str) -> None:
    stage = biased_stage("coarse", codebook_pattern=pattern, initializer_range=0.1)
    conditioning = conditioning_for(stage)
    steps = stage.config.target_length(FRAMES)
    exact = TokenDecoder(stage, 3.0)
    tokens = exact.generate(conditioning, steps, None)
    decoder = TokenDecoder(biased_stage("coarse", codebook_pattern=pattern, initializer_range=0.1).bfloat16(), 3.0)
    decoder.generate(conditioning, steps, None, forced=tokens)
    expected = torch.stack(exact.scores)
    error = torch.stack(decoder.scores).float() - expected
    assert 0 < float(error.std() / expected.std()) < 0.1


def adapted(stage: Any) -> Any:
    """The stage with LoRA on every matrix of its layers, none of which is zero."""
    targets = ["qkv_proj", "o_proj", "up_proj", "down_proj"]
    model = get_peft_model(stage, LoraConfig(r=2, lora_alpha=8, target_modules=targets))
    for name, value in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(value)
    return model


def test_merged_adapters_keep_the_biases() -> None:
    stage = biased_stage("fine", initializer_range=0.1)
    model = adapted(stage)
    inputs = {"conditioning_ids": conditioning_for(stage), "labels": targets_for(stage)}
    expected = model(**inputs).logits
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(**inputs).logits, expected, atol=1e-4, rtol=0)
    steps = inputs["labels"].shape[1]
    decoder = TokenDecoder(merged, 1.0)
    decoder.generate(inputs["conditioning_ids"], steps, None, forced=inputs["labels"])
    torch.testing.assert_close(torch.stack(decoder.scores, dim=1), expected, atol=1e-3, rtol=0)


def test_adapters_train_with_and_without_the_padded_kernel_alike() -> None:
    stage = biased_stage("coarse", initializer_range=0.1, conditioning_dropout=0.0)
    inputs = {"conditioning_ids": conditioning_for(stage), "labels": targets_for(stage)}
    plain = stage.train()(**inputs).loss
    wrapped = get_peft_model(stage, LoraConfig(r=2, target_modules=["up_proj", "down_proj"])).train()(**inputs).loss
    torch.testing.assert_close(wrapped, plain)


def test_biases_are_trained() -> None:
    stage = biased_stage("coarse").train()
    stage(conditioning_ids=conditioning_for(stage), labels=targets_for(stage)).loss.backward()
    untrained = [name for name, value in stage.named_parameters() if name.endswith("bias") and not value.grad.any()]
    assert not untrained


def test_biases_are_saved_and_loaded(tmp_path: Path) -> None:
    stage = biased_stage("semantic")
    stage.save_pretrained(tmp_path)
    loaded = STAGES["semantic"][1].from_pretrained(tmp_path)
    assert torch.equal(loaded.heads.bias, stage.heads.bias)
    assert torch.equal(
        loaded.model.layers[1].feed_forward.up_proj.bias, stage.model.layers[1].feed_forward.up_proj.bias
    )
