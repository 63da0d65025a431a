# SPDX-License-Identifier: Apache-2.0
"""The card of a token corpus, counted from its Parquet shards."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
from huggingface_hub import DatasetCard, DatasetCardData

from ..pretrained.model_card import PIPELINE_TAG, TAGS, TEMPLATES, CardFacts
from .tracks import SPLITS


def dataset_card(folder: str | Path, facts: CardFacts | None = None) -> DatasetCard:
    """The card of a token corpus, counted from its Parquet shards.

    Args:
        folder: holds {train,validation,test}-NNNNN.parquet.
        facts: what the shards cannot tell.

    Raises:
        ValueError: if there are no shards, or they are of different tokenizers.
    """
    facts, folder = facts or CardFacts(), Path(folder)
    shards = {name: sorted(folder.glob(f"{name}-*.parquet")) for name in SPLITS}
    splits = [_count_split(name, paths) for name, paths in shards.items() if paths]
    schemas = [parquet.read_schema(path) for paths in shards.values() for path in paths]
    descriptions = {(schema.metadata or {}).get(b"hafm", b"{}") for schema in schemas}
    if not schemas:
        raise ValueError(f"{folder} holds no {{train,validation,test}}-*.parquet; is it a token corpus?")
    if len(descriptions) > 1:
        raise ValueError(f"The shards in {folder} are of different tokenizers; give each corpus a folder.")
    data = DatasetCardData(
        license=facts.license,
        pretty_name=folder.resolve().name,
        task_categories=[PIPELINE_TAG],
        tags=list(TAGS),
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": s["name"], "path": f"{s['name']}-*.parquet"} for s in splits],
            }
        ],
    )
    return DatasetCard.from_template(
        data,
        template_path=str(TEMPLATES / "dataset_card.md"),
        title=folder.resolve().name,
        splits=splits,
        columns=[(column.name, str(column.type).replace("element", "item")) for column in schemas[0]],
        tokenizers=json.loads(descriptions.pop()),
        facts=facts,
    )


def _count_split(name: str, shards: list[Path]) -> dict[str, Any]:
    """Rows, tracks and hours of a split: {"name", "rows", "tracks", "hours", "shards"}."""
    tables = [parquet.read_table(shard, columns=["track", "duration"]) for shard in shards]
    return {
        "name": name,
        "rows": sum(table.num_rows for table in tables),
        "tracks": len({track for table in tables for track in table["track"].to_pylist()}),
        "hours": sum(sum(table["duration"].to_pylist()) for table in tables) / 3600,
        "shards": len(shards),
    }
