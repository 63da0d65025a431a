"""When an accompaniment changes along the singer's beat, from a token corpus into a composite's generation config.

    python recipes/fit_beat_profile.py MODEL CORPUS

MODEL is a folder of hafm assemble, CORPUS the token shards that its semantic stage has learnt. Its accompaniments
change on the beat from then on; --weight 0 turns that off again.
"""

from pathlib import Path
from typing import Annotated

import typer

from hafm_hf.cli.training import run_recipe
from hafm_tiny.statistics import fit_beat_profile


def main(
    model: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Composite.")],
    corpus: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Token shards.")],
    weight: Annotated[float, typer.Option(min=0.0, help="How much it counts in generation.")] = 1.0,
    rows: Annotated[int, typer.Option(min=1, help="Of the corpus, at most.")] = 500,
) -> None:
    """Writes beat_guidance and beat_profile into MODEL/semantic/generation_config.json."""
    profile = fit_beat_profile(model, corpus, weight, rows)
    typer.echo(f"log-ratio of changes along the beat: {' '.join(f'{value:+.2f}' for value in profile)}")


if __name__ == "__main__":
    run_recipe(lambda: typer.run(main))
