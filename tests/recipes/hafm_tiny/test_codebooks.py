# SPDX-License-Identifier: Apache-2.0
"""Stages that start from codebook vectors: tokens that are alike start alike."""

import torch

from hafm_hf.modeling.modeling_hafm import HAFMCoarseForCausalLM, HAFMFineForCausalLM
from hafm_tiny.codebooks import initialise_from_codebooks
from training.toy_corpus import toy_config


def make_vectors() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(40, 7, generator=generator), torch.randn(5, 30, 6, generator=generator)


def rank_correlation(first: torch.Tensor, second: torch.Tensor) -> float:
    """Correlation of the pairwise distances of two sets of vectors."""
    distances = torch.stack([torch.pdist(first), torch.pdist(second)])
    return torch.corrcoef(distances)[0, 1].item()


def test_distances_between_tokens_follow_those_of_their_vectors() -> None:
    torch.manual_seed(0)
    semantic, acoustic = make_vectors()
    model = HAFMCoarseForCausalLM(toy_config("coarse"))
    before = rank_correlation(model.heads.weight[1].detach(), acoustic[1])
    initialise_from_codebooks(model, semantic, acoustic)
    decoder = model.model
    assert abs(before) < 0.3
    assert rank_correlation(model.heads.weight[1].detach(), acoustic[1]) > 0.7
    assert rank_correlation(decoder.target_embedding.weight[2, :30].detach(), acoustic[2]) > 0.7
    assert rank_correlation(decoder.conditioning_embedding.weight[0, :40].detach(), semantic) > 0.7


def test_the_fine_stage_takes_its_own_codebooks_and_reads_the_coarse_ones() -> None:
    torch.manual_seed(0)
    semantic, acoustic = make_vectors()
    model = HAFMFineForCausalLM(toy_config("fine"))
    initialise_from_codebooks(model, semantic, acoustic)
    decoder = model.model
    assert rank_correlation(decoder.conditioning_embedding.weight[2, :30].detach(), acoustic[2]) > 0.7
    assert rank_correlation(decoder.target_embedding.weight[0, :30].detach(), acoustic[3]) > 0.7
