# SPDX-License-Identifier: Apache-2.0
"""torch.export of the stages: the whole target, a prefill that returns its cache, and a step behind a cache."""

from typing import Any

import pytest
import torch
from transformers.cache_utils import DynamicCache

from modeling.test_modeling import conditioning_for, targets_for
from tiny_models import placed, tiny_stage

ANY = torch.export.Dim.AUTO
States = list[tuple[torch.Tensor, torch.Tensor]]


def inputs(stage: Any, targets: torch.Tensor) -> torch.Tensor:
    """What the slots read of targets (int64 [B, T·Q])."""
    return stage.pattern.inputs(targets, stage.config.bos_token_id)


class Forward(torch.nn.Module):
    """Logits of all slots, and the keys and values of each layer if a cache is made."""

    def __init__(self, stage: Any, use_cache: bool = False) -> None:
        super().__init__()
        self.stage, self.use_cache = stage, use_cache

    def forward(self, input_ids: torch.Tensor, conditioning_ids: torch.Tensor) -> tuple[torch.Tensor, States]:
        cache = DynamicCache() if self.use_cache else None
        logits = self.stage(input_ids, conditioning_ids, past_key_values=cache, use_cache=self.use_cache).logits
        return logits, [] if cache is None else [(layer.keys, layer.values) for layer in cache.layers]


class Step(torch.nn.Module):
    """The same for slots behind those whose keys and values are given."""

    def __init__(self, stage: Any) -> None:
        super().__init__()
        self.stage = stage

    def forward(
        self, input_ids: torch.Tensor, conditioning_ids: torch.Tensor, states: States
    ) -> tuple[torch.Tensor, States]:
        cache = DynamicCache()
        for number, (keys, values) in enumerate(states):
            cache.update(keys, values, number)
        logits = self.stage(input_ids, conditioning_ids, past_key_values=cache).logits
        return logits, [(layer.keys, layer.values) for layer in cache.layers]


@pytest.mark.parametrize(
    ("name", "scheme", "pattern", "streams"),
    [
        ("semantic", "time", "flat", {}),
        ("coarse", "time", "flat", {"chord": 17, "style": 14}),
        ("fine", "index", "flat", {}),
        ("coarse", "time", "delay", {}),
        ("coarse", "sum", "delay", {"chord": 17}),
    ],
)
def test_exported_stage_gives_the_same_logits_at_other_lengths_and_rows(
    name: str, scheme: str, pattern: str, streams: dict[str, int]
) -> None:
    how: dict[str, Any] = {"codebook_pattern": pattern, "lead_sheet_streams": streams, **placed(scheme)}
    stage = tiny_stage(name, num_hidden_layers=1, **how)
    ids, conditioning = inputs(stage, targets_for(stage)), conditioning_for(stage)
    both = ({0: ANY, 1: ANY}, {0: ANY, 2: ANY})
    if stage.pattern.rows > 1:
        sequences = torch.export.Dim("sequences")
        both = ({0: stage.pattern.rows * sequences, 1: ANY}, {0: sequences, 2: ANY})
    exported = torch.export.export(Forward(stage), (ids, conditioning), dynamic_shapes=both).module()
    # lengths that are no whole frames, too; one frame alone would be another graph
    for batch, frames, length in ((5, 6, 6), (2, 10, 13), (3, 8, 7)):
        heard = conditioning_for(stage, batch=batch, frames=frames)
        taken = inputs(stage, targets_for(stage, batch=batch, frames=frames))[:, :length]
        torch.testing.assert_close(exported(taken, heard)[0], stage(taken, heard).logits)


@pytest.mark.parametrize(
    ("name", "scheme", "pattern"),
    [("semantic", "index", "flat"), ("coarse", "index", "flat"), ("fine", "time", "flat"), ("fine", "sum", "delay")],
)
def test_exported_prefill_and_step_generate_as_the_stage_does(name: str, scheme: str, pattern: str) -> None:
    stage = tiny_stage(name, codebook_pattern=pattern, num_hidden_layers=1, **placed(scheme))
    conditioning, length = conditioning_for(stage), 5
    whole = stage.generate(conditioning_ids=conditioning, do_sample=False, guidance_scale=1.0, max_new_tokens=length)
    prefill = torch.export.export(Forward(stage, use_cache=True), (whole[:, :1], conditioning)).module()
    logits, states = prefill(whole[:, :1], conditioning)
    growing = [({2: ANY}, {2: ANY}) for _ in states]
    # a dimension of 1 stays 1 in a graph: the cache of BOS alone would, where the conditioning has no slots
    cached = [(torch.cat([keys, keys], dim=2), torch.cat([values, values], dim=2)) for keys, values in states]
    step = torch.export.export(
        Step(stage), (whole[:, 1:2], conditioning, cached), dynamic_shapes=(None, None, growing)
    ).module()
    ids = torch.cat([whole[:, :1], logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    frames = stage.config.target_length(conditioning.shape[-1]) // stage.config.num_codebooks
    for _ in range(length - 1):
        # whoever generates with an exported step puts BOS where a slot has no frame
        read = stage.pattern.hide(ids, frames, stage.config.bos_token_id)
        logits, states = step(read[:, -1:], conditioning, states)
        ids = torch.cat([ids, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(ids, whole)
