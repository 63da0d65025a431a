# SPDX-License-Identifier: Apache-2.0
"""Separates songs into vocals and accompaniment once, for all further steps: k-means and tokens.

python recipes/separate.py SONGS STEMS --separation audio-separator --device cuda --workers 8

STEMS gets TRACK/vocals.flac and TRACK/accompaniment.flac, which `hafm prepare STEMS CORPUS` and fit_kmeans.py read. A
killed run resumes, and --engine ray:HOST:PORT uses a Ray cluster that shares both folders.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from hafm_hf.cli.options import Engine, Workers, engine_arguments
from hafm_hf.corpus.engines import run_on
from hafm_hf.corpus.stems import write_stems
from hafm_hf.corpus.tokenizing import torch_device
from hafm_hf.corpus.tracks import TrackError, display_name, find_audio
from running import run_recipe
from separators import SEPARATORS, SeparatorOptions, make_separator


@dataclass(frozen=True)
class Separation:
    """Options of every worker: the separator, the folder of songs, and the folder for stems."""

    separator: SeparatorOptions
    songs: Path
    stems: Path


def separate(separation: Separation, song: str) -> tuple[str, str]:
    """Separates one song, and writes its stems.

    Args:
        separation: separator and folders.
        song: its path below the folder of songs.

    Returns:
        The path, and why it could not be separated; "" if it was.
    """
    folder = separation.stems / display_name(song)
    try:
        write_stems(folder, make_separator(separation.separator).separate(separation.songs / song))
    except TrackError as error:
        return song, str(error)
    return song, ""


def main(
    songs: Annotated[Path, typer.Argument(help="Folder of songs.", file_okay=False)],
    stems: Annotated[Path, typer.Argument(help="Folder for the stems.", file_okay=False)],
    engine: Engine = "local",
    workers: Workers = 1,
    separation: Annotated[str, typer.Option(help=f"Library: {' or '.join(SEPARATORS)}.")] = "audio-separator",
    separation_model: Annotated[str, typer.Option(help="NAME, or FOLDER/NAME; default: the paper's.")] = "",
    max_minutes: Annotated[float, typer.Option(min=0.1, help="Longer files are skipped.")] = 30.0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda; workers share the GPUs.")] = "auto",
) -> None:
    """Separates all songs that have no stems yet, and prints those that cannot be separated to stderr."""
    if stems.resolve().is_relative_to(songs.resolve()):
        raise ValueError(f"{stems} is inside {songs}, and stems would be separated again; choose another folder.")
    model_dir, model = os.path.split(separation_model)
    options = SeparatorOptions(separation, model, model_dir, device, max_minutes * 60)
    paths = find_audio(songs)[0]
    missing = [song for song in paths if not (stems / display_name(song) / "accompaniment.flac").is_file()]
    failed = []
    # absolute, because a worker may run in another folder
    separation_options = Separation(options, songs.resolve(), stems.resolve())
    separated = run_on(
        make=separate,
        options=separation_options,
        jobs=missing,
        gpus=int(torch_device(device) == "cuda"),
        **engine_arguments(engine, workers),
    )
    for name, reason in tqdm(separated, total=len(paths), initial=len(paths) - len(missing), unit="song"):
        if reason:
            failed.append(name)
            tqdm.write(f"{name}: {reason}", file=sys.stderr)
    print(f"{len(paths) - len(failed)} of {len(paths)} songs have stems in {stems}")


if __name__ == "__main__":
    run_recipe(lambda: typer.run(main))
