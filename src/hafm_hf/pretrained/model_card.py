# SPDX-License-Identifier: Apache-2.0
"""Model cards and dataset cards: what a repository on the hub says about what is in it.

What a configuration or a shard tells is read from there; everything else comes from a file
of facts (YAML or JSON), and where that says nothing, so does the card.
"""

import json
import math
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import yaml
from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData, RepoCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from .style_sounds import STYLE_SOUND, read_style_sounds

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TEMPLATES = Path(__file__).parent / "templates"
SPLITS = ("train", "validation", "test")
PIPELINE_TAG = "audio-to-audio"
TAGS = ("hafm", "music-generation", "vocal-accompaniment")
RESULT_KEYS = ("dataset_name", "metric_type", "metric_value")
OTHER_RESULT_KEYS = ("dataset_type", "dataset_split", "metric_name", "how")
# identifiers of metrics and licences, as the hub spells them
IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass
class CardFacts:
    """What only people know about a model or a corpus; the card claims nothing for a field that is empty.

    Args:
        license: identifier of the hub, such as "cc-by-4.0", of the weights or the data.
        datasets: hub ids ("org/name") or names of the training data; the card's metadata lists the ids only.
        base_models: the same of models that this one was made from.
        attribution: one line for each work that asks for it.
        limits: further limits, one sentence each.
        training: facts of the training by name, such as {"Audio": "4 h"}.
        results: scores, each {"dataset_name", "metric_type", "metric_value" and, if known, "dataset_type",
            "dataset_split", "metric_name", "how" (embedder, window, n, spread over seeds)}.
        sections: further sections of a model card, Markdown by heading.
        emissions: as codecarbon measures them: {"emissions" (g CO₂ equivalent), "source", …}.
    """

    license: str | None = None
    datasets: list[str] = field(default_factory=list)
    base_models: list[str] = field(default_factory=list)
    attribution: list[str] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)
    training: dict[str, Any] = field(default_factory=dict)
    results: list[dict[str, Any]] = field(default_factory=list)
    sections: dict[str, str] = field(default_factory=dict)
    emissions: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.license is not None and not IDENTIFIER.fullmatch(self.license):
            raise ValueError(f"license is {self.license!r}; the hub's identifiers look like apache-2.0 or cc-by-4.0.")
        for result in self.results:
            _check_result(result)
        if self.emissions is not None and not {"emissions", "source"} <= set(self.emissions):
            raise ValueError('emissions need "emissions" (in grams) and "source" (what measured them).')


def load_facts(path: str | Path) -> CardFacts:
    """Reads facts from a YAML or JSON file.

    Raises:
        ValueError: on something else than a mapping, an unknown key, an identifier that the hub would refuse, or a
            result without dataset, metric or value.
    """
    # every JSON file is a YAML file too
    content = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    known = [each.name for each in fields(CardFacts)]
    if not isinstance(content, dict) or set(content) - set(known):
        unknown = ", ".join(sorted(map(str, set(content) - set(known)))) if isinstance(content, dict) else "no mapping"
        raise ValueError(f"{path} is no file of facts ({unknown}); it may hold {', '.join(known)}.")
    return CardFacts(**content)


def model_card(model: "PreTrainedModel", repo_id: str, facts: CardFacts | None = None) -> ModelCard:
    """The card of a composite or of one of its parts.

    Args:
        model: `HAFMForVocalAccompaniment`, a stage or the semantic tokenizer.
        repo_id: where it is or will be: "org/name", or a folder.
        facts: what the model itself cannot tell.
    """
    facts = facts or CardFacts()
    composite = model.config.model_type == "hafm"
    title = Path(repo_id).name
    names = model.parameter_counts() if composite else {title: sum(p.numel() for p in model.parameters())}
    total = names.pop("total", None)
    described = {name: model.config.describe_part(name) if composite else model.config.describe() for name in names}
    parts = [{"name": name, "parameters": names[name], **described[name]} for name in names]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=PIPELINE_TAG,
        tags=list(TAGS),
        license=facts.license,
        datasets=_hub_ids(facts.datasets),
        base_model=_hub_ids(facts.base_models),
        co2_eq_emissions=facts.emissions,
        metrics=sorted({result["metric_type"] for result in facts.results}) or None,
        model_name=title,
        eval_results=[_eval_result(result) for result in facts.results] or None,
    )
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATES / "model_card.md"),
        title=title,
        repo_id=repo_id,
        class_name=type(model).__name__,
        composite=composite,
        role=getattr(model.config, "role", ""),
        parts=parts,
        total=total,
        sampling_rate=model.sampling_rate if composite else None,
        styles=model.styles if composite else (),
        sounds={name: STYLE_SOUND.format(quote(name)) for name in model.style_sounds} if composite else {},
        facts=facts,
    )


def dataset_card(folder: str | Path, facts: CardFacts | None = None) -> DatasetCard:
    """The card of a token corpus, counted from its Parquet shards.

    Args:
        folder: holds {train,validation,test}-NNNNN.parquet.
        facts: what the shards cannot tell.

    Raises:
        ValueError: if there are no shards, or they are of different tokenizers.
    """
    import pyarrow.parquet as parquet

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
        size_categories=_size_category(sum(split["rows"] for split in splits)),
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
    import pyarrow.parquet as parquet

    tables = [parquet.read_table(shard, columns=["track", "duration"]) for shard in shards]
    return {
        "name": name,
        "rows": sum(table.num_rows for table in tables),
        "tracks": len({track for table in tables for track in table["track"].to_pylist()}),
        "hours": sum(sum(table["duration"].to_pylist()) for table in tables) / 3600,
        "shards": len(shards),
    }


def write_card(folder: str | Path, facts: str | Path | None = None, repo_id: str | None = None) -> Path:
    """Writes README.md into the folder of a saved composite, part or token corpus, and returns its path.

    Args:
        folder: of the model or the corpus.
        facts: file that `load_facts` reads.
        repo_id: name on the hub, for the card's examples.

    Raises:
        ValueError: if the folder holds neither, or the facts are wrong.
    """
    folder, known = Path(folder), None if facts is None else load_facts(facts)
    if (folder / "config.json").is_file():
        import torch
        from transformers import AutoConfig, AutoModel

        # on the meta device a model has parameters to count but no memory
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModel.from_config(config)
        if config.model_type == "hafm":
            model.style_sounds = read_style_sounds(folder, model.styles)
        card: RepoCard = model_card(model, repo_id or str(folder), known)
    else:
        card = dataset_card(folder, known)
    card.save(folder / "README.md")
    return folder / "README.md"


def _hub_ids(names: list[str]) -> list[str] | None:
    """Those of the names that are ids on the hub; a folder or a description is none, and the hub would link it."""
    return [name for name in names if _is_hub_id(name)] or None


def _is_hub_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name


def _check_result(result: dict[str, Any]) -> None:
    missing = [key for key in RESULT_KEYS if key not in result]
    unknown = sorted(set(result) - set(RESULT_KEYS) - set(OTHER_RESULT_KEYS))
    if missing or unknown:
        raise ValueError(f"A result needs {', '.join(RESULT_KEYS)}; missing: {missing}, unknown: {unknown}.")
    if not IDENTIFIER.fullmatch(result["metric_type"]):
        raise ValueError(f"metric_type is {result['metric_type']!r}; use lower case, digits, '-', '_' and '.'.")
    value = result["metric_value"]
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"metric_value of {result['metric_type']} is {value!r}; it must be a finite number.")


def _eval_result(result: dict[str, Any]) -> EvalResult:
    given = {key: value for key, value in result.items() if key != "how"}
    given.setdefault("dataset_type", re.sub(r"[^a-z0-9]+", "-", given["dataset_name"].lower()).strip("-"))
    metric_args = {"how": result["how"]} if result.get("how") else None
    return EvalResult(task_type=PIPELINE_TAG, task_name="Vocal accompaniment", metric_args=metric_args, **given)


def _size_category(rows: int) -> str:
    """The hub's bracket for a number of rows: "n<1K", "1K<n<10K" …"""
    brackets = ["1K", "10K", "100K", "1M", "10M", "100M", "1B"]
    limits = [10 ** (3 + i) for i in range(len(brackets))]
    above = sum(rows >= limit for limit in limits)
    if above == 0:
        return "n<1K"
    return f"n>{brackets[-1]}" if above == len(limits) else f"{brackets[above - 1]}<n<{brackets[above]}"
