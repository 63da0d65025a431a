# SPDX-License-Identifier: Apache-2.0
"""Separates songs into vocals and accompaniment once, for all that comes after: k-means, tokens, evaluation.

python recipes/separate.py SONGS STEMS --separation audio-separator --device cuda --workers 8
python recipes/separate.py MUSDB18 PAIRS --musdb --separation audio-separator --device cuda

STEMS gets TRACK/vocals.flac and TRACK/accompaniment.flac, which `hafm prepare STEMS CORPUS` and fit_kmeans.py read; a
killed run goes on where it was, and --engine ray:HOST:PORT takes a Ray cluster that shares both folders. With --musdb,
PAIRS gets MUSDB18's test songs as `hafm evaluate --pairs PAIRS` reads them for FAD_i and FAD_s: isolated vocals, the
sum of the other stems, and the vocals that the separator takes out of the mix.
"""

import functools
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import soundfile
import typer
from tqdm import tqdm

from hafm_hf.atomic_files import replacing
from hafm_hf.cli.options import EngineFlags, grouped
from hafm_hf.corpus.engines import run_on
from hafm_hf.corpus.stems import Stems, write_stems
from hafm_hf.corpus.tokenizing import torch_device
from hafm_hf.corpus.tracks import TrackError, display_name, find_audio
from running import run_recipe
from separators import SeparatorOptions, make_separator

SEPARATED = "vocals_separated.flac"


@dataclass(frozen=True)
class Separation:
    """What every worker is told: the separator, where the songs are, where stems go, and whether it is MUSDB18."""

    separator: SeparatorOptions
    songs: Path
    stems: Path
    musdb: bool


@functools.cache
def musdb_tracks(root: Path) -> dict[str, Any]:
    """Test tracks of MUSDB18 (.stem.mp4, which needs ffmpeg) or MUSDB18-HQ (.wav) by name, through the package musdb.

    Raises:
        ValueError: the folder holds no such tracks.
    """
    import musdb

    waves = any((root / "test").glob("*/mixture.wav"))
    tracks = {track.name: track for track in musdb.DB(root=str(root), subsets=["test"], is_wav=waves)}
    if not tracks:
        raise ValueError(f"{root} holds no test tracks of MUSDB18; name the folder that holds test/.")
    return tracks


def separate(what: Separation, song: str) -> tuple[str, str]:
    """Separates one song, a path below the folder: its name, and why it has no stems if it has none."""
    folder = what.stems / display_name(song)
    try:
        if what.musdb:
            write_pair(what, musdb_tracks(what.songs)[song], folder)
        else:
            write_stems(folder, make_separator(what.separator).separate(what.songs / song))
    except TrackError as error:
        return song, str(error)
    return song, ""


def write_pair(what: Separation, track: Any, folder: Path) -> None:
    """A song of MUSDB18: its isolated vocals, the sum of its other stems, and at last the vocals out of its mix."""
    with tempfile.TemporaryDirectory(prefix="hafm-musdb-") as temporary:
        mix = Path(temporary, "mix.wav")
        soundfile.write(mix, track.audio, track.rate, subtype="PCM_24")
        separated = make_separator(what.separator).separate(mix)
    vocal, band = (track.targets[name].audio.mean(axis=1) for name in ("vocals", "accompaniment"))
    write_stems(folder, Stems(vocal, band, int(track.rate)))
    with replacing(folder / SEPARATED) as file:
        soundfile.write(file, separated.vocal, separated.sampling_rate, format="FLAC", subtype="PCM_16")


@grouped
def main(
    songs: Annotated[Path, typer.Argument(help="Folder of songs, or of MUSDB18.", file_okay=False)],
    stems: Annotated[Path, typer.Argument(help="Folder for the stems.", file_okay=False)],
    engine: EngineFlags,
    separation: Annotated[Literal["audio-separator", "demucs"], typer.Option(help="Library.")] = "audio-separator",
    separation_model: Annotated[str, typer.Option(help="NAME, or FOLDER/NAME; the paper's if not given.")] = "",
    musdb: Annotated[bool, typer.Option("--musdb", help="SONGS is MUSDB18 or MUSDB18-HQ: its test songs.")] = False,
    max_minutes: Annotated[float, typer.Option(min=0.1, help="Longer files are left out.")] = 30.0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda; workers take the GPUs in turn.")] = "auto",
) -> None:
    """Separates what has no stems yet."""
    model_dir, model = os.path.split(separation_model)
    options = SeparatorOptions(separation, model, model_dir, device, max_minutes * 60)
    found = sorted(musdb_tracks(songs)) if musdb else find_audio(songs)[0]
    last = SEPARATED if musdb else "accompaniment.flac"
    missing = [song for song in found if not (stems / display_name(song) / last).is_file()]
    failed = []
    what = Separation(options, songs.resolve(), stems.resolve(), musdb)
    made = run_on(
        make=separate, options=what, jobs=missing, gpus=int(torch_device(device) == "cuda"), **engine.asked()
    )
    for name, reason in tqdm(made, total=len(found), initial=len(found) - len(missing), unit="song"):
        if reason:
            failed.append(name)
            tqdm.write(f"{name}: {reason}", file=sys.stderr)
    print(f"{len(found) - len(failed)} of {len(found)} songs have stems in {stems}")


if __name__ == "__main__":
    run_recipe(lambda: typer.run(main))
