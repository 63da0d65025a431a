# SPDX-License-Identifier: Apache-2.0
"""Render a folder of MIDI songs into aligned vocals and instrumentals for training the bundled model.

    python recipes/build_song_corpus.py SONGS VOICES OUT --workers 2 --line-ups --reharmonised 0.3

SONGS contains POP909's folders, VOICES a folder per voice (recorded syllables and units.tsv). Debian packages needed:
fluidsynth, fluid-soundfont-gm, musescore-general-soundfont-lossless. OUT/{train,validation,test}/SONG_PASS/ gets
vocal.flac, instrumental.flac, its stems (drums, bass, chords, pads) and labels.json with the lead sheet; with
--stereo-rate 44100, also stereo.flac, the same instrumental as left and right. A killed run resumes; each worker uses
one thread.
"""

import logging
import os
import time
from pathlib import Path
from typing import Annotated

import typer

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

from hafm_tiny.songs.song_corpus import SongCorpusOptions, build_corpus, list_tasks  # noqa: E402
from hafm_tiny.songs.styles import STYLES  # noqa: E402
from running import run_recipe  # noqa: E402

logger = logging.getLogger("build_song_corpus")
DEFAULT_SOUNDFONTS = [
    Path("/usr/share/sounds/sf2/FluidR3_GM.sf2"),
    Path("/usr/share/sounds/sf2/MuseScore_General_Full.sf2"),
]
TRAINING_VOICES = ["iona", "scott"]
TEST_VOICES = ["erith"]


def main(
    songs: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of songs in POP909's layout.")],
    voices: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder with one folder per voice.")],
    output: Annotated[Path, typer.Argument(file_okay=False, help="Folder for the corpus.")],
    soundfont: Annotated[list[Path], typer.Option(exists=True, help="Can be repeated.")] = DEFAULT_SOUNDFONTS,
    training_voice: Annotated[list[str], typer.Option(help="For train and validation.")] = TRAINING_VOICES,
    test_voice: Annotated[list[str], typer.Option(help="For test only.")] = TEST_VOICES,
    passes: Annotated[int, typer.Option(min=1, help="Renderings of every song, each in another key and style.")] = 1,
    first_pass: Annotated[int, typer.Option(min=0)] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of songs per pass.")] = None,
    validation_songs: Annotated[int, typer.Option(min=1)] = 50,
    test_songs: Annotated[int, typer.Option(min=1)] = 59,
    styles: Annotated[str, typer.Option(help="Styles to draw from, separated by commas.")] = ",".join(STYLES),
    reharmonised: Annotated[
        float, typer.Option(min=0, max=1, help="Share of songs whose melody gets other chords.")
    ] = 0.0,
    suited: Annotated[bool, typer.Option(help="Draw styles by a song's metre, tempo and density.")] = True,
    line_ups: Annotated[bool, typer.Option(help="Draw instruments for each song and humanise the playing.")] = False,
    seconds: Annotated[tuple[float, float], typer.Option(help="Shortest and longest excerpt of a song.")] = (60, 90),
    stereo_rate: Annotated[int | None, typer.Option(min=24_001, help="Write the band in stereo too, in Hz.")] = None,
    workers: Annotated[int, typer.Option(min=1)] = 1,
    seed: int = 0,
) -> None:
    """Render SONGS, sung by VOICES, into OUTPUT."""
    if unknown := set(styles.split(",")) - set(STYLES):
        raise typer.BadParameter(f"no style is called {', '.join(sorted(unknown))}; choose from {', '.join(STYLES)}.")
    options = SongCorpusOptions(
        songs=songs, voices=voices, soundfonts=tuple(soundfont), output=output, seed=seed,
        styles=tuple(styles.split(",")), reharmonised=reharmonised, line_ups=line_ups,
        training_voices=tuple(training_voice), test_voices=tuple(test_voice),
        validation_songs=validation_songs, test_songs=test_songs, seconds=seconds, stereo_rate=stereo_rate,
        suited=suited,
    )  # fmt: skip
    begin = time.monotonic()
    rendered_seconds = 0.0
    for pass_number in range(first_pass, first_pass + passes):
        tasks = list_tasks(options, pass_number)[:limit]
        for done, (name, song_seconds) in enumerate(build_corpus(options, tasks, workers), start=1):
            rendered_seconds += song_seconds
            speed = rendered_seconds / (time.monotonic() - begin)
            logger.info(
                "pass %d %d/%d %s %.1f s; %.2f h so far at %.0f x real time", pass_number, done, len(tasks), name,
                song_seconds, rendered_seconds / 3600, speed,
            )  # fmt: skip


if __name__ == "__main__":
    run_recipe(lambda: typer.run(main))
