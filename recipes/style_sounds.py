# SPDX-License-Identifier: Apache-2.0
"""Accompanies a vocal in each of a model's styles: `styles/NAME.ogg`, which the Space plays and the card links to.

python recipes/style_sounds.py MODEL examples/vocal.wav
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import soundfile
import typer

from hafm_hf import HAFMForVocalAccompaniment, audio
from hafm_hf.lead_sheet.vocabulary import USUAL_METRE
from running import run_recipe

# long enough for a pattern and a change of chords
SECONDS = 8.0
SEED = 1
# libsndfile's compression level, 0 to 1: about 40 kbit/s at 24 kHz
COMPRESSION = 0.85


def write_style_sounds(folder: Path, vocal: Path) -> list[Path]:
    """Writes the first 8 s of a vocal's accompaniment in each style of a model.

    A style that does not suit the vocal's metre counts the vocal's beats in a metre that it suits.

    Args:
        folder: of the composite; gets styles/NAME.ogg.
        vocal: sound file.

    Returns:
        The paths written.
    """
    model = HAFMForVocalAccompaniment.from_pretrained(folder)
    samples, rate = audio.read_audio(vocal, seconds=SECONDS)
    estimate = model.complete_lead_sheet(samples, rate)
    metre = estimate.beats_per_bar or USUAL_METRE
    paths = [folder / "styles" / f"{style}.ogg" for style in model.styles]
    for path in paths:
        sheet = None  # the model's estimate
        metres = model.encoder.style_ranges[path.stem].metres
        if metre not in metres:
            sheet = replace(estimate, beats_per_bar=metres[0])
        (instrumental,) = model.generate(samples, rate, lead_sheet=sheet, style=path.stem, seed=SEED).audio
        band = audio.turned_down(audio.fade_edges(instrumental.numpy().T, model.sampling_rate))
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, band, model.sampling_rate, format="OGG", subtype="VORBIS", compression_level=COMPRESSION)
    return paths


def main(
    model: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of a composite.")],
    vocal: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Vocal to accompany.")],
) -> None:
    """Write the first 8 s of VOCAL's accompaniment in each style of MODEL beside MODEL."""
    for written in write_style_sounds(model, vocal):
        print(f"wrote {written}")


if __name__ == "__main__":
    run_recipe(lambda: typer.run(main))
