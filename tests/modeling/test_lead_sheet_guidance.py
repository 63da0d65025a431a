# SPDX-License-Identifier: Apache-2.0
"""Guidance by the lead sheet apart from that by the voice: its formula, both loops, both patterns."""

from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from hafm_hf.lead_sheet.streams import STREAM_SIZES
from hafm_hf.modeling.fast_loop import FastDecoder
from hafm_hf.modeling.generation_hafm import ClassifierFreeGuidance
from hafm_hf.modeling.sampling import ConditioningGuidance
from hafm_hf.modeling.windows import DecodingOptions, decode_window
from modeling.test_modeling import FRAMES, conditioning_for
from tiny_models import tiny_stage

VOICE, SHEET = 2.0, 3.5


def reading(pattern: str = "flat", **options: Any) -> Any:
    streams = {name: STREAM_SIZES[name] for name in ("chord", "energy")}
    how: dict[str, Any] = {"position_scheme": "time", "codebook_pattern": pattern, "num_hidden_layers": 1}
    return tiny_stage("coarse", lead_sheet_streams=streams, **how, **options)


def told_to(stage: Any, **options: Any) -> torch.Tensor:
    """Conditioning of which every stream has values of its own: int64 [B, K, T_c]."""
    return conditioning_for(stage, **options) % torch.tensor(stage.config.conditioning_sizes)[:, None]


@pytest.mark.parametrize("null", ["zeros", "mask_token"])
def test_scores_are_pushed_from_the_voice_alone(null: str) -> None:
    stage = reading(conditioning_null=null)
    conditioning = told_to(stage, batch=2)
    unknown = conditioning.clone()
    unknown[:, [2, 3]] = 0
    bos = torch.full((2, 1), stage.config.bos_token_id)
    nothing = torch.ones(2, dtype=torch.bool)
    rows = [(conditioning, ~nothing), (unknown, ~nothing), (conditioning, nothing)]
    told, voice, none = (
        stage(bos, ids, null_conditioning=null_rows).logits[:, -1].detach() for ids, null_rows in rows
    )
    expected = none + VOICE * (voice - none) + SHEET * (told - voice)
    torch.testing.assert_close(ClassifierFreeGuidance(VOICE, SHEET)(bos, torch.cat([told, voice, none])), expected)
    how = {"max_new_tokens": 1, "do_sample": False, "return_dict_in_generate": True, "output_scores": True}
    found = stage.generate(
        conditioning_ids=conditioning, guidance_scale=VOICE, lead_sheet_guidance=SHEET, **how
    ).scores[0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    # without guidance by the voice: two rows
    found = stage.generate(conditioning_ids=conditioning, guidance_scale=1.0, lead_sheet_guidance=SHEET, **how)
    torch.testing.assert_close(found.scores[0], voice + SHEET * (told - voice), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="6 rows of logits for 1 sequences; it needs three times as many"):
        ClassifierFreeGuidance(VOICE, SHEET)(bos[:1], torch.zeros(6, 16))


@pytest.mark.parametrize("pattern", ["flat", "delay"])
def test_both_loops_choose_the_same_tokens(pattern: str) -> None:
    stage = reading(pattern)
    conditioning, steps = told_to(stage), stage.config.target_length(FRAMES)
    uniforms = torch.rand(len(conditioning), steps, generator=torch.Generator().manual_seed(1)).clamp(min=1e-6)
    known = torch.empty(len(conditioning), 0, dtype=torch.long)
    mask = torch.arange(FRAMES) < torch.tensor([FRAMES] * (len(conditioning) - 1) + [FRAMES - 2])[:, None]
    drawn: dict[Any, torch.Tensor] = {}
    for scales in ((VOICE, SHEET), (1.0, SHEET), (VOICE, 0.0), (VOICE, VOICE), (VOICE, None)):
        for top_k in (1, 7):
            fast, reference = (
                decode_window(
                    stage, conditioning, steps, uniforms,
                    DecodingOptions(loop, scales[0], 0.9, top_k, lead_sheet_guidance=scales[1]), known,
                    conditioning_mask=mask,
                )
                for loop in ("fast", "reference")
            )  # fmt: skip
            assert torch.equal(fast, reference), scales
            drawn[scales, top_k] = fast
        compiled = FastDecoder(stage, scales[0], 0.9, 7, lead_sheet_guidance=scales[1], compile=True)
        assert torch.equal(compiled.generate(conditioning, steps, uniforms, known, conditioning_mask=mask), fast)
    assert torch.equal(drawn[(VOICE, VOICE), 7], drawn[(VOICE, None), 7])
    greedy = [drawn[(VOICE, sheet), 1] for sheet in (SHEET, 0.0, None)]
    assert not torch.equal(greedy[0], greedy[2]) and not torch.equal(greedy[1], greedy[2])


def test_rows_whose_scores_cancel_are_not_computed() -> None:
    kinds = {(3.0, None): "all null", (3.0, 3.0): "all null", (1.0, None): "all", (1.0, 1.0): "all"}
    kinds |= {(1.0, 2.0): "all voice", (3.0, 2.0): "all voice null", (0.0, 2.0): "all voice null"}
    for scales, expected in kinds.items():
        assert ConditioningGuidance(*scales).kinds == tuple(expected.split())
    values = torch.randn(6, 5)
    told, voice, null = values.chunk(3)
    torch.testing.assert_close(
        ConditioningGuidance(3.0, 2.0).combine(values), null + 3 * (voice - null) + 2 * (told - voice)
    )


def test_a_generation_config_may_hold_it_and_what_reads_no_lead_sheet_refuses_it() -> None:
    stage = reading()
    conditioning = told_to(stage)
    options = {"conditioning_ids": conditioning, "do_sample": False, "guidance_scale": VOICE}
    asked = stage.generate(**options, lead_sheet_guidance=SHEET)
    stage.generation_config.lead_sheet_guidance = SHEET
    assert torch.equal(stage.generate(**options), asked)
    decoder = DecodingOptions(guidance_scale=VOICE, temperature=1.0, top_k=1).decoder(stage)
    tokens = decoder.generate(conditioning, stage.config.target_length(FRAMES), None)
    assert torch.equal(tokens, stage.codes_of(asked).transpose(1, 2).flatten(1))
    with pytest.raises(ValueError, match="lead_sheet_guidance is -1"):
        stage.generate(**options, lead_sheet_guidance=-1.0)
    own = GenerationConfig(do_sample=False, guidance_scale=VOICE)
    assert torch.equal(stage.generate(conditioning_ids=conditioning, generation_config=own), asked)
    plain = tiny_stage("coarse", num_hidden_layers=1)
    with pytest.raises(ValueError, match="lead_sheet_guidance is 2.0, and this stage reads no lead sheet"):
        plain.generate(conditioning_ids=conditioning_for(plain), lead_sheet_guidance=2.0)
