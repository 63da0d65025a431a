# SPDX-License-Identifier: Apache-2.0
"""Trains a rhythm network to estimate the beat phase of each frame of a vocal.

Crops are augmented with other tempi, with noise, and with timing errors of the singer, both constant and varying over
the crop, as rendered singers are more precise than people. Vocal clusters are fitted after this.

A beat has BEAT_PARTS equal parts, the network's classes; a frame outside all beats is IGNORED.
Dimensions: B crops, T frames, P descriptors of a frame.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from hafm_hf.tokenizers.beat_tracker import BEAT_PARTS, HAFMRhythmNetwork

from .steps import StepArguments, take_steps
from .targets import IGNORED

Array = NDArray[np.float32]
Beats = NDArray[np.int64]
# interval between random timing errors, and length of the crops used for scoring, in seconds
WOBBLE_SECONDS = 0.7
SCORED_SECONDS = 12.0
# least distance of a position from a song's end: it is interpolated between its frame and the next
EDGE_FRAMES = 2


@dataclass
class RhythmArguments(StepArguments):
    """How a rhythm network is trained, in addition to its steps.

    Attributes:
        channels, layers (int): size of the network.
        crop_seconds (list of float): crop lengths, of which one is drawn per step.
        batch_seconds (float): total length of the crops in a step.
        noise, steady_noise (float): noise per frame and constant over a crop, in standard deviations of the inputs.
        dropped_dimensions (float): share of input dimensions to drop in each crop.
        stretch_octaves (float): maximum change of tempo, in octaves.
        late_seconds, wobble_seconds (float): standard deviation of the singer's timing error, constant over a crop and
            varying within it.
        takes (int): simulated human takes of each song (`human_takes`), in addition to the rendered one.
    """

    channels: int = 96
    layers: int = 9
    steps: int = 7000
    crop_seconds: list[float] = field(default_factory=lambda: [6.0, 10.0, 15.0, 25.0])
    batch_seconds: float = 192.0
    noise: float = 0.2
    steady_noise: float = 0.1
    dropped_dimensions: float = 0.1
    stretch_octaves: float = 0.25
    late_seconds: float = 0.02
    wobble_seconds: float = 0.04
    takes: int = 4


class RhythmTrainer:
    """Trains a rhythm network; it ends with the average of its weights.

    Args:
        network: a network for P descriptors of each frame; changed in place.
        songs: of each song, descriptors (float32 [T, P]) and part of the beat (int64 [T]) of its T frames.
        arguments: see `RhythmArguments`.
        frame_rate: frame rate of the descriptors, in Hz.

    Raises:
        ValueError: no song is long enough for a crop.
    """

    def __init__(
        self,
        network: HAFMRhythmNetwork,
        songs: Sequence[tuple[Array, Beats]],
        arguments: RhythmArguments,
        frame_rate: int,
    ) -> None:
        self.network = network
        self.arguments = arguments
        self.frame_rate = frame_rate
        # by crop length in frames: the least length of a song in seconds, also at the fastest tempo
        needed = {
            round(seconds * frame_rate): seconds * 2**arguments.stretch_octaves + EDGE_FRAMES / frame_rate
            for seconds in arguments.crop_seconds
        }
        # by crop length in frames: the songs that are long enough; lengths that no song has are left out
        self.songs: dict[int, list[tuple[Array, Beats]]] = {}
        for frames, seconds in needed.items():
            long_songs = [song for song in songs if len(song[0]) > seconds * frame_rate]
            if long_songs:
                self.songs[frames] = long_songs
        if not self.songs:
            least = min(needed.values())
            raise ValueError(f"No song is longer than {least:.1f} s; add longer songs or lower crop_seconds.")
        # the shortest crops fit into the most songs
        most_songs = self.songs[min(self.songs)]
        # standard deviation of each descriptor, to scale the noise
        self.deviation = torch.from_numpy(np.concatenate([features for features, _ in most_songs]).std(0))
        self.rng = np.random.default_rng(arguments.seed)
        self.generator = torch.Generator().manual_seed(arguments.seed)

    def train(self) -> float:
        """Takes all steps; returns the mean loss of the last tenth, in nats."""
        return take_steps(self.network, self._loss, self.arguments)

    def _loss(self) -> torch.Tensor:
        """Cross-entropy of the part of the beat in a random batch of crops."""
        frames = int(self.rng.choice(list(self.songs)))
        rows = max(round(self.arguments.batch_seconds * self.frame_rate / frames), 1)
        crops = [self._crop(frames) for _ in range(rows)]
        inputs = self._with_noise(torch.from_numpy(np.stack([features for features, _ in crops])))
        beat_targets = torch.from_numpy(np.stack([beats for _, beats in crops]))
        device = self.network.head.weight.device
        logits = self.network(inputs.to(device))
        return F.cross_entropy(logits.flatten(0, 1), beat_targets.to(device).flatten(), ignore_index=IGNORED)

    def _crop(self, frames: int) -> tuple[Array, Beats]:
        """A crop of a random song at a random tempo, with a singer who is early or late.

        Args:
            frames: T, length of the crop, one of the keys of `self.songs`.

        Returns:
            Descriptors of the singer (float32 [T, P]), and the part of the beat that the band is in (int64 [T]).
        """
        songs = self.songs[frames]
        features, beats = songs[int(self.rng.integers(len(songs)))]
        speed = 2 ** self.rng.uniform(-self.arguments.stretch_octaves, self.arguments.stretch_octaves)
        start = self.rng.uniform(0, len(features) - frames * speed - EDGE_FRAMES)
        # positions in the song, in frames: of the band, and of the singer
        played = start + speed * np.arange(frames)
        sung = np.clip(played - speed * self._lateness(frames), 0, len(features) - EDGE_FRAMES)
        before = sung.astype(np.int64)
        fraction = (sung - before).astype(np.float32)[:, None]
        interpolated = features[before] * (1 - fraction) + features[before + 1] * fraction
        return interpolated, beats[np.round(played).astype(np.int64)]

    def _lateness(self, frames: int) -> NDArray[np.float64]:
        """A random timing error of the singer at each of `frames` frames, in frames, positive if late: float64 [T]."""
        points = math.ceil(frames / (WOBBLE_SECONDS * self.frame_rate)) + 1
        # in seconds: varying, drawn at these points, and constant
        wobble = self.rng.normal(0.0, self.arguments.wobble_seconds, points)
        late = self.rng.normal(0.0, self.arguments.late_seconds)
        wobble_of_frames = np.interp(np.arange(frames), np.linspace(0, frames - 1, points), wobble)
        return self.frame_rate * (late + wobble_of_frames)

    def _with_noise(self, inputs: torch.Tensor) -> torch.Tensor:
        """Simulates other voices and rooms: adds noise, and sets a few descriptors of each crop to 0.

        Args:
            inputs (float32 [B, T, P]): P descriptors of each of T frames.

        Returns:
            float32 [B, T, P].
        """
        arguments = self.arguments
        rows, frames, width = inputs.shape
        noise = arguments.noise * torch.randn(rows, frames, width, generator=self.generator)
        noise += arguments.steady_noise * torch.randn(rows, 1, width, generator=self.generator)
        kept = torch.rand(rows, 1, width, generator=self.generator) >= arguments.dropped_dimensions
        return (inputs + noise * self.deviation) * kept


@torch.no_grad()
def rhythm_scores(network: HAFMRhythmNetwork, songs: Sequence[tuple[Array, Beats]], frames: int) -> dict[str, float]:
    """Scores a network's beat estimates on consecutive crops of songs.

    Args:
        network: a network for P descriptors of each frame.
        songs: of each song, descriptors (float32 [T, P]) and part of the beat (int64 [T]) of its T frames.
        frames: length of a crop; the rest of a song is left out.

    Returns:
        `beat_nats`: cross-entropy of the parts of the beat (chance is 2.08, log 8); `beat_agreement`,
        `half_beat_agreement`: mean cosine of the error of the phase in the beat and in the half beat, weighted by the
        network's confidence in each frame (1 is perfect, 0 is chance).
    """
    device = network.head.weight.device
    nats = []
    # of labelled frames: estimated phase vectors, and true beat phases in radians
    vectors_of_crops = []
    angles_of_crops = []
    for features, beats in songs:
        for start in range(0, len(features) - frames + 1, frames):
            crop = torch.from_numpy(features[start : start + frames])[None].to(device)
            parts = beats[start : start + frames]
            labelled = parts != IGNORED
            if not labelled.any():
                continue
            logits = network(crop)[0].float().cpu()[torch.from_numpy(labelled)]
            nats.append(float(F.cross_entropy(logits, torch.from_numpy(parts[labelled]))))
            vectors_of_crops.append(network.expected_phase_vectors(crop)[0].cpu().numpy()[labelled])
            angles_of_crops.append((parts[labelled] + 0.5) * (2 * math.pi / BEAT_PARTS))
    vectors = np.concatenate(vectors_of_crops)  # [frames, 4]
    angles = np.concatenate(angles_of_crops)  # [frames]
    scores = {"beat_nats": float(np.mean(nats))}
    # columns: cosine and sine of the phase in the beat, then in the half beat, whose angle is twice as large
    for name, factor, columns in (("beat_agreement", 1, slice(0, 2)), ("half_beat_agreement", 2, slice(2, 4))):
        true = np.stack([np.cos(factor * angles), np.sin(factor * angles)], axis=1)
        # a vector's length is the network's confidence
        confidence = np.linalg.norm(vectors[:, columns], axis=1).sum()
        scores[name] = float((vectors[:, columns] * true).sum() / confidence)
    return scores
