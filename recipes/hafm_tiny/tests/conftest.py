# SPDX-License-Identifier: Apache-2.0
"""Fixtures for the recipes' tests: synthetic songs and voices, so that they need no data.

Tests that render songs are skipped if fluidsynth, a SoundFont or pyworld is missing.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

# tests/conftest.py, for these tests as well: no network, no hub, one thread, common fixtures
from conftest import *  # noqa: F403
from hafm_tiny.song_pool import SongPool
from synthetic_songs import write_song

# of voices, in Hz
RATE = 24000
# length of a beat in seconds, and of a song
BEAT = 0.6
BARS = 16
# one chord per bar, repeated, with their roots (MIDI), and the notes of the melody
CHORDS = ("C:maj", "A:min", "F:maj", "G:maj")
ROOTS = (48, 45, 41, 43)
SCALE = (60, 62, 64, 65, 67, 69, 71, 72)
# pitch of voices, and the first two formants of each vowel, in Hz
PITCH = 220
FORMANTS = {"a": (800, 1300), "e": (480, 2000), "i": (320, 2400), "o": (480, 900)}
SOUNDFONTS = (
    "/usr/share/sounds/sf2/FluidR3_GM.sf2",
    "/usr/share/sounds/sf2/TimGM6mb.sf2",
    "/usr/share/sounds/sf3/MuseScore_General_Lite.sf3",
)


@pytest.fixture(scope="session")
def soundfont() -> Path:
    """A General MIDI SoundFont; skips if there is none, or no fluidsynth to play it."""
    if shutil.which("fluidsynth") is None:
        pytest.skip("fluidsynth is not installed")
    installed = [Path(path) for path in SOUNDFONTS if Path(path).is_file()]
    if not installed:
        pytest.skip(f"none of these SoundFonts is installed: {', '.join(SOUNDFONTS)}")
    return installed[0]


def _syllable(vowel: str, generator: np.random.Generator) -> np.ndarray:
    """Half a second at RATE: 60 ms of hiss, then harmonics of PITCH under the vowel's two formants."""
    times = np.arange(int(0.5 * RATE)) / RATE
    partials = np.arange(1, 40)
    amplitudes = np.zeros(len(partials))
    for formant in FORMANTS[vowel]:
        amplitudes += np.exp(-0.5 * ((partials * PITCH - formant) / 130) ** 2) + 0.01
    tone = np.zeros(len(times))
    for partial, amplitude in zip(partials, amplitudes, strict=True):
        tone += amplitude * np.sin(2 * np.pi * PITCH * partial * times)
    voiced = 0.1 * tone * np.clip((times - 0.06) / 0.02, 0, 1)
    hiss = 0.02 * generator.standard_normal(times.size) * (times < 0.06)
    return voiced + hiss + 1e-4 * generator.standard_normal(times.size)


@pytest.fixture(scope="session")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two voices, `alto` and `bass`, of a syllable for each vowel; skips without pyworld."""
    pytest.importorskip("pyworld", reason="pyworld is not installed (it needs a C++ compiler)", exc_type=ImportError)
    folder = tmp_path_factory.mktemp("voices")
    for name, seed in (("alto", 1), ("bass", 2)):
        generator = np.random.default_rng(seed)
        (folder / name).mkdir()
        for vowel in FORMANTS:
            soundfile.write(folder / name / f"{vowel}.flac", _syllable(vowel, generator), RATE)
        # file, syllable, and the times in ms that `songs.singer` reads
        rows = [f"{vowel}.flac\ts{vowel}\t140\t60\t20" for vowel in FORMANTS]
        (folder / name / "units.tsv").write_text("\n".join(rows) + "\n")
    return folder


def _write_song(folder: Path, seed: int) -> None:
    """Writes BARS bars in C major at 100 BPM, in POP909's layout, with a melody drawn from the seed.

    It has a note on every beat but each eighth one.
    """
    pretty_midi = pytest.importorskip("pretty_midi")
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    tracks = {name: pretty_midi.Instrument(0, name=name) for name in ("MELODY", "BRIDGE", "PIANO")}
    for beat in range(4 * BARS):
        start = beat * BEAT
        bar = beat // 4
        pitch = int(generator.choice(SCALE))
        if beat % 8 != 7:
            tracks["MELODY"].notes.append(pretty_midi.Note(90, pitch, start, start + 0.9 * BEAT))
        tones = (0, 3 if "min" in CHORDS[bar % 4] else 4, 7)
        for tone in tones:
            tracks["PIANO"].notes.append(pretty_midi.Note(80, ROOTS[bar % 4] + 12 + tone, start, start + BEAT))
        tracks["BRIDGE"].notes.append(pretty_midi.Note(60, 12 + pitch, start, start + BEAT / 2))
    midi = pretty_midi.PrettyMIDI(resolution=480)
    midi.instruments.extend(tracks.values())
    midi.write(str(folder / f"{folder.name}.mid"))
    # time, and whether a half bar and a bar begin
    beats = [f"{i * BEAT} {float(i % 2 == 0)} {float(i % 4 == 0)}" for i in range(4 * BARS)]
    (folder / "beat_midi.txt").write_text("\n".join(beats) + "\n")
    chords = [f"{4 * BEAT * i}\t{4 * BEAT * (i + 1)}\t{CHORDS[i % 4]}" for i in range(BARS)]
    (folder / "chord_midi.txt").write_text("\n".join(chords) + "\n")


@pytest.fixture(scope="session")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of eight songs, 001 to 008."""
    folder = tmp_path_factory.mktemp("songs")
    for number in range(1, 9):
        _write_song(folder / f"{number:03d}", number)
    return folder


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> SongPool:
    """A pool of three songs of 4 s at 8 kHz, for codec trainers."""
    root = tmp_path_factory.mktemp("songs")
    for index in range(3):
        write_song(root / "train" / f"song_{index}", 8_000, seconds=4.0, seed=index)
    pool = SongPool(root, "train", 8_000)
    assert pool.refresh() == 3
    return pool
