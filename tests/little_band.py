# SPDX-License-Identifier: Apache-2.0
"""A synthetic band and singer made of sines and noise, with known beats and chords, for tests of scores."""

import numpy as np
from numpy.typing import NDArray

from hafm_hf.evaluation.features import ANALYSIS_RATE as RATE
from hafm_hf.lead_sheet.lead_sheet import LeadSheet

# pitch classes of C, A minor, F and G, the root first
CHORDS = ((0, 4, 7), (9, 0, 4), (5, 9, 0), (7, 11, 2))
PITCH_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
# seconds, on average, at the usual tempo
BEAT = 0.5
Samples = NDArray[np.float32]


def tone(semitone: float, seconds: float, harmonics: int = 4) -> NDArray[np.float64]:
    """A decaying tone, `semitone` semitones above middle C: float64 [N] at `RATE`."""
    time = np.arange(round(seconds * RATE)) / RATE
    phase = 2 * np.pi * 261.63 * 2 ** (semitone / 12) * time
    waves = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, harmonics + 1))
    attack = np.minimum(time / 0.01, 1.0)
    decay = np.exp(-1.5 * time / seconds)
    return np.asarray(waves) * decay * attack


def song(seed: int, seconds: float = 12.0, transpose: int = 0, tempo: float = 1.0) -> tuple[Samples, Samples]:
    """A voice and its band (float32 [N] each, at 16 kHz): chords on irregular beats, and a voice on their tones.

    Args:
        seed: of key, chords, beats and melody.
        seconds: length.
        transpose: semitones by which all is moved.
        tempo: factor of the speed.
    """
    return given_song(seed, seconds, transpose, tempo)[:2]


def given_song(
    seed: int, seconds: float = 12.0, transpose: int = 0, tempo: float = 1.0
) -> tuple[Samples, Samples, LeadSheet]:
    """Voice and band as `song` makes them, and their lead sheet: the beats, and one chord per beat."""
    generator = np.random.default_rng(seed)
    key = int(generator.integers(12)) + transpose
    size = round(seconds * RATE)
    voice = np.zeros(size + 4 * RATE)
    band = np.zeros(size + 4 * RATE)
    at, beat = 0.2, 0
    beats = []
    labels = []
    order = generator.permutation(4)
    while at < seconds - 0.6:
        chord = [(pitch + key) % 12 for pitch in CHORDS[order[beat // 2 % 4]]]
        beats.append(at)
        labels.append(f"{PITCH_NAMES[chord[0]]}:{'min' if (chord[1] - chord[0]) % 12 == 3 else 'maj'}")
        start = round(at * RATE)
        for pitch in chord:
            sound = tone(pitch - 12, BEAT / tempo)
            band[start : start + len(sound)] += 0.08 * sound
        hit = generator.standard_normal(800) * np.exp(-np.arange(800) / 100)
        band[start : start + 800] += 0.15 * hit
        if generator.random() < 0.8:
            sung = tone(int(generator.choice(chord)) + 12, 0.9 * BEAT / tempo, 3)
            late = start + round(generator.choice([0.0, BEAT / 2 / tempo]) * RATE)
            voice[late : late + len(sung)] += 0.2 * sung
        # unequal beats, so that a shift by one beat does not match
        at += BEAT / tempo * generator.choice([0.8, 1.0, 1.2])
        beat += 1
    chords = tuple(zip(beats, [*beats[1:], at], labels, strict=True))
    return voice[:size].astype(np.float32), band[:size].astype(np.float32), LeadSheet(beats=beats, chords=chords)
