# SPDX-License-Identifier: Apache-2.0
"""Validation of a stage: losses of the same targets under the right conditioning, another clip's, and none."""

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers import PreTrainedModel

from .arguments import DataArguments
from .data import TokenCrops, collate
from .objective import clustered_mean, other_tracks, paired_losses

Metrics = dict[str, float | list[float]]


def validate_stage(
    model: PreTrainedModel, validation: TokenCrops, data: DataArguments, accelerator: Accelerator
) -> Metrics:
    """Validation losses of a stage in nats per token; leaves the stage in evaluation mode.

    Returns:
        `matched`, `shuffled`, `none` (means over clips and codebooks); `codebooks` (matched, per codebook);
        `paired_difference` (shuffled − matched, same targets) and `paired_difference_error`, its standard error over
        tracks; `clips`. If one track has more than half of the clips, the shuffled and paired values are missing.
    """
    model.eval()
    crops = validation.fixed_crops(data.validation_crops)
    tracks = validation.tracks(crops)
    partners = other_tracks(tracks)
    share = list(range(len(crops)))[accelerator.process_index :: accelerator.num_processes]
    found: list[tuple[int, dict[str, torch.Tensor]]] = []
    for begin in range(0, len(share), data.validation_batch):
        chosen = share[begin : begin + data.validation_batch]
        batch = collate([validation.read(crops[clip]) for clip in chosen])
        right, labels = (batch[name].to(accelerator.device) for name in ("conditioning_ids", "labels"))
        other = [validation.read(crops[partners[clip]])["conditioning_ids"] for clip in chosen] if partners else []
        with accelerator.autocast():
            losses = paired_losses(model, right, torch.stack(other).to(right.device) if other else None, labels)
        for place, clip in enumerate(chosen):
            found.append((clip, {name: value[place].cpu() for name, value in losses.items()}))
    gathered = dict(gather_object(found))
    rows = {
        name: torch.stack([gathered[clip][name] for clip in range(len(crops))])
        for name in next(iter(gathered.values()))
    }
    metrics: Metrics = {name: value.mean().item() for name, value in rows.items()}
    if partners:
        difference, error = clustered_mean((rows["shuffled"] - rows["matched"]).mean(dim=1), tracks)
        metrics |= {"paired_difference": difference, "paired_difference_error": error}
    return {**metrics, "codebooks": rows["matched"].mean(dim=0).tolist(), "clips": float(len(crops))}
