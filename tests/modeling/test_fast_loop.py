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

from hafm_hf.accompaniment.song import Heartbeat
from hafm_hf.modeling.fast_loop import BLOCK, FastDecoder, _GraphedStep
from hafm_hf.modeling.generation_hafm import RandomStream
from hafm_hf.modeling.windows import DecodingOptions, decode_window
from modeling.test_modeling import FRAMES, STAGES_AND_PATTERNS, both_scores, conditioning_for
from tiny_models import placed, tiny_stage


class RecordingDecoder(FastDecoder):
    """The fast loop, recording the guided scores of every step in `scores`, float [B, V] each."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.scores: list[torch.Tensor] = []

    def draw(self, scores: torch.Tensor, uniforms: torch.Tensor | None) -> torch.Tensor:
        self.scores.append(scores.float())
        return super().draw(scores, uniforms)


def uniforms_for(batch: int, count: int, seed: int = 5) -> torch.Tensor:
    return torch.stack([RandomStream(seed, sample=row).uniforms(0, count) for row in range(batch)])


@pytest.mark.parametrize(
    ("name", "pattern", "scheme", "frames", "steps"),
    [
        ("coarse", "flat", "time", 336, 2000),
        ("semantic", "flat", "index", 400, 400),
        ("fine", "flat", "time", 100, 400),
        ("coarse", "flat", "index", 68, 400),
        # 1,003 and 103 slots
        ("coarse", "delay", "time", 668, 4000),
        ("fine", "delay", "index", 100, 400),
        ("coarse", "delay", "sum", 668, 4000),
        ("semantic", "flat", "sum", 100, 100),
    ],
)
def test_scores_of_many_steps_equal_the_forward(name: str, pattern: str, scheme: str, frames: int, steps: int) -> None:
    stage = tiny_stage(name, codebook_pattern=pattern, **placed(scheme))
    conditioning = conditioning_for(stage, batch=2, frames=frames)
    decoder = RecordingDecoder(stage, 3.0, 0.9, 6)
    tokens = decoder.generate(conditioning, steps, uniforms_for(2, steps))
    # teacher-forced, from the stage's own forward
    conditional, unconditional = both_scores(stage, conditioning, labels=tokens)
    expected = unconditional + 3.0 * (conditional - unconditional)
    assert float((torch.stack(decoder.scores, dim=1) - expected).abs().max()) <= 1e-3
    assert len(tokens.unique()) > 8


@pytest.mark.processor
@pytest.mark.parametrize("scale", [3.0, 1.0, 0.0])
@pytest.mark.parametrize("scheme", ["index", "time", "sum"])
@pytest.mark.parametrize(("name", "pattern"), STAGES_AND_PATTERNS)
def test_fast_and_reference_draw_the_same_tokens(name: str, pattern: str, scheme: str, scale: float) -> None:
    stage = tiny_stage(name, codebook_pattern=pattern, **placed(scheme))
    conditioning = conditioning_for(stage)
    steps = stage.config.target_length(FRAMES)
    arguments = (stage, conditioning, steps, uniforms_for(len(conditioning), steps))
    known = torch.empty(len(conditioning), 0, dtype=torch.long)
    fast = decode_window(*arguments, DecodingOptions("fast", scale, 0.8, 7), known)
    reference = decode_window(*arguments, DecodingOptions("reference", scale, 0.8, 7), known)
    assert fast.tolist() == reference.tolist() and len(fast.unique()) > 2


@pytest.mark.parametrize("padding", ["behind", "before"])
@pytest.mark.parametrize("scheme", ["index", "time", "sum"])
@pytest.mark.parametrize("pattern", ["flat", "delay"])
def test_rows_of_different_lengths_generate_the_same_as_alone(pattern: str, scheme: str, padding: str) -> None:
    stage = tiny_stage("coarse", codebook_pattern=pattern, **placed(scheme))
    conditioning = conditioning_for(stage, batch=3, frames=12)
    lengths, numbers = (12, 6, 8), uniforms_for(3, 72)
    mask = torch.arange(12) < torch.tensor(lengths)[:, None]
    mask = mask if padding == "behind" else mask.flip(1)
    together = FastDecoder(stage, 3.0, 0.9, 9).generate(conditioning, 72, numbers, conditioning_mask=mask)
    how, nothing = DecodingOptions("reference", 3.0, 0.9, 9), together[:, :0]
    reference = decode_window(stage, conditioning, 72, numbers, how, nothing, conditioning_mask=mask)
    for row, length in enumerate(lengths):
        steps = stage.config.target_length(length)
        alone = FastDecoder(stage, 3.0, 0.9, 9).generate(
            conditioning[row : row + 1, :, mask[row]], steps, numbers[row : row + 1, :steps]
        )
        assert torch.equal(together[row, :steps], alone[0])
        assert torch.equal(reference[row, :steps], alone[0])
    # and when fewer tokens are requested than the conditioning covers
    part = FastDecoder(stage, 3.0, 0.9, 9).generate(conditioning, 20, numbers[:, :20])
    assert torch.equal(decode_window(stage, conditioning, 20, numbers[:, :20], how, nothing), part)


@pytest.mark.parametrize("pattern", ["flat", "delay"])
def test_a_prefix_is_continued_and_forced_tokens_are_kept(pattern: str) -> None:
    stage = tiny_stage("fine", codebook_pattern=pattern)
    conditioning = conditioning_for(stage, batch=2)
    steps = stage.config.target_length(FRAMES)
    numbers = uniforms_for(2, steps)
    whole = FastDecoder(stage, 3.0, 0.9).generate(conditioning, steps, numbers)
    known = 7 if pattern == "flat" else 8
    for decoding in ("fast", "reference"):
        how = DecodingOptions(decoding, 3.0, 0.9, 0)
        rest = decode_window(stage, conditioning, steps - known, numbers[:, known:], how, whole[:, :known])
        assert torch.equal(rest, whole[:, known:])
    forced = torch.full_like(whole, -1)
    forced[1, 3:9] = (whole[1, 3:9] + 1) % 16
    for decoding in ("fast", "reference"):
        steered = decode_window(
            stage, conditioning, steps, numbers, DecodingOptions(decoding, 3.0, 0.9, 0), whole[:, :0], forced
        )
        # under the delay pattern a slot predicts codes of four frames, so codes before a change may depend on it
        assert torch.equal(steered[0], whole[0]) and (pattern == "delay" or torch.equal(steered[1, :3], whole[1, :3]))
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
    assert stage.pattern.slots(steps // stage.config.num_codebooks) > BLOCK or name == "semantic"
    mask = (torch.arange(frames) < frames // 12 * torch.tensor((12, 6, 10))[:, None]).to(device)
    numbers, forced = uniforms_for(3, steps), torch.full((3, steps), -1)
    forced[1, 3:9] = 2
    plain, compiled = (FastDecoder(stage, 3.0, 0.9, 9, compile=each) for each in (False, True))
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
        assert compiled.graphed is not None and compiled.graphed.checked
        seen.append(compiled.graphed)
    # where conditioning has no slots of its own, padding does not change the bias
    padded = seen[0] if scheme == "sum" else seen[2]
    assert seen[0] is seen[1] and seen[2] is padded and seen[3] is seen[4], "compiled once per window shape"
    assert plain.graphed is None


def broken(step: _GraphedStep, kind: int) -> torch.Tensor:
    return FastDecoder.slot_scores(step.decoder, step.ids, kind, step.slot, step.views, 0 * step.bias)


def failing(step: _GraphedStep, kind: int) -> torch.Tensor:
    raise RuntimeError("CUDA error: operation not permitted when stream is capturing")


@pytest.mark.parametrize(("compute", "reason"), [(broken, "scores differ by"), (failing, "not permitted when stream")])
def test_graphs_that_fail_or_differ_fall_back_to_the_plain_loop_with_a_warning(
    compute: Callable[..., torch.Tensor],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = tiny_stage("coarse")
    conditioning, numbers = conditioning_for(stage, batch=2), uniforms_for(2, 24)
    expected = FastDecoder(stage, 3.0, 0.9, 9).generate(conditioning, 24, numbers)
    monkeypatch.setattr(_GraphedStep, "_compute", compute)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    decoder = FastDecoder(stage, 3.0, 0.9, 9, compile=True)
    for _ in range(2):
        assert torch.equal(decoder.generate(conditioning, 24, numbers), expected)
    assert caplog.text.count("compile=True is off for this stage") == 1 and reason in caplog.text


def adapted(stage: Any) -> Any:
    return get_peft_model(stage, LoraConfig(r=2, lora_alpha=8, target_modules=["qkv_proj", "o_proj", "up_proj"]))


def hooked(stage: Any) -> None:
    stage.model.layers[1].register_forward_hook(lambda module, args, output: 2 * output)


def quantised(stage: Any) -> None:
    stage.model = torch.ao.quantization.quantize_dynamic(stage.model, {nn.Linear}, dtype=torch.qint8)


def reparametrised(stage: Any) -> None:
    nn.utils.parametrizations.weight_norm(stage.model.layers[0].feed_forward.down_proj)


@pytest.mark.parametrize("change", [adapted, hooked, quantised, reparametrised, cpu_offload])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_stages_with_adapters_hooks_or_changed_layers_are_refused(change: Callable[[Any], object]) -> None:
    stage = tiny_stage("coarse")
    change(stage)
    with pytest.raises(ValueError, match=r'reads weights only, and model.* or choose decoding="reference"'):
        FastDecoder(stage)


def test_merged_adapters_and_progress_hooks_are_accepted() -> None:
    stage = tiny_stage("coarse", initializer_range=0.1)
    conditioning = conditioning_for(stage)
    count = stage.config.target_length(FRAMES)
    known, numbers = conditioning.new_empty(len(conditioning), 0), uniforms_for(len(conditioning), count)
    adapted_stage = adapted(stage)
    for name, value in adapted_stage.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(value)
    expected = decode_window(stage, conditioning, count, numbers, DecodingOptions("reference"), known)
    merged = adapted_stage.merge_and_unload()
    merged(conditioning_ids=conditioning, labels=expected, output_hidden_states=True)
    with Heartbeat(merged, lambda *_: None):
        assert torch.equal(decode_window(merged, conditioning, count, numbers, DecodingOptions(), known), expected)


@pytest.mark.processor
@pytest.mark.parametrize("pattern", ["flat", "delay"])
def test_bfloat16_scores_stay_close_to_float32(pattern: str) -> None:
    stage = tiny_stage("coarse", codebook_pattern=pattern, initializer_range=0.1)
    conditioning = conditioning_for(stage)
    steps = stage.config.target_length(FRAMES)
    exact = RecordingDecoder(stage, 3.0)
    tokens = exact.generate(conditioning, steps, None)
    decoder = RecordingDecoder(tiny_stage("coarse", codebook_pattern=pattern, initializer_range=0.1).bfloat16(), 3.0)
    decoder.generate(conditioning, steps, None, forced=tokens)
    apart = torch.stack(decoder.scores).float() - torch.stack(exact.scores)
    assert 0 < float(apart.std() / torch.stack(exact.scores).std()) < 0.1
