# SPDX-License-Identifier: Apache-2.0
"""Original checkpoints: our own weights under the names others would give them come back exactly, or not at all."""

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hafm_hf import HAFMFineForCausalLM
from hafm_hf.conversion.convert import STAGE_MODELS, HAFMConversionError, convert, expected_slots, save_converted
from hafm_hf.conversion.structure import key_words, match_structure
from programs import run_program
from tiny_models import tiny_stage

LAYERS = 3
STREAMS = {"semantic": ["vocal"], "coarse": ["vocal", "inst"], "fine": ["coarse"] * 4}
TARGETS = {"semantic": ["inst"], "coarse": ["acoustic"] * 4, "fine": ["fine"] * 4}
Style = dict[str, Any]

# our names → others', {} standing for the layer or the codebook
SHORT: Style = {
    "attention_norm": "blocks.{}.norm1.weight",
    "attention.qkv_proj": "blocks.{}.attn.qkv.weight",
    "attention.q_norm": "blocks.{}.attn.q_norm.weight",
    "attention.k_norm": "blocks.{}.attn.k_norm.weight",
    "attention.o_proj": "blocks.{}.attn.proj.weight",
    "feed_forward_norm": "blocks.{}.norm2.weight",
    "feed_forward.up_proj": "blocks.{}.mlp.w12.weight",
    "feed_forward.down_proj": "blocks.{}.mlp.w3.weight",
    "conditioning_embedding": "cond_embeddings.{}.weight",
    "target_embedding": "embeddings.{}.weight",
    "heads": "heads.{}.weight",
    "quantizer_embedding": "quantizer_embedding.weight",
    "segment_embedding": "segment_embedding.weight",
    "relative_attention_bias": "rel_pos_bias.embedding.weight",
    "norm": "norm.weight",
}
NESTED: Style = {
    "attention_norm": "module.decoder.layers.{}.0.attention.norm.gamma",
    "attention.qkv_proj": "module.decoder.layers.{}.0.attention.toQKV.weight",
    "attention.q_norm": "module.decoder.layers.{}.0.attention.queryNorm.gamma",
    "attention.k_norm": "module.decoder.layers.{}.0.attention.keyNorm.gamma",
    "attention.o_proj": "module.decoder.layers.{}.0.attention.toOut.0.weight",
    "feed_forward_norm": "module.decoder.layers.{}.1.feedForward.norm.gamma",
    "feed_forward.up_proj": "module.decoder.layers.{}.1.feedForward.net.0.weight",
    "feed_forward.down_proj": "module.decoder.layers.{}.1.feedForward.net.3.weight",
    "conditioning_embedding": "module.src.{}.weight",
    "target_embedding": "module.tgt.{}.weight",
    "heads": "module.to_logits.{}.weight",
    "quantizer_embedding": "module.offset.weight",
    "segment_embedding": "module.types.weight",
    "relative_attention_bias": "module.decoder.rpe.weight",
    "norm": "module.decoder.out_norm.gamma",
}
NAMED: Style = {
    "attention_norm": "_orig_mod.h_{1}_input_layernorm",
    "attention.qkv_proj": "_orig_mod.h_{1}_self_attn_qkv",
    "attention.q_norm": "_orig_mod.h_{1}_self_attn_qn",
    "attention.k_norm": "_orig_mod.h_{1}_self_attn_kn",
    "attention.o_proj": "_orig_mod.h_{1}_self_attn_wo",
    "feed_forward_norm": "_orig_mod.h_{1}_post_attention_layernorm",
    "feed_forward.up_proj": "_orig_mod.h_{1}_wi",
    "feed_forward.down_proj": "_orig_mod.h_{1}_wdown",
    "conditioning_embedding": "_orig_mod.{name}_table_{1}",
    "target_embedding": "_orig_mod.{name}_table_{1}",
    "heads": "_orig_mod.lm_{1}",
    "quantizer_embedding": "_orig_mod.levels",
    "segment_embedding": "_orig_mod.segments",
    "relative_attention_bias": "_orig_mod.bias",
    "norm": "_orig_mod.last",
}
STYLES = {"short": SHORT, "nested": NESTED, "named": NAMED}


def names_of(stage: str, style: Style | None, key: str, rows: int) -> list[str]:
    """Original keys of one of our weights: one for each row of a stacked one; our own keys without a style."""
    if style is None:
        return [key]
    short = re.sub(r"^model\.|\.weight$", "", key)
    if layer := re.match(r"layers\.(\d+)\.(.*)", short):
        return [style[layer[2]].format(layer[1], int(layer[1]) + 1)]
    if short not in ("heads", "conditioning_embedding", "target_embedding"):
        return [style[short]]
    words = {"conditioning_embedding": STREAMS, "target_embedding": TARGETS}.get(short, {}).get(stage, [""] * rows)
    return [style[short].format(i, i + 1, name=words[i]) for i in range(rows)]


def original_state(stage: str, style: Style | None, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    original: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        names = names_of(stage, style, key, value.shape[0])
        single = value.unbind() if style and value.dim() == 3 else [value]
        original.update(zip(names, single, strict=True))
    return original


def write_originals(
    folder: Path,
    style: Style | None,
    change: Callable[[dict[str, Any]], None] = lambda state: None,
    layers: int = LAYERS,
) -> dict[str, Any]:
    """Checkpoints of three stages in the layout of the originals, and a mapping that states their sizes."""
    models = {}
    for number, stage in enumerate(STAGE_MODELS):
        models[stage] = tiny_stage(stage, seed=number, num_hidden_layers=layers)
        state = original_state(stage, style, models[stage].state_dict())
        change(state)
        path = folder / f"ar_{stage}" / "ckpt_best.pt"
        path.parent.mkdir(parents=True)
        torch.save({"model_state": state, "global_step": 1000 + number}, path)
    return models


def write_mapping(folder: Path, keys: dict[str, Any] | None = None, layers: int = LAYERS) -> Path:
    wanted = ["hidden_size", "num_hidden_layers", "num_attention_heads", "head_dim", "intermediate_size"]
    wanted += ["codebook_sizes", "conditioning_codebook_sizes"]
    configs = {stage: tiny_stage(stage, num_hidden_layers=layers).config.to_dict() for stage in STAGE_MODELS}
    content = {
        stage: {"config": {name: config[name] for name in wanted}, "keys": keys or {}}
        for stage, config in configs.items()
    }
    path = folder / "mapping.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


# with four layers the layers are as many as the codebooks
@pytest.mark.parametrize("layers", [LAYERS, 4])
@pytest.mark.parametrize("style", [*STYLES, None])
def test_weights_come_back_from_under_other_names(tmp_path: Path, style: str | None, layers: int) -> None:
    models = write_originals(tmp_path / "original", STYLES.get(style or ""), layers=layers)
    stages = convert(tmp_path / "original", write_mapping(tmp_path, layers=layers))
    assert [stage.name for stage in stages] == ["semantic", "coarse", "fine"]
    for number, stage in enumerate(stages):
        assert stage.step == 1000 + number
        ours = models[stage.name].state_dict()
        theirs = stage.model.state_dict()
        assert set(ours) == set(theirs)
        for key, value in ours.items():
            assert torch.equal(theirs[key], value), key


@pytest.mark.parametrize("stage", list(STAGE_MODELS))
@pytest.mark.parametrize("style", list(STYLES))
def test_checkpoints_of_the_papers_size_need_no_mapping(stage: str, style: str) -> None:
    config = STAGE_MODELS[stage].config_class()
    with torch.device("meta"):
        state = STAGE_MODELS[stage](config).state_dict()
    shapes = {key: tuple(value.shape) for key, value in original_state(stage, STYLES[style], state).items()}
    matches, problems = match_structure(shapes, expected_slots(config), config.num_hidden_layers, {})
    assert problems == []
    assert {match.key: match.slot.name for match in matches if match.slot} == {
        name: key for key, value in state.items() for name in names_of(stage, STYLES[style], key, value.shape[0])
    }
    assert {slot.name for slot in expected_slots(config)} == set(state)


def rename(changes: dict[str, str]) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        for key in list(state):
            new = key
            for old, name in changes.items():
                new = new.replace(old, name)
            state[new] = state.pop(key)

    return change


def test_equal_shapes_without_telling_names_are_refused_until_a_mapping_tells(tmp_path: Path) -> None:
    write_originals(tmp_path / "original", SHORT, rename({"norm1": "before", "norm2": "between"}))
    with pytest.raises(HAFMConversionError, match=r"blocks\.0\.before\.weight.*may be any of.*ambiguous"):
        convert(tmp_path / "original", write_mapping(tmp_path))
    keys = {"blocks.*.before.weight": "model.layers.*.attention_norm.weight"}
    stages = convert(tmp_path / "original", write_mapping(tmp_path, keys))
    reasons = {match.key: match.reason for match in stages[0].matches}
    assert reasons["blocks.0.before.weight"] == "mapping" and reasons["blocks.0.between.weight"] == "layer, shape"


def test_embeddings_of_equal_shape_without_telling_names_are_refused(tmp_path: Path) -> None:
    write_originals(tmp_path / "original", SHORT, rename({"cond_embeddings": "tables_a", "embeddings": "tables_b"}))
    with pytest.raises(HAFMConversionError, match="ambiguous"):
        convert(tmp_path / "original", write_mapping(tmp_path))


def test_keys_left_over_are_refused_until_a_mapping_leaves_them_out(tmp_path: Path) -> None:
    write_originals(tmp_path / "original", SHORT, lambda state: state.update({"rope.inv_freq": torch.ones(5)}))
    with pytest.raises(HAFMConversionError, match=r"rope\.inv_freq \(5,\): it is left over"):
        convert(tmp_path / "original", write_mapping(tmp_path))
    stages = convert(tmp_path / "original", write_mapping(tmp_path, {"rope.inv_freq": None}))
    assert stages[0].matches[-1].reason == "left out by the mapping"


def drop(key: str) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        del state[key]

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop("blocks.1.attn.proj.weight"), r"model\.layers\.1\.attention\.o_proj\.weight"),
        (drop("rel_pos_bias.embedding.weight"), r"relative_attention_bias\.weight.*there is nothing"),
        (lambda state: state.update({"blocks.0.norm1.bias": state["norm.weight"]}), r"blocks\.0\.norm1\.bias"),
        (lambda state: state.update({"norm.weight": state["norm.weight"] * torch.nan}), "NaN"),
        (lambda state: state.update({"name": "Bob"}), "name is a str, not a tensor"),
        (lambda state: state.update({"module.norm.weight": state["norm.weight"]}), "coincide"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(tmp_path: Path, change: Callable, said: str) -> None:
    write_originals(tmp_path / "original", SHORT, change)
    with pytest.raises(HAFMConversionError, match=said):
        convert(tmp_path / "original", write_mapping(tmp_path))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"absent": "model.norm.weight"}, "absent, which the checkpoint does not hold"),
        ({"absent.*": None}, "fits no key"),
        ({"norm.weight": "model.nothing.weight"}, "no place of this stage"),
        ({"norm.weight": "heads.weight[0]"}, r"puts norm\.weight \(24,\) into heads\.weight\[0\]"),
        ({"norm.weight": "model.*.weight"}, "none in the key"),
        ({"norm.weight": "model.norm.weight", "blocks.0.norm1.weight": "model.norm.weight"}, "twice"),
    ],
)
def test_mappings_that_do_not_fit_are_refused(tmp_path: Path, keys: dict, said: str) -> None:
    write_originals(tmp_path / "original", SHORT)
    with pytest.raises(HAFMConversionError, match=said):
        convert(tmp_path / "original", write_mapping(tmp_path, keys))


class Malice:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    write_originals(tmp_path / "original", SHORT)
    content = {"model_state": {"norm.weight": torch.ones(3)}, "global_step": 1, "extra": Malice(trap)}
    torch.save(content, tmp_path / "original" / "ar_coarse" / "ckpt_best.pt")
    with pytest.raises(HAFMConversionError, match="can run code when it is read: refused"):
        convert(tmp_path / "original", write_mapping(tmp_path))
    assert not trap.exists()
    torch.load(tmp_path / "original" / "ar_coarse" / "ckpt_best.pt", weights_only=False)
    assert trap.exists(), "the trap itself does not work"


def test_folders_without_checkpoints_and_files_without_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HAFMConversionError, match="holds none of ar_semantic"):
        convert(tmp_path)
    (tmp_path / "ar_fine").mkdir()
    (tmp_path / "ar_fine" / "ckpt_best.pt").write_bytes(b"words")
    with pytest.raises(HAFMConversionError, match="ckpt_best"):
        convert(tmp_path)
    torch.save({"weights": {}}, tmp_path / "ar_fine" / "ckpt_best.pt")
    with pytest.raises(HAFMConversionError, match="no 'model_state'"):
        convert(tmp_path)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    write_originals(tmp_path / "original", SHORT)
    stages = convert(tmp_path / "original", write_mapping(tmp_path))
    (tmp_path / "out" / "fine").mkdir(parents=True)
    with pytest.raises(HAFMConversionError, match="exists"):
        save_converted(stages, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == [tmp_path / "out" / "fine"]


def test_words_of_a_key() -> None:
    assert {"self", "attn", "norm", "1", "norm1", "q"} <= key_words("selfAttn.Q.norm_1")


def test_command_prints_every_match_and_writes_stages_that_load(tmp_path: Path) -> None:
    models = write_originals(tmp_path / "original", SHORT)
    mapping = write_mapping(tmp_path)
    command = [sys.executable, "-m", "hafm_hf.cli", "convert", str(tmp_path / "original"), str(tmp_path / "out")]
    result = run_program([*command, "--mapping", mapping])
    assert result.returncode == 0, result.stderr
    for key in original_state("fine", SHORT, models["fine"].state_dict()):
        assert key in result.stdout
    loaded = HAFMFineForCausalLM.from_pretrained(tmp_path / "out" / "fine")
    ids = torch.tensor([[16, 3, 2, 1, 0]])
    conditioning = torch.arange(8).view(1, 4, 2)
    with torch.no_grad():
        logits = loaded(input_ids=ids, conditioning_ids=conditioning).logits
        assert torch.equal(logits, models["fine"](input_ids=ids, conditioning_ids=conditioning).logits)
    refused = run_program([*command, "--mapping", mapping])
    assert refused.returncode == 1 and "exists" in refused.stderr and "Traceback" not in refused.stderr
    assert json.loads((tmp_path / "out" / "fine" / "config.json").read_text())["model_type"] == "hafm_fine"
