# SPDX-License-Identifier: Apache-2.0
"""Random streams and sampling: independence of chunking, the distribution, and no impossible codes."""

import pytest
import torch

from hafm_hf.modeling.generation_hafm import RandomStream, draw


def test_a_position_has_the_same_number_wherever_reading_starts() -> None:
    stream = RandomStream(seed=7, stage=2, sample=3)
    whole = stream.uniforms(0, 101)
    for start, count in ((0, 1), (3, 5), (4, 4), (17, 60), (100, 1)):
        assert torch.equal(stream.uniforms(start, count), whole[start : start + count])
    assert float(whole.min()) > 0 and float(whole.max()) <= 1


@pytest.mark.parametrize("other", [RandomStream(8, 2, 3), RandomStream(7, 1, 3), RandomStream(7, 2, 4)])
def test_seed_stage_and_sample_each_change_the_stream(other: RandomStream) -> None:
    ours, theirs = RandomStream(7, 2, 3).uniforms(0, 4000).double(), other.uniforms(0, 4000).double()
    assert abs(float(torch.corrcoef(torch.stack([ours, theirs]))[0, 1])) < 0.06
    assert abs(float(ours.mean()) - 0.5) < 0.02


def test_draws_follow_temperature_and_top_k() -> None:
    scores = torch.tensor([[2.0, -1.0, 0.5, 1.0, -3.0]])
    temperature, top_k, count = 0.7, 3, 20_000
    drawn = draw(scores.expand(count, -1), RandomStream(1).uniforms(0, count), temperature, top_k)
    expected = (scores[0] / temperature).masked_fill(torch.tensor([0, 1, 0, 0, 1]).bool(), -float("inf")).softmax(-1)
    found = torch.bincount(drawn, minlength=5) / count
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0)


def test_a_code_without_probability_is_never_drawn() -> None:
    scores = torch.tensor([[-float("inf"), 3.0, -float("inf"), 1.0, -float("inf")]]).expand(4, -1)
    assert draw(scores, torch.tensor([2.0**-24, 0.5, 1 - 2.0**-24, 1.0])).tolist() == [1, 1, 3, 3]
    assert draw(scores, None).tolist() == [1] * 4
