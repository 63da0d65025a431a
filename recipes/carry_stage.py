# SPDX-License-Identifier: Apache-2.0
"""Carries a stage over to the codes of another codec, so that it need not learn anew what it knows of music.

    python recipes/carry_stage.py MODEL coarse OUT --before CORPUS --now CORPUS2
    accelerate launch recipes/train_stage.py recipes/configs/tiny/coarse.yaml --init_from OUT --new_tokens true \\
        --corpus CORPUS2 --output_dir runs/coarse

Both corpora are tokens of the same songs (`hafm prepare`), by the codec that the stage knows and by the new one. A
code gets the embedding and the head of the old codes that stand where it stands.
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
    before: Annotated[Path, typer.Option(help="Tokens by the codec that the stage knows.")],
    now: Annotated[Path, typer.Option(help="Tokens of the same songs by the new codec.")],
) -> None:
    """Writes the stage with its tables of codes exchanged."""
    carried = published_stage(stage, model)
    carry_over(carried, count_together(before, now))
    carried.save_pretrained(out)
    logger.info("%s, to be trained further, is in %s.", stage, out)


if __name__ == "__main__":
    run_recipe(lambda: typer.run(main))
