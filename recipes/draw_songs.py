# SPDX-License-Identifier: Apache-2.0
"""Draws each example song as an SVG: the voice, the stems of its band, and the chords above them.

    python recipes/draw_songs.py examples

Reads NAME.flac or NAME.wav and bands/NAME_STEM.ogg and bands/NAME.json in the folder, and writes NAME.svg there.
"""

import json
from html import escape
from itertools import pairwise
from pathlib import Path

import numpy as np
import typer

from hafm_hf.audio import read_audio

# in pixels: the picture's width, a lane's height, the height of the chords above the lanes, a column of the envelope
WIDTH = 720
LANE = 26
TOP = 22
STEP = 3
# between the beginnings of two chord names that can both be read
LEAST_GAP = 34
# of the voice and the stems, legible on white and on black
COLOURS = {"voice": "#d9480f", "drums": "#868e96", "bass": "#1c7ed6", "chords": "#2b8a3e", "pads": "#9c36b5"}
# a stem's loudest moment would hide the rest
LOUD_QUANTILE = 0.99


def envelope(samples: np.ndarray, count: int) -> np.ndarray:
    """Peak level of each of `count` equal parts of samples (float32 [N]), relative to a loud part: 0 to 1, [count]."""
    edges = np.linspace(0, len(samples), count + 1).astype(int)
    peaks = np.array([np.abs(samples[first:last]).max(initial=0.0) for first, last in pairwise(edges)])
    loud = float(np.quantile(peaks, LOUD_QUANTILE))
    # at least 0.001, so that silence is drawn as silence
    return np.minimum(peaks / max(loud, 1e-3), 1.0)


def lane(name: str, samples: np.ndarray, top: int) -> str:
    """An SVG path that fills the envelope of a sound, mirrored about the middle of its lane.

    Args:
        name: of the voice or stem.
        samples (float32 [N]): the sound.
        top: of the lane, in pixels.
    """
    # 2 pixels are left free above and below
    levels = envelope(samples, WIDTH // STEP) * (LANE / 2 - 2)
    middle = top + LANE / 2
    upper = [f"{STEP * column} {middle - level:.1f}" for column, level in enumerate(levels)]
    lower = [f"{STEP * column} {middle + level:.1f}" for column, level in enumerate(levels)]
    return f'<path fill="{COLOURS[name]}" d="M{" L".join(upper + lower[::-1])}Z"><title>{name}</title></path>'


def drawing(folder: Path, name: str) -> str:
    """A song as an SVG document: the voice and the stems of its band in lanes, below the chords' names.

    Args:
        folder: with NAME.flac or NAME.wav, bands/NAME_STEM.ogg and bands/NAME.json.
        name: NAME.
    """
    (vocal,) = [path for path in folder.glob(f"{name}.*") if path.suffix in (".wav", ".flac")]
    samples, rate = read_audio(vocal)
    seconds = len(samples) / rate
    sounds = {"voice": samples}
    for stem in list(COLOURS)[1:]:  # all but the voice
        band, band_rate = read_audio(folder / "bands" / f"{name}_{stem}.ogg")
        sounds[stem] = band[: round(seconds * band_rate)]
    elements = []
    # from where on the next label does not overlap the last one, in pixels
    free_from = 0.0
    for start, _, label in json.loads((folder / "bands" / f"{name}.json").read_text())["chords"]:
        left = WIDTH * start / seconds
        if start < seconds and free_from <= left <= WIDTH - LEAST_GAP / 2:
            free_from = left + LEAST_GAP
            elements.append(f'<text x="{left:.0f}" y="14" font-size="12" fill="#868e96">{escape(label)}</text>')
    elements += [lane(stem, sound, TOP + number * LANE) for number, (stem, sound) in enumerate(sounds.items())]
    height = TOP + LANE * len(sounds)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">'
    return "\n".join([head, *elements, "</svg>\n"])


def main(folder: Path) -> None:
    """Draws every song of the folder that has a band."""
    for sheet in sorted(folder.glob("bands/*.json")):
        path = folder / f"{sheet.stem}.svg"
        path.write_text(drawing(folder, sheet.stem))
        print(f"wrote {path}")


if __name__ == "__main__":
    typer.run(main)
