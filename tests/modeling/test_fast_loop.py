# SPDX-License-Identifier: Apache-2.0
"""The fast loop against the reference: logits, greedy and sampled tokens, masks, prefixes, precisions."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from peft import LoraConfig, get_peft_model
from torch import nn

from decoding import TokenDecoder, batch_of, decode, uniforms_for
from hafm_hf.modeling.fast_loop import BLOCK, CudaGraphed, FastGenerator
from hafm_hf.modeling.layers import HAFMGatedFeedForward
from modeling.test_modeling import FRAMES, STAGES_AND_PATTERNS, both_logits, conditioning_for
from tiny_models import placed, tiny_stage


@pytest.mark.parametrize(
    ("name", "pattern", "scheme", "frames", "steps"),
    [
        ("coarse", "flat", "time", 336, 2000),
        ("semantic", "flat", "index", 400, 400),
        ("fine", "flat", "time", 100, 400),
        ("coarse", "flat", "index", 68, 400),
        # 1,003 and 103 slots; steps are tokens
        ("coarse", "delay", "time", 668, 4000),
        ("fine", "delay", "index", 100, 400),
        ("coarse", "delay", "sum", 668, 4000),
        ("semantic", "flat", "sum", 100, 100),
    ],
)
def test_scores_of_many_steps_equal_the_forward(name: str, pattern: str, scheme: str, frames: int, steps: int) -> None:
    stage = tiny_stage(name, codebook_pattern=pattern, **placed(scheme))
    conditioning = conditioning_for(stage, batch=2, frames=frames)
    decoder = TokenDecoder(stage, guidance_scale=3.0, temperature=0.9, top_k=6)
    tokens = decoder.generate(conditioning, steps, uniforms_for(2, steps))
    # teacher-forced, from the stage's own forward
    conditional, unconditional = both_logits(stage, conditioning, labels=tokens)
    expected = unconditional + 3.0 * (conditional - unconditional)
    assert float((torch.stack(decoder.scores, dim=1) - expected).abs().max()) <= 1e-3
    assert len(tokens.unique()) > 8


@pytest.mark.processor
@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize(("name", "pattern", "scheme"), [("coarse", "flat", "index"), ("fine", "delay", "time")])
def test_scores_from_a_large_cache_equal_the_forward(
    name: str, pattern: str, scheme: str, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hafm_hf.modeling.fast_loop.LARGE_CACHE", 1)
    # large caches are used on AMD's processors, where they are fast; results are right on any
    monkeypatch.setattr("hafm_hf.modeling.fast_loop._is_amd", lambda: True)
    stage = tiny_stage(name, codebook_pattern=pattern, **placed(scheme))
    conditioning = conditioning_for(stage, batch=2, frames=48)
    mask = torch.arange(48) < torch.tensor((48, 36))[:, None]
    steps = stage.config.target_length(48)
    decoder = TokenDecoder(stage, scale, temperature=0.9, top_k=6)
    tokens = decoder.generate(conditioning, steps, uniforms_for(2, steps), conditioning_mask=mask)
    assert decoder.large
    conditional, unconditional = both_logits(stage, conditioning, labels=tokens, conditioning_mask=mask)
    expected = unconditional + scale * (conditional - unconditional)
    # the second sequence ends before the first, but the forward scores all its slots
    ended = stage.config.target_frames(36) * stage.pattern.slots_per_frame
    scores = torch.stack(decoder.scores, dim=1)
    codes = stage.pattern.codes_per_slot
    assert float((scores - expected)[:codes].abs().max()) <= 1e-3
    assert float((scores - expected)[codes:, :ended].abs().max()) <= 1e-3
    # the next window reuses the layers
    again = decoder.generate(conditioning, steps, uniforms_for(2, steps), conditioning_mask=mask)
    assert torch.equal(again, tokens)


@pytest.mark.processor
@pytest.mark.parametrize("scale", [3.0, 1.0, 0.0])
@pytest.mark.parametrize("scheme", ["index", "time", "sum"])
@pytest.mark.parametrize(("name", "pattern"), STAGES_AND_PATTERNS)
def test_fast_and_reference_draw_the_same_tokens(name: str, pattern: str, scheme: str, scale: float) -> None:
    stage = tiny_stage(name, codebook_pattern=pattern, **placed(scheme))
    conditioning = conditioning_for(stage)
    steps = stage.config.target_length(FRAMES)
    settings = (scale, 0.8, 7)  # guidance scale, temperature, top-k
    arguments = (stage, settings, conditioning, steps, uniforms_for(len(conditioning), steps))
    fast = decode("fast", *arguments)
    assert fast.tolist() == decode("reference", *arguments).tolist()
    assert len(fast.unique()) > 2


@pytest.mark.parametrize("padding", ["behind", "before"])
@pytest.mark.parametrize("scheme", ["index", "time", "sum"])
@pytest.mark.parametrize("pattern", ["flat", "delay"])
def test_rows_of_different_lengths_generate_the_same_as_alone(pattern: str, scheme: str, padding: str) -> None:
    stage = tiny_stage("coarse", codebook_pattern=pattern, **placed(scheme))
    conditioning = conditioning_for(stage, batch=3, frames=12)
    lengths = (12, 6, 8)
    # 12 frames at 50 Hz are 18 at 75 Hz, of four codebooks
    numbers = uniforms_for(3, 72)
    mask = torch.arange(12) < torch.tensor(lengths)[:, None]
    if padding == "before":
        mask = mask.flip(1)
    settings = (3.0, 0.9, 9)  # guidance scale, temperature, top-k
    together = decode("fast", stage, settings, conditioning, 72, numbers, conditioning_mask=mask)
    reference = decode("reference", stage, settings, conditioning, 72, numbers, conditioning_mask=mask)
    for row, length in enumerate(lengths):
        steps = stage.config.target_length(length)
        alone = decode(
            "fast", stage, settings, conditioning[row : row + 1, :, mask[row]], steps, numbers[row : row + 1, :steps]
        )
        assert torch.equal(together[row, :steps], alone[0])
        assert torch.equal(reference[row, :steps], alone[0])
    # and when fewer tokens are requested than the conditioning covers
    part = (stage, settings, conditioning, 20, numbers[:, :20])
    assert torch.equal(decode("reference", *part), decode("fast", *part))


@pytest.mark.parametrize("pattern", ["flat", "delay"])
def test_a_prefix_is_continued_and_forced_tokens_are_kept(pattern: str) -> None:
    stage = tiny_stage("fine", codebook_pattern=pattern)
    conditioning = conditioning_for(stage, batch=2)
    steps = stage.config.target_length(FRAMES)
    numbers = uniforms_for(2, steps)
    settings = (3.0, 0.9, 0)  # guidance scale, temperature, no top-k
    whole = decode("fast", stage, settings, conditioning, steps, numbers)
    for decoding in ("fast", "reference"):
        rest = decode(decoding, stage, settings, conditioning, steps - 8, numbers[:, 8:], whole[:, :8])
        assert torch.equal(rest, whole[:, 8:])
    # −1: not forced
    forced = torch.full_like(whole, -1)
    forced[1, 3:9] = (whole[1, 3:9] + 1) % 16
    for decoding in ("fast", "reference"):
        steered = decode(decoding, stage, settings, conditioning, steps, numbers, forced=forced)
        # under the delay pattern a slot predicts codes of four frames, so codes before a change may depend on it
        assert torch.equal(steered[0], whole[0])
        assert pattern == "delay" or torch.equal(steered[1, :3], whole[1, :3])
        assert torch.equal(steered[1, 3:9], forced[1, 3:9])


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("name", "pattern", "scheme"), [*((*each, "time") for each in STAGES_AND_PATTERNS), ("coarse", "delay", "sum")]
)
def test_compiled_steps_give_equal_tokens_in_every_window(name: str, pattern: str, scheme: str, device: str) -> None:
    stage = tiny_stage(name, codebook_pattern=pattern, **placed(scheme)).to(device)
    frames = 24 if pattern == "flat" else 72
    # with this seed, rounding cannot decide between two codes
    conditioning = conditioning_for(stage, batch=3, frames=frames, seed=3).to(device)
    steps = stage.config.target_length(frames)
    assert stage.pattern.num_slots(steps // stage.config.num_codebooks) > BLOCK or name == "semantic"
    mask = (torch.arange(frames) < frames // 12 * torch.tensor((12, 6, 10))[:, None]).to(device)
    numbers = uniforms_for(3, steps)
    forced = torch.full((3, steps), -1)
    forced[1, 3:9] = 2
    plain, compiled = (TokenDecoder(stage, 3.0, 0.9, 9, compile=each) for each in (False, True))
    seen = []
    for arguments in (
        {"uniforms": numbers},
        {"uniforms": numbers.flip(1)},
        {"uniforms": numbers, "forced": forced, "conditioning_mask": mask},
        {"uniforms": None},
        {"uniforms": numbers[:, 4:], "known": torch.ones(3, 4, dtype=torch.long, device=device)},
    ):
        count = steps if arguments["uniforms"] is None else arguments["uniforms"].shape[1]
        expected = plain.generate(conditioning, count, **arguments)
        assert torch.equal(compiled.generate(conditioning, count, **arguments), expected)
        assert compiled.graphs_checked
        seen.append(compiled.graphs[0])
    # where conditioning has no slots of its own, padding does not change the bias
    padded = seen[0] if scheme == "sum" else seen[2]
    assert seen[0] is seen[1], "compiled once per window shape"
    assert seen[2] is padded, "compiled once per window shape"
    assert seen[3] is seen[4], "compiled once per window shape"
    assert not plain.graphs


def broken(graphed: CudaGraphed, ids: torch.Tensor, slot: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """A graph that computes its step without the bias, so that scores differ."""
    return graphed.function(ids, slot, 0 * bias)


def failing(graphed: CudaGraphed, *arguments: torch.Tensor) -> torch.Tensor:
    """A graph that cannot be captured."""
    raise RuntimeError("CUDA error: operation not permitted when stream is capturing")


@pytest.mark.parametrize(("compute", "reason"), [(broken, "scores differ by"), (failing, "not permitted when stream")])
def test_graphs_that_fail_or_differ_fall_back_to_the_plain_loop_with_a_warning(
    compute: Callable[..., torch.Tensor],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = tiny_stage("coarse")
    conditioning = conditioning_for(stage, batch=2)
    numbers = uniforms_for(2, 24)
    expected = TokenDecoder(stage, 3.0, 0.9, 9).generate(conditioning, 24, numbers)
    monkeypatch.setattr(CudaGraphed, "__call__", compute)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    decoder = TokenDecoder(stage, 3.0, 0.9, 9, compile=True)
    for _ in range(2):
        assert torch.equal(decoder.generate(conditioning, 24, numbers), expected)
    assert caplog.text.count("compile=True is off for this stage") == 1
    assert reason in caplog.text


def adapted(stage: Any) -> Any:
    """The stage with LoRA on some matrices of its layers."""
    return get_peft_model(stage, LoraConfig(r=2, lora_alpha=8, target_modules=["qkv_proj", "o_proj", "up_proj"]))


def quantised(stage: Any) -> None:
    """Quantises the linear layers of a stage to 8 bits."""
    stage.model = torch.ao.quantization.quantize_dynamic(stage.model, {nn.Linear}, dtype=torch.qint8)


def reparametrised(stage: Any) -> None:
    """Gives a layer of a stage weight normalisation, which computes its matrix from two others."""
    nn.utils.parametrizations.weight_norm(stage.model.layers[0].feed_forward.down_proj)


@pytest.mark.parametrize("change", [adapted, quantised, reparametrised, cpu_offload])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_stages_with_adapters_or_changed_layers_are_refused(change: Callable[[Any], object]) -> None:
    stage = tiny_stage("coarse")
    change(stage)
    with pytest.raises(ValueError, match=r'reads weights only, and model.* or choose decoding="reference"'):
        FastGenerator(stage, stage.decoding_config())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pattern", ["flat", "delay"])
@pytest.mark.parametrize("place", ["model.layers.1", "model.layers.0.attention.qkv_proj", "model.norm", "heads"])
def test_hooks_that_change_a_result_are_refused(place: str, pattern: str, dtype: torch.dtype) -> None:
    stage = tiny_stage("coarse", codebook_pattern=pattern, initializer_range=0.1).to(dtype)
    batch = batch_of(stage, conditioning_for(stage), 8)
    config = stage.decoding_config()
    FastGenerator(stage, config).codes(batch)
    stage.get_submodule(place).register_forward_hook(lambda module, args, output: output.flip(-1))
    with pytest.raises(ValueError, match=r'a hook changes what .* or choose decoding="reference"'):
        FastGenerator(stage, config).codes(batch)


def test_a_stage_whose_forward_changes_without_the_fast_loop_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = tiny_stage("coarse", initializer_range=0.1)
    plain = HAFMGatedFeedForward.forward
    monkeypatch.setattr(HAFMGatedFeedForward, "forward", lambda self, x: plain(self, x).relu())
    with pytest.raises(ValueError, match="standard deviations from those of the model"):
        FastGenerator(stage, stage.decoding_config()).codes(batch_of(stage, conditioning_for(stage), 8))


def test_a_layer_with_a_parameter_that_the_fast_loop_does_not_read_is_refused() -> None:
    stage = tiny_stage("coarse")
    stage.model.layers[1].attention.register_parameter("gain", nn.Parameter(torch.ones(3)))
    with pytest.raises(ValueError, match=r"model\.layers\.1\.attention\.gain is quantised"):
        FastGenerator(stage, stage.decoding_config())


def test_merged_adapters_and_recorded_outputs_are_accepted() -> None:
    stage = tiny_stage("coarse", initializer_range=0.1)
    conditioning = conditioning_for(stage)
    count = stage.config.target_length(FRAMES)
    numbers = uniforms_for(len(conditioning), count)
    adapted_stage = adapted(stage)
    for name, value in adapted_stage.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(value)
    stage_settings = (None, None, None)
    expected = decode("reference", stage, stage_settings, conditioning, count, numbers)
    merged = adapted_stage.merge_and_unload()
    # transformers records outputs with hooks that stay
    merged(conditioning_ids=conditioning, labels=expected, output_hidden_states=True)
    assert torch.equal(decode("fast", merged, stage_settings, conditioning, count, numbers), expected)


@pytest.mark.processor
@pytest.mark.parametrize("pattern", ["flat", "delay"])
def test_bfloat16_scores_stay_close_to_float32(pattern: str) -> None:
    stage = tiny_stage("coarse", codebook_pattern=pattern, initializer_range=0.1)
    conditioning = conditioning_for(stage)
    steps = stage.config.target_length(FRAMES)
    exact = TokenDecoder(stage, 3.0)
    tokens = exact.generate(conditioning, steps, None)
    decoder = TokenDecoder(tiny_stage("coarse", codebook_pattern=pattern, initializer_range=0.1).bfloat16(), 3.0)
    decoder.generate(conditioning, steps, None, forced=tokens)
    expected = torch.stack(exact.scores)
    error = torch.stack(decoder.scores).float() - expected
    assert 0 < float(error.std() / expected.std()) < 0.1
