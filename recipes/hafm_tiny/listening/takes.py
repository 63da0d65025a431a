# SPDX-License-Identifier: Apache-2.0
"""Simulated human takes of rendered songs at realistic tempi, from which a listener learns to estimate tempo.

From the simulated singer, whose tempi are drawn uniformly, a listener learns to detect periodicity; which metrical
level is the beat, it can only learn from real songs. Dimensions: T frames at 50 Hz.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from hafm_hf.tokenizers.beat_tracker import BEAT_PARTS
from hafm_hf.tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel
from hafm_hf.tokenizers.pitch_contour import CONTOUR_RATE, PitchContour, VocalAnalyser, pitch_contour

from ..human_takes import human_take
from ..song_pool import PCM_SCALE, finished_songs, load_song
from ..targets import beat_parts, chord_targets

RATE = 16_000
# share of songs whose rendered vocal is used without human errors
RENDERED = 0.15
# frames (at 50 Hz) between random timing errors of the singer, and their standard deviation in frames
WOBBLE_FRAMES = 30
WOBBLE = 1.8
# songs shorter than a crop are used whole if they have at least this length
LEAST_SECONDS = 6.0


@dataclass(frozen=True)
class TimedContour:
    """A pitch contour of T frames at 50 Hz, with its targets.

    Args:
        contour: the singer's.
        parts (int64 [T]): which of BEAT_PARTS equal parts of the beat each frame is in; -100 outside all beats.
        bars (float32 [T]): 1 in the first beat of a bar, 0 in others, NaN if unknown.
        tempo: in BPM.
        chords (int64 [T]): chord class of each frame (`triad_class`).
    """

    contour: PitchContour
    parts: NDArray[np.int64]
    bars: NDArray[np.float32]
    tempo: float
    chords: NDArray[np.int64]


def sung_takes(
    corpus: Path, rng: np.random.Generator, ear: HAFMSemanticTokenizerModel | None = None
) -> Iterator[TimedContour]:
    """Yields one take of each training song of a rendered corpus.

    Args:
        corpus: output folder of recipes/build_song_corpus.py.
        rng: draws how the takes are sung.
        ear: a pretrained network whose features of the rendered voice are added to the contour; then all takes are
            sung exactly as rendered, so that both agree. None: no such features.
    """
    for folder in finished_songs(corpus / "train"):
        song = load_song(folder, RATE)
        vocal = (song.vocal / PCM_SCALE).astype(np.float32)
        measured = VocalAnalyser(RATE, CONTOUR_RATE).measure(vocal, len(vocal) * CONTOUR_RATE // RATE)
        if ear is None and rng.random() >= RENDERED:
            measured = human_take(measured, song.labels["notes"], rng)
        contour = pitch_contour(*measured)
        if ear is not None:
            contour = replace(contour, ear_features=ear.extract_features(torch.from_numpy(vocal)).half().numpy())
        times = (np.arange(len(contour)) + 0.5) / CONTOUR_RATE  # middles of the frames, in seconds
        unknown_bars = np.full(len(contour), np.nan, np.float32)
        parts = beat_parts(song.labels, times, BEAT_PARTS)
        chords = chord_targets(song.labels, times, 0)["chord"]
        yield TimedContour(contour, parts, unknown_bars, float(song.labels["tempo"]), chords)


def crop_of_takes(
    takes: Sequence[TimedContour], seconds: float, octaves: Sequence[float], rng: np.random.Generator
) -> TimedContour:
    """A random crop of a random take at a random speed, with a singer who is early or late.

    Args:
        takes: at least one of them must be long enough (`LEAST_SECONDS`) at every speed.
        seconds: length of the crop; a shorter take is used whole.
        octaves: lowest and highest change of speed, in octaves.
        rng: source of all randomness.

    Returns:
        The crop: the singer's contour, and the targets of the band, which is in time.
    """
    while True:
        take = takes[int(rng.integers(len(takes)))]
        speed = 2 ** rng.uniform(octaves[0], octaves[1])
        # frames of the whole take at this speed, with a margin for rounding
        available = int((len(take.contour) - 2) / speed)
        frames = min(round(seconds * CONTOUR_RATE), available)
        if frames >= LEAST_SECONDS * CONTOUR_RATE:
            break
    # frames by which the singer is late, which change slowly; negative: early
    points = max(frames // WOBBLE_FRAMES, 2)
    late = np.interp(np.arange(frames), np.linspace(0, frames - 1, points), rng.normal(0, WOBBLE, points))
    # positions in the take: of the band, and of the singer
    exact = rng.uniform(0, len(take.contour) - frames * speed - 1) + speed * np.arange(frames)
    last = len(take.contour) - 1
    played = np.clip(np.round(exact), 0, last).astype(int)
    sung = np.clip(np.round(exact + speed * late), 0, last).astype(int)
    ear_features = take.contour.ear_features
    if ear_features is not None:
        ear_features = ear_features[sung]
    contour = PitchContour(take.contour.midi[sung], take.contour.level[sung], take.contour.flux[sung], ear_features)
    return TimedContour(contour, take.parts[played], take.bars[played], take.tempo * speed, take.chords[played])
