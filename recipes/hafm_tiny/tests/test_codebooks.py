# SPDX-License-Identifier: Apache-2.0
"""Stages initialised from codebook vectors, carried over to another codec, and extended by styles."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hafm_hf.corpus.tokens import write_shard
from hafm_hf.lead_sheet.style_choice import StyleRange
from hafm_hf.modeling.modeling_stage import HAFMCoarseForCausalLM, HAFMFineForCausalLM
from hafm_hf.pretrained.loading import BUNDLED_MODEL
from hafm_hf.training.stages import published_stage
from hafm_tiny.codebooks import add_styles, carry_over, count_together, initialise_from_codebooks
from programs import RECIPES, run_program
from training.toy_corpus import INFO, toy_config, toy_excerpt


def correlation_of_distances(first: torch.Tensor, second: torch.Tensor) -> float:
    """Correlation of the pairwise distances within two sets of vectors (float [vectors, any width] each)."""
    distances = torch.stack([torch.pdist(first), torch.pdist(second)])
    return torch.corrcoef(distances)[0, 1].item()


def test_distances_between_tokens_follow_those_of_their_vectors() -> None:
    torch.manual_seed(0)
    semantic = torch.randn(40, 7)  # clusters, width
    acoustic = torch.randn(5, 30, 6)  # codebooks, codes, width
    coarse = HAFMCoarseForCausalLM(toy_config("coarse"))
    fine = HAFMFineForCausalLM(toy_config("fine"))
    assert abs(correlation_of_distances(coarse.heads.weight[1].detach(), acoustic[1])) < 0.3
    # coarse reads semantic tokens and predicts codebooks 0 to 2; fine reads those and predicts 3 and 4
    for model, conditioning_book, conditioning, target in (
        (coarse, 0, semantic, acoustic[1]),
        (fine, 1, acoustic[1], acoustic[4]),
    ):
        initialise_from_codebooks(model, semantic, acoustic)
        for table, book, vectors in (
            (model.heads, 1, target),
            (model.model.target_embedding, 1, target),
            (model.model.conditioning_embedding, conditioning_book, conditioning),
        ):
            weights = table.get_parameter("weight")[book, : len(vectors)].detach()
            assert correlation_of_distances(weights, vectors) > 0.7


def test_a_stage_is_mapped_to_the_codes_of_another_codec(tmp_path: Path) -> None:
    # the other codec's code is 7 times the old one, modulo the codebook's 30 codes
    for folder, factor in (("before", 1), ("now", 7)):
        (tmp_path / folder).mkdir()
        songs = map(toy_excerpt, "abcdef", [8.0] * 6, range(6))
        rows = [replace(song, acoustic=song.acoustic * factor % 30) for song in songs]
        write_shard(tmp_path / folder / "train-00000.parquet", rows, INFO)
    stage = HAFMFineForCausalLM(toy_config("fine"))
    stage.save_pretrained(tmp_path / "stage")
    words = [tmp_path / "stage", "fine", tmp_path / "out", "--before", tmp_path / "before", "--now", tmp_path / "now"]
    run_program([RECIPES / "carry_stage.py", *words], check=True)
    carried = HAFMFineForCausalLM.from_pretrained(tmp_path / "out")
    # code 4 has become code 4 · 7 = 28
    for table in ("model.conditioning_embedding.weight", "model.target_embedding.weight", "heads.weight"):
        old, new = (model.get_parameter(table)[0].detach() for model in (stage, carried))
        assert torch.cosine_similarity(old[4], new[28], dim=0) > 0.8
        assert torch.cosine_similarity(old[4], new[4], dim=0) < 0.8
    too_few_codebooks = torch.ones(4, 30, 30)
    too_few_codes = torch.ones(5, 30, 20)
    for counts in (too_few_codebooks, too_few_codes):
        with pytest.raises(ValueError, match="The stage needs 5 codebooks of 30 codes"):
            carry_over(stage, counts)
    with pytest.raises(ValueError, match="not tokens of the same songs"):
        write_shard(tmp_path / "before" / "train-00001.parquet", rows, INFO)
        count_together(tmp_path / "before", tmp_path / "now")


def test_added_styles_begin_as_the_mean_of_a_stages_own(tmp_path: Path) -> None:
    # a stage with only the first four of the bundled one's styles
    stage = published_stage("fine", str(BUNDLED_MODEL))
    stage.config.styles = stage.config.styles[:4]
    stage.config.style_ranges = {name: stage.config.style_ranges[name] for name in stage.config.styles}
    stage.save_pretrained(tmp_path / "stage")
    words = [tmp_path / "stage", "fine", tmp_path / "out", "--style", "waltz", "--style", "soul"]
    run_program([RECIPES / "add_styles.py", *words], check=True)
    extended = HAFMFineForCausalLM.from_pretrained(tmp_path / "out")
    assert extended.config.styles == [*stage.config.styles, "waltz", "soul"]
    assert extended.config.style_ranges["waltz"]["metres"] == [3]
    table = extended.model.lead_sheet_embedding.weight[list(extended.config.lead_sheet_streams).index("style")]
    before = len(stage.config.styles)
    # entry 0 stands for an unknown style
    mean = table[1 : before + 1].mean(dim=0)
    assert torch.allclose(table[before + 1], mean, atol=1e-3)
    assert torch.allclose(table[before + 2], mean, atol=1e-3)
    with pytest.raises(ValueError, match="has the styles soul already"):
        add_styles(extended, {"soul": StyleRange()})
