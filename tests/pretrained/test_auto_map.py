# SPDX-License-Identifier: Apache-2.0
"""Without `import hafm_hf`: transformers' Auto classes load every folder of a composite, and save it unchanged."""

import json
import sys
from pathlib import Path

import pytest

from programs import run_program

# loads each kind of model, the one named `first` before the others, prints their classes, and saves two of them
PROGRAM = """
import sys
import transformers.dynamic_module_utils
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForCausalLM
folder, again, first = sys.argv[1:]
transformers.dynamic_module_utils.HF_MODULES_CACHE = f"{again}/modules"
trusted = {"trust_remote_code": True}
kinds = {
    "extractor": lambda: AutoFeatureExtractor.from_pretrained(folder, **trusted),
    "config": lambda: AutoConfig.from_pretrained(f"{folder}/semantic_tokenizer", **trusted),
    "stage": lambda: AutoModelForCausalLM.from_pretrained(f"{folder}/coarse", **trusted),
    "within": lambda: AutoModelForCausalLM.from_pretrained(folder, subfolder="fine", **trusted),
    "composite": lambda: AutoModel.from_pretrained(folder, **trusted),
}
assert "hafm_hf" not in sys.modules
made = {first: kinds.pop(first)()}
made |= {name: make() for name, make in kinds.items()}
print(*(type(made[name]).__name__ for name in sorted(made)))
made["stage"].save_pretrained(f"{again}/coarse")
made["composite"].save_pretrained(f"{again}/whole")
"""


# loading the first one imports hafm_hf, so only that one starts without it
@pytest.mark.parametrize("first", ["extractor", "within"])
def test_auto_classes_need_only_trust_remote_code(tiny_model: Path, tmp_path: Path, first: str) -> None:
    done = run_program([sys.executable, "-c", PROGRAM, tiny_model, tmp_path, first], fresh=True, check=True)
    kinds = ["ForVocalAccompaniment", "SemanticTokenizerConfig", "FeatureExtractor", "CoarseForCausalLM"]
    assert done.stdout.split()[-5:] == [f"HAFM{kind}" for kind in (*kinds, "FineForCausalLM")]
    for saved, before in ((tmp_path / "coarse", tiny_model / "coarse"), (tmp_path / "whole", tiny_model)):
        names = {path.relative_to(before) for path in before.rglob("*") if path.is_file()}
        # another test may have imported the handler
        names = {name for name in names if "__pycache__" not in name.parts}
        # no package code is saved with the weights
        assert {path.relative_to(saved) for path in saved.rglob("*") if path.is_file()} == names
        found, wanted = (json.loads((folder / "config.json").read_text()) for folder in (saved, before))
        assert found["auto_map"] == wanted["auto_map"]


def test_the_bundled_models_folders_map_to_their_classes(bundled_model: Path) -> None:
    for part in ("", "semantic_tokenizer", "semantic", "coarse", "fine", "codec", "listener", "separator"):
        config = json.loads((bundled_model / part / "config.json").read_text())
        assert config["auto_map"]["AutoModel"] == f"hafm_auto.{config['architectures'][0]}"
        assert (bundled_model / part / "hafm_auto.py").read_text() == (bundled_model / "hafm_auto.py").read_text()
    extractor = json.loads((bundled_model / "preprocessor_config.json").read_text())
    assert extractor["auto_map"] == {"AutoFeatureExtractor": "hafm_auto.HAFMFeatureExtractor"}
