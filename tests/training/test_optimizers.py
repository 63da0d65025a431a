# SPDX-License-Identifier: Apache-2.0
"""Which optimizer updates which weights of a stage, and that Muon matches torch's, learns and resumes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hafm_hf.training.arguments import OptimizationArguments
from hafm_hf.training.optimizers import FullPrecisionMuon, make_optimizers
from integration.training_runs import losses, train_here
from tiny_models import tiny_stage
from training.toy_corpus import write_toy_corpus

MUON = {"optimizer": "muon", "max_steps": 12, "save_steps": 6, "validation_steps": 12, "attention_dropout": 0.2}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_trainable_weight_has_one_optimizer_and_muon_has_the_matrices_of_layers(optimizer: str) -> None:
    stage = tiny_stage("coarse")
    stage.model.norm.weight.requires_grad_(False)
    adamw, *muon = optimizers = make_optimizers(stage, OptimizationArguments(optimizer=optimizer))
    owned = [id(parameter) for each in optimizers for group in each.param_groups for parameter in group["params"]]
    trained = [id(parameter) for parameter in stage.parameters() if parameter.requires_grad]
    assert sorted(owned) == sorted(trained)
    assert isinstance(adamw, torch.optim.AdamW)
    muon_ids = {id(parameter) for each in muon for parameter in each.param_groups[0]["params"]}
    names = {name for name, parameter in stage.named_parameters() if id(parameter) in muon_ids}
    assert all(".layers." in name and name.endswith("proj.weight") for name in names)
    assert len(names) == (4 * stage.config.num_hidden_layers if optimizer == "muon" else 0)


@pytest.mark.parametrize("shape", [(24, 60), (60, 24)])
def test_full_precision_muon_matches_torchs_half_precision_muon(shape: tuple[int, int]) -> None:
    start = torch.randn(shape)
    # of three steps
    gradients = torch.randn(3, *shape)
    ends = []
    for muon in (torch.optim.Muon, FullPrecisionMuon):
        weight = torch.nn.Parameter(start.clone())
        optimizer = muon([weight], 0.01, 0.1, adjust_lr_fn="match_rms_adamw")
        for weight.grad in gradients:
            optimizer.step()
        ends.append(weight.detach() - start)
    assert torch.allclose(ends[0], ends[1], atol=0.02 * float(ends[0].abs().max()))


def test_a_run_with_muon_learns_and_resumes_to_equal_weights(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    write_toy_corpus(corpus)
    whole_losses = losses(train_here(corpus, tmp_path / "whole", **MUON))
    assert whole_losses[12] < whole_losses[1] - 0.3
    # resume from the first of its two checkpoints
    (tmp_path / "half").mkdir()
    (tmp_path / "whole/checkpoint-0000006").rename(tmp_path / "half/checkpoint-0000006")
    train_here(corpus, tmp_path / "half", **MUON)
    whole, half = (load_file(tmp_path / run / "final" / "model.safetensors") for run in ("whole", "half"))
    assert all(torch.equal(whole[name], half[name]) for name in whole)
