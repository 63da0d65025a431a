# SPDX-License-Identifier: Apache-2.0
"""Model cards state the known facts, in the format that the hub reads, and nothing else."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from hafm_hf.pretrained.model_card import CardFacts, model_card
from hafm_hf.pretrained.saving import renamed
from make_card import load_facts, make_card
from programs import REPOSITORY
from tiny_models import tiny_composite, tiny_stage

FACTS: dict[str, Any] = {
    "license": "cc-by-4.0",
    "datasets": ["org/songs", "POP909"],
    "base_models": ["facebook/hubert-large-ll60k"],
    "attribution": ["Voice: Scott."],
    "limits": ["It has heard one singer."],
    "training": {"Audio": "4 h", "Steps": 3000},
    "results": [
        {
            "dataset_name": "Rendered songs",
            "dataset_split": "test",
            "metric_type": "frechet-distance",
            "metric_value": 2.5,
            "how": "EnCodec latents, 1 s windows, n = 40, 3 seeds",
        }
    ],
    "sections": {"By ear": "Nobody listened.\n"},
}


def test_a_card_has_the_facts_in_the_hubs_format() -> None:
    model = tiny_composite()
    read = ModelCard(str(model_card(model, "org/tiny", CardFacts(**FACTS))))
    data = read.data.to_dict()
    assert data["pipeline_tag"] == "audio-to-audio"
    assert data["library_name"] == "transformers"
    assert data["license"] == "cc-by-4.0"
    # POP909 is a name and not a hub id, so it appears only in the text: the hub would link it
    assert data["datasets"] == ["org/songs"]
    assert data["base_model"] == FACTS["base_models"]
    (index,) = data["model-index"]
    (result,) = index["results"]
    assert index["name"] == "tiny"
    assert result["task"]["type"] == "audio-to-audio"
    assert result["dataset"]["name"] == "Rendered songs"
    assert result["dataset"]["split"] == "test"
    assert result["metrics"][0]["type"] == "frechet-distance"
    assert result["metrics"][0]["value"] == 2.5
    for said in ("4 h", *FACTS["limits"], *FACTS["attribution"], "n = 40", "org/songs, POP909", 'model="org/tiny"'):
        assert said in read.text
    assert "## By ear\n\nNobody listened." in read.text
    counts = model.parameter_counts()
    assert f"{counts['total']:,}" in read.text
    assert f"| coarse | {counts['coarse']:,} |" in read.text


@pytest.mark.parametrize("make", [tiny_composite, lambda: tiny_stage("coarse")])
def test_a_card_pushed_to_another_repository_names_that_one(make: Callable[[], Any]) -> None:
    model = make()
    assert renamed(model_card(model, "org/tiny"), "me/tiny").text == model_card(model, "me/tiny").text


def test_a_card_without_facts_says_that_they_are_missing_and_states_none() -> None:
    read = ModelCard(str(model_card(tiny_composite(), "org/tiny")))
    assert not {"license", "datasets", "base_model", "model-index"} & set(read.data.to_dict())
    for said in ("No scores", "licence of the weights has not been stated", "training data has not been stated"):
        assert said in read.text
    assert "None" not in read.text


def test_the_card_of_a_stage_shows_how_to_load_it() -> None:
    text = model_card(tiny_stage("fine"), "org/fine").text
    assert 'HAFMFineForCausalLM.from_pretrained("org/fine")' in text
    assert "the fine stage" in text


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"licence": "mit"}, "licence"),
        (["mit"], "no mapping"),
        ({"results": [{"dataset_name": "a", "metric_type": "b"}]}, "metric_value"),
    ],
)
def test_unknown_malformed_and_incomplete_facts_are_refused(tmp_path: Path, facts: Any, said: str) -> None:
    (tmp_path / "facts.yaml").write_text(yaml.safe_dump(facts))
    with pytest.raises(ValueError, match=said):
        load_facts(tmp_path / "facts.yaml")


def test_the_bundled_models_card_matches_its_facts_and_credits_everybody(bundled_model: Path, tmp_path: Path) -> None:
    again = tmp_path / "hafm-tiny"
    again.mkdir()
    (again / "config.json").write_bytes((bundled_model / "config.json").read_bytes())
    shutil.copytree(bundled_model / "styles", again / "styles")
    make_card(again, REPOSITORY / "recipes" / "configs" / "hafm_tiny_card.yaml", "org/hafm-tiny")
    text = (bundled_model / "README.md").read_text()
    assert text == (again / "README.md").read_text(), "run the commands at the top of hafm_tiny_card.yaml"
    relinked = text.replace("](styles/", "](src/hafm_hf/checkpoints/hafm-tiny/styles/")
    assert relinked == (REPOSITORY / "MODEL_CARD.md").read_text(), "run the commands at the top of the facts"
    notice = (REPOSITORY / "NOTICE").read_text()
    for named in ("POP909", 'Voice "iona"', "SCOTTPOID by Scott", "ErithacusVB", "Frank Wen", "S. Christian Collins"):
        assert named in notice
        assert named.replace('"', "") in text
    metadata = ModelCard(text).data.to_dict()
    assert metadata["license"] == "apache-2.0"
    assert not {"datasets", "base_model"} & set(metadata)
