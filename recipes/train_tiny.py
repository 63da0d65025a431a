# SPDX-License-Identifier: Apache-2.0
"""Train a model like hafm-tiny with one command: render songs, train every part on them, and assemble the model.

    python recipes/train_tiny.py SONGS OUT --songs POP909 --voices VOICES --hours 24 --workers 2
    python recipes/train_tiny.py SONGS OUT --hours 24 --workers 2             # songs that are already rendered
    python recipes/train_tiny.py SONGS OUT --songs POP909 --voices VOICES --render="--limit 14" \\
        --preset trial --hours 0.01
    hafm accompany vocal.wav --model OUT/model

The steps are songs, spectral codec, its decoder alone, HuBERT, k-means, vocal space, tokens, the three stages,
listener, separator, assembly and card. Each is a process with a log and checkpoints in OUT, and the same command
resumes a stopped run. The stages read the lead sheet: chords, beats and bars, style, and energy if songs have
sections. --preset trial checks within minutes that everything runs, without making music; --preset small is for a
GPU, which all parts use if there is one. hafm-tiny itself was trained in several rounds, at first on songs of a trio
(MODEL_CARD.md): the sizes are the same here, the weights are not. For HAFM-Base, see docs/training.md.
"""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from hafm_tiny.whole_model import WholeModelOptions, render_songs, train_whole_model
from running import run_recipe


def main(
    corpus: Annotated[Path, typer.Argument(file_okay=False, help="Output folder of build_song_corpus.py.")],
    out: Annotated[Path, typer.Argument(file_okay=False, help="Folder for the parts and the model (OUT/model).")],
    hours: Annotated[float, typer.Option(help="Wall-clock hours of training; tokens and clusters add to it.")] = 2.0,
    preset: Annotated[str, typer.Option(help="trial, tiny or small.")] = "tiny",
    workers: Annotated[int, typer.Option(min=1, help="Parts to train in parallel, one core each.")] = 1,
    clusters: Annotated[int, typer.Option(min=2, help="K-means clusters, each for vocals and bands.")] = 500,
    songs: Annotated[Path | None, typer.Option(exists=True, file_okay=False, help="MIDI songs to render.")] = None,
    voices: Annotated[Path | None, typer.Option(exists=True, file_okay=False, help="Voices to sing them.")] = None,
    render: Annotated[str, typer.Option(help="Options of build_song_corpus.py.")] = "--reharmonised 0.3",
) -> None:
    """Trains a complete model on CORPUS into OUT."""
    if (songs is None) != (voices is None):
        raise typer.BadParameter("rendering needs both --songs and --voices; give both, or neither.")
    recipes = Path(__file__).parent
    if songs is not None and voices is not None:
        render_songs(songs, voices, corpus, recipes, ["--workers", str(workers), *shlex.split(render)])
    options = WholeModelOptions(corpus, out, recipes, hours, preset, workers, clusters)
    typer.echo(train_whole_model(options))


if __name__ == "__main__":
    run_recipe(lambda: typer.run(main))
