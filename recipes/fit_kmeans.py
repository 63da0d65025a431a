# SPDX-License-Identifier: Apache-2.0
"""Fit the k-means of a semantic tokenizer on one layer of a HuBERT, over vocals and instrumentals together or apart.

    python recipes/fit_kmeans.py SONGS TOKENIZER --hubert RUN/hubert --layer 5 --split-by folder
    python recipes/fit_kmeans.py FMA TOKENIZER --hubert facebook/hubert-large-ll60k --separation audio-separator \\
        --artist-pattern "^([^/]*)/"

Frames of random songs of the training split fill a reservoir, MiniBatchKMeans (k-means++) is fitted to it, and
TOKENIZER is a folder that HAFMSemanticTokenizerModel.from_pretrained reads, with figures.json beside the weights.
Name the split as for `hafm prepare`, --artist-pattern too, or songs that are held out there are clustered here. A
killed run goes on where it was.
"""

import json
import sys
from dataclasses import astuple
from pathlib import Path
from typing import Annotated

import torch
import typer
from tqdm import tqdm

from feature_clusters import Reservoir, SamplingOptions, fit_clusters, sample_features
from hafm_hf.cli.console import report_error
from hafm_hf.cli.options import grouped
from hafm_hf.cli.prepare import SeparationFlags, SplitFlags
from hafm_hf.corpus.filtering import FilterOptions
from hafm_hf.corpus.separation import make_separator
from hafm_hf.corpus.tracks import SplitOptions
from hafm_hf.tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel

SAMPLE_FILE = "sample.npz"


@grouped
def main(
    audio: Annotated[Path, typer.Argument(help="Folder of songs, as for hafm prepare.")],
    tokenizer: Annotated[Path, typer.Argument(help="Folder for the semantic tokenizer.")],
    hubert: Annotated[str, typer.Option(help="Hub id or folder of a HuBERT.")],
    separation: SeparationFlags,
    splits: SplitFlags,
    layer: Annotated[int, typer.Option(help="Hidden state that is clustered.")] = 9,
    clusters: Annotated[int, typer.Option(min=2)] = 500,
    frames: Annotated[
        int, typer.Option(min=1, help="In the sample; 1,024 float32 values each for the paper.")
    ] = 200_000,
    max_tracks: Annotated[int, typer.Option(min=0, help="0 for all.")] = 1000,
    segment_seconds: Annotated[float, typer.Option(min=1.0)] = 12.0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    separate: Annotated[
        bool, typer.Option(help="So many clusters for vocals and for instrumentals each, not shared.")
    ] = False,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    half: Annotated[bool, typer.Option("--half", help="Save the weights in float16.")] = False,
    seed: int = 0,
) -> None:
    """Fits centroids to songs in AUDIO and saves the tokenizer."""
    torch.set_num_threads(threads)
    model = HAFMSemanticTokenizerModel.from_hubert(
        hubert, layer=layer, num_clusters=clusters, separate_centroids=separate
    )
    model.to("cuda" if device == "cuda" or (device == "auto" and torch.cuda.is_available()) else "cpu")
    tokenizer.mkdir(parents=True, exist_ok=True)
    sample = tokenizer / SAMPLE_FILE
    # of one kind: vocals and instrumentals share it unless they are fitted apart
    reservoirs = [Reservoir(frames, seed) for _ in range(2 if separate else 1)]
    with tqdm(desc="songs", unit="song") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        tracks = sample_features(
            model,
            audio,
            make_separator(separation.options(device)),
            reservoirs[0],
            reservoirs[-1],
            SamplingOptions(max_tracks, segment_seconds, seed=seed),
            SplitOptions(*astuple(splits)),
            FilterOptions(),
            progress,
            sample,
        )
    fitted = [fit_clusters(reservoir.rows, clusters, seed) for reservoir in reservoirs]
    model.set_centroids(torch.stack([torch.from_numpy(centroids) for centroids, _ in fitted]).squeeze(0))
    names = ("vocal_", "instrumental_") if separate else ("",)
    figures = {
        f"{name}{key}": value
        for name, (_, found), reservoir in zip(names, fitted, reservoirs, strict=True)
        for key, value in {**found, "frames_seen": reservoir.seen}.items()
    } | {"tracks": tracks}
    (model.half() if half else model).save_pretrained(tokenizer)
    (tokenizer / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    sample.unlink(missing_ok=True)
    typer.echo(json.dumps(figures))


if __name__ == "__main__":
    try:
        typer.run(main)
    except (OSError, ValueError) as error:
        report_error(error)
        sys.exit(1)
