"""Which codes sound in each part of the beat, from songs with labels into a coarse stage.

    python recipes/fit_code_beats.py STAGE TOKENS SONGS

STAGE is the folder of a coarse stage, TOKENS the token shards that it has learnt, and SONGS the rendered songs that
they were made of (recipes/build_song_corpus.py). In a composite its drums are on the singer's beat to the frame from
then on; --weight 0 turns that off again.
"""

from pathlib import Path
from typing import Annotated

import typer

from hafm_hf.cli.training import run_recipe
from hafm_tiny.statistics import fit_code_beats


def main(
    stage: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Coarse stage.")],
    tokens: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Token shards.")],
    songs: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Rendered songs.")],
    weight: Annotated[float, typer.Option(min=0.0, help="How much it counts in generation.")] = 2.0,
) -> None:
    """Writes beat_scores into STAGE's weights and beat_guidance into its generation_config.json."""
    scores = fit_code_beats(stage, tokens, songs, weight)
    typer.echo(f"counted {scores.shape[1]} codes in {scores.shape[0]} parts of the beat")


if __name__ == "__main__":
    run_recipe(lambda: typer.run(main))
