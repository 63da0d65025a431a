# SPDX-License-Identifier: Apache-2.0
"""History dropout and swapping at their rates, losses by token, and validation on the same targets."""

import math

import pytest
import torch
from accelerate import Accelerator

from hafm_hf.modeling.codebook_patterns import CodebookPattern
from hafm_hf.modeling.modeling_stage import HAFMCoarseForCausalLM
from hafm_hf.training import inputs, validation
from hafm_hf.training.arguments import CorruptionArguments
from hafm_hf.training.trainer import finite_mean
from training.toy_corpus import toy_config


def test_dropped_history_is_bos_in_whole_frames_and_labels_are_unchanged() -> None:
    config = toy_config("coarse")
    bos = config.bos_token_id
    assert bos is not None
    labels = torch.randint(config.codebook_size, (2, 1200))
    before = labels.clone()
    batch = {"labels": labels, "sample": torch.tensor([1, 2])}
    # spans of six frames on average
    corruption = CorruptionArguments(history_span_seconds=6 / 75)
    dropped = inputs.history_inputs(batch, config, corruption, 0.5, seed=0)
    hidden = dropped != CodebookPattern(config.num_codebooks).inputs(labels, bos)
    assert torch.equal(labels, before)
    assert (dropped[hidden] == bos).all()
    assert 0.05 < hidden.float().mean() < 0.95
    # slot 0 is always BOS; slots 1 to Q hold frame 0
    frames = hidden[:, 1:].unfold(1, config.num_codebooks, config.num_codebooks)
    assert (frames.all(dim=-1) == frames.any(dim=-1)).all()


@pytest.mark.parametrize("p", [0.2, 0.5, 0.9])
def test_the_expected_dropped_share_is_p_and_rates_differ_between_samples(p: float) -> None:
    # 1,000 samples of 1,000 frames, in spans of 7 frames on average
    rates = inputs.drawn_frames(torch.zeros(1000, 1000), 1, p, 7.0, range(1000)).float().mean(dim=1)
    # with one rate for all, samples of some 143 segments would deviate by 0.06 at most
    assert rates.mean() == pytest.approx(p, abs=0.02)
    assert rates.std() > 0.063


def test_spans_have_the_requested_length_and_do_not_depend_on_the_batch() -> None:
    hidden = inputs.drawn_frames(torch.zeros(200, 4000), 1, 0.5, 20.0, range(200))
    changes = (hidden[:, 1:] != hidden[:, :-1]).float().mean().item()
    # a border every 20 frames, a third of them between a dropped and a kept segment: the mean of 2 r (1 − r) over
    # rates r from 0 to 1
    assert changes == pytest.approx(1 / 60, rel=0.1)
    labels = torch.zeros(3, 200)
    together = inputs.drawn_frames(labels, 2, 0.6, 5.0, [11, 12, 13])
    assert torch.equal(together[1:2], inputs.drawn_frames(labels[1:2], 2, 0.6, 5.0, [12]))


def test_swapping_and_dropping_history_are_independent() -> None:
    samples, frames = 400, 200
    config = toy_config("coarse")
    corruption = CorruptionArguments(history_swap=0.3, history_swap_span_seconds=0.5)
    labels = torch.zeros(samples, frames * config.num_codebooks, dtype=torch.int64)
    batch = {"labels": labels, "strangers": torch.ones_like(labels), "sample": torch.arange(samples)}
    seen = inputs.history_inputs(batch, config, corruption, 0.4, seed=5)[:, 1:]
    shares = {name: (seen == value).float().mean().item() for name, value in (("own", 0), ("stranger", 1))}
    # if both used the same draws and span lengths, all swapped frames would be dropped
    assert shares == pytest.approx({"own": 0.7 * 0.6, "stranger": 0.3 * 0.6}, abs=0.02)


def test_seeds_differ_by_run_sample_and_purpose_in_their_low_32_bits() -> None:
    samples = torch.tensor([0, 1, 2**31, 2**48])
    purposes = ("swap", "dropout", "guidance")
    seeds = [seed for run in (0, 1) for purpose in purposes for seed in inputs.draw_seeds(run, samples, purpose)]
    assert len({seed % 2**32 for seed in seeds}) == len(seeds)
    assert max(seeds) < 2**32


def test_paired_losses_differ_only_by_conditioning() -> None:
    torch.manual_seed(0)
    model = HAFMCoarseForCausalLM(toy_config("coarse", initializer_range=0.3)).eval()
    # four sequences with two streams of ten frames each
    conditioning, other = torch.randint(0, 40, (2, 4, 2, 10))
    labels = torch.randint(0, 30, (4, 45))
    losses = validation.paired_losses(model, conditioning, {"shuffled": other}, labels)
    swapped = validation.paired_losses(model, other, {"shuffled": conditioning}, labels)
    assert losses["matched"].shape == (4, 3)
    assert torch.allclose(losses["matched"], swapped["shuffled"])
    assert torch.allclose(losses["none"], swapped["none"])
    assert (losses["matched"] - losses["shuffled"]).abs().max() > 1e-3
    loss = model(conditioning_ids=conditioning, labels=labels, use_cache=False).loss
    assert losses["matched"].mean().item() == pytest.approx(loss.item(), abs=1e-5)


def test_every_clip_is_paired_with_a_clip_of_another_track_and_used_once() -> None:
    tracks = ["b", "a", "a", "c", "b", "c", "d"]
    partners = validation.other_tracks(tracks)
    assert partners is not None
    assert sorted(partners) == list(range(7))
    assert all(tracks[clip] != tracks[partner] for clip, partner in enumerate(partners))
    assert validation.other_tracks(["a", "a", "b"]) is None


def test_clips_of_one_track_do_not_shrink_the_standard_error() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 7.0])
    tracks = list("abcd")
    # mean and standard error
    once = validation.clustered_mean(values, tracks)
    repeated = validation.clustered_mean(values.repeat(10), tracks * 10)
    assert once == pytest.approx((3.5, values.std().item() / 2))
    assert repeated == pytest.approx(once)


@pytest.mark.parametrize("pattern", ["flat", "delay"])
def test_losses_are_in_nats_by_token(pattern: str) -> None:
    stage = HAFMCoarseForCausalLM(toy_config("coarse", codebook_pattern=pattern))
    token_logits = torch.zeros(2, 6, 30)  # two sequences, two frames of three codebooks, 30 codes
    token_logits[1, 0::3, 5] = 50.0  # the first of three codebooks
    logits = torch.stack([stage.pattern.arrange(token_logits[..., code], 0.0) for code in range(30)], dim=-1)
    labels = torch.full((2, 6), 5)
    labels[0, 4] = -100  # frame 1, codebook 1
    losses = stage.token_losses(logits, labels)
    # [sequence, frame, codebook]
    expected = torch.full((2, 2, 3), math.log(30))
    expected[1, :, 0] = 0.0
    expected[0, 1, 1] = 0.0
    torch.testing.assert_close(losses, expected, atol=1e-5, rtol=0)


def test_logged_losses_are_means_of_the_finite_ones() -> None:
    accelerator = Accelerator(cpu=True)
    assert finite_mean(torch.tensor([2.0, math.nan, 4.0, math.inf]), accelerator) == 3.0
    assert math.isnan(finite_mean(torch.tensor([math.nan]), accelerator))
