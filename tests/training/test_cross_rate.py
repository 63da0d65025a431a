# SPDX-License-Identifier: Apache-2.0
"""The time scheme ties 75 Hz targets to the 50 Hz token of the same instant, also beyond its training length."""

import math

import pytest
import torch

from cross_rate_trial import CrossRateTask, TrialArguments, evaluate_cross_rate, train_cross_rate

TASK = CrossRateTask(sources=1, codebooks=2, vocabulary=8)


def test_targets_are_functions_of_the_conditioning_at_their_own_instant() -> None:
    task = CrossRateTask(sources=2, codebooks=4, noise=0.0)
    conditioning, labels = task.draw(3, 0.4, torch.Generator().manual_seed(0))
    assert conditioning.shape == (3, 4, 20) and labels.shape == (3, 120)
    codes = labels.view(3, 30, 4)
    for frame, sounding in ((0, 0), (1, 0), (2, 1), (29, 19)):
        for codebook in range(4):
            expected = task.functions[codebook][conditioning[:, codebook, sounding]]
            assert torch.equal(codes[:, frame, codebook], expected)


def test_the_floor_is_the_entropy_of_the_noise() -> None:
    task = CrossRateTask(noise=0.3, vocabulary=5)
    probabilities = [0.7 + 0.06] + [0.06] * 4
    assert task.floor == pytest.approx(-sum(p * math.log(p) for p in probabilities))
    _, labels = task.draw(400, 1.0, torch.Generator().manual_seed(0))
    conditioning, again = task.draw(400, 1.0, torch.Generator().manual_seed(0))
    right = (again == task.clean_target(conditioning).transpose(1, 2).flatten(1)).float().mean()
    assert torch.equal(labels, again) and right.item() == pytest.approx(0.76, abs=0.01)


@pytest.mark.slow
def test_the_time_scheme_keeps_its_loss_at_twice_the_training_length() -> None:
    arguments = TrialArguments(
        seconds=0.64, steps=200, batch=16, width=48, layers=2, heads=3, learning_rate=5e-3, warmup_steps=20
    )
    model = train_cross_rate(TASK, "time", arguments)
    once = evaluate_cross_rate(model, TASK, 0.64, clips=32)
    twice = evaluate_cross_rate(model, TASK, 1.28, clips=32)
    blind = math.log(TASK.vocabulary)
    # most of what can be known is known, which needs the token of the same instant
    assert once.mean < TASK.floor + 0.25 * (blind - TASK.floor)
    assert twice.mean < once.mean + 0.1
