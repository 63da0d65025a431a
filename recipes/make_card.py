# SPDX-License-Identifier: Apache-2.0
"""Writes a README.md with the card of a model or corpus, from its files and a file of facts.

python recipes/make_card.py FOLDER --facts FACTS.yaml --repo-id ORG/NAME
"""

from dataclasses import fields
from pathlib import Path
from typing import Annotated

import torch
import typer
import yaml
from huggingface_hub import RepoCard
from transformers import AutoConfig, AutoModel

import hafm_hf  # noqa: F401  (registers the models)
from hafm_hf.corpus.dataset_card import dataset_card
from hafm_hf.pretrained.model_card import CardFacts, model_card
from hafm_hf.pretrained.saving import read_style_sounds
from running import run_recipe


def make_card(
    folder: Annotated[Path, typer.Argument(help="A saved model, or a corpus of token shards.", file_okay=False)],
    facts: Annotated[Path | None, typer.Option(help="YAML or JSON with licence, data, results …")] = None,
    repo_id: Annotated[str, typer.Option(help="Hub id to use in examples; default: the folder.")] = "",
) -> None:
    """Writes FOLDER/README.md, the card of the model in FOLDER, or of the corpus if there is no config.json."""
    stated = None if facts is None else load_facts(facts)
    # corpora have no configuration of a model
    if not (folder / "config.json").is_file():
        card: RepoCard = dataset_card(folder, stated, repo_id)
    else:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        # on the meta device, parameters can be counted without allocating memory
        with torch.device("meta"):
            model = AutoModel.from_config(config)
        if config.model_type == "hafm":
            model.style_sounds = read_style_sounds(folder, model.styles)
        card = model_card(model, repo_id or str(folder), stated)
    card.save(folder / "README.md")


def load_facts(path: str | Path) -> CardFacts:
    """Reads facts from a YAML or JSON file.

    Raises:
        ValueError: the file is not a mapping, has an unknown key, or a result without dataset, metric or value.
    """
    # every JSON file is a YAML file too
    content = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    names = [field.name for field in fields(CardFacts)]
    fault = "no mapping"
    if isinstance(content, dict):
        unknown_keys = set(content) - set(names)
        fault = ", ".join(sorted(map(str, unknown_keys)))  # "" if there are none
    if fault:
        raise ValueError(f"{path} is not a file of facts ({fault}); it may hold {', '.join(names)}.")
    return CardFacts(**content)


if __name__ == "__main__":
    run_recipe(lambda: typer.run(make_card))
