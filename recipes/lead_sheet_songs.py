# SPDX-License-Identifier: Apache-2.0
"""Write lead sheets in a metre as songs for recipes/build_song_corpus.py, such as waltzes, of which POP909 has few.

    python recipes/lead_sheet_songs.py lead_sheets.jsonl.gz SONGS --metre 3/4

SONGS/sheet_NNNN/ gets a MIDI file with the melody, and beats and chords as text. POP909's folders can lie beside them.
"""

from pathlib import Path
from typing import Annotated

import typer

from hafm_tiny.songs.lead_sheet_songs import lead_sheet_songs, write_song
from running import run_recipe


def main(
    lead_sheets: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="One JSON object per line, gzipped.")
    ],
    output: Annotated[Path, typer.Argument(file_okay=False, help="Folder for the songs.")],
    metre: Annotated[str, typer.Option(help="3/4 or 4/4.")] = "3/4",
    tempo: Annotated[tuple[float, float], typer.Option(help="Slowest and fastest tempo to draw, in BPM.")] = (84, 168),
) -> None:
    """Write those of LEAD_SHEETS that are in a metre as song folders to OUTPUT."""
    count = 0
    for count, song in enumerate(lead_sheet_songs(lead_sheets, metre, tempo), start=1):
        write_song(song, output / f"sheet_{count:04d}")
    print(f"wrote {count} songs in {metre} to {output}")


if __name__ == "__main__":
    run_recipe(lambda: typer.run(main))
