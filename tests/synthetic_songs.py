# SPDX-License-Identifier: Apache-2.0
"""Songs made of sines, in the layout of the rendered corpus, for tests of training on audio."""

import json
from pathlib import Path

import numpy as np
import soundfile

ROOTS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")


def tone(pitch: float, time: np.ndarray, partials: int) -> np.ndarray:
    """A tone of a MIDI pitch at the given seconds (float64 [N]), with its first `partials`: float64 [N]."""
    frequency = 440 * 2 ** ((pitch - 69) / 12)
    return np.sum([np.sin(2 * np.pi * frequency * k * time) / k for k in range(1, partials + 1)], axis=0)


def write_song(folder: Path, sampling_rate: int, seconds: float, seed: int) -> None:
    """Writes a song of a note and a click every half second over major chords of a second each.

    Args:
        folder: for vocal.flac, instrumental.flac and labels.json.
        sampling_rate: of the files, in Hz.
        seconds: length.
        seed: of notes and chords.
    """
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * sampling_rate)) / sampling_rate
    vocal = np.zeros_like(time)
    band = np.zeros_like(time)
    notes = []
    chords = []
    for index in range(int(seconds * 2)):
        pitch = int(rng.integers(55, 68))
        start = index / 2
        inside = (time >= start) & (time < start + 0.4)
        vocal[inside] = 0.1 * tone(pitch, time[inside], 6)
        notes.append([start, start + 0.4, pitch])
    for index in range(int(np.ceil(seconds))):
        root = int(rng.integers(12))
        inside = (time >= index) & (time < index + 1)
        for step in (36, 48, 52, 55):
            band[inside] += 0.05 * tone(step + root, time[inside], 3)
        chords.append([float(index), float(index + 1), f"{ROOTS[root]}:maj"])
    beats = [index / 2 for index in range(int(seconds * 2) + 1)]
    for beat in beats:
        inside = (time >= beat) & (time < beat + 0.02)
        band[inside] += 0.1 * rng.normal(size=int(inside.sum()))
    folder.mkdir(parents=True)
    soundfile.write(folder / "vocal.flac", vocal, sampling_rate)
    soundfile.write(folder / "instrumental.flac", band, sampling_rate)
    labels = {"notes": notes, "chords": chords, "beats": beats, "duration": seconds}
    (folder / "labels.json").write_text(json.dumps(labels))
