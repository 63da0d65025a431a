# SPDX-License-Identifier: Apache-2.0
"""Publishing a finished stage on the hub, with a card that says what it was trained on and how it fared."""

from importlib.metadata import version
from pathlib import Path

from transformers import PreTrainedModel

from ..pretrained.model_card import CardFacts, load_facts, model_card
from .arguments import DataArguments, RunArguments, StageArguments
from .checkpoints import RunProgress
from .data import TokenCrops
from .validation import Metrics


def training_facts(
    stage: StageArguments,
    data: DataArguments,
    run: RunArguments,
    progress: RunProgress,
    crops: TokenCrops,
    last: Metrics,
) -> CardFacts:
    """What a card says about a run; facts that only people know come from `run.card_facts`.

    Args:
        stage, data, run: what the run was asked for.
        progress: where it ended.
        crops: what it was trained on.
        last: its last validation.
    """
    facts = load_facts(run.card_facts) if run.card_facts else CardFacts()
    corpus = Path(data.corpus).name
    if corpus not in facts.datasets:
        facts.datasets.append(corpus)
    if stage.init_from and stage.init_from not in facts.base_models and not Path(stage.init_from).exists():
        facts.base_models.append(stage.init_from)
    hours = float(crops.cells.sum() * crops.info.grid) / 3600
    trained = progress.step * run.global_batch * crops.seconds / 3600
    found = {
        "Corpus": f"{corpus}: {len(crops.corpus)} excerpts, {hours:.1f} h",
        "Steps": f"{progress.step} of {run.global_batch} crops of {crops.seconds:g} s ({trained:.1f} h of audio)",
        "Learning rate": f"{run.learning_rate:g}",
        "Precision": run.mixed_precision.replace("no", "fp32"),
        "Trained weights": f"adapters of rank {stage.lora_rank}" if stage.lora_rank else "all",
        "Software": f"hafm-hf {version('hafm-hf')}",
    }
    if "matched" in last:
        found["Validation loss"] = f"{last['matched']:.3f} nats a token"
    facts.training = found | facts.training
    return facts


def publish_stage(model: PreTrainedModel, run: RunArguments, facts: CardFacts) -> str:
    """Uploads the stage with its configurations and card; returns the commit's address.

    Raises:
        HfHubHTTPError: the hub refuses.
    """
    assert run.push_to_hub is not None
    card = model_card(model, run.push_to_hub, facts)
    commit = model.push_to_hub(run.push_to_hub, card=card, private=run.hub_private or None)  # type: ignore[call-arg]
    return str(commit.commit_url)
