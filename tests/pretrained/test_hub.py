# SPDX-License-Identifier: Apache-2.0
"""Repositories on a hub: pushed to a stand-in through the hub's HTTP API, compared file by file, and loaded back."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import transformers
from huggingface_hub import ModelCard

from hafm_hf.pretrained.saving import REPOSITORY_FILES
from hub_stand_in import TOKEN, StandIn, reaching, stand_in
from programs import run_program
from tiny_models import tiny_band
from vocals import CODEC_RATE, file_bytes, glide

# pushes a composite, its stages and a pipeline to the repositories that the tests below read
PUSH = """
import sys
from huggingface_hub import ModelCard
from transformers import pipeline
from hafm_hf import HAFMCoarseForCausalLM, HAFMForVocalAccompaniment, HAFMSemanticTokenizerModel
folder, again, band = sys.argv[1:]
composite = HAFMForVocalAccompaniment.from_pretrained(folder)
try:
    composite.push_to_hub("singers/refused", token="hf_wrong")
except Exception as error:
    assert "401" in str(error), error
else:
    sys.exit("a wrong token was taken")
composite.save_pretrained(again)
composite.push_to_hub("singers/tiny", private=True, tags=["choir"], commit_message="First song")
ours = ModelCard("---\\nlicense: cc0-1.0\\n---\\n# By hand\\n")
composite.push_to_hub("singers/tiny", card=ours)
composite.push_to_hub("singers/tiny", revision="next")
composite.coarse.push_to_hub("singers/tiny-coarse", tags="choir")
words = {"commit_message": "Second song", "commit_description": "Slower", "tags": ["choir"], "private": True}
composite.save_pretrained(again, push_to_hub=True, repo_id="singers/tiny-dev", revision="dev", **words)
composite.save_pretrained(again, push_to_hub=True, repo_id="singers/tiny-dev", create_pr=True)
sizes = {"private": True, "max_shard_size": 20_000}
composite.fine.save_pretrained(again + "-fine", push_to_hub=True, repo_id="singers/tiny-fine", **sizes)
accompany = pipeline("vocal-accompaniment", model=band, device="cpu")
accompany.feature_extractor.max_seconds = 77.0
accompany.push_to_hub("singers/band", private=True)
HAFMSemanticTokenizerModel.from_pretrained(folder, subfolder="semantic_tokenizer").push_to_hub("singers/tiny-tokens")
"""

# loads models from the hub before hafm_hf is imported, and writes a song for vocal.wav to song.npy
LOAD = """
import numpy, sys, transformers
assert "hafm_hf" not in sys.modules
accompany = transformers.pipeline("vocal-accompaniment", model="singers/tiny", trust_remote_code=True, device="cpu")
numpy.save("song.npy", accompany("vocal.wav", seed=1)["audio"])
from transformers import AutoModel, AutoModelForCausalLM
assert AutoModel.from_pretrained("singers/band").style_sounds == {"folk": b"a sound"}
whole = AutoModel.from_pretrained("singers/tiny", trust_remote_code=True)
alone = AutoModelForCausalLM.from_pretrained("singers/tiny-coarse")
within = type(alone).from_pretrained("singers/tiny", subfolder="coarse")
for model in (alone, within):
    assert all((model.state_dict()[name] == value).all() for name, value in whole.coarse.state_dict().items())
"""


def run_online(script: str, hub: StandIn, folder: Path, *arguments: str) -> None:
    """Runs a script in a process that uses the stand-in as its hub."""
    environment = reaching(hub.url, TOKEN, folder)
    result = run_program([sys.executable, "-c", script, *arguments], environment, folder, fresh=True)
    assert result.returncode == 0, result.stderr[-3000:] + "\n".join(hub.requests[-20:])


@pytest.fixture(scope="module")
def saved_again(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder to which the pushing process saves the composite."""
    return tmp_path_factory.mktemp("push") / "saved"


@pytest.fixture(scope="module")
def hub(tiny_model: Path, saved_again: Path) -> Iterator[StandIn]:
    """The stand-in after all pushes."""
    with stand_in() as started:
        band = tiny_band()
        folder = saved_again.with_name("band")
        band.style_sounds = {"folk": b"a sound"}
        band.save_pretrained(folder)
        run_online(PUSH, started, saved_again.parent, str(tiny_model), str(saved_again), str(folder))
        yield started


def test_a_pushed_composite_equals_the_saved_folder(hub: StandIn, tiny_model: Path, saved_again: Path) -> None:
    pushed = dict(hub.repositories["singers/tiny"].branches["main"])
    pushed.pop("README.md")
    saved = {str(p.relative_to(saved_again)): p.read_bytes() for p in saved_again.rglob("*") if p.is_file()}
    sums = {name: pushed.pop(name).decode() for name in list(pushed) if name.endswith("SHA256SUMS")}
    # of each part
    assert len(sums) == 5
    assert all(text.endswith("  model.safetensors\n") for text in sums.values())
    assert str(tiny_model) not in pushed["config.json"].decode()
    assert set(pushed) == set(saved)
    for name in saved:
        assert pushed[name] == saved[name], name
    parts = {f"{part}/model.safetensors" for part in ("semantic_tokenizer", "semantic", "coarse", "fine", "codec")}
    assert parts | set(REPOSITORY_FILES) | {"config.json", "preprocessor_config.json"} <= set(pushed)


def test_privacy_messages_and_revisions_are_as_requested(hub: StandIn) -> None:
    names = {f"singers/tiny{part}" for part in ("", "-dev", "-coarse", "-fine", "-tokens")}
    assert set(hub.repositories) == {*names, "singers/band"}
    composite = hub.repositories["singers/tiny"]
    assert composite.private
    assert not hub.repositories["singers/tiny-coarse"].private
    assert composite.commits[0] == "First song"
    assert set(composite.branches) == {"main", "next"}


def test_a_card_is_written_once_and_then_kept(hub: StandIn) -> None:
    branches = hub.repositories["singers/tiny"].branches
    assert "# By hand" in branches["main"]["README.md"].decode()
    assert branches["main"] == branches["next"]
    band = hub.repositories["singers/band"].branches["main"]
    assert json.loads(band["preprocessor_config.json"])["max_seconds"] == 77
    assert hub.repositories["singers/band"].private
    assert "[folk](styles/folk.ogg), rock." in band["README.md"].decode()
    assert band["styles/folk.ogg"] == b"a sound"
    card = ModelCard(hub.repositories["singers/tiny-coarse"].branches["main"]["README.md"].decode())
    assert card.data.get("pipeline_tag") == "audio-to-audio"
    assert card.data.get("library_name") == "transformers"
    assert {len(tag) > 1 for tag in card.data["tags"]} == {True}
    assert "choir" in card.data["tags"]
    assert 'HAFMCoarseForCausalLM.from_pretrained("singers/tiny-coarse")' in card.text


def test_saving_with_push_to_hub_uploads_the_same_files_and_a_card(hub: StandIn, saved_again: Path) -> None:
    # PUSH saves the fine stage to a folder beside the composite's, private and in shards of 20 kB
    repository = hub.repositories["singers/tiny-fine"]
    pushed = dict(repository.branches["main"])
    card = ModelCard(pushed.pop("README.md").decode())
    assert 'HAFMFineForCausalLM.from_pretrained("singers/tiny-fine")' in card.text
    assert repository.private
    folder = saved_again.with_name(saved_again.name + "-fine")
    assert pushed.pop("SHA256SUMS")
    assert "model.safetensors.index.json" in pushed, "max_shard_size applies to the upload too"
    assert pushed == {path.name: path.read_bytes() for path in folder.iterdir()}


def test_saving_a_composite_passes_on_all_upload_options(hub: StandIn, saved_again: Path) -> None:
    # PUSH saves to "dev" with message, description and tag, then again as a pull request without them
    repository = hub.repositories["singers/tiny-dev"]
    assert set(repository.branches) == {"main", "dev", "refs/pr/1"}
    assert not repository.branches["main"]
    assert repository.private
    assert repository.commits[0] == "Second song"
    assert repository.descriptions[0] == "Slower"
    saved = {str(p.relative_to(saved_again)): p.read_bytes() for p in saved_again.rglob("*") if p.is_file()}
    for branch, tagged in (("dev", True), ("refs/pr/1", False)):
        pushed = dict(repository.branches[branch])
        assert ("choir" in ModelCard(pushed.pop("README.md").decode()).data["tags"]) is tagged
        assert {name: content for name, content in pushed.items() if not name.endswith("SHA256SUMS")} == saved


def test_a_pushed_part_is_a_complete_model(hub: StandIn, tiny_model: Path) -> None:
    files = hub.repositories["singers/tiny-coarse"].branches["main"]
    assert {"README.md", "config.json", "generation_config.json", "model.safetensors"} <= set(files)
    assert files["model.safetensors"] == (tiny_model / "coarse" / "model.safetensors").read_bytes()
    tokenizer = hub.repositories["singers/tiny-tokens"].branches["main"]
    assert json.loads(tokenizer["config.json"])["model_type"] == "hafm_semantic_tokenizer"
    assert all(b"is one part of a HAFM model" in each["README.md"] for each in (files, tokenizer))


def test_without_importing_hafm_hf_a_model_from_the_hub_accompanies(
    hub: StandIn, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "vocal.wav").write_bytes(file_bytes(glide(), subtype="FLOAT"))
    run_online(LOAD, hub, tmp_path)
    accompany = transformers.pipeline("vocal-accompaniment", model=str(tiny_model), device="cpu")
    song = accompany(glide(), sampling_rate=CODEC_RATE, seed=1)
    assert np.allclose(np.load(tmp_path / "song.npy"), song["audio"], atol=1e-6)


def test_a_push_with_a_wrong_token_is_refused(hub: StandIn) -> None:
    """The pushing process tries it, and would have failed had the push been accepted."""
    assert "singers/refused" not in hub.repositories
