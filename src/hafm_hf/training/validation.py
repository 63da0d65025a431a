# SPDX-License-Identifier: Apache-2.0
"""Validation of a stage: losses of the same targets with the right conditioning, another clip's, and none."""

import torch
from accelerate.utils import gather_object
from transformers import PreTrainedModel

from accelerate import Accelerator

from ..modeling.configuration_hafm import HAFMStageConfig
from .arguments import DataArguments
from .data import TokenCrops, collate
from .objective import clustered_mean, other_tracks, paired_losses

Metrics = dict[str, float | list[float]]


def validate_stage(
    model: PreTrainedModel, validation: TokenCrops, data: DataArguments, accelerator: Accelerator
) -> Metrics:
    """Validation losses of a stage in nats a token; it is in evaluation mode afterwards.

    Returns:
        `matched`, `shuffled`, `none` (means over clips and codebooks); `codebooks` (matched, per codebook);
        `paired_difference` (shuffled - matched of the same targets) and `paired_difference_error`, its standard error
        over tracks; of a stage with streams of a lead sheet the same for the voice and each stream alone, such as
        `paired_difference_chord`; `clips`.
    """
    model.eval()
    groups = conditioning_groups(model.config)
    crops = validation.fixed_crops(data.validation_crops)
    tracks = validation.tracks(crops)
    partners = other_tracks(tracks)
    share = list(range(len(crops)))[accelerator.process_index :: accelerator.num_processes]
    found: list[tuple[int, dict[str, torch.Tensor]]] = []
    for begin in range(0, len(share), data.validation_batch):
        chosen = share[begin : begin + data.validation_batch]
        batch = collate([validation.read(crops[clip]) for clip in chosen])
        other = collate([validation.read(crops[partners[clip]]) for clip in chosen])
        tensors = (batch["conditioning_ids"], other["conditioning_ids"], batch["labels"])
        right, wrong, labels = (value.to(accelerator.device) for value in tensors if value is not None)
        with accelerator.autocast():
            losses = paired_losses(model, right, wrong, labels, groups)
        for place, clip in enumerate(chosen):
            found.append((clip, {name: value[place].cpu() for name, value in losses.items()}))
    gathered = dict(gather_object(found))
    rows = {
        name: torch.stack([gathered[clip][name] for clip in range(len(crops))])
        for name in next(iter(gathered.values()))
    }
    metrics: Metrics = {name: value.mean().item() for name, value in rows.items()}
    for name in ("shuffled", *(f"shuffled_{group}" for group in groups)):
        difference, error = clustered_mean((rows[name] - rows["matched"]).mean(dim=1), tracks)
        key = name.replace("shuffled", "paired_difference")
        metrics |= {key: difference, f"{key}_error": error}
    return {**metrics, "codebooks": rows["matched"].mean(dim=0).tolist(), "clips": float(len(crops))}


def conditioning_groups(config: HAFMStageConfig) -> dict[str, slice]:
    """Conditioning streams that are validated by themselves: all tokens, the voice's, each stream of a lead sheet.

    None of a stage without a lead sheet.
    """
    tokens = config.num_token_streams
    if not config.lead_sheet_streams:
        return {}
    groups = {name: slice(tokens + at, tokens + at + 1) for at, name in enumerate(config.lead_sheet_streams)}
    voice = {} if config.model_type == "hafm_fine" else {"voice": slice(0, 1)}
    return {"tokens": slice(0, tokens), **voice, **groups}
