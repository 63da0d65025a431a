# SPDX-License-Identifier: Apache-2.0
"""Attention in training on a CPU: what is computed in chunks equals what PyTorch computes, at less cost."""

import shutil
from typing import Any

import pytest
import torch

from hafm_hf.modeling import layers
from tiny_models import CODES, VOCABULARIES, placed, tiny_stage

BATCH = 3
FRAMES = 14  # of conditioning

Gradients = dict[str, torch.Tensor]


def training_inputs(stage: Any, masked: bool = False) -> dict[str, torch.Tensor]:
    """A batch of random tokens: the arguments of a stage's forward.

    With `masked`, the first sequence has 6 frames of conditioning, padded behind; the second 6, padded before.
    """
    config = stage.config
    ids = torch.randint(min(config.conditioning_sizes), (BATCH, config.num_conditioning_streams, FRAMES))
    labels = torch.randint(config.codebook_size, (BATCH, config.target_length(FRAMES)))
    inputs = {"conditioning_ids": ids, "labels": labels, "null_conditioning": torch.tensor([False, True, False])}
    if masked:
        mask = torch.ones(BATCH, FRAMES, dtype=torch.bool)
        mask[0, 6:] = False
        mask[1, :8] = False
        inputs["conditioning_mask"] = mask
        labels[0, config.target_length(6) :] = -100
        labels[1, config.target_length(6) :] = -100
    return inputs


def loss_and_gradients(stage: Any, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, Gradients]:
    """A stage's loss, and the gradients of all its weights by name."""
    stage.zero_grad()
    loss = stage(**inputs, use_cache=False).loss
    loss.backward()
    return loss.detach(), {name: weight.grad for name, weight in stage.named_parameters() if weight.grad is not None}


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 9 slots, which end in the middle of sources and of frames."""
    monkeypatch.setattr(layers, "CHUNK", 9)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("positions", ["index", "time", "sum"])
@pytest.mark.parametrize(("stage_name", "pattern"), [(name, "flat") for name in VOCABULARIES] + [("coarse", "delay")])
def test_losses_and_gradients_equal_pytorchs(
    stage_name: str, pattern: str, positions: str, masked: bool, small_chunks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = tiny_stage(stage_name, num_hidden_layers=3, codebook_pattern=pattern, **placed(positions)).double().train()
    inputs = training_inputs(stage, masked)
    loss, gradients = loss_and_gradients(stage, inputs)
    monkeypatch.setattr(stage.model, "_attends_in_chunks", lambda: False)
    expected_loss, expected = loss_and_gradients(stage, inputs)
    torch.testing.assert_close(loss, expected_loss, atol=1e-12, rtol=0)
    assert expected["model.relative_attention_bias.weight"].abs().max() > 1e-4
    torch.testing.assert_close(gradients, expected, atol=1e-11, rtol=0)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_all_layers_share_the_only_matrices_of_all_pairs_kept_for_the_backward_pass(checkpointing: bool) -> None:
    stage = tiny_stage("coarse").train()
    if checkpointing:
        stage.activation_checkpointing_enable()
    inputs = training_inputs(stage)
    targets = inputs["labels"].shape[1]
    kept: list[torch.Size] = []
    pairs: set[int] = set()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        """Notes every tensor that is saved for the backward pass, and those with a value for each pair of targets."""
        kept.append(tensor.shape)
        if tensor.ndim >= 2 and min(tensor.shape[-2:]) >= targets:
            pairs.add(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss_and_gradients(stage, inputs)
    assert len(kept) > 20
    assert len(pairs) <= 2, "the bias and its buckets"


def test_under_autocast_gradients_stay_close_to_those_of_full_precision() -> None:
    stage = tiny_stage("coarse", initializer_range=0.1).train()
    inputs = training_inputs(stage)
    loss, gradients = loss_and_gradients(stage, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        half_loss, half = loss_and_gradients(stage, inputs)
    assert half_loss.item() == pytest.approx(loss.item(), rel=0.01)
    for name, gradient in gradients.items():
        assert torch.cosine_similarity(half[name].flatten(), gradient.flatten(), dim=0) > 0.98, name


@pytest.mark.parametrize(
    "elsewhere", [{"attn_implementation": "eager"}, {"attention_dropout": 1e-9}], ids=["eager", "dropout"]
)
def test_eager_attention_and_dropout_do_not_use_chunks(
    elsewhere: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = tiny_stage("coarse").train()
    inputs = training_inputs(stage)
    loss, _ = loss_and_gradients(stage, inputs)
    other = tiny_stage("coarse", **elsewhere).train()
    monkeypatch.setattr(layers, "chunked_attention", None)
    torch.testing.assert_close(loss_and_gradients(other, inputs)[0], loss, atol=1e-5, rtol=0)


def test_generation_in_training_mode_computes_as_in_evaluation_mode() -> None:
    stage = tiny_stage("coarse")
    ids = torch.randint(CODES, (1, 2, FRAMES)) % min(stage.config.conditioning_sizes)
    inputs = {"conditioning_ids": ids, "labels": torch.randint(CODES, (1, stage.config.target_length(FRAMES)))}
    expected = stage(**inputs).logits
    stage.train()
    logits = stage(**inputs, null_conditioning=torch.tensor([False]), use_cache=True).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++")
def test_a_compiled_step_equals_a_plain_one_in_one_graph() -> None:
    stage = tiny_stage("coarse", position_scheme="time").train()
    inputs = training_inputs(stage)
    loss, gradients = loss_and_gradients(stage, inputs)
    stage.compile(dynamic=False, fullgraph=True)
    compiled_loss, compiled = loss_and_gradients(stage, inputs)
    torch.testing.assert_close(compiled_loss, loss, atol=1e-5, rtol=0)
    torch.testing.assert_close(compiled, gradients, atol=1e-4, rtol=1e-3)
