# SPDX-License-Identifier: Apache-2.0
"""Loading without access to the hub (one sentence at once; earlier downloads still load) and without some weights."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hafm_hf import HAFMCoarseForCausalLM, HAFMForVocalAccompaniment, HAFMSemanticTokenizerModel
from hub_stand_in import TOKEN, stand_in
from programs import run_program
from tiny_models import tiny_rhythmic_tokenizer
from vocals import EXAMPLE

CLASSES = (HAFMForVocalAccompaniment, HAFMCoarseForCausalLM, HAFMSemanticTokenizerModel)
# nothing listens on this port
UNREACHABLE = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("folder", ["./nope", "~/nope", "/nope", "a/b/c", "my model"])
def test_a_missing_folder_is_named_and_not_taken_for_a_hub_id(kind: type, folder: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"no such folder: {folder}$"):
        kind.from_pretrained(folder)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", CLASSES)
def test_an_unknown_model_is_refused_in_one_sentence(kind: type) -> None:
    said = "no folder nobody/nothing, .*and the hub cannot be reached$"
    with pytest.raises(FileNotFoundError, match=said) as refused:
        kind.from_pretrained("nobody/nothing")  # type: ignore[attr-defined]
    assert "\n" not in str(refused.value)
    with pytest.raises(FileNotFoundError, match=r"no revision v2 of that model .*not be asked \(local_files_only\)$"):
        kind.from_pretrained("nobody/nothing", revision="v2", local_files_only=True)  # type: ignore[attr-defined]


def run(*words: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs Python with these words, and with `folder` as the cache of the hub."""
    environment = {**os.environ, "HF_HOME": str(folder), **environment}
    return run_program([sys.executable, *words], environment, timeout=120, fresh=True)


@pytest.mark.parametrize("command", ["accompany", "info"])
def test_without_a_network_commands_fail_without_retries(command: str, tmp_path: Path) -> None:
    words = [str(EXAMPLE), "--out", str(tmp_path), "--model"] if command == "accompany" else []
    done = run("-m", "hafm_hf", command, *words, "nobody/nothing", folder=tmp_path, **UNREACHABLE)
    said = "The model 'nobody/nothing' cannot be loaded (there is no folder nobody/nothing"
    assert done.returncode == 1, done.stderr
    assert said in done.stderr, done.stderr
    assert "Retry" not in done.stderr, done.stderr


def test_without_a_network_earlier_downloads_load(tmp_path: Path) -> None:
    script = "import hafm_hf; print(hafm_hf.HAFMCoarseForCausalLM.from_pretrained('me/coarse').config.hidden_size)"
    with stand_in() as hub:
        # one process pushes and loads, since imports take longer than both
        pushed = (
            "import sys; sys.path.append(sys.argv[1]); from tiny_models import tiny_stage; "
            f"tiny_stage('coarse').push_to_hub('me/coarse', token=sys.argv[2]); {script}"
        )
        reached = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
        done = run("-c", pushed, str(Path(__file__).parents[1]), TOKEN, folder=tmp_path, **reached)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "24\n", done.stderr
    done = run("-c", script, folder=tmp_path, **UNREACHABLE)
    assert done.stdout == "24\n", done.stderr
    assert "Retry" not in done.stderr, done.stderr


def without(model: Any, folder: Path, names: list[str]) -> Any:
    """The model, reloaded from a checkpoint (written to `folder`) that lacks the weights `names`."""
    model.save_pretrained(folder)
    file = folder / "model.safetensors"
    weights = {name: value for name, value in load_file(file).items() if name not in names}
    save_file(weights, file, metadata={"format": "pt"})
    return type(model).from_pretrained(folder)


def test_buffers_missing_from_a_checkpoint_get_neutral_values(tmp_path: Path) -> None:
    model = tiny_rhythmic_tokenizer()
    zeros = ["centroids", "vocal_projection"]
    ones = ["rhythm_scale", "line_scale"]
    for name in (*zeros, *ones):
        # so that reused memory is not zero by chance
        model.get_buffer(name).fill_(7.0)
    loaded = without(model, tmp_path, [*zeros, *ones])
    for name, expected in [*((name, 0.0) for name in zeros), *((name, 1.0) for name in ones)]:
        assert loaded.get_buffer(name).unique().tolist() == [expected], name
    parameters = dict(model.named_parameters())
    assert all(torch.equal(value, parameters[name]) for name, value in loaded.named_parameters())
