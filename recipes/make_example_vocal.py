"""Make the example vocal that lies in the repository: four bars of the project's own, sung by a voice of syllables.

    python recipes/make_example_vocal.py VOICES/iona examples/vocal.wav

Needs pyworld. The tune was written for this file: F major, 96 beats a minute, over the chords F, Dm, Bb, C and F.
"""

import logging
from pathlib import Path
from typing import Annotated

import numpy as np
import soundfile
import typer

from hafm_tiny.songs.effects import room, to_level
from hafm_tiny.songs.midi_song import Note
from hafm_tiny.songs.singer import Manner, load_voice, sing, sung_notes

logger = logging.getLogger("make_example_vocal")
BEATS_PER_MINUTE = 96
LEAD_IN = 0.2
SECONDS = 10.4
LEVEL_DB = -18.0
# (MIDI pitch or None for a rest, length in beats)
MELODY: tuple[tuple[int | None, float], ...] = (
    (69, 1), (72, 0.5), (69, 0.5), (67, 1), (65, 1),
    (69, 1.5), (67, 0.5), (65, 1), (62, 0.5), (None, 0.5),
    (62, 0.5), (65, 0.5), (67, 0.5), (69, 0.5), (70, 1), (69, 1),
    (67, 1), (64, 0.5), (67, 0.5), (65, 2),
)  # fmt: skip
MANNER = Manner(
    note_error=4, drift=4, vibrato_depth=25, portamento=0.07, scoop=60, onset_jitter=0.006, melisma=0.1,
    dynamics_db=1.5, breathiness=0.1, breath_db=-32,
)  # fmt: skip


def melody() -> list[Note]:
    """The tune as notes in seconds."""
    notes, beat = [], 0.0
    for pitch, beats in MELODY:
        if pitch is not None:
            start, end = (LEAD_IN + at * 60 / BEATS_PER_MINUTE for at in (beat, beat + beats))
            notes.append(Note(start, end, pitch))
        beat += beats
    return notes


def main(
    voice: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder with syllables and units.tsv.")],
    output: Annotated[Path, typer.Argument(dir_okay=False, help="WAV file to write.")],
    seed: int = 7,
) -> None:
    """Sing the tune with VOICE into OUTPUT."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    generator = np.random.default_rng(seed)
    singer = load_voice(voice)
    notes = sung_notes(melody(), MANNER, generator)
    audio = sing(singer, notes, SECONDS, MANNER, seed)
    audio = room(audio, singer.sampling_rate, seconds=0.35, wet_db=-16, generator=generator)
    soundfile.write(output, to_level(audio, LEVEL_DB), singer.sampling_rate, subtype="PCM_16")
    logger.info("%s: %.1f s at %d Hz", output, SECONDS, singer.sampling_rate)


if __name__ == "__main__":
    typer.run(main)
