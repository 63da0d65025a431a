# SPDX-License-Identifier: Apache-2.0
"""A blind listening test that compares versions of the same songs: writes a static page, and evaluates the answers.

    python recipes/listening_test.py page TEST before=songs-before after=songs-after --reference band=songs-band
    python recipes/listening_test.py score TEST anna.json bo.json

All folders have files of the same names, one per song. TEST/page can be put on any web server or opened from disk:
listeners rate the versions of a song, shuffled and at equal loudness, on a scale from 0 to 100 (after MUSHRA, ITU-R
BS.1534), and save their answers as JSON. The reference is played both openly and hidden among the versions; listeners
who rate the hidden one below 90 for more than 15 % of the songs are excluded, as the recommendation says.
TEST/key.json maps sounds to versions and must not be published.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import soundfile
import typer

from hafm_hf import audio
from hafm_hf.corpus.tracks import AUDIO_SUFFIXES
from hafm_hf.evaluation.statistics import Interval, bootstrap_mean
from running import run_recipe

# RMS level of all sounds, lower if one would clip; and the highest peak that does not
LEVEL_DBFS = -23.0
CEILING = 0.99
# minimum score of the hidden reference, and share of songs in which it may be lower
LEAST_SCORE = 90
MISSED = 0.15
TEMPLATE = Path(__file__).with_suffix(".html")
app = typer.Typer(help="Compare versions of songs blindly.", no_args_is_help=True)
Folder = Annotated[Path, typer.Argument(file_okay=False, help="Folder of the test.")]


@app.command()
def page(
    test: Folder,
    versions: Annotated[list[str], typer.Argument(help="NAME=FOLDER of each version.")],
    reference: Annotated[str, typer.Option(help="NAME=FOLDER of the reference.")] = "",
) -> None:
    """Writes the page, its sounds and the key.

    Raises:
        ValueError: a version is not NAME=FOLDER, there are too few, or the folder holds a finished test.
    """
    folders = {}
    for version in [*versions, *filter(None, [reference])]:
        name, _, folder = version.partition("=")
        if name in folders or not folder or not Path(folder).is_dir():
            raise ValueError("Give each version as NAME=FOLDER, with a name of its own and a folder that exists.")
        folders[name] = Path(folder)
    reference_name = reference.partition("=")[0]
    files = [{path.name for path in folder.iterdir()} for folder in folders.values()]
    songs = sorted(name for name in set.intersection(*files) if name.lower().endswith(AUDIO_SUFFIXES))
    if len(folders) < 2 or not songs:
        raise ValueError("A comparison needs two versions with sound files of the same names.")
    sounds = test / "page" / "sounds"
    if (test / "key.json").exists():
        raise ValueError(f"{test} is a finished test, which people may be answering; name another folder.")
    sounds.mkdir(parents=True, exist_ok=True)

    key: dict[str, dict[str, str]] = {}
    trials: list[dict[str, Any]] = []
    for song in songs:
        # by version, the name of its sound, which does not reveal the version
        codes = {name: _digest(f"{test.resolve()}/{song}/{name}") for name in folders}
        sounds_read = {code: soundfile.read(folders[name] / song, dtype="float32") for name, code in codes.items()}
        # all versions of a song are equally loud, at a level at which none clips; silence has none
        level = min([LEVEL_DBFS, *(highest_level(samples) for samples, _ in sounds_read.values() if samples.any())])
        for code, (samples, rate) in sounds_read.items():
            gain = 1.0
            if samples.any():
                gain = 10 ** ((level - audio.rms_dbfs(samples)) / 20)
            soundfile.write(sounds / f"{code}.flac", np.float32(gain) * samples, rate)
        key[song] = {code: name for name, code in codes.items()}
        trial: dict[str, Any] = {"song": song, "sounds": sorted(codes.values())}
        if reference:
            # under a name of its own, so that it does not reveal the hidden reference
            hidden = codes[reference_name]
            trial["reference"] = _digest(f"open {hidden}")
            shutil.copy(sounds / f"{hidden}.flac", sounds / f"{trial['reference']}.flac")
        trials.append(trial)

    content = TEMPLATE.read_text().replace("/* TRIALS */", json.dumps(trials))
    (test / "page" / "index.html").write_text(content)
    (test / "key.json").write_text(json.dumps({"reference": reference_name, "songs": key}, indent=2))
    print(f"wrote {test / 'page' / 'index.html'}: {len(songs)} songs in {len(folders)} versions")


def _digest(text: str) -> str:
    """A name that reveals nothing of what it stands for, always the same for the same text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def highest_level(samples: np.ndarray) -> float:
    """The RMS level in dBFS at which the highest peak of samples (float32 [N] or [N, C]) is `CEILING`."""
    # at least 1e-6, so that silence divides by no zero
    peak = max(float(np.abs(samples).max()), 1e-6)
    return audio.rms_dbfs(samples) + 20 * float(np.log10(CEILING / peak))


@app.command()
def score(test: Folder, answers: Annotated[list[Path], typer.Argument(dir_okay=False, exists=True)]) -> None:
    """Prints the mean score of each version, with its interval over songs, from the files saved by the page."""
    key = json.loads((test / "key.json").read_text())
    for name, mean in scores(key, [json.loads(path.read_text()) for path in answers]).items():
        print(f"{name}: {mean.value:.1f} [{mean.low:.1f}, {mean.high:.1f}], {mean.n} answers, {mean.songs} songs")


def scores(key: dict[str, Any], answers: list[dict[str, Any]]) -> dict[str, Interval]:
    """The mean score of each version, by listeners who recognised the reference.

    Args:
        key: the contents of key.json.
        answers: the files saved by the page, one per listener: {"listener": …, "scores": {song: {sound: 0 to 100}}}.

    Returns:
        By version, the mean of 0 to 100 over answers with its interval over songs.

    Raises:
        ValueError: answers belong to another test, or no listener recognised the reference.
    """
    ratings: dict[str, list[tuple[float, str]]] = {}  # by version: scores, and their songs
    for answer in answers:
        # by song and version instead of by song and sound
        by_version = {
            song: {key["songs"][song][code]: value for code, value in scores_of_sounds.items()}
            for song, scores_of_sounds in answer["scores"].items()
            if song in key["songs"] and scores_of_sounds.keys() <= key["songs"][song].keys()
        }
        if by_version.keys() != answer["scores"].keys():
            raise ValueError(f"The answers of {answer.get('listener') or 'a listener'} belong to another test.")
        # without a reference, nobody can miss it
        missed = [song_scores.get(key["reference"], 100) < LEAST_SCORE for song_scores in by_version.values()]
        if np.mean(missed) > MISSED:
            continue
        for song, song_scores in by_version.items():
            for name, value in song_scores.items():
                ratings.setdefault(name, []).append((float(value), song))
    if not ratings:
        raise ValueError("No listener recognised the reference.")
    return {
        name: bootstrap_mean([value for value, _ in rated], [song for _, song in rated])
        for name, rated in sorted(ratings.items())
    }


if __name__ == "__main__":
    run_recipe(app)
