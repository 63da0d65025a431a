# SPDX-License-Identifier: Apache-2.0
"""Train every part of a model like hafm-tiny, from rendered songs to a folder that --model takes.

    python recipes/build_song_corpus.py POP909 VOICES CORPUS --trio --workers 2
    python recipes/train_tiny.py CORPUS OUT --hours 2 --workers 2
    python recipes/train_tiny.py BANDS OUT --hours 8 --workers 2
    hafm accompany vocal.wav --model OUT/model

Codec, its decoder alone, HuBERT, k-means, the vocal's space, tokens, the three stages, chords, separator and their
joining, in order, each a process with a log and checkpoints in OUT: after a stop the same command goes on. The stages
read the lead sheet: chords, beats and bars, style, and energy where songs have sections. BANDS is rendered without
--trio, and gets a separator of stems. --preset trial shows in minutes that all of it runs, without music; --preset
small is for a GPU, which is used where there is one. hafm-tiny itself began from stages and a codec of the trio
(MODEL_CARD.md). docs/training.md says how HAFM-Base is trained.
"""

from pathlib import Path
from typing import Annotated

import typer

from hafm_tiny.whole_model import WholeModelOptions, train_whole_model
from running import run_recipe


def main(
    corpus: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="What build_song_corpus.py wrote.")],
    out: Annotated[Path, typer.Argument(file_okay=False, help="Gets the parts, and the composite as OUT/model.")],
    hours: Annotated[float, typer.Option(help="Of training, by the clock; tokens and clusters come on top.")] = 2.0,
    preset: Annotated[str, typer.Option(help="trial, tiny or small.")] = "tiny",
    workers: Annotated[int, typer.Option(min=1, help="Parts side by side, a core each.")] = 1,
    clusters: Annotated[int, typer.Option(min=2, help="Of the k-means, for voice and band each.")] = 500,
) -> None:
    """Trains a whole model on CORPUS into OUT."""
    options = WholeModelOptions(corpus, out, Path(__file__).parent, hours, preset, workers, clusters)
    typer.echo(train_whole_model(options))


if __name__ == "__main__":
    run_recipe(lambda: typer.run(main))
