# SPDX-License-Identifier: Apache-2.0
"""Generates all audio in examples/ and styles/ again after the bundled model has changed.

    python recipes/make_examples.py

examples/README.md describes the files. Needs pyworld and the extra studio.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import soundfile
import typer
from transformers import pipeline

from hafm_hf import audio
from hafm_hf.lead_sheet.files import read_lead_sheet
from hafm_hf.pretrained.loading import BUNDLED_MODEL
from make_example_vocal import LEAD_IN, TUNES
from make_example_vocal import main as make_vocal
from style_sounds import write_style_sounds

EXAMPLES = Path(__file__).parents[1] / "examples"
SEED = 1
RATE = 44_100
VOCAL_RATE = 24_000
# libsndfile's compression level, 0 to 1: about 80 kbit/s in stereo
COMPRESSION = 0.8
# name of the tune, vocal file, style, tempo, chords, and number of verses in the long version
PLAYED = (
    ("vocal", "vocal.wav", "folk", 96, "F | Dm | Bb | C F", 3),
    ("low_ballad", "low_ballad.flac", "ballad", 88, "Am | F | C | G Am", 3),
    ("quick_refrain", "quick_refrain.flac", "pop", 116, "G | Em | C | D G", 4),
    ("driving_chorus", "driving_chorus.flac", "rock", 132, "Em | C | G | D | Em", 3),
)

# the whole song: chords of its verses and choruses, and the energy of the band in each, as often as they are sung
VERSE = "G | Em | C | D G"
CHORUS = "Em | C | G | D | Em"
FORM = (("sparse", "normal"), ("normal", "full"), ("normal", "full"))


def write(path: Path, sound: Any, rate: int) -> None:
    """Writes a sound (float32 [N] or [N, C] at `rate` Hz) as OGG Vorbis at 44.1 kHz."""
    sound = audio.turned_down(audio.resample(sound, rate, RATE))
    channels = 1 if sound.ndim == 1 else sound.shape[1]
    with soundfile.SoundFile(path, "w", RATE, channels, "VORBIS", format="OGG", compression_level=COMPRESSION) as file:
        # in pieces of a second: libsndfile crashes on minutes of Vorbis in one call
        for start in range(0, len(sound), RATE):
            file.write(sound[start : start + RATE])
    print(f"wrote {path}")


def write_band(name: str, song: dict[str, Any]) -> None:
    """Writes bands/NAME_STEM.ogg for each stem of a song (as the pipeline returns it), for the Space's page."""
    for stem, sound in song["stems"].items():
        write(EXAMPLES / "bands" / f"{name}_{stem}.ogg", sound, song["sampling_rate"])


def play_whole_song(accompany: Any) -> None:
    """Generates two minutes with verses, choruses, an intro and an outro, and writes mix, stems, vocal and lead sheet.

    Args:
        accompany: the pipeline "vocal-accompaniment".
    """
    tune = TUNES["whole_song"]
    # spans in seconds: the energy of the band, and the names of the song's parts
    sections = []
    form = []
    # the tune has a verse and a chorus, each sung twice
    for number, (verse, chorus) in enumerate(FORM):
        start = LEAD_IN + number * tune.verse_seconds
        change = start + 2 * TUNES["quick_refrain"].verse_seconds
        stop = start + tune.verse_seconds
        sections += [(start, change, verse), (change, stop, chorus)]
        form += [(start, change, "Verse"), (change, stop, "Chorus")]
    # two beats say where they begin and the tempo
    beats = [LEAD_IN, LEAD_IN + 60 / tune.tempo]
    sheet = {"sections": sections, "form": form, "beats": beats, "beats_per_bar": 4, "key": "G"}
    with tempfile.TemporaryDirectory() as folder:
        vocal = Path(folder) / "vocal.flac"
        make_vocal(EXAMPLES / "vocal.wav", vocal, "whole_song", len(FORM))
        chords = " | ".join((VERSE, VERSE, CHORUS, CHORUS))
        options = {"intro_bars": 4, "outro_bars": 4, "balance": "auto", "loudness": -16.0, "stems": True}
        song = accompany(str(vocal), lead_sheet=sheet, chords=chords, style="pop", seed=SEED, **options)
    write(EXAMPLES / "whole_song_accompanied_pop.ogg", song["mix"], song["sampling_rate"])
    write_band("whole_song", song)
    # with silence for intro and outro
    padded_vocal = audio.resample(song["vocals"], song["sampling_rate"], VOCAL_RATE)
    soundfile.write(EXAMPLES / "whole_song.flac", padded_vocal, VOCAL_RATE)
    (EXAMPLES / "bands" / "whole_song.json").write_text(json.dumps(song["lead_sheet"].to_dict()) + "\n")


def main() -> None:
    """Generates the mix of `make demo`, all longer songs, the stored stems, and the sounds of the styles."""
    accompany: Any = pipeline("vocal-accompaniment")
    song = accompany(str(EXAMPLES / "vocal.wav"), seed=SEED)
    write(EXAMPLES / "vocal_accompanied.ogg", song["mix"], song["sampling_rate"])
    for name, file, style, tempo, chords, verses in PLAYED:
        sheet = read_lead_sheet(EXAMPLES / "bands" / f"{name}.json")
        song = accompany(str(EXAMPLES / file), lead_sheet=sheet, seed=SEED, stems=True, tail=1.0)
        write_band(name, song)
        with tempfile.TemporaryDirectory() as folder:
            long_vocal = Path(folder) / "vocal.flac"
            make_vocal(EXAMPLES / "vocal.wav", long_vocal, name, verses)
            options = {"energy": "auto", "balance": "auto", "loudness": -16.0, "tail": 2.0}
            song = accompany(str(long_vocal), style=style, tempo=tempo, chords=chords, seed=SEED, **options)
        write(EXAMPLES / f"{name}_accompanied_{style}.ogg", song["mix"], song["sampling_rate"])
    play_whole_song(accompany)
    for path in write_style_sounds(BUNDLED_MODEL, EXAMPLES / "vocal.wav"):
        print(f"wrote {path}")


if __name__ == "__main__":
    typer.run(main)
