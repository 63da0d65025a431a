# SPDX-License-Identifier: Apache-2.0
"""Transfers a stage to the codes of another codec, so that it does not have to be trained from scratch.

    python recipes/carry_stage.py MODEL coarse OUT --before CORPUS --now CORPUS2
    accelerate launch recipes/train_stage.py recipes/configs/tiny/coarse.yaml --init_from OUT --new_tokens true \\
        --corpus CORPUS2 --output_dir runs/coarse

The two corpora are tokens of the same songs (`hafm prepare`), by the stage's own codec and by the new one. Each new
code gets the mean embedding and head weights of the old codes that occur at the same places.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer
from transformers.utils import logging

from hafm_hf.training.stages import published_stage
from hafm_tiny.codebooks import carry_over, count_together
from running import run_recipe

logger = logging.get_logger(__name__)


def main(
    model: Annotated[str, typer.Argument(help="Stage or composite: folder or hub id.")],
    stage: Annotated[Literal["coarse", "fine"], typer.Argument()],
    out: Annotated[Path, typer.Argument(help="Folder for the stage.")],
    before: Annotated[Path, typer.Option(help="Tokens by the stage's own codec.")],
    now: Annotated[Path, typer.Option(help="Tokens of the same songs by the new codec.")],
) -> None:
    """Writes the stage to OUT with embeddings and heads for a new codec's codes, made from those of the old codes."""
    carried = published_stage(stage, model)
    carry_over(carried, count_together(before, now))
    carried.save_pretrained(out)
    logger.info("The %s stage is in %s; train it further on the new codes.", stage, out)


if __name__ == "__main__":
    run_recipe(lambda: typer.run(main))
