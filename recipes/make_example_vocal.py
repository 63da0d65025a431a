# SPDX-License-Identifier: Apache-2.0
"""Make the example vocals of the repository: original tunes, sung by a voice made of syllables.

    python recipes/make_example_vocal.py VOICES/iona examples/vocal.wav
    python recipes/make_example_vocal.py examples/vocal.wav examples/low_ballad.flac --tune low_ballad
    python recipes/make_example_vocal.py examples/vocal.wav examples/quick_refrain.flac --tune quick_refrain
    python recipes/make_example_vocal.py examples/vocal.wav examples/driving_chorus.flac --tune driving_chorus

Needs pyworld. The tunes were written for these files. If VOICE is an audio file, it is a recording of the first tune,
which is cut into syllables.
"""

import logging
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import soundfile
import typer

from hafm_tiny.songs.effects import room, to_level
from hafm_tiny.songs.midi_song import Note
from hafm_tiny.songs.singer import Manner, load_voice, sing, sung_notes

logger = logging.getLogger("make_example_vocal")
# seconds of silence before the first note
LEAD_IN = 0.2
LEVEL_DB = -18.0
# gain from one verse to the next
VERSE_DB = 3.0
# for syllables cut from a song: start of the vowel, and end of the part that is not stretched (ms)
VOWEL_MS = 60
FIXED_MS = 120
Melody = tuple[tuple[int | None, float], ...]
MANNER = Manner(
    note_error=4, drift=4, vibrato_depth=25, portamento=0.07, scoop=60, onset_jitter=0.006, melisma=0.1,
    dynamics_db=1.5, breathiness=0.1, breath_db=-32,
)  # fmt: skip


@dataclass(frozen=True)
class Tune:
    """A melody of (MIDI pitch or None for a rest, length in beats), its tempo in BPM, and how it is sung."""

    tempo: float
    melody: Melody
    manner: Manner = field(default=MANNER)

    @property
    def verse_seconds(self) -> float:
        """Length of the melody in seconds."""
        return sum(beats for _, beats in self.melody) * 60 / self.tempo

    @property
    def notes(self) -> list[Note]:
        """The notes, with times in seconds, the first at `LEAD_IN`; rests are left out."""
        notes = []
        beat = 0.0  # where the note begins
        for pitch, beats in self.melody:
            if pitch is not None:
                start = LEAD_IN + beat * 60 / self.tempo
                end = LEAD_IN + (beat + beats) * 60 / self.tempo
                notes.append(Note(start, end, pitch))
            beat += beats
        return notes


TUNES = {
    # F major over F, Dm, Bb, C and F
    "vocal": Tune(96, (
        (69, 1), (72, 0.5), (69, 0.5), (67, 1), (65, 1),
        (69, 1.5), (67, 0.5), (65, 1), (62, 0.5), (None, 0.5),
        (62, 0.5), (65, 0.5), (67, 0.5), (69, 0.5), (70, 1), (69, 1),
        (67, 1), (64, 0.5), (67, 0.5), (65, 2),
    )),
    # A minor over Am, F, C, G and Am, slow and in a lower voice
    "low_ballad": Tune(88, (
        (57, 1), (60, 0.5), (57, 0.5), (64, 1), (60, 1),
        (60, 1.5), (57, 0.5), (53, 1.5), (None, 0.5),
        (55, 1), (60, 0.5), (55, 0.5), (64, 1), (60, 1),
        (59, 1), (62, 0.5), (59, 0.5), (57, 2),
    ), replace(MANNER, formant=0.88)),
    # G major over G, Em, C, D and G, quick
    "quick_refrain": Tune(116, (
        (67, 0.5), (71, 0.5), (74, 1), (71, 0.5), (67, 0.5), (69, 1),
        (71, 1), (67, 0.5), (64, 0.5), (67, 1.5), (None, 0.5),
        (72, 0.5), (71, 0.5), (72, 1), (76, 1), (72, 1),
        (74, 0.5), (72, 0.5), (71, 0.5), (69, 0.5), (67, 2),
    )),
    # E minor over Em, C, G, D and Em, quicker still and straighter, in a fuller voice
    "driving_chorus": Tune(132, (
        (71, 1), (71, 0.5), (69, 0.5), (67, 1), (64, 1),
        (67, 0.5), (67, 0.5), (69, 1), (67, 0.5), (64, 1), (None, 0.5),
        (71, 1), (74, 1), (71, 0.5), (69, 0.5), (67, 1),
        (69, 1), (69, 0.5), (66, 0.5), (69, 1.5), (None, 0.5),
        (71, 0.5), (69, 0.5), (67, 1), (64, 2),
    ), replace(MANNER, formant=0.95, vibrato_depth=15, scoop=90, portamento=0.05)),
}  # fmt: skip
# a verse and a chorus of the last two tunes, each sung twice, at the tempo of the verse
TUNES["whole_song"] = replace(
    TUNES["quick_refrain"], melody=2 * TUNES["quick_refrain"].melody + 2 * TUNES["driving_chorus"].melody
)


def cut(song: Path, folder: Path) -> Path:
    """Cuts a recording of the tune "vocal" into syllables, a file for each note.

    Args:
        song: the recording.
        folder: gets the syllables, and units.tsv, which lists them for `load_voice`.

    Returns:
        The folder.
    """
    audio, rate = soundfile.read(song)
    rows = []
    for number, note in enumerate(TUNES["vocal"].notes):
        name = f"u{number:03}.flac"
        soundfile.write(folder / name, audio[round(note.start * rate) : round(note.end * rate)], rate)
        # file, name of the syllable, and in ms the end of the part that is not stretched and the vowel's start
        rows.append(f"{name}\tn{number}\t{FIXED_MS}\t{VOWEL_MS}\n")
    (folder / "units.tsv").write_text("".join(rows))
    return folder


def main(
    voice: Annotated[Path, typer.Argument(exists=True, help="Folder with syllables and units.tsv, or vocal.wav.")],
    output: Annotated[Path, typer.Argument(dir_okay=False, help="Sound file to write.")],
    tune: str = "vocal",
    verses: Annotated[int, typer.Option(min=1, help="How often to sing it; each time louder.")] = 1,
    seed: int = 7,
) -> None:
    """Sing a tune with VOICE into OUTPUT."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if tune not in TUNES:
        raise typer.BadParameter(f"There is no tune {tune}; choose from {', '.join(TUNES)}.")
    generator = np.random.default_rng(seed)
    chosen = TUNES[tune]
    with tempfile.TemporaryDirectory() as folder:
        singer = load_voice(voice if voice.is_dir() else cut(voice, Path(folder)))
    # with 0.2 s after the last note
    seconds = LEAD_IN + 0.2 + verses * chosen.verse_seconds
    notes = replace(chosen, melody=verses * chosen.melody).notes
    audio = sing(singer, sung_notes(notes, chosen.manner, generator), seconds, chosen.manner, seed)
    # the number of each sample's verse; the last one is not turned down
    verse = np.clip((np.arange(len(audio)) / singer.sampling_rate - LEAD_IN) // chosen.verse_seconds, 0, verses - 1)
    audio = audio * 10 ** (VERSE_DB * (verse - verses + 1) / 20)
    audio = room(audio, singer.sampling_rate, seconds=0.35, wet_db=-16, generator=generator)
    soundfile.write(output, to_level(audio, LEVEL_DB), singer.sampling_rate, subtype="PCM_16")
    logger.info("%s: %.1f s at %d Hz", output, seconds, singer.sampling_rate)


if __name__ == "__main__":
    typer.run(main)
