# SPDX-License-Identifier: Apache-2.0
"""Validation of a stage: losses of the same targets under the right conditioning, another clip's, and none.

The paired difference, the loss with another clip's conditioning minus the loss with the right one, tells whether the
stage uses its conditioning; where only the vocal is another clip's, whether it uses the vocal.

Dimensions: B clips of a batch, N clips, K conditioning streams, T_c conditioning frames, T target frames, Q codebooks.
"""

import math
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import default_collate

from ..accompaniment.parts import VOCAL_STREAM
from ..modeling.codebook_patterns import codebook_pattern
from ..modeling.modeling_stage import IGNORE_INDEX, HAFMStageForCausalLM
from .arguments import DataArguments
from .data import TokenCrops

Metrics = dict[str, float | list[float]]


def validate_stage(
    model: HAFMStageForCausalLM, validation: TokenCrops, data: DataArguments, accelerator: Accelerator
) -> Metrics:
    """Validation losses of a stage in nats per token; leaves the stage in evaluation mode.

    Args:
        model: the stage.
        validation: the validation crops.
        data: number of validation crops and batch size.
        accelerator: the run's; each process computes a part of the clips.

    Returns:
        `matched`, `shuffled`, `none` (losses with the right conditioning, another clip's and none; means over clips
        and codebooks); `codebooks` (matched, per codebook); `paired_difference` (shuffled − matched, same targets) and
        `paired_difference_error`, its standard error over tracks; `clips`, their number. A stage that reads the vocal
        also has `vocal_difference` and its error, where only the vocal is another clip's. If one track has more than
        half of the clips, the shuffled and paired values are missing.
    """
    model.eval()
    crops = validation.fixed_crops(data.validation_crops)
    tracks = validation.tracks(crops)
    partners = other_tracks(tracks)
    # indices of the clips of this process
    clips = list(range(len(crops)))[accelerator.process_index :: accelerator.num_processes]
    # the vocal is the first stream of a stage that reads it
    reads_vocal = validation.sources[0].column == VOCAL_STREAM
    # index of the clip, and its losses by name, float32 [codebooks] each
    losses_of_clips: list[tuple[int, dict[str, torch.Tensor]]] = []
    for begin in range(0, len(clips), data.validation_batch):
        batch_clips = clips[begin : begin + data.validation_batch]
        batch = default_collate([validation.read(crops[clip]) for clip in batch_clips])
        conditioning = batch["conditioning_ids"].to(accelerator.device)
        labels = batch["labels"].to(accelerator.device)
        # conditioning of other clips, all of it or the vocal's alone
        others = {}
        if partners:
            conditioning_of_others = [
                validation.read(crops[partners[clip]])["conditioning_ids"] for clip in batch_clips
            ]
            others["shuffled"] = torch.stack(conditioning_of_others).to(accelerator.device)
            if reads_vocal:
                others["other_vocal"] = conditioning.clone()
                others["other_vocal"][:, 0] = others["shuffled"][:, 0]
        with accelerator.autocast():
            losses = paired_losses(model, conditioning, others, labels)
        for position, clip in enumerate(batch_clips):
            losses_of_clips.append((clip, {name: value[position].cpu() for name, value in losses.items()}))
    gathered = dict(gather_object(losses_of_clips))
    # losses of all clips by name, float32 [clips, codebooks]
    all_losses = {}
    for name in gathered[0]:
        all_losses[name] = torch.stack([gathered[clip][name] for clip in range(len(crops))])
    metrics: Metrics = {name: value.mean().item() for name, value in all_losses.items()}
    for name, case in (("paired_difference", "shuffled"), ("vocal_difference", "other_vocal")):
        if case in all_losses:
            differences = (all_losses[case] - all_losses["matched"]).mean(dim=1)
            difference, error = clustered_mean(differences, tracks)
            metrics |= {name: difference, f"{name}_error": error}
    return {**metrics, "codebooks": all_losses["matched"].mean(dim=0).tolist(), "clips": float(len(crops))}


@torch.no_grad()
def paired_losses(
    model: HAFMStageForCausalLM,
    conditioning_ids: torch.Tensor,
    others: Mapping[str, torch.Tensor],
    labels: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Losses of the same targets under the right conditioning, others, and none.

    Args:
        model: a stage, in evaluation mode.
        conditioning_ids (int64 [B, K, T_c]): the conditioning of B clips, K streams of T_c frames.
        others (int64 [B, K, T_c] each): other conditioning, by name.
        labels (int64 [B, T·Q]): target tokens, Q codebooks of each of T frames; −100 is ignored.

    Returns:
        `matched`, `none` and those of `others` (float32 [B, Q]) in nats, averaged over the frames that are not
        ignored.
    """
    pattern = codebook_pattern(model.config)
    assert model.config.bos_token_id is not None
    input_ids = pattern.inputs(labels, model.config.bos_token_id)
    all_clips = torch.ones(len(labels), dtype=torch.bool, device=labels.device)
    # the conditioning, and a mask of the clips for which it is dropped
    cases = {"matched": (conditioning_ids, None), "none": (conditioning_ids, all_clips)}
    cases |= {name: (ids, None) for name, ids in others.items()}
    # number of frames that are not ignored, [B, Q]
    counts = (labels != IGNORE_INDEX).unflatten(1, (-1, pattern.num_codebooks)).sum(dim=1).clamp(min=1)
    losses = {}
    for name, (ids, dropped) in cases.items():
        # forward, not the call: these shapes would make a compiled training graph recompile
        output = model.forward(input_ids=input_ids, conditioning_ids=ids, null_conditioning=dropped, use_cache=False)
        losses[name] = model.token_losses(output.logits, labels).sum(dim=1) / counts
    return losses


def clustered_mean(values: torch.Tensor, clusters: list[str]) -> tuple[float, float]:
    """Mean over clips and its standard error over tracks: clips of one track are not independent.

    Args:
        values (float [N]): one value per clip.
        clusters (list of N strings): the track of each clip.

    Returns:
        Mean and standard error; the error is NaN for a single track.
    """
    names = sorted(set(clusters))
    index = torch.tensor([names.index(name) for name in clusters])
    totals = torch.zeros(len(names), dtype=torch.float64).index_add_(0, index, values.double())
    counts = torch.bincount(index, minlength=len(names)).double()
    mean = totals.sum() / counts.sum()
    if len(names) < 2:
        return float(mean), math.nan
    # linearised variance of the ratio of totals to counts: exact for clusters of equal size
    residuals = (totals - mean * counts) / counts.mean()
    return float(mean), float(residuals.std(correction=1) / math.sqrt(len(names)))


def other_tracks(tracks: list[str]) -> list[int] | None:
    """For each clip, the index of a clip of another track to take the conditioning from.

    Clips are sorted by track and rotated by half their number, so that each clip's conditioning is used exactly once.

    Args:
        tracks: the track of each clip.

    Returns:
        One index per clip; None if one track has more than half of the clips, since no such pairing exists then.
    """
    order = sorted(range(len(tracks)), key=lambda clip: (tracks[clip], clip))
    largest = max(tracks.count(name) for name in set(tracks))
    if 2 * largest > len(tracks):
        return None
    partners = [0] * len(tracks)
    for position, clip in enumerate(order):
        partners[clip] = order[(position + len(tracks) // 2) % len(tracks)]
    return partners
