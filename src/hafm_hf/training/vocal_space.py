"""A space for the vocal's clusters that keeps what an accompaniment needs of singing: note, onset, place in the beat.

K-means spends its clusters where features vary most, and loses onsets. Here the songs' labels say what matters: linear
discriminants (Fisher 1936) of the sung note, of its onset and of singing at all span the space, and the network of
`rhythm_hafm` learns from the songs' beats where in the beat a frame lies. Only vocals change; an instrumental's tokens
stay what they were.

Dimensions: T frames, D width of HuBERT, P of the projection.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F
from transformers.utils import logging

from ..corpus.clusters import Reservoir, fit_clusters
from ..rhythm_hafm import BEAT_PARTS, HAFMRhythmNetwork
from ..semantic_tokenizer_hafm import HAFMSemanticTokenizer
from .semantic_targets import IGNORED, beat_parts, note_targets
from .songs import PCM_SCALE, Song
from .steps import take_steps

logger = logging.get_logger(__name__)

Array = NDArray[np.float32]
# of the covariance within classes that is added to its diagonal, and frames below which a class is left out
SHRINKAGE, SMALLEST_CLASS = 1e-2, 50


@dataclass
class VocalSpaceArguments:
    """How the space is made. Weights are of the discriminants' unit variance, noise of the projection's."""

    note_dimensions: int = 24
    onset_weight: float = 1.2
    rhythm_weight: float = 2.0
    beat_line: bool = True
    channels: int = 48
    layers: int = 9
    steps: int = 2500
    batch_size: int = 16
    crop_seconds: float = 12.0
    learning_rate: float = 3e-3
    warmup_steps: int = 100
    weight_decay: float = 0.01
    noise: float = 0.7
    steady_noise: float = 0.3
    dropped_dimensions: float = 0.1
    stretch_octaves: float = 0.25
    seed: int = 0


@dataclass(frozen=True)
class SungFrames:
    """A vocal's frames: features (float16 [T, D]), note (int64 [T], 0 none), onset (bool [T]), part of the beat."""

    features: NDArray[np.float16]
    note: NDArray[np.int64]
    onset: NDArray[np.bool_]
    beat: NDArray[np.int64]


def vocal_features(tokenizer: HAFMSemanticTokenizer, song: Song, seed: int) -> NDArray[np.float16]:
    """Features float16 [T, D] of a song's vocal, noisy as at generation."""
    waveform = torch.from_numpy(song.vocal / np.float32(PCM_SCALE)).to(tokenizer.device)
    return tokenizer.extract_features(waveform, noise=True, seed=seed).cpu().numpy().astype(np.float16)


def sung_frames(features: NDArray[np.float16], song: Song, frame_rate: int) -> SungFrames:
    """The features of a song's vocal beside its labels."""
    times = (np.arange(len(features)) + 0.5) / frame_rate
    notes = note_targets(song.labels, times, 0)
    return SungFrames(features, notes["pitch"], notes["onset"] == 1, beat_parts(song.labels, times, BEAT_PARTS))


def discriminants(features: Array, classes: NDArray[np.int64], dimensions: int) -> Array:
    """Directions in which classes differ most for what they vary within: float32 [D, dimensions].

    Args:
        features (float32 [M, D]).
        classes (int64 [M]).
        dimensions: how many, from the strongest on; each is scaled to a variance of 1.

    Raises:
        ValueError: fewer than two classes have enough frames.
    """
    mean, width = features.mean(0), features.shape[1]
    within, between = np.zeros((width, width)), np.zeros((width, width))
    values, counts = np.unique(classes, return_counts=True)
    large = values[counts >= SMALLEST_CLASS]
    if len(large) < 2:  # noqa: PLR2004
        raise ValueError(f"{len(large)} classes have {SMALLEST_CLASS} frames; render more songs.")
    for value in large:
        rows = features[classes == value]
        centre = rows.mean(0)
        within += (rows - centre).T @ (rows - centre)
        between += len(rows) * np.outer(centre - mean, centre - mean)
    within /= len(features)
    within += SHRINKAGE * np.trace(within) / width * np.eye(width)
    whitening = np.linalg.inv(np.linalg.cholesky(within))
    _, vectors = np.linalg.eigh(whitening @ between @ whitening.T)
    found = whitening.T @ vectors[:, ::-1][:, :dimensions]
    return (found / (features @ found).std(0)).astype(np.float32)


def vocal_projection(songs: Sequence[SungFrames], arguments: VocalSpaceArguments) -> Array:
    """Float32 [D, P]: discriminants of the note, of its onset and of singing, side by side."""
    features = np.concatenate([song.features for song in songs]).astype(np.float32)
    note = np.concatenate([song.note for song in songs])
    onset = np.concatenate([song.onset for song in songs]).astype(np.int64)
    sung = note > 0
    parts = (
        discriminants(features[sung], note[sung], arguments.note_dimensions),
        arguments.onset_weight * discriminants(features[sung], onset[sung], 1),
        discriminants(features, sung.astype(np.int64), 1),
    )
    return np.concatenate(parts, axis=1).astype(np.float32)


class RhythmTrainer:
    """Teaches a rhythm network the beats of songs, from their projected vocals.

    Args:
        network: reads float [B, T, P].
        songs: projected features (float32 [T, P]) and parts of the beat (int64 [T]) of each song.
        arguments: see above.
        frame_rate: of the features, in Hz.

    Raises:
        ValueError: no song is long enough for a crop.
    """

    def __init__(
        self,
        network: HAFMRhythmNetwork,
        songs: Sequence[tuple[Array, NDArray[np.int64]]],
        arguments: VocalSpaceArguments,
        frame_rate: int,
    ) -> None:
        self.network, self.arguments = network, arguments
        self.frames = round(arguments.crop_seconds * frame_rate)
        longest = self.frames * 2**arguments.stretch_octaves + 2
        self.songs = [song for song in songs if len(song[0]) > longest]
        if not self.songs:
            raise ValueError(f"No song is longer than {longest / frame_rate:.1f} s; the beat needs that much singing.")
        self.deviation = torch.from_numpy(np.concatenate([x for x, _ in self.songs]).std(0))
        self.rng = np.random.default_rng(arguments.seed)
        self.generator = torch.Generator().manual_seed(arguments.seed)
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=arguments.learning_rate, weight_decay=arguments.weight_decay
        )

    def train(self) -> float:
        """Takes all steps; returns the mean loss of the last tenth, in nats."""
        how = self.arguments
        self.network.train()
        loss = take_steps(self._step, self.optimizer, how.steps, how.learning_rate, how.warmup_steps)
        self.network.eval()
        return loss

    def _step(self) -> float:
        crops = [self._crop() for _ in range(self.arguments.batch_size)]
        inputs = self._disturbed(torch.from_numpy(np.stack([features for features, _ in crops])))
        wanted = torch.from_numpy(np.stack([beats for _, beats in crops]))
        device = self.network.head.weight.device
        logits = self.network(inputs.to(device))
        loss = F.cross_entropy(logits.flatten(0, 1), wanted.to(device).flatten(), ignore_index=IGNORED)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        return float(loss.detach())

    def _crop(self) -> tuple[Array, NDArray[np.int64]]:
        """A crop of a song in another tempo: float32 [T, P], int64 [T]."""
        features, beats = self.songs[int(self.rng.integers(len(self.songs)))]
        speed = 2 ** self.rng.uniform(-self.arguments.stretch_octaves, self.arguments.stretch_octaves)
        start = self.rng.uniform(0, len(features) - self.frames * speed - 2)
        points = start + speed * np.arange(self.frames)
        before = points.astype(np.int64)
        share = (points - before).astype(np.float32)[:, None]
        mixed = features[before] * (1 - share) + features[before + 1] * share
        return mixed, beats[np.round(points).astype(np.int64)]

    def _disturbed(self, inputs: torch.Tensor) -> torch.Tensor:
        """Noise from frame to frame, a shift of the whole crop, and dimensions left out: other voices, other rooms."""
        arguments, (rows, frames, width) = self.arguments, inputs.shape
        noise = arguments.noise * torch.randn(rows, frames, width, generator=self.generator)
        noise += arguments.steady_noise * torch.randn(rows, 1, width, generator=self.generator)
        kept = torch.rand(rows, 1, width, generator=self.generator) >= arguments.dropped_dimensions
        return (inputs + noise * self.deviation) * kept


@torch.no_grad()
def rhythm_scores(
    network: HAFMRhythmNetwork, songs: Sequence[tuple[Array, NDArray[np.int64]]], frames: int
) -> dict[str, float]:
    """How well a network knows the beat, from crops of `frames` alone.

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


def fit_vocal_space(
    tokenizer: HAFMSemanticTokenizer,
    training: Sequence[SungFrames],
    validation: Sequence[SungFrames],
    arguments: VocalSpaceArguments,
    frames: int,
) -> tuple[HAFMSemanticTokenizer, dict[str, float]]:
    """A tokenizer whose vocal has projection, rhythm network and centroids of its own; all else stays as it was.

    Args:
        tokenizer: with separate centroids, whose features the songs' are.
        training, validation: songs.
        arguments: see above.
        frames: how many frames of the training songs are clustered.

    Returns:
        the new tokenizer, on the CPU, and figures of clusters and beats.

    Raises:
        ValueError: the tokenizer's centroids are not separate, or there are no songs.
    """
    if not tokenizer.config.separate_centroids or not training or not validation:
        raise ValueError("This needs a tokenizer with separate centroids, and songs for training and validation.")
    fitted = _with_vocal_space(tokenizer, vocal_projection(training, arguments), arguments)
    projection = fitted.vocal_projection.numpy()

    def projected(songs: Sequence[SungFrames]) -> list[tuple[Array, NDArray[np.int64]]]:
        return [(song.features.astype(np.float32) @ projection, song.beat) for song in songs]

    trainer = RhythmTrainer(fitted.rhythm, projected(training), arguments, tokenizer.config.frame_rate)
    figures = {"beat_nats_in_training": trainer.train()}
    figures |= rhythm_scores(fitted.rhythm, projected(validation), trainer.frames)
    figures |= _fit_vocal_centroids(fitted, training, frames, arguments.seed)
    return fitted, figures


def _with_vocal_space(
    tokenizer: HAFMSemanticTokenizer, projection: Array, arguments: VocalSpaceArguments
) -> HAFMSemanticTokenizer:
    """The tokenizer with a projection, an untrained rhythm network, and no vocal centroids yet."""
    config = copy.deepcopy(tokenizer.config)
    config.vocal_projection_size = projection.shape[1]
    config.rhythm_channels, config.rhythm_layers = arguments.channels, arguments.layers
    config.beat_line = arguments.beat_line
    torch.manual_seed(arguments.seed)
    fitted = HAFMSemanticTokenizer(config).float().eval()
    fitted.hubert.load_state_dict(tokenizer.hubert.state_dict())
    fitted.centroids.copy_(tokenizer.centroids)
    fitted.centroids[0] = 0.0
    fitted.vocal_projection.copy_(torch.from_numpy(projection))
    fitted.rhythm_scale.fill_(arguments.rhythm_weight)
    return fitted


def _fit_vocal_centroids(
    tokenizer: HAFMSemanticTokenizer, songs: Sequence[SungFrames], frames: int, seed: int
) -> dict[str, float]:
    """Clusters so many frames of whole songs in the vocal's space, and sets the centroids."""
    reservoir = Reservoir(frames, seed)
    for song in songs:
        reservoir.add(tokenizer.vocal_space(torch.from_numpy(song.features).float()).numpy())
    centroids, figures = fit_clusters(reservoir.rows, tokenizer.config.num_clusters, seed)
    tokenizer.centroids[0, :, : centroids.shape[1]] = torch.from_numpy(centroids)
    return {f"vocal_{name}": float(value) for name, value in figures.items()}
