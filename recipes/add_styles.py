# SPDX-License-Identifier: Apache-2.0
"""Adds styles to a trained stage, so that it can be trained further on songs in them.

    python recipes/add_styles.py MODEL coarse OUT --style waltz --style soul
    accelerate launch recipes/train_stage.py recipes/configs/tiny/coarse.yaml --init_from OUT --corpus CORPUS \\
        --output_dir runs/coarse

The embedding of a new style begins as the mean of those that the stage has.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer
from transformers.utils import logging

from hafm_hf.training.stages import published_stage
from hafm_tiny.codebooks import add_styles
from hafm_tiny.songs.styles import STYLES
from running import run_recipe

logger = logging.get_logger(__name__)


def main(
    model: Annotated[str, typer.Argument(help="Stage or composite: folder or hub id.")],
    stage: Annotated[Literal["semantic", "coarse", "fine"], typer.Argument()],
    out: Annotated[Path, typer.Argument(help="Folder for the stage.")],
    style: Annotated[list[str], typer.Option(help="Can be repeated; one of those of the rendered songs.")],
) -> None:
    """Adds styles to a stage, each with the metres, tempi and note densities that it suits, and writes it to OUT."""
    if unknown := set(style) - set(STYLES):
        raise typer.BadParameter(f"no style is called {', '.join(sorted(unknown))}; choose from {', '.join(STYLES)}.")
    extended = published_stage(stage, model)
    add_styles(extended, {name: STYLES[name].suits for name in style})
    extended.save_pretrained(out)
    logger.info("The %s stage is in %s; train it further on songs in the new styles.", stage, out)


if __name__ == "__main__":
    run_recipe(lambda: typer.run(main))
