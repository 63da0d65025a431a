# SPDX-License-Identifier: Apache-2.0
"""Make hafm-tiny anew by one command: render songs, train every part on them, and join them to what --model takes.

    python recipes/train_tiny.py SONGS OUT --songs POP909 --voices VOICES --hours 24 --workers 2
    python recipes/train_tiny.py SONGS OUT --hours 24 --workers 2             # songs that are rendered already
    python recipes/train_tiny.py SONGS OUT --songs POP909 --voices VOICES --render="--limit 14" \\
        --preset trial --hours 0.01
    hafm accompany vocal.wav --model OUT/model

Songs, spectral codec, its decoder alone, HuBERT, k-means, the vocal's space, tokens, the three stages,
listener, separator, their joining and the card, in order, each a process with a log and checkpoints in OUT: after a
stop the same command goes on. The stages read the lead sheet: chords, beats and bars, style, and energy where songs
have sections. --preset trial shows in minutes that all of it runs, without music; --preset small is for a GPU, which
all parts use where there is one. hafm-tiny itself learnt in several goes, from a trio first (MODEL_CARD.md): sizes are
the same here, the weights are not. docs/training.md says how HAFM-Base is trained.
"""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from hafm_tiny.whole_model import WholeModelOptions, render_songs, train_whole_model
from running import run_recipe


def main(
    corpus: Annotated[Path, typer.Argument(file_okay=False, help="What build_song_corpus.py wrote, or is to write.")],
    out: Annotated[Path, typer.Argument(file_okay=False, help="Gets the parts, and the composite as OUT/model.")],
    hours: Annotated[float, typer.Option(help="Of training, by the clock; tokens and clusters come on top.")] = 2.0,
    preset: Annotated[str, typer.Option(help="trial, tiny or small.")] = "tiny",
    workers: Annotated[int, typer.Option(min=1, help="Parts side by side, a core each.")] = 1,
    clusters: Annotated[int, typer.Option(min=2, help="Of the k-means, for voice and band each.")] = 500,
    songs: Annotated[Path | None, typer.Option(exists=True, file_okay=False, help="MIDI songs to render.")] = None,
    voices: Annotated[Path | None, typer.Option(exists=True, file_okay=False, help="Who sings them.")] = None,
    render: Annotated[str, typer.Option(help="Options of build_song_corpus.py.")] = "--reharmonised 0.3",
) -> None:
    """Trains a whole model on CORPUS into OUT."""
    if (songs is None) != (voices is None):
        raise typer.BadParameter("songs are rendered from --songs and --voices; give both, or neither.")
    recipes = Path(__file__).parent
    if songs is not None and voices is not None:
        render_songs(songs, voices, corpus, recipes, ["--workers", str(workers), *shlex.split(render)])
    options = WholeModelOptions(corpus, out, recipes, hours, preset, workers, clusters)
    typer.echo(train_whole_model(options))


if __name__ == "__main__":
    run_recipe(lambda: typer.run(main))
