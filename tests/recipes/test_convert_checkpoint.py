# SPDX-License-Identifier: Apache-2.0
"""Converting original checkpoints: weights under other names are recovered exactly, or refused in one sentence."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from convert_checkpoint import load_checkpoint, main
from hafm_hf.accompaniment.parts import stage_parts
from tiny_models import tiny_stage
from torture.test_hostile_checkpoints import Payload

STACKED = ("heads.weight", "model.conditioning_embedding.weight", "model.target_embedding.weight")
SIZES = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim", "intermediate_size", "codebook_sizes",
    "conditioning_codebook_sizes",
)  # fmt: skip


def renamed(name: str) -> str:
    """The name that another code base might give to one of our weights."""
    return name.replace("model.", "").replace("layers", "blocks").replace("weight", "w")


def write_originals(folder: Path, change: Callable[[dict[str, Any]], object] = lambda state: None) -> dict[str, Any]:
    """Writes checkpoints of three stages with other names and unstacked tables, and FOLDER/mapping.yaml."""
    models, mapping = {}, {}
    for number, stage in enumerate(stage_parts()):
        model = models[stage] = tiny_stage(stage, seed=number)
        state: dict[str, Any] = {}
        keys: dict[str, str] = {}
        for name, weight in model.state_dict().items():
            pattern = re.sub(r"layers\.\d+", "layers.{}", name)
            keys[pattern] = renamed(pattern) + (".[]" if name in STACKED else "")
            if name in STACKED:
                state.update({f"module.{renamed(name)}.{book}": table for book, table in enumerate(weight.unbind())})
            else:
                state[f"module.{renamed(name)}"] = weight
        change(state)
        path = folder / f"ar_{stage}" / "ckpt_best.pt"
        path.parent.mkdir(parents=True)
        torch.save({"model_state": state, "global_step": 1000}, path)
        config = {name: getattr(model.config, name) for name in SIZES}
        mapping[stage] = {"config": config, "keys": keys}
    (folder / "mapping.yaml").write_text(yaml.safe_dump(mapping))
    return models


def test_weights_under_other_names_are_recovered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = write_originals(tmp_path)
    main(tmp_path)
    assert "blocks.0.attention_norm.w (24,)" in capsys.readouterr().out
    main(tmp_path, tmp_path / "out", tmp_path / "mapping.yaml")
    for stage, model in models.items():
        loaded = stage_parts()[stage].model_class.from_pretrained(tmp_path / "out" / stage).state_dict()
        assert all(torch.equal(loaded[name], weight) for name, weight in model.state_dict().items())
    with pytest.raises(ValueError, match="exists"):
        main(tmp_path, tmp_path / "out", tmp_path / "mapping.yaml")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("module.norm.w"), r"model\.norm\.weight needs norm\.w"),
        (lambda state: state.update(extra=torch.ones(3)), r"extra \(3,\) is left over"),
        (lambda state: state.update({"module.norm.w": torch.ones(5)}), "does not fit norm.w"),
        (lambda state: state.update({"module.norm.w": torch.tensor([torch.nan])}), "NaN"),
        (lambda state: state.update(name="Bob"), "of tensors"),
        (lambda state: state.update({"norm.w": torch.ones(24)}), "two keys are the same"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(tmp_path: Path, change: Callable, said: str) -> None:
    write_originals(tmp_path, change)
    with pytest.raises(ValueError, match=said):
        main(tmp_path, tmp_path / "out", tmp_path / "mapping.yaml")
    assert not (tmp_path / "out").exists()


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    content = {"model_state": {"norm.weight": torch.ones(3)}, "extra": Payload(tmp_path / "trap")}
    torch.save(content, tmp_path / "ckpt_best.pt")
    with pytest.raises(ValueError, match="can run code when it is read"):
        load_checkpoint(tmp_path / "ckpt_best.pt")
    assert not (tmp_path / "trap").exists()
    torch.load(tmp_path / "ckpt_best.pt", weights_only=False)
    assert (tmp_path / "trap").exists(), "the trap itself does not work"
