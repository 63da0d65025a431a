# SPDX-License-Identifier: Apache-2.0
"""Teaches a rhythm network the beats of songs, so that it hears them in singing.

A crop is heard in another tempo, through noise, and from a singer who is late or early, as a whole and more or less so
as the song goes on: rendered singers are more punctual than people. Before the vocal's clusters on the path of
training.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from hafm_hf.listening.beat_line import BEAT_PARTS, HAFMRhythmNetwork

from .steps import StepArguments, take_steps
from .targets import IGNORED

Array = NDArray[np.float32]
Beats = NDArray[np.int64]
# seconds from one point of a singer's lateness to the next, and of the crops that scores are made of
WOBBLE_SECONDS, SCORED_SECONDS = 0.7, 12.0


@dataclass
class RhythmArguments(StepArguments):
    """How a rhythm network is trained, beside its steps.

    Attributes:
        channels, layers (int): of the network.
        crop_seconds (list of float): lengths of crops, one a step.
        batch_seconds (float): of all crops of a step.
        noise, steady_noise (float): from frame to frame and of a whole crop, in standard deviations of the inputs.
        dropped_dimensions (float): share of the inputs' dimensions that a crop lacks.
        stretch_octaves (float): how much faster or slower a crop may be.
        late_seconds, wobble_seconds (float): standard deviation of how late a singer is, as a whole and from word to
            word.
        takes (int): of each song as people might sing it (`human_takes`), beside the rendered singer's.
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
    """Takes the steps, and leaves the average of the weights.

    Args:
        network: reads float [B, T, P].
        songs: descriptors (float32 [T, P]) and parts of the beat (int64 [T]) of each song.
        arguments: see above.
        frame_rate: of the descriptors, in Hz.

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
        self.network, self.arguments, self.frame_rate = network, arguments, frame_rate
        needed = {
            round(seconds * frame_rate): seconds * 2**arguments.stretch_octaves + 2 / frame_rate
            for seconds in arguments.crop_seconds
        }
        # the songs that each length of crop can come from
        self.songs = {
            frames: long
            for frames, least in needed.items()
            if (long := [song for song in songs if len(song[0]) > least * frame_rate])
        }
        if not self.songs:
            least = min(needed.values())
            raise ValueError(f"No song is longer than {least:.1f} s; the beat needs that much singing.")
        most = self.songs[min(self.songs)]
        self.deviation = torch.from_numpy(np.concatenate([features for features, _ in most]).std(0))
        self.rng = np.random.default_rng(arguments.seed)
        self.generator = torch.Generator().manual_seed(arguments.seed)

    def train(self) -> float:
        """Takes all steps; returns the mean loss of the last tenth, in nats."""
        return take_steps(self.network, self._loss, self.arguments)

    def _loss(self) -> torch.Tensor:
        frames = int(self.rng.choice(list(self.songs)))
        rows = max(round(self.arguments.batch_seconds * self.frame_rate / frames), 1)
        crops = [self._crop(frames) for _ in range(rows)]
        inputs = self._disturbed(torch.from_numpy(np.stack([features for features, _ in crops])))
        wanted = torch.from_numpy(np.stack([beats for _, beats in crops]))
        device = self.network.head.weight.device
        logits = self.network(inputs.to(device))
        return F.cross_entropy(logits.flatten(0, 1), wanted.to(device).flatten(), ignore_index=IGNORED)

    def _crop(self, frames: int) -> tuple[Array, Beats]:
        """A crop of a song in another tempo, sung more or less in time: float32 [T, P], int64 [T]."""
        features, beats = self.songs[frames][int(self.rng.integers(len(self.songs[frames])))]
        speed = 2 ** self.rng.uniform(-self.arguments.stretch_octaves, self.arguments.stretch_octaves)
        start = self.rng.uniform(0, len(features) - frames * speed - 2)
        played = start + speed * np.arange(frames)
        sung = np.clip(played - speed * self._lateness(frames), 0, len(features) - 2)
        before = sung.astype(np.int64)
        share = (sung - before).astype(np.float32)[:, None]
        mixed = features[before] * (1 - share) + features[before + 1] * share
        return mixed, beats[np.round(played).astype(np.int64)]

    def _lateness(self, frames: int) -> NDArray[np.float64]:
        """How many frames late a singer is: float64 [T]."""
        points = math.ceil(frames / (WOBBLE_SECONDS * self.frame_rate)) + 1
        wobble = self.rng.normal(0.0, self.arguments.wobble_seconds, points)
        late = self.rng.normal(0.0, self.arguments.late_seconds)
        return self.frame_rate * (late + np.interp(np.arange(frames), np.linspace(0, frames - 1, points), wobble))

    def _disturbed(self, inputs: torch.Tensor) -> torch.Tensor:
        """Noise from frame to frame, a shift of the whole crop, and dimensions left out: other voices, other rooms."""
        arguments, (rows, frames, width) = self.arguments, inputs.shape
        noise = arguments.noise * torch.randn(rows, frames, width, generator=self.generator)
        noise += arguments.steady_noise * torch.randn(rows, 1, width, generator=self.generator)
        kept = torch.rand(rows, 1, width, generator=self.generator) >= arguments.dropped_dimensions
        return (inputs + noise * self.deviation) * kept


@torch.no_grad()
def rhythm_scores(network: HAFMRhythmNetwork, songs: Sequence[tuple[Array, Beats]], frames: int) -> dict[str, float]:
    """How well a network knows the beat from crops of so many frames alone.

    Returns:
        `beat_nats`: cross-entropy of the parts of the beat (2.08 is chance); `beat_agreement`, `half_beat_agreement`:
        mean cosine between found and true phase, each frame weighed by how sure the network is (0 is chance).
    """
    device = network.head.weight.device
    nats, found, true = [], [], []
    for features, beats in songs:
        for start in range(0, len(features) - frames + 1, frames):
            crop, wanted = torch.from_numpy(features[start : start + frames]), beats[start : start + frames]
            known = wanted != IGNORED
            if not known.any():
                continue
            logits = network(crop[None].to(device))[0].float().cpu()[torch.from_numpy(known)]
            nats.append(float(F.cross_entropy(logits, torch.from_numpy(wanted[known]))))
            found.append(network.place(crop[None].to(device))[0].cpu().numpy()[known])
            true.append((wanted[known] + 0.5) * (2 * math.pi / BEAT_PARTS))
    place, phase = np.concatenate(found), np.concatenate(true)
    scores = {"beat_nats": float(np.mean(nats))}
    for name, times, columns in (("beat_agreement", 1, slice(0, 2)), ("half_beat_agreement", 2, slice(2, 4))):
        wanted = np.stack([np.cos(times * phase), np.sin(times * phase)], axis=1)
        surety = np.linalg.norm(place[:, columns], axis=1).sum()
        scores[name] = float((place[:, columns] * wanted).sum() / surety)
    return scores
