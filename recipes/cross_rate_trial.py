"""Compares the position schemes on the synthetic cross-rate task and prints the table of docs/log.md.

OMP_NUM_THREADS=1 python recipes/cross_rate_trial.py --sources 1 --schemes index time
"""

import json
import logging
from dataclasses import dataclass, field

import torch
from transformers import HfArgumentParser

from hafm_hf.training.cross_rate import CrossRateTask, TrialArguments, cross_rate_row

logger = logging.getLogger("hafm_hf.recipes.cross_rate_trial")


@dataclass
class RecipeArguments:
    """Which trials to run, and how large."""

    sources: list[int] = field(default_factory=lambda: [1, 2], metadata={"help": "conditioning sources to try"})
    schemes: list[str] = field(default_factory=lambda: ["index", "time"], metadata={"help": "position schemes to try"})
    codebooks: int = field(default=4, metadata={"help": "target codebooks, as many conditioning streams"})
    vocabulary: int = 16
    seconds: float = field(default=1.0, metadata={"help": "length of a training clip"})
    steps: int = 800
    batch: int = 16
    width: int = 128
    layers: int = 4
    heads: int = 4
    learning_rate: float = 2e-3
    seed: int = 0


def main() -> None:
    """Runs the trials one after the other, a JSON line each, then the table."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    torch.set_num_threads(1)
    recipe = HfArgumentParser(RecipeArguments).parse_args_into_dataclasses()[0]
    trial = TrialArguments(
        seconds=recipe.seconds,
        steps=recipe.steps,
        batch=recipe.batch,
        width=recipe.width,
        layers=recipe.layers,
        heads=recipe.heads,
        learning_rate=recipe.learning_rate,
        seed=recipe.seed,
    )
    rows = []
    for sources in recipe.sources:
        for scheme in recipe.schemes:
            task = CrossRateTask(sources=sources, codebooks=recipe.codebooks, vocabulary=recipe.vocabulary)
            rows.append(cross_rate_row(task, scheme, trial))
            logger.info("%s", json.dumps(rows[-1]))
    print("| sources | scheme | floor | loss at 1 × | loss at 2 × | agreement at 1 × | at 2 × |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        losses = "{loss_1x:.3f} ± {error_1x:.3f} | {loss_2x:.3f} ± {error_2x:.3f}".format_map(row)
        agreements = "{agreement_1x:.3f} | {agreement_2x:.3f}".format_map(row)
        print(f"| {row['sources']} | {row['scheme']} | {row['floor']:.3f} | {losses} | {agreements} |")


if __name__ == "__main__":
    main()
