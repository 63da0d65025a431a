# SPDX-License-Identifier: Apache-2.0
"""Model cards for repositories on the hub.

Technical details come from the configuration, everything else from a file of facts (YAML or JSON); what it leaves out,
the card leaves out too.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TEMPLATES = Path(__file__).parent / "templates"
# an audio example of a style, in the composite's repository
STYLE_SOUND = "styles/{}.ogg"
PIPELINE_TAG = "audio-to-audio"
TAGS = ("hafm", "music-generation", "vocal-accompaniment")
RESULT_KEYS = ("dataset_name", "metric_type", "metric_value")
# identifiers of licences, as the hub spells them
IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass
class CardFacts:
    """Facts about a model or a corpus that its configuration does not contain; the card omits empty fields.

    Args:
        license: licence of the weights or the data, as a hub identifier such as "cc-by-4.0".
        datasets: hub ids ("org/name") or names of the training data; the card's metadata lists the ids only.
        base_models: the same for models that this one is built on.
        attribution: one line for each work that requires it.
        limits: further limitations, one sentence each.
        training: facts about the training by name, such as {"Audio": "4 h"}.
        results: scores, each {"dataset_name", "metric_type", "metric_value" and, if known, "dataset_type",
            "dataset_split", "metric_name", "how" (embedder, window, n, spread over seeds)}.
        sections: further sections of a model card, Markdown by heading.
    """

    license: str | None = None
    datasets: list[str] = field(default_factory=list)
    base_models: list[str] = field(default_factory=list)
    attribution: list[str] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)
    training: dict[str, Any] = field(default_factory=dict)
    results: list[dict[str, Any]] = field(default_factory=list)
    sections: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for result in self.results:
            try:
                _eval_result(result)
            except (KeyError, TypeError) as error:
                raise ValueError(f"A result needs {', '.join(RESULT_KEYS)}: {error}.") from error


def model_card(model: "PreTrainedModel", repo_id: str, facts: CardFacts | None = None) -> ModelCard:
    """The card of a composite or of one of its parts.

    Args:
        model: `HAFMForVocalAccompaniment`, a stage or the semantic tokenizer.
        repo_id: where the model is or will be: "org/name", or a folder.
        facts: what the configuration does not contain; none by default.
    """
    facts = facts or CardFacts()
    composite = model.config.model_type == "hafm"
    title = Path(repo_id).resolve().name
    # the template reads these for a part as well
    facts_of_composite: dict[str, Any] = {
        "total": None, "sampling_rate": None, "stereo": False, "styles": (), "sounds": {}
    }  # fmt: skip
    if composite:
        counts = model.parameter_counts()
        facts_of_composite = {
            "total": counts.pop("total"),
            "sampling_rate": model.sampling_rate,
            "stereo": model.config.codec_format.output_channels == 2,
            "styles": model.styles,
            "sounds": {name: STYLE_SOUND.format(quote(name)) for name in model.style_sounds},
        }
        parts: list[dict[str, Any]] = []
        for name, count in counts.items():
            parts.append({"name": name, "parameters": count, **model.config.describe_part(name)})
    else:
        parts = [{"name": title, "parameters": model.num_parameters(), **model.config.describe()}]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=PIPELINE_TAG,
        tags=list(TAGS),
        license=facts.license,
        datasets=_hub_ids(facts.datasets),
        base_model=_hub_ids(facts.base_models),
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
        facts=facts,
        **facts_of_composite,
    )


def _hub_ids(names: list[str]) -> list[str] | None:
    """The names that are hub ids, which the hub turns into links; folders and descriptions are left out."""
    return [name for name in names if _is_hub_id(name)] or None


def _is_hub_id(name: str) -> bool:
    """Whether a name has the form "org/name" of a hub id."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return "/" in name


def _eval_result(result: dict[str, Any]) -> EvalResult:
    """A result of `CardFacts` as the card's metadata hold it.

    Args:
        result: by `RESULT_KEYS` and the further fields of `EvalResult`; "how" says how it was measured (embedder,
            window, n, spread over seeds), for which the metadata have `metric_args` only.

    Raises:
        KeyError, TypeError: the result lacks a name, type or value, or has unknown fields.
    """
    given = {key: value for key, value in result.items() if key != "how"}
    # `EvalResult` requires a type; by default it is made from the name
    given.setdefault("dataset_type", re.sub(r"[^a-z0-9]+", "-", given["dataset_name"].lower()).strip("-"))
    metric_args = None
    if result.get("how"):
        metric_args = {"how": result["how"]}
    return EvalResult(task_type=PIPELINE_TAG, task_name="Vocal accompaniment", metric_args=metric_args, **given)
