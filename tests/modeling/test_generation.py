# SPDX-License-Identifier: Apache-2.0
"""The reference decoding loop: guidance against a hand-written loop, caches, sampling, and refused options."""

from typing import Any

import pytest
import torch

from hafm_hf.modeling.reference_loop import ClassifierFreeGuidance
from hafm_hf.modeling.sampling import RandomNumbers, draw
from modeling.test_modeling import BATCH, FRAMES, both_logits, conditioning_for
from tiny_models import STAGES, tiny_stage

STEPS = 5  # tokens


def guided_loop(
    stage: Any, conditioning: torch.Tensor, steps: int, scale: float, temperature: float, top_k: int
) -> torch.Tensor:
    """The paper's decoding without cache, processors or GenerationMixin: two forward passes per step.

    Args:
        stage: with the flat pattern.
        conditioning (int64 [sequences, streams, frames]): of the stage.
        steps: tokens to generate.
        scale: guidance scale.
        temperature, top_k: of the sampling, from torch's generator.

    Returns:
        int64 [sequences, 1 + steps], BOS included.
    """
    tokens = torch.full((len(conditioning), 1), stage.config.bos_token_id)
    for _ in range(steps):
        conditional, unconditional = both_logits(stage, conditioning, input_ids=tokens)[..., -1, :]
        logits = (unconditional + scale * (conditional - unconditional)) / temperature
        threshold = logits.topk(top_k).values[:, -1:]
        probabilities = logits.masked_fill(logits < threshold, -float("inf")).softmax(-1)
        tokens = torch.cat([tokens, torch.multinomial(probabilities, 1)], dim=1)
    return tokens


@pytest.mark.parametrize("cache", [None, "static"])
@pytest.mark.parametrize("scheme", ["index", "time"])
@pytest.mark.parametrize("name", STAGES)
def test_generate_equals_a_guidance_loop_written_by_hand(name: str, scheme: str, cache: str | None) -> None:
    stage = tiny_stage(name, position_scheme=scheme)
    conditioning = conditioning_for(stage)
    steps = stage.config.target_length(FRAMES)
    torch.manual_seed(3)
    expected = guided_loop(stage, conditioning, steps, scale=3.0, temperature=0.9, top_k=6)
    torch.manual_seed(3)
    tokens = stage.generate(conditioning_ids=conditioning, top_k=6, cache_implementation=cache)
    assert tokens.tolist() == expected.tolist()
    assert len(tokens[:, 1:].unique()) > 3


def test_generation_config_has_the_papers_defaults() -> None:
    for name in STAGES:
        config = tiny_stage(name).generation_config
        assert (config.temperature, config.top_k, config.guidance_scale, config.do_sample) == (0.9, 250, 3.0, True)


def test_guidance_scale_1_equals_no_guidance() -> None:
    stage = tiny_stage("coarse")
    conditioning = conditioning_for(stage)
    batch_sizes = []
    stage.model.register_forward_pre_hook(
        lambda module, args, kwargs: batch_sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    torch.manual_seed(0)
    plain = stage.generate(conditioning_ids=conditioning, guidance_scale=1.0, top_k=4)
    assert set(batch_sizes) == {BATCH}, "without guidance there is no second pass"
    torch.manual_seed(0)
    expected = guided_loop(stage, conditioning, plain.shape[1] - 1, scale=1.0, temperature=0.9, top_k=4)
    assert torch.equal(plain, expected)
    scores = torch.randn(2 * BATCH, 9)
    torch.testing.assert_close(ClassifierFreeGuidance(1.0)(plain[:, :1], scores), scores[:BATCH])


@pytest.mark.parametrize("pattern", ["flat", "delay"])
def test_generation_modes_that_a_stage_lacks_are_refused(pattern: str) -> None:
    stage = tiny_stage("coarse", codebook_pattern=pattern)
    conditioning = conditioning_for(stage, batch=1)
    with pytest.raises(ValueError, match="needs conditioning_ids"):
        stage.generate()
    other: dict[str, Any] = {"assistant_model": tiny_stage("coarse", seed=1)}
    for options in ({"num_beams": 2}, {"prompt_lookup_num_tokens": 3}, other, {"prefill_chunk_size": 2}):
        with pytest.raises(ValueError, match="A stage supports sampling and greedy search only"):
            stage.generate(conditioning_ids=conditioning, **options)
    prefix = torch.zeros(stage.pattern.codes_per_slot, 2, dtype=torch.long)
    with pytest.raises(ValueError, match="the same length"):
        stage.generate(prefix, conditioning_ids=conditioning, attention_mask=torch.tensor([[0, 1]]).expand_as(prefix))
    before = stage.generate(conditioning_ids=conditioning, max_new_tokens=4, return_dict_in_generate=True)
    with pytest.raises(ValueError, match="pass the sequence as input_ids"):
        stage.generate(before.sequences, conditioning_ids=conditioning, cache=before.cache)


def test_inputs_embeds_and_mismatched_rows_are_refused() -> None:
    stage = tiny_stage("coarse")
    conditioning = conditioning_for(stage)
    tokens = torch.full((2, 1), stage.config.bos_token_id)
    with pytest.raises(ValueError, match="input_ids has 2 rows; conditioning_ids of 5 need 5"):
        stage.generate(tokens, conditioning_ids=conditioning)
    stage.generation_config.history_free_guidance = 1.0
    for inputs, said in (
        ({"inputs_embeds": torch.zeros(BATCH, 1, 24)}, "inputs_embeds"),
        ({"conditioning_ids": conditioning[:3, :1]}, r"has shape \(3, 1, 6\); this stage needs \[B, 2, T_c\]"),
        ({"conditioning_ids": conditioning.numpy()}, "needs conditioning_ids, a tensor"),
        ({"null_conditioning": torch.ones(BATCH)}, "leave it out, and give guidance_scale=0"),
        ({"conditioning_mask": torch.ones(3, FRAMES)}, "of sequences: conditioning_ids 5, conditioning_mask 3"),
    ):
        with pytest.raises(ValueError, match=said):
            stage.generate(**{"conditioning_ids": conditioning, **inputs})


def greedy(stage: Any, scale: float = 1.0, **options: Any) -> Any:
    """Tokens of greedy search with a guidance scale: int64 [BATCH, 1 + STEPS], BOS included."""
    defaults = {"do_sample": False, "max_new_tokens": STEPS, "guidance_scale": scale}
    return stage.generate(conditioning_ids=conditioning_for(stage), **{**defaults, **options})


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("name", STAGES)
def test_every_cache_gives_the_same_tokens(name: str, scale: float) -> None:
    stage = tiny_stage(name)
    expected = greedy(stage, scale)
    opening = expected[:, :4]
    for options in (
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"cache_implementation": "static", "max_cache_len": 64},
        {"cache_implementation": "dynamic"},
        {"input_ids": opening, "max_new_tokens": STEPS - 3},
        {"max_new_tokens": None, "max_length": STEPS + 1},
    ):
        assert torch.equal(greedy(stage, scale, **options), expected), options


def test_a_position_has_the_same_random_number_wherever_reading_starts() -> None:
    stream = RandomNumbers(seed=7, stage=2, variation=3)
    whole = stream.uniforms(0, 101)
    for start, count in ((0, 1), (3, 5), (4, 4), (17, 60), (100, 1)):
        assert torch.equal(stream.uniforms(start, count), whole[start : start + count])
    assert float(whole.min()) > 0
    assert float(whole.max()) <= 1


@pytest.mark.parametrize("other", [RandomNumbers(8, 2, 3), RandomNumbers(7, 1, 3), RandomNumbers(7, 2, 4)])
def test_seed_stage_and_sample_each_change_the_stream(other: RandomNumbers) -> None:
    ours = RandomNumbers(7, 2, 3).uniforms(0, 4000).double()
    theirs = other.uniforms(0, 4000).double()
    assert abs(float(torch.corrcoef(torch.stack([ours, theirs]))[0, 1])) < 0.06
    assert abs(float(ours.mean()) - 0.5) < 0.02


def test_draws_follow_temperature_and_top_k() -> None:
    scores = torch.tensor([[2.0, -1.0, 0.5, 1.0, -3.0]])
    temperature, top_k, count = 0.7, 3, 20_000
    drawn = draw(scores.expand(count, -1), RandomNumbers(1).uniforms(0, count), temperature, top_k)
    outside_top_3 = torch.tensor([False, True, False, False, True])
    expected = (scores[0] / temperature).masked_fill(outside_top_3, -float("inf")).softmax(-1)
    frequencies = torch.bincount(drawn, minlength=5) / count
    torch.testing.assert_close(frequencies, expected, atol=0.01, rtol=0)


def test_a_code_without_probability_is_never_drawn() -> None:
    scores = torch.tensor([[-float("inf"), 3.0, -float("inf"), 1.0, -float("inf")]]).expand(4, -1)
    # from the smallest random number to the largest
    uniforms = torch.tensor([2.0**-24, 0.5, 1 - 2.0**-24, 1.0])
    assert draw(scores, uniforms).tolist() == [1, 1, 3, 3]
    assert draw(scores, None).tolist() == [1] * 4, "the likeliest"
