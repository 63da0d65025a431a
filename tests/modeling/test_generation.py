# SPDX-License-Identifier: Apache-2.0
"""Decoding: guidance against a loop written by hand, prefixes, samples, seeds, codebooks."""

from typing import Any

import pytest
import torch
from transformers import ClassifierFreeGuidanceLogitsProcessor

from hafm_hf import HAFMCoarseConfig, HAFMCoarseForCausalLM
from hafm_hf.modeling.generation_hafm import ClassifierFreeGuidance, CodebookLogitsProcessor
from modeling.test_modeling import BATCH, FRAMES, conditioning_for
from tiny_models import SIZES, STAGES, tiny_stage


def guided_loop(
    stage: Any, conditioning: torch.Tensor, steps: int, scale: float, temperature: float, top_k: int
) -> torch.Tensor:
    """The paper's decoding without a cache, a processor or GenerationMixin: two passes a step."""
    tokens = torch.full((len(conditioning), 1), stage.config.bos_token_id)
    null = torch.ones(len(conditioning), dtype=torch.bool)
    for _ in range(steps):
        with torch.no_grad():
            conditional = stage(tokens, conditioning, null_conditioning=~null).logits[:, -1]
            unconditional = stage(tokens, conditioning, null_conditioning=null).logits[:, -1]
        logits = (unconditional + scale * (conditional - unconditional)) / temperature
        worst = logits.topk(top_k).values[:, -1:]
        probabilities = logits.masked_fill(logits < worst, -float("inf")).softmax(-1)
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
    calls = []
    stage.model.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    torch.manual_seed(0)
    plain = stage.generate(conditioning_ids=conditioning, guidance_scale=1.0, top_k=4)
    assert set(calls) == {BATCH}
    torch.manual_seed(0)
    expected = guided_loop(stage, conditioning, plain.shape[1] - 1, scale=1.0, temperature=0.9, top_k=4)
    assert torch.equal(plain, expected)
    scores = torch.randn(2 * BATCH, 9)
    torch.testing.assert_close(ClassifierFreeGuidance(1.0)(plain[:, :1], scores), scores[:BATCH])


def test_guidance_formula_is_the_stock_processors() -> None:
    scores, ids = torch.randn(6, 9), torch.zeros(3, 1, dtype=torch.long)
    torch.testing.assert_close(
        ClassifierFreeGuidance(2.5)(ids, scores), ClassifierFreeGuidanceLogitsProcessor(2.5)(ids, scores)
    )
    with pytest.raises(ValueError, match="guidance_scale is -1"):
        ClassifierFreeGuidance(-1)
    with pytest.raises(ValueError, match="twice as"):
        ClassifierFreeGuidance(2.0)(ids, scores[:3])


def test_guidance_without_cache_nulls_the_conditioning_at_every_step() -> None:
    stage = tiny_stage("semantic")
    conditioning = conditioning_for(stage)
    cached = stage.generate(conditioning_ids=conditioning, do_sample=False)
    assert torch.equal(cached, stage.generate(conditioning_ids=conditioning, do_sample=False, use_cache=False))


@pytest.mark.parametrize("there", [slice(0, 4), slice(2, 6)])
@pytest.mark.parametrize("scheme", ["index", "time"])
def test_padded_conditioning_generates_as_the_row_alone(scheme: str, there: slice) -> None:
    stage = tiny_stage("coarse", position_scheme=scheme)
    conditioning = conditioning_for(stage)
    mask = torch.ones(BATCH, FRAMES, dtype=torch.bool)
    mask[0] = False
    mask[0, there] = True
    options = {"do_sample": False, "max_new_tokens": stage.config.target_length(4)}
    alone = stage.generate(conditioning_ids=conditioning[:1, :, there], **options)
    batch = stage.generate(conditioning_ids=conditioning, conditioning_mask=mask, **options)
    assert torch.equal(batch[:1], alone)


def test_prefix_is_continued_as_if_it_had_been_generated() -> None:
    stage = tiny_stage("coarse")
    conditioning = conditioning_for(stage)
    whole = stage.generate(conditioning_ids=conditioning, do_sample=False)
    for known in (1, 5, 8):
        again = stage.generate(input_ids=whole[:, : 1 + known], conditioning_ids=conditioning, do_sample=False)
        assert torch.equal(again, whole)


def test_several_samples_of_one_vocal_are_rows_that_differ_and_seeds_repeat_them() -> None:
    stage = tiny_stage("semantic", initializer_range=0.1)
    conditioning = conditioning_for(stage, batch=2)
    results = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        results.append(stage.generate(conditioning_ids=conditioning, num_return_sequences=3))
    assert results[0].shape == (6, 1 + FRAMES)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert len({tuple(row) for row in results[0][:3].tolist()}) == 3


def test_codes_beyond_a_codebook_are_never_drawn() -> None:
    sizes = [3, 9, 5]
    config = HAFMCoarseConfig(**SIZES, codebook_sizes=sizes, conditioning_codebook_sizes=[[13], [13]])
    torch.manual_seed(0)
    stage = HAFMCoarseForCausalLM(config).eval()
    tokens = stage.generate(conditioning_ids=torch.randint(13, (40, 2, 4)), temperature=5.0)[:, 1:]
    drawn = [tokens[:, codebook::3].max().item() + 1 for codebook in range(3)]
    assert drawn == sizes
    scores = CodebookLogitsProcessor(sizes)(torch.zeros(1, 3), torch.zeros(1, 9))
    assert (scores[0] == -float("inf")).tolist() == [False] * 5 + [True] * 4


@pytest.mark.parametrize("pattern", ["flat", "delay"])
def test_what_generate_cannot_do_is_refused(pattern: str) -> None:
    stage = tiny_stage("coarse", codebook_pattern=pattern)
    conditioning = conditioning_for(stage, batch=1)
    with pytest.raises(ValueError, match="needs conditioning_ids"):
        stage.generate()
    for options in (
        {"num_beams": 2},
        {"prompt_lookup_num_tokens": 3},
        {"assistant_model": tiny_stage("coarse", seed=1)},
        {"prefill_chunk_size": 2},
    ):
        with pytest.raises(ValueError, match="A stage samples tokens or takes the likeliest ones"):
            stage.generate(conditioning_ids=conditioning, **options)
    prefix = torch.zeros(stage.pattern.rows, 2, dtype=torch.long)
    with pytest.raises(ValueError, match="one length"):
        stage.generate(prefix, conditioning_ids=conditioning, attention_mask=torch.tensor([[0, 1]]).expand_as(prefix))
    before = stage.generate(conditioning_ids=conditioning, max_new_tokens=4, return_dict_in_generate=True)
    with pytest.raises(ValueError, match="pass the sequence as input_ids"):
        stage.generate(before.sequences, conditioning_ids=conditioning, past_key_values=before.past_key_values)


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("name", STAGES)
def test_transition_scores_are_the_log_probabilities_of_the_tokens(name: str, scale: float) -> None:
    stage = tiny_stage(name)
    out = stage.generate(
        conditioning_ids=conditioning_for(stage),
        guidance_scale=scale,
        return_dict_in_generate=True,
        output_scores=True,
    )
    scores = stage.compute_transition_scores(out.sequences, out.scores, normalize_logits=True)
    expected = torch.stack(out.scores, dim=1).log_softmax(-1).gather(2, out.sequences[:, 1:, None])[..., 0]
    torch.testing.assert_close(scores, expected)
    assert stage.config.vocab_size == out.scores[0].shape[1]
    assert stage.config.input_vocab_size == stage.model.target_embedding.rows


def test_openings_of_any_name_are_continued_to_the_end_of_the_conditioning() -> None:
    stage = tiny_stage("coarse")
    conditioning = conditioning_for(stage)
    whole = stage.generate(conditioning_ids=conditioning, do_sample=False)
    assert torch.equal(stage.generate(whole[:, :6], conditioning_ids=conditioning, do_sample=False), whole)


def test_inputs_embeds_and_rows_that_differ_are_refused() -> None:
    stage = tiny_stage("coarse")
    conditioning = conditioning_for(stage)
    tokens = torch.full((2, 1), stage.config.bos_token_id)
    with pytest.raises(ValueError, match="conditioning_ids 5, input_ids 2"):
        stage.generate(tokens, conditioning_ids=conditioning)
    with pytest.raises(ValueError, match="inputs_embeds"):
        stage.generate(inputs_embeds=torch.zeros(BATCH, 1, 24), conditioning_ids=conditioning)
