# SPDX-License-Identifier: Apache-2.0
"""Relative positions: T5's buckets, alignment of 50 Hz with 75 Hz, and the gradient of the bias."""

import shutil
from typing import Any

import pytest
import torch

from hafm_hf import HAFMCoarseConfig
from hafm_hf.modeling.layers import RelativeAttentionBias, causal_bucket, signed_bucket, slot_layout, visible
from tiny_models import SIZES, VOCABULARIES, tiny_stage


def coarse_config(**options: Any) -> HAFMCoarseConfig:
    """The configuration of a tiny coarse stage: two sources at 50 Hz, four target codebooks at 75 Hz."""
    return HAFMCoarseConfig(**{**SIZES, **VOCABULARIES["coarse"], **options})


def test_causal_buckets_are_exact_up_to_16_then_logarithmic_up_to_the_maximum() -> None:
    bucket = causal_bucket(torch.arange(3000), 32, 1000)
    assert bucket[:16].tolist() == list(range(16))
    assert (bucket.diff() >= 0).all()
    assert bucket.unique().tolist() == list(range(32))
    assert bucket[1000:].unique().tolist() == [31]
    # T5: the logarithmic half splits 16 … 1000 into 16 equal ratios
    assert bucket[round(16 * (1000 / 16) ** 0.5)].item() in (23, 24)


def test_signed_buckets_distinguish_past_from_future() -> None:
    distance = torch.arange(-600, 601)
    bucket = signed_bucket(distance, 64, 500)
    past = bucket[distance > 0]
    future = bucket[distance < 0]
    assert not set(past.tolist()) & set(future.tolist())
    assert bucket[distance == 0].item() == 0
    assert bucket[(distance >= 0) & (distance < 16)].tolist() == list(range(16))
    assert bucket.min() == 0
    assert bucket.max() == 63


def test_target_slots_are_aligned_with_the_conditioning_frame_of_their_time() -> None:
    layout = slot_layout(coarse_config(), conditioning_frames=50, target_slots=300)
    for slot in (0, 3, 4, 7, 8, 150, 299):
        # four slots a frame, at 75 Hz; the two sources before them have 50 frames each, at 50 Hz
        seconds = (slot // 4) / 75
        assert layout.frame[0, 100 + slot].item() == int(seconds * 50 + 1e-9)
    assert layout.source.tolist() == [0] * 50 + [1] * 50 + [2] * 300


@pytest.mark.parametrize("frames", [40, 80])
def test_time_scheme_gives_simultaneous_tokens_one_bias_at_any_length(frames: int) -> None:
    config = coarse_config(position_scheme="time")
    bias = RelativeAttentionBias(config)
    layout = slot_layout(config, frames, frames * 6)
    # [query slot, key slot]
    buckets = bias.buckets(layout, layout)[0]
    for source in (0, 1):
        # behind the 32 buckets of targets, 64 of each source, the first of which is for distance 0
        together = 32 + 64 * source
        for slot in range(0, frames * 6, 7):
            frame = (slot // 4) * 50 // 75
            assert buckets[2 * frames + slot, source * frames + frame] == together
    index = RelativeAttentionBias(coarse_config(position_scheme="index")).buckets(layout, layout)[0]
    aligned = [index[2 * frames + slot, (slot // 4) * 50 // 75].item() for slot in range(0, frames * 6, 7)]
    assert len(set(aligned)) > 1, "under the index scheme, simultaneous tokens have different buckets"


def test_time_scheme_is_initialised_with_heads_that_prefer_the_same_time() -> None:
    locality = RelativeAttentionBias(coarse_config(position_scheme="time", num_attention_heads=3)).locality()
    # [buckets, heads]; the 64 of a source are those of its past and those of its future
    target, voice, band = locality.split([32, 64, 64])
    assert torch.equal(voice, band)
    for table in (target, voice[:32], voice[32:]):
        assert (table[:, 0].diff() <= 0).all()
        assert table[0].abs().max() == 0
        assert torch.equal(table[:, 2], torch.zeros(len(table)))
    # one conditioning frame of distance costs the sharpest head as much as one frame (six tokens) of history
    assert voice[1, 0] == target[6, 0] == -3.0


def test_index_scheme_is_initialised_as_in_the_paper() -> None:
    stage = tiny_stage("coarse", initializer_range=0.02)
    assert stage.model.relative_attention_bias.weight.std().item() == pytest.approx(0.02, rel=0.3)
    assert tiny_stage("coarse", position_scheme="time").model.relative_attention_bias.weight.min() < -10


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++")
def test_compiled_bias_is_right_for_targets_that_are_no_multiple_of_conditioning() -> None:
    # a slot without a source would read garbage, which is almost never the right value
    config = coarse_config(position_scheme="time", codebook_pattern="delay")
    bias = RelativeAttentionBias(config)
    torch.nn.init.normal_(bias.weight)

    def whole() -> torch.Tensor:
        """The bias of all pairs of slots: 2 · 400 of conditioning, and 603 of targets."""
        layout = slot_layout(config, 400, 603)
        return bias(layout, layout, visible(config, layout, layout))

    assert torch.equal(torch.compile(whole)(), whole())
