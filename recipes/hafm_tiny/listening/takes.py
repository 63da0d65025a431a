# SPDX-License-Identifier: Apache-2.0
"""Simulated human takes of rendered songs at realistic tempi, from which a listener learns to estimate tempo.

The simulated singer draws tempi uniformly, from which a listener learns to detect periodicity; which metrical level is
the beat, it has to learn from real songs. Dimensions: T frames at 50 Hz.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hafm_hf.tokenizers.beat_line import BEAT_PARTS
from hafm_hf.tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel
from hafm_hf.tokenizers.pitch_line import LINE_RATE, HAFMVocalDescriptors, PitchLine, pitch_line

from ..human_takes import human_take
from ..song_pool import PCM_SCALE, finished_songs, load_song
from ..targets import beat_parts, chord_targets

RATE = 16_000
# share of songs that stay as rendered
RENDERED = 0.15
# frames between random timing errors of the singer, and their standard deviation in frames
WOBBLE_FRAMES = 30
WOBBLE = 1.8
# songs shorter than a crop are used whole if they have at least this length
LEAST_SECONDS = 6.0


@dataclass(frozen=True)
class TimedLine:
    """A pitch line, the part of the beat of each frame (int64 [T]), downbeats (float32 [T], 1 in the first beat of a
    bar, NaN if unknown), the tempo in BPM, and the chord of each frame (int64 [T])."""

    line: PitchLine
    parts: NDArray[np.int64]
    bars: NDArray[np.float32]
    tempo: float
    chords: NDArray[np.int64]


def sung_takes(
    corpus: Path, rng: np.random.Generator, ear: HAFMSemanticTokenizerModel | None = None
) -> Iterator[TimedLine]:
    """Yields one take of each training song of a rendered corpus; with an ear, as it was rendered."""
    for folder in finished_songs(corpus / "train"):
        song = load_song(folder, RATE)
        vocal = (song.vocal / PCM_SCALE).astype(np.float32)
        measured = HAFMVocalDescriptors(RATE, LINE_RATE).measured(vocal, len(vocal) * LINE_RATE // RATE)
        if ear is None and rng.random() >= RENDERED:
            measured = human_take(measured, song.labels["notes"], rng)
        line = pitch_line(*measured)
        if ear is not None:
            line = replace(line, heard=ear.extract_features(torch.from_numpy(vocal)).half().numpy())
        times = (np.arange(len(line)) + 0.5) / LINE_RATE
        unknown = np.full(len(line), np.nan, np.float32)
        parts = beat_parts(song.labels, times, BEAT_PARTS)
        chords = chord_targets(song.labels, times, 0)["chord"]
        yield TimedLine(line, parts, unknown, float(song.labels["tempo"]), chords)


def crop_of_takes(
    takes: Sequence[TimedLine], seconds: float, octaves: Sequence[float], rng: np.random.Generator
) -> TimedLine:
    """A random crop of `seconds` (or a whole shorter take), sped up by a random number of octaves within `octaves`."""
    while True:
        take = takes[int(rng.integers(len(takes)))]
        speed = 2 ** rng.uniform(octaves[0], octaves[1])
        whole = int((len(take.line) - 2) / speed)
        frames = min(round(seconds * LINE_RATE), whole)
        if frames >= LEAST_SECONDS * LINE_RATE:
            break
    points = max(frames // WOBBLE_FRAMES, 2)
    late = np.interp(np.arange(frames), np.linspace(0, frames - 1, points), rng.normal(0, WOBBLE, points))
    exact = rng.uniform(0, len(take.line) - frames * speed - 1) + speed * np.arange(frames)
    sung, played = (np.clip(np.round(at), 0, len(take.line) - 1).astype(int) for at in (exact + speed * late, exact))
    heard = None if take.line.heard is None else take.line.heard[sung]
    line = PitchLine(take.line.midi[sung], take.line.level[sung], take.line.flux[sung], heard)
    return TimedLine(line, take.parts[played], take.bars[played], take.tempo * speed, take.chords[played])
