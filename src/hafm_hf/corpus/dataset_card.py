# SPDX-License-Identifier: Apache-2.0
"""The dataset card of a token corpus, from its manifest."""

import json
from pathlib import Path

from huggingface_hub import DatasetCard, DatasetCardData

from ..pretrained.model_card import PIPELINE_TAG, TAGS, TEMPLATES, CardFacts
from .manifest import MANIFEST_FILE
from .tokens import SCHEMA


def dataset_card(folder: str | Path, facts: CardFacts | None = None, repo_id: str = "") -> DatasetCard:
    """Builds the dataset card of a token corpus.

    Args:
        folder: the corpus: manifest.json and {train,validation,test}-NNNNN.parquet.
        facts: licence, sources and so on; None takes licence and source from the manifest.
        repo_id: hub id of the data set, for the title and the example; the folder's name if empty.

    Raises:
        ValueError: there is no manifest.
    """
    folder = Path(folder)
    if not (folder / MANIFEST_FILE).is_file():
        raise ValueError(f"{folder} holds no {MANIFEST_FILE}; is it a token corpus?")
    manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    if facts is None:
        licence = manifest["options"].get("licence")
        source = manifest["options"].get("source")
        facts = CardFacts(licence or None, [source] if source else [])
    # a split without rows has no files
    splits = [{"name": name, **split} for name, split in manifest["splits"].items() if split["rows"]]
    files = [{"split": split["name"], "path": f"{split['name']}-*.parquet"} for split in splits]
    title = Path(repo_id or folder.resolve()).name
    data = DatasetCardData(
        license=facts.license,
        pretty_name=title,
        task_categories=[PIPELINE_TAG],
        tags=list(TAGS),
        configs=[{"config_name": "default", "data_files": files}],
    )
    return DatasetCard.from_template(
        data,
        template_path=str(TEMPLATES / "dataset_card.md"),
        title=title,
        repo_id=repo_id or title,
        splits=splits,
        columns=[(column.name, str(column.type)) for column in SCHEMA],
        tokenizers=manifest["tokenizers"],
        facts=facts,
    )
