# SPDX-License-Identifier: Apache-2.0
"""The delay pattern: slot layout, causality, training, generation, and checkpoints that record it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import StoppingCriteria, StoppingCriteriaList

from hafm_hf import HAFMCoarseConfig, HAFMCoarseForCausalLM
from hafm_hf.modeling.codebook_patterns import CodebookPattern, DelayPattern, as_tokens
from hafm_hf.pretrained.loading import load_strictly
from hafm_hf.training.inputs import drawn_frames
from modeling.test_modeling import both_logits, conditioning_for, targets_for
from tiny_models import tiny_stage

BOS = 99
# the stages with several codebooks
DELAYED = ("coarse", "fine")


def delayed(name: str = "coarse", **options: Any) -> Any:
    """A tiny stage with the delay pattern."""
    return tiny_stage(name, codebook_pattern="delay", **options)


def test_each_codebook_is_delayed_by_one_slot() -> None:
    # frame f of codebook q has code 10 q + f
    tokens = torch.tensor([[0, 10, 20, 1, 11, 21, 2, 12, 22, 3, 13, 23]])
    pattern = DelayPattern(3)
    expected = [[0, 1, 2, 3, BOS, BOS], [BOS, 10, 11, 12, 13, BOS], [BOS, BOS, 20, 21, 22, 23]]
    assert pattern.arrange(tokens, BOS).tolist() == expected
    assert pattern.inputs(tokens, BOS).tolist() == [[BOS, *row[:-1]] for row in expected]
    assert pattern.inputs(tokens.masked_fill(tokens == 11, -100), BOS)[1].tolist() == [BOS, BOS, 10, BOS, 12, 13]
    flat = CodebookPattern(3)
    assert flat.arrange(tokens, BOS).tolist() == tokens.tolist()
    assert flat.inputs(tokens, BOS).tolist() == [[BOS, *tokens[0, :-1].tolist()]]


@pytest.mark.parametrize("pattern", [CodebookPattern(3), DelayPattern(3), DelayPattern(1)])
@pytest.mark.parametrize("frames", [1, 2, 7])
def test_tokens_are_recovered_from_their_slots(pattern: Any, frames: int) -> None:
    tokens = torch.arange(2 * frames * pattern.num_codebooks).view(2, -1)
    slots = pattern.arrange(tokens, BOS)
    assert slots.shape == (2 * pattern.codes_per_slot, pattern.num_slots(frames))
    assert torch.equal(pattern.tokens(slots), tokens)
    # slots may have more dimensions, such as scores
    assert torch.equal(pattern.tokens(torch.stack([slots, -slots], dim=-1))[..., 1], -tokens)
    assert pattern.num_frames(pattern.num_slots(frames)) == frames
    assert pattern.num_frames(pattern.num_slots(frames + 1) - 1) == frames
    nowhere_bos = torch.zeros_like(pattern.inputs(tokens, BOS))
    assert torch.equal(pattern.hide(nowhere_bos, frames, BOS) == BOS, hidden(pattern, tokens))


def hidden(pattern: Any, tokens: torch.Tensor) -> torch.Tensor:
    """The input slots that `pattern.hide` must fill with BOS: those that read no code, none in the flat pattern."""
    if pattern.codes_per_slot == 1 and pattern.num_codebooks > 1:
        return torch.zeros_like(tokens, dtype=torch.bool)
    return pattern.inputs(tokens, BOS) == BOS


@pytest.mark.parametrize("scheme", ["index", "time"])
@pytest.mark.parametrize("name", DELAYED)
def test_a_code_depends_on_the_codes_of_all_earlier_slots_and_no_others(name: str, scheme: str) -> None:
    stage = delayed(name, position_scheme=scheme)
    embedded: list[torch.Tensor] = []
    stage.model.target_embedding.register_forward_hook(lambda *hooked: embedded.append(hooked[-1].requires_grad_()))
    targets = targets_for(stage, batch=1)
    logits = stage(labels=targets, conditioning_ids=conditioning_for(stage, batch=1)).logits
    books = stage.config.num_codebooks
    frames = targets.shape[1] // books
    for frame, book in ((0, 0), (0, 3), (3, 0), (3, 1), (frames - 1, books - 1)):
        score = stage.pattern.codebook(logits, book)[:, frame].sum()
        (gradient,) = torch.autograd.grad(score, embedded, retain_graph=True)
        # [sequence, reading slot, codebook, width]: the largest for each codebook and slot; then, as slot s + 1 reads
        # what slot s predicts, for each code, [frame, codebook]
        reach = gradient.abs().amax(dim=(0, 3)).t()[:, 1:]
        seen = stage.pattern.tokens(F.pad(reach, (0, 1))).view(frames, books) > 0
        slot_of_code = torch.arange(frames)[:, None] + torch.arange(books)
        assert torch.equal(seen, slot_of_code < frame + book)


def test_history_is_dropped_and_swapped_in_whole_frames() -> None:
    pattern = DelayPattern(3)
    labels = torch.arange(2 * 60).view(2, 60)
    dropped_code = 9999
    swapped_by = 1000
    # half of the frames, in spans of about four
    swapped = torch.where(drawn_frames(labels, 3, 0.5, 4.0, [1, 2]), labels + swapped_by, labels)
    history = swapped.masked_fill(drawn_frames(labels, 3, 0.5, 4.0, [3, 4]), dropped_code)
    ids = pattern.inputs(history, dropped_code)
    # recover the codes from the inputs; no slot reads those of the last one
    read = pattern.tokens(F.pad(ids[:, 1:], (0, 1), value=dropped_code)).view(2, 20, 3)[:, :-1]
    # 0 own, 1 swapped, 2 dropped
    kinds = torch.where(read == dropped_code, 2, read // swapped_by)
    assert torch.equal(kinds.amin(-1), kinds.amax(-1))
    assert all((kinds == kind).any() for kind in (0, 1, 2))
    assert torch.equal(read[kinds == 0], labels.view(2, 20, 3)[:, :-1][kinds == 0])


def guided_loop(stage: Any, conditioning: torch.Tensor, scale: float, history_free: float = 0.0) -> torch.Tensor:
    """Greedy codes without cache, processors or GenerationMixin; recomputes all slots each step.

    Args:
        stage: with the delay pattern.
        conditioning (int64 [sequences, streams, frames]): of the stage.
        scale: guidance scale.
        history_free: weight of the history-free guidance; 0: none.

    Returns:
        int64 [sequences, codebooks, frames].
    """
    books, bos = stage.config.num_codebooks, stage.config.bos_token_id
    frames = stage.config.target_length(conditioning.shape[-1]) // books
    codes = torch.full((len(conditioning), books, frames), bos)

    def guided(history: torch.Tensor, weight: float) -> torch.Tensor:
        """Scores after a history (int64 [sequences, codebooks, frames]), with the guidance scale `weight`.

        With 0, only the difference that the voice makes.
        """
        ids = stage.pattern.inputs(history.transpose(1, 2).flatten(1), stage.config.bos_token_id)
        with_voice, without = both_logits(stage, conditioning, input_ids=ids)
        return (without if weight else 0) + (weight or 1.0) * (with_voice - without)

    without_history = history_free * guided(torch.full_like(codes, bos), 0.0) if history_free else 0.0
    for slot in range(frames + books - 1):
        scores = guided(codes, scale) + without_history
        for book in range(books):
            if 0 <= slot - book < frames:
                codes[:, book, slot - book] = scores.unflatten(0, (-1, books))[:, book, slot].argmax(-1)
    return codes


@pytest.mark.parametrize(("cache", "history_free"), [(None, 0.0), ("static", 0.0), (None, 1.5)])
@pytest.mark.parametrize("scheme", ["index", "time"])
@pytest.mark.parametrize("name", DELAYED)
def test_generate_equals_a_guidance_loop_written_by_hand(
    name: str, scheme: str, cache: str | None, history_free: float
) -> None:
    stage = delayed(name, position_scheme=scheme)
    stage.generation_config.history_free_guidance = history_free
    conditioning = conditioning_for(stage)
    ids = stage.generate(conditioning_ids=conditioning, do_sample=False, cache_implementation=cache)
    codes = stage.codes_of(ids)
    assert codes.tolist() == guided_loop(stage, conditioning, 3.0, history_free).tolist()
    assert len(codes.unique()) > 3


def test_prefixes_samples_and_stopping_criteria_do_not_mix_up_rows_or_frames() -> None:
    stage = delayed(initializer_range=0.1)
    books = stage.config.num_codebooks
    conditioning = conditioning_for(stage, batch=2)
    whole = stage.generate(conditioning_ids=conditioning, do_sample=False)
    # BOS, and nine frames in nine slots and as many as the last codebook is delayed by
    assert whole.shape == (2 * books, 1 + 9 + books - 1)
    for known in (1, 4, 6):
        again = stage.generate(input_ids=whole[:, : 1 + known], conditioning_ids=conditioning, do_sample=False)
        assert torch.equal(stage.codes_of(again), stage.codes_of(whole))
    results = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        results.append(stage.codes_of(stage.generate(conditioning_ids=conditioning, num_return_sequences=3, top_k=5)))
    assert results[0].shape == (6, books, 9)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    # greedy samples of one vocal are three equal rows, which mixed-up rows would not be
    stage.generation_config.history_free_guidance = 1.0
    thrice = stage.generate(conditioning_ids=conditioning, num_return_sequences=3, top_k=1)
    once = stage.generate(conditioning_ids=conditioning, do_sample=False)
    assert torch.equal(stage.codes_of(thrice), stage.codes_of(once).repeat_interleave(3, dim=0))

    class AfterSevenSlots(StoppingCriteria):
        """Stops every sequence when it has BOS and seven slots."""

        def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
            """Whether to stop, bool [rows]."""
            return torch.full((len(input_ids),), input_ids.shape[1] > 7)

    stopped = stage.generate(
        conditioning_ids=conditioning, do_sample=False, stopping_criteria=StoppingCriteriaList([AfterSevenSlots()])
    )
    assert stopped.shape[1] == 8
    assert torch.equal(stage.codes_of(stopped), stage.codes_of(once)[:, :, : 7 - books + 1])


@pytest.mark.parametrize(
    ("field", "layouts"), [("codebook_pattern", ("flat", "delay")), ("conditioning_fusion", ("sum", "prepend"))]
)
def test_a_checkpoint_records_its_layout_and_loads_with_no_other(field: str, layouts: Any, tmp_path: Path) -> None:
    for own, other in (layouts, layouts[::-1]):
        options: dict[str, Any] = {field: own}
        stage = tiny_stage("coarse", **options)
        stage.save_pretrained(tmp_path / own)
        assert f'"codebook_pattern": "{stage.config.codebook_pattern}"' in (tmp_path / own / "config.json").read_text()
        loaded = HAFMCoarseForCausalLM.from_pretrained(tmp_path / own)
        arguments = {"labels": targets_for(stage), "conditioning_ids": conditioning_for(stage)}
        assert torch.equal(loaded(**arguments).logits, stage(**arguments).logits)
        wrong = loaded.config.__class__.from_pretrained(tmp_path / own, **{field: other})
        with pytest.raises((ValueError, RuntimeError), match="missing keys|unexpected keys|ignore_mismatched_sizes"):
            load_strictly(HAFMCoarseForCausalLM, tmp_path / own, config=wrong)
    with pytest.raises(Exception, match=f"{field} is 'other'"):
        HAFMCoarseConfig(**{field: "other"})


@pytest.mark.parametrize("pattern", [CodebookPattern(4), DelayPattern(4)])
def test_frames_are_read_from_slots_as_soon_as_they_are_complete(pattern: CodebookPattern) -> None:
    codes = torch.arange(2 * 4 * 5).view(2, 4, 5)
    slots = pattern.arrange(as_tokens(codes), -1)
    for number in range(5):
        complete = slots[:, : pattern.num_slots(number + 1)]
        assert pattern.num_frames(complete.shape[1]) == number + 1
        assert torch.equal(pattern.frame(complete, number), codes[:, :, number])
