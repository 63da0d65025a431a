# SPDX-License-Identifier: Apache-2.0
"""What GenerationMixin offers, on every stage: outputs by step, caches, stopping, processors, streaming.

The mixin's own tests are not part of transformers' distribution; `make conformance` runs those that are.
"""

from typing import Any

import pytest
import torch
from transformers import EosTokenCriteria, LogitsProcessor, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from modeling.test_modeling import BATCH, FRAMES, conditioning_for
from tiny_models import STAGES, tiny_stage

STEPS = 5


def greedy(stage: Any, scale: float = 1.0, **options: Any) -> Any:
    defaults = {"do_sample": False, "max_new_tokens": STEPS, "guidance_scale": scale}
    return stage.generate(conditioning_ids=conditioning_for(stage), **{**defaults, **options})


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("name", STAGES)
def test_every_step_reports_what_it_is_asked_for(name: str, scale: float) -> None:
    stage = tiny_stage(name, attn_implementation="eager")
    config, rows = stage.config, BATCH * (1 if scale == 1.0 else 2)
    asked = ("scores", "logits", "attentions", "hidden_states")
    output = greedy(stage, scale, return_dict_in_generate=True, **{f"output_{each}": True for each in asked})
    assert [len(getattr(output, each)) for each in asked] == [STEPS] * len(asked)
    prefix = config.num_conditioning_sources * FRAMES
    for step in range(STEPS):
        assert output.scores[step].shape == (BATCH, config.vocab_size)
        # before guidance: of all rows
        assert output.logits[step].shape == (rows, config.vocab_size)
        new, seen = (prefix + 1, prefix + 1) if step == 0 else (1, prefix + 1 + step)
        weights, states = output.attentions[step], output.hidden_states[step]
        assert [w.shape for w in weights] == [(rows, config.num_attention_heads, new, seen)] * config.num_hidden_layers
        # the last one is normalised and of the target's slots, as `last_hidden_state` is
        slots = [new] * config.num_hidden_layers + [1]
        assert [s.shape for s in states] == [(rows, count, config.hidden_size) for count in slots]
    assert torch.equal(torch.stack(output.scores, 1).argmax(-1), output.sequences[:, 1:])
    assert output.past_key_values.get_seq_length() == prefix + STEPS
    plain = greedy(stage, scale)
    assert torch.equal(plain, output.sequences)


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


@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("name", STAGES)
def test_generation_ends_where_it_is_told_to(name: str, scale: float) -> None:
    stage = tiny_stage(name)
    plain = greedy(stage, scale)
    # an id that the first row has at its third place and no earlier
    end = int(plain[0, 3])
    first = int((plain[0, 1:] == end).nonzero()[0]) + 1
    stopped = greedy(stage, scale, eos_token_id=end, pad_token_id=0)
    assert torch.equal(stopped[0, : first + 1], plain[0, : first + 1])
    assert not stopped[0, first + 1 :].any()
    by_criterion = greedy(
        stage, scale, stopping_criteria=StoppingCriteriaList([EosTokenCriteria(end)]), pad_token_id=0
    )
    assert torch.equal(by_criterion[0, : first + 1], plain[0, : first + 1])
    held = greedy(stage, scale, eos_token_id=end, pad_token_id=0, min_new_tokens=STEPS)
    assert not (held[:, 1:] == end).any()


class Only(LogitsProcessor):
    """Leaves one id."""

    def __init__(self, token: int) -> None:
        self.token = token
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.shapes.append((*input_ids.shape, *scores.shape))
        return torch.full_like(scores, -float("inf")).index_fill(1, torch.tensor(self.token), 0.0)


class Kept(BaseStreamer):
    def __init__(self) -> None:
        self.pieces: list[torch.Tensor] = []
        self.ended = False

    def put(self, value: torch.Tensor) -> None:
        self.pieces.append(value)

    def end(self) -> None:
        self.ended = True


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_processors_see_guided_scores_of_one_row_a_sequence_and_streamers_every_token(scale: float) -> None:
    stage = tiny_stage("coarse")
    only, kept = Only(3), Kept()
    tokens = greedy(stage, scale, logits_processor=LogitsProcessorList([only]), streamer=kept)
    assert (tokens[:, 1:] == 3).all()
    assert only.shapes == [(BATCH, 1 + step, BATCH, stage.config.vocab_size) for step in range(STEPS)]
    assert kept.ended and torch.equal(torch.stack(kept.pieces[1:], dim=1).view(BATCH, STEPS), tokens[:, 1:])
    allowed = greedy(stage, scale, prefix_allowed_tokens_fn=lambda row, ids: [row, row + 1])
    assert all(set(row.tolist()) <= {number, number + 1} for number, row in enumerate(allowed[:, 1:]))
    suppressed = greedy(stage, scale, suppress_tokens=tokens.unique().tolist() + greedy(stage, scale)[0, 1:].tolist())
    assert not torch.isin(suppressed[:, 1:], greedy(stage, scale)[0, 1:]).any()
