# SPDX-License-Identifier: Apache-2.0
"""The fast loop against the reference: logits, greedy and sampled tokens, masks, prefixes, precisions."""

from typing import Any

import pytest
import torch

from hafm_hf import HAFMCoarseConfig, HAFMCoarseForCausalLM
from hafm_hf.modeling.cuda_graph import BLOCK
from hafm_hf.modeling.fast_loop import FastDecoder
from hafm_hf.modeling.sampling import RandomStream, draw
from hafm_hf.modeling.windows import DecodingOptions, decode_window
from modeling.test_modeling import FRAMES, conditioning_for
from recording_decoder import RecordingDecoder
from tiny_models import SIZES, STAGES, placed, tiny_stage

STAGES_AND_PATTERNS = [*((name, "flat") for name in STAGES), ("coarse", "delay"), ("fine", "delay")]


def uniforms_for(batch: int, count: int, seed: int = 5) -> torch.Tensor:
    return torch.stack([RandomStream(seed, sample=row).uniforms(0, count) for row in range(batch)])


def guided_scores(stage: Any, conditioning: torch.Tensor, tokens: torch.Tensor, scale: float) -> torch.Tensor:
    """Teacher-forced scores of every slot by the stage's own forward: float [B·R, L, V]."""
    null = torch.ones(len(conditioning), dtype=torch.bool)
    with torch.no_grad():
        conditional = stage(labels=tokens, conditioning_ids=conditioning, null_conditioning=~null).logits
        unconditional = stage(labels=tokens, conditioning_ids=conditioning, null_conditioning=null).logits
    return unconditional + scale * (conditional - unconditional)


@pytest.mark.parametrize(
    ("name", "pattern", "scheme", "null", "frames", "steps"),
    [
        ("coarse", "flat", "time", "zeros", 336, 2000),
        ("semantic", "flat", "index", "zeros", 400, 400),
        ("fine", "flat", "time", "mask_token", 100, 400),
        ("coarse", "flat", "index", "zeros", 68, 400),
        # 1,003 and 103 slots
        ("coarse", "delay", "time", "zeros", 668, 4000),
        ("fine", "delay", "index", "mask_token", 100, 400),
        ("coarse", "delay", "sum", "zeros", 668, 4000),
        ("semantic", "flat", "sum", "mask_token", 100, 100),
    ],
)
def test_scores_over_many_steps_equal_the_forward(
    name: str, pattern: str, scheme: str, null: str, frames: int, steps: int
) -> None:
    stage = tiny_stage(name, codebook_pattern=pattern, conditioning_null=null, **placed(scheme))
    conditioning = conditioning_for(stage, batch=2, frames=frames)
    decoder = RecordingDecoder(stage, 3.0, 0.9, 6)
    tokens = decoder.generate(conditioning, steps, uniforms_for(2, steps))
    expected = guided_scores(stage, conditioning, tokens, 3.0)
    found = torch.stack(decoder.scores, dim=1)
    assert float((found - expected).abs().max()) <= 1e-3
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
    assert fast.tolist() == reference.tolist()
    assert len(fast.unique()) > 2


@pytest.mark.parametrize(
    ("name", "pattern", "frames"),
    # the last two are 1,008 and 1,002 slots
    [*((*each, FRAMES) for each in STAGES_AND_PATTERNS), ("coarse", "flat", 168), ("coarse", "delay", 666)],
)
def test_greedy_tokens_equal_generates(name: str, pattern: str, frames: int) -> None:
    stage = tiny_stage(name, codebook_pattern=pattern, position_scheme="time")
    conditioning = conditioning_for(stage, frames=frames)
    steps = stage.config.target_length(frames)
    reference = stage.codes_of(stage.generate(conditioning_ids=conditioning, do_sample=False))
    tokens = FastDecoder(stage, 3.0).generate(conditioning, steps, None)
    assert torch.equal(tokens, reference.transpose(1, 2).flatten(1))


def test_sampled_tokens_equal_a_plain_loop_with_the_same_numbers() -> None:
    stage = tiny_stage("coarse")
    conditioning = conditioning_for(stage, batch=2)
    numbers = uniforms_for(2, 20)
    tokens = torch.empty(2, 0, dtype=torch.long)
    for step in range(20):
        # the score of a step doesn't depend on the label that stands there
        labels = torch.cat([tokens, torch.zeros(2, 1, dtype=torch.long)], dim=1)
        scores = guided_scores(stage, conditioning, labels, 2.0)[:, -1]
        tokens = torch.cat([tokens, draw(scores, numbers[:, step], 1.1, 9)[:, None]], dim=1)
    assert torch.equal(FastDecoder(stage, 2.0, 1.1, 9).generate(conditioning, 20, numbers), tokens)


@pytest.mark.parametrize("padding", ["behind", "before"])
@pytest.mark.parametrize("scheme", ["index", "time", "sum"])
@pytest.mark.parametrize("pattern", ["flat", "delay"])
def test_rows_of_different_lengths_generate_as_each_alone(pattern: str, scheme: str, padding: str) -> None:
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
    # and where less is asked for than the conditioning lasts
    part = FastDecoder(stage, 3.0, 0.9, 9).generate(conditioning, 20, numbers[:, :20])
    assert torch.equal(decode_window(stage, conditioning, 20, numbers[:, :20], how, nothing), part)


@pytest.mark.parametrize("pattern", ["flat", "delay"])
def test_a_prefix_is_continued_and_forced_tokens_are_taken(pattern: str) -> None:
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
        bent = decode_window(
            stage, conditioning, steps, numbers, DecodingOptions(decoding, 3.0, 0.9, 0), whole[:, :0], forced
        )
        # a slot predicts codes of four frames under the delay pattern, so that codes before a change may hear of it
        assert torch.equal(bent[0], whole[0]) and (pattern == "delay" or torch.equal(bent[1, :3], whole[1, :3]))
        assert torch.equal(bent[1, 3:9], forced[1, 3:9])


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("name", "pattern", "scheme"), [*((*each, "time") for each in STAGES_AND_PATTERNS), ("coarse", "delay", "sum")]
)
def test_steps_at_fixed_addresses_give_the_same_tokens_window_after_window(
    name: str, pattern: str, scheme: str, device: str
) -> None:
    stage = tiny_stage(name, codebook_pattern=pattern, **placed(scheme)).to(device)
    frames = 24 if pattern == "flat" else 72
    conditioning = conditioning_for(stage, batch=3, frames=frames).to(device)
    steps = stage.config.target_length(frames)
    assert stage.pattern.slots(steps // stage.config.num_codebooks) > BLOCK or name == "semantic"
    mask = (torch.arange(frames) < frames // 12 * torch.tensor((12, 6, 10))[:, None]).to(device)
    numbers, forced = uniforms_for(3, steps), torch.full((3, steps), -1)
    forced[1, 3:9] = 2
    plain, static = (FastDecoder(stage, 3.0, 0.9, 9, static=fixed) for fixed in (False, True))
    loops = []
    for arguments in (
        {"uniforms": numbers},
        {"uniforms": numbers.flip(1)},
        {"uniforms": numbers, "forced": forced, "conditioning_mask": mask},
        {"uniforms": None},
        {"uniforms": numbers[:, 4:], "known": torch.ones(3, 4, dtype=torch.long, device=device)},
    ):
        count = steps if arguments["uniforms"] is None else arguments["uniforms"].shape[1]
        expected = plain.generate(conditioning, count, **arguments)
        assert torch.equal(static.generate(conditioning, count, **arguments), expected)
        loops.append(static.loop)
    # padding of conditioning that has no slots of its own changes no bias
    kinds = 3 if scheme == "sum" else 4
    assert loops[0] is loops[1] and len(set(loops)) == kinds, "made once for windows of one kind"
    assert static.loop is not None and plain.loop is None


@pytest.mark.parametrize("pattern", ["flat", "delay"])
def test_codes_beyond_a_codebook_are_never_drawn(pattern: str) -> None:
    sizes = [3, 9, 5]
    torch.manual_seed(0)
    config = HAFMCoarseConfig(
        **SIZES, codebook_sizes=sizes, conditioning_codebook_sizes=[[13], [13]], codebook_pattern=pattern
    )
    stage = HAFMCoarseForCausalLM(config).eval()
    tokens = FastDecoder(stage, 1.0, 5.0).generate(torch.randint(13, (40, 2, 4)), 18, uniforms_for(40, 18))
    assert [tokens[:, codebook::3].max().item() + 1 for codebook in range(3)] == sizes


def test_progress_is_reported_and_an_exception_ends_the_loop() -> None:
    stage = tiny_stage("semantic")
    steps = []

    def report(count: int) -> None:
        steps.append(count)
        if len(steps) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FastDecoder(stage).generate(conditioning_for(stage), 9, None, report=report)
    assert steps == [1, 1, 1, 1]


@pytest.mark.processor
@pytest.mark.parametrize("pattern", ["flat", "delay"])
def test_bfloat16_and_int8_stay_near_float32(pattern: str) -> None:
    stage = tiny_stage("coarse", codebook_pattern=pattern, initializer_range=0.1)
    conditioning = conditioning_for(stage)
    steps = stage.config.target_length(FRAMES)
    exact = RecordingDecoder(stage, 3.0)
    tokens = exact.generate(conditioning, steps, None)
    for decoder in (
        RecordingDecoder(stage, 3.0, weights="int8"),
        RecordingDecoder(tiny_stage("coarse", codebook_pattern=pattern, initializer_range=0.1).bfloat16(), 3.0),
    ):
        decoder.generate(conditioning, steps, None, forced=tokens)
        apart = torch.stack(decoder.scores).float() - torch.stack(exact.scores)
        assert 0 < float(apart.std() / torch.stack(exact.scores).std()) < 0.1
