# SPDX-License-Identifier: Apache-2.0
"""The synthetic singer sings the given notes in tune and on time."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyworld", reason="pyworld is not installed", exc_type=ImportError)
pytest.importorskip("mir_eval", reason="mir_eval is not installed")

import pyworld
from scipy.signal import butter, sosfilt

from hafm_tiny.songs.midi_song import Note
from hafm_tiny.songs.singer import Manner, Voice, load_voice, random_manner, sing, sung_notes

# MIDI pitches of the notes, and length of the song
PITCHES = (57, 60, 64, 62, 67, 59, 69)
SECONDS = 5.0


@pytest.fixture(scope="module")
def voice(voices: Path) -> Voice:
    """The synthetic voice `alto`."""
    return load_voice(voices / "alto")


@pytest.fixture(scope="module")
def notes() -> list[Note]:
    """Seven notes of 0.5 s, the last two after rests."""
    starts = (0.3, 0.8, 1.3, 1.8, 2.3, 3.3, 4.3)
    return [Note(start, start + 0.5, pitch) for start, pitch in zip(starts, PITCHES, strict=True)]


def pitch_track(audio: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Times in seconds and pitch in MIDI units, NaN where unvoiced."""
    f0, times = pyworld.harvest(audio, rate, f0_floor=60, f0_ceil=900)
    with np.errstate(divide="ignore"):
        return times, np.where(f0 > 0, 69 + 12 * np.log2(f0 / 440), np.nan)


def note_errors(audio: np.ndarray, rate: int, notes: list[Note] | tuple[Note, ...]) -> np.ndarray:
    """Deviation of the median pitch in the middle of each note from the note's pitch: float64 [notes], in cents."""
    times, pitch = pitch_track(audio, rate)
    errors = []
    for note in notes:
        position = (times - note.start) / (note.end - note.start)  # from 0 to 1 within the note
        middle = (position > 0.3) & (position < 0.8)
        errors.append(100 * (np.nanmedian(pitch[middle]) - note.pitch))
    return np.array(errors)


def test_a_plain_singer_is_within_10_cents_of_every_note(voice: Voice, notes: list[Note]) -> None:
    audio = sing(voice, notes, SECONDS, Manner(), seed=1)
    assert audio.size == SECONDS * voice.sampling_rate
    assert np.abs(note_errors(audio, voice.sampling_rate, notes)).max() < 10


def test_expressive_singers_are_within_50_cents_of_95_percent_of_notes(voice: Voice, notes: list[Note]) -> None:
    errors = []
    for seed in range(4):
        generator = np.random.default_rng(seed)
        manner = random_manner(generator)
        sung = sung_notes(notes, manner, generator)
        errors.append(note_errors(sing(voice, sung, SECONDS, manner, seed), voice.sampling_rate, sung) - manner.detune)
    cents = np.abs(np.concatenate(errors))
    assert np.mean(cents < 50) > 0.95
    assert np.mean(cents < 25) > 0.75


def test_every_voice_of_the_test_data_sings_in_tune(shared_data: Path, notes: list[Note]) -> None:
    for folder in sorted(path for path in (shared_data / "voices").iterdir() if path.is_dir()):
        voice = load_voice(folder, syllables=5)
        errors = np.abs(note_errors(sing(voice, notes, SECONDS, Manner(), seed=3), voice.sampling_rate, notes))
        assert np.median(errors) < 10, folder.name
        assert np.sum(errors < 25) >= len(notes) - 1, folder.name


def test_singing_is_loud_in_notes_and_silent_in_rests(voice: Voice, notes: list[Note]) -> None:
    audio = sing(voice, notes, SECONDS, Manner(), seed=1)
    rate = voice.sampling_rate
    note_rms = [np.sqrt(np.mean(audio[int(n.start * rate) : int(n.end * rate)] ** 2)) for n in notes]
    spans = ((0.0, 0.15), (2.95, 3.15), (3.95, 4.15))  # of rests, without releases and consonants
    rests = np.concatenate([audio[int(start * rate) : int(stop * rate)] for start, stop in spans])
    assert min(note_rms) > 0.03
    assert np.sqrt(np.mean(rests**2)) < 0.001


def test_vowels_begin_at_the_onset_of_their_notes(voice: Voice, notes: list[Note]) -> None:
    audio = sing(voice, notes, SECONDS, Manner(), seed=1)
    rate = voice.sampling_rate
    # the synthetic consonants are hiss, so there is almost nothing below 1 kHz before the vowel
    vowels = sosfilt(butter(4, 1000, fs=rate, output="sos"), audio)
    for note in notes[-2:]:
        # from 0.2 s before the note on
        near = np.abs(vowels[int((note.start - 0.2) * rate) : int((note.start + 0.3) * rate)])
        assert np.argmax(near > 0.25 * near.max()) / rate == pytest.approx(0.2, abs=0.025)
