# SPDX-License-Identifier: Apache-2.0
"""Trains a small HuBERT whose features encode pitch, onsets and harmony: masked cluster prediction, plus labels.

Each batch has vocals (clean, or with the noise added at generation) and instrumentals, transposed by resampling, which
also moves formants and so simulates more singers. Spans of frames are masked; at masked frames, the clusters of
targets.descriptors are predicted as in HuBERT, and at all frames, the labels of the rendered song.

Dimensions: B crops, N samples of a crop, M samples before resampling, T frames, D width of the hidden states.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.signal import fftconvolve
from torch import nn
from transformers import HubertModel

from hafm_hf.tokenizers.modeling_semantic_tokenizer import receptive_field

from .clusters import kmeans, nearest
from .song_pool import PCM_SCALE, SongPool
from .state import cosine_learning_rate
from .targets import IGNORED, LABEL_SIZES, descriptors, frame_targets

# steps that training never reaches, whose batches the clusters are fitted to
CLUSTERING_STEP = 10_000_000
# a step's seed is the run's seed times this, plus the step; no run has as many steps, so all seeds differ
STEPS_PER_SEED = 1_000_003
KMEANS_ITERATIONS = 20
# norm to which gradients are clipped
LONGEST_GRADIENT = 1.0
# share of crops with a simulated room
ROOM_SHARE = 0.3
# range of the random gain before noise is added
GAINS_DB = (-12, 6)


@dataclass
class SemanticTrainingArguments:
    """How a semantic tokenizer's HuBERT is trained.

    Attributes:
        batch_seconds: total length of the crops in a step.
        crop_seconds, crop_shares: crop lengths, and the probabilities with which one is drawn per step.
        vocal_share: share of crops that are vocals.
        noise_std: standard deviation of the noise added to vocals at generation.
        max_shift: largest transposition in semitones.
        vocal_cents, band_cents: largest further change of pitch in cents, of vocals and of instrumentals.
        mask_share, mask_frames: share of frames that are masked, and length in frames of a masked span.
        start_batches: number of batches to which the clusters are fitted.
        clusters: number of clusters of each descriptor.
        weights: weight of each loss, those of labels, of descriptors' clusters, and of the penalty on activations.
    """

    steps: int = 3000
    batch_seconds: float = 32.0
    crop_seconds: list[float] = field(default_factory=lambda: [4.0, 8.0, 16.0])
    crop_shares: list[float] = field(default_factory=lambda: [0.6, 0.25, 0.15])
    learning_rate: float = 1e-3
    final_learning_rate: float = 3e-5
    warmup_steps: int = 150
    weight_decay: float = 0.01
    vocal_share: float = 0.55
    noise_std: float = 0.01
    max_shift: int = 5
    vocal_cents: float = 30.0
    band_cents: float = 15.0
    mask_share: float = 0.35
    mask_frames: int = 10
    start_batches: int = 24
    clusters: dict[str, int] = field(default_factory=lambda: {"harmony": 128, "texture": 64})
    # the activation penalty removes variance that predicts nothing, and would waste clusters of k-means
    weights: dict[str, float] = field(
        default_factory=lambda: {
            "pitch": 1.5,
            "onset": 0.5,
            "chord": 1.0,
            "beat": 0.3,
            "harmony": 0.3,
            "texture": 0.2,
            "activation": 3e-3,
        }
    )
    seed: int = 0


def resample_linear(samples: np.ndarray, num_samples: int) -> np.ndarray:
    """Interpolates samples (float32 [M]) to `num_samples`, which changes speed, pitch and formants together."""
    points = np.linspace(0, len(samples) - 1, num_samples)
    return np.interp(points, np.arange(len(samples)), samples).astype(np.float32)


def add_room(samples: np.ndarray, rng: np.random.Generator, sampling_rate: int) -> np.ndarray:
    """Adds a random room to samples (float32 [N] at `sampling_rate` Hz): convolution with decaying noise."""
    decay = rng.uniform(0.1, 0.5)  # seconds to −60 dB
    time = np.arange(int(decay * sampling_rate)) / sampling_rate
    # 60 dB are 6.9 nepers
    tail = rng.normal(size=len(time)) * np.exp(-6.9 * time / decay)
    # level relative to the sound: −26 to −8 dB
    tail *= rng.uniform(0.05, 0.4) / np.sqrt(np.sum(tail**2))
    return (samples + fftconvolve(samples, tail)[: len(samples)]).astype(np.float32)


def vocal_noise(rng: np.random.Generator, num_samples: int, noise_std: float) -> np.ndarray:
    """Noise for a vocal crop: float32 [`num_samples`].

    60 % of crops get the noise of generation, with standard deviation `noise_std`, 15 % none, and the rest noise
    30 dB below to 6 dB above it.
    """
    draw = rng.random()
    if draw < 0.6:
        level = noise_std
    elif draw < 0.75:
        level = 0.0
    else:
        level = noise_std * 10 ** rng.uniform(-1.5, 0.3)
    return (level * rng.normal(size=num_samples)).astype(np.float32)


def draw_crop(
    pool: SongPool, arguments: SemanticTrainingArguments, rng: np.random.Generator, seconds: float, pad: int, hop: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Draws a crop of a vocal or an instrumental, and augments and normalises it.

    Args:
        pool: songs.
        arguments: see `SemanticTrainingArguments`.
        rng: source of all randomness.
        seconds: length of the crop.
        pad: zeros to add on both sides, in samples.
        hop: samples per frame.

    Returns:
        The crop (float32 [N + 2 · pad], N samples of sound), and its targets by name (`frame_targets`, int64 [T] each,
        T frames).
    """
    num_samples = int(seconds * pool.sampling_rate)
    is_vocal = bool(rng.random() < arguments.vocal_share)
    shift = int(rng.integers(-arguments.max_shift, arguments.max_shift + 1))
    cents = rng.uniform(-1, 1) * (arguments.vocal_cents if is_vocal else arguments.band_cents)
    # factor of speed and pitch: samples of the song per sample of the crop
    ratio = 2 ** ((shift + cents / 100) / 12)
    num_read = int(np.ceil(num_samples * ratio)) + 1
    song, start = pool.draw(rng, num_read)
    stem = song.vocal if is_vocal else song.instrumental
    samples = stem[start : start + num_read] / np.float32(PCM_SCALE)
    samples = resample_linear(samples, num_samples)
    if rng.random() < ROOM_SHARE:
        samples = add_room(samples, rng, pool.sampling_rate)
    # matters only relative to the noise, as the crop is normalised afterwards
    samples = samples * np.float32(10 ** (rng.uniform(*GAINS_DB) / 20))
    if is_vocal:
        samples = samples + vocal_noise(rng, num_samples, arguments.noise_std)
    samples = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
    # times in the song of the frames' middles, in seconds
    times_in_crop = (np.arange(num_samples // hop) + 0.5) * hop / pool.sampling_rate
    times = start / pool.sampling_rate + times_in_crop * ratio
    return np.pad(samples, pad), frame_targets(song, times, shift, is_vocal)


def draw_mask(rng: np.random.Generator, rows: int, frames: int, share: float, span: int) -> torch.Tensor:
    """Draws which frames to mask, in spans.

    Args:
        rng: draws where spans start.
        rows: number of crops.
        frames: number of frames of each.
        share: of all frames to mask, approximately, as spans may overlap.
        span: length of a span in frames.

    Returns:
        bool [rows, frames], True where a frame is masked.
    """
    starts = rng.random((rows, frames)) < share / span
    mask = np.zeros((rows, frames), dtype=bool)
    for row, frame in zip(*np.nonzero(starts), strict=True):
        mask[row, frame : frame + span] = True
    return torch.from_numpy(mask)


class SemanticTrainer:
    """Trains step by step; everything random is determined by seed and step.

    Args:
        hubert: HubertModel whose first convolution is the filter bank (targets.start_front_end); changed in place.
        pool: training songs at the tokenizer's sampling rate.
        arguments: see SemanticTrainingArguments.
    """

    def __init__(self, hubert: HubertModel, pool: SongPool, arguments: SemanticTrainingArguments) -> None:
        self.hubert = hubert
        self.pool = pool
        self.arguments = arguments
        config = hubert.config
        # in samples: of a frame, and on both sides of a crop, so that N samples make N / hop frames
        self.hop = int(np.prod(config.conv_stride))
        self.pad = (receptive_field(config) - self.hop) // 2
        sizes = LABEL_SIZES | arguments.clusters
        self.heads = nn.ModuleDict({name: nn.Linear(config.hidden_size, size) for name, size in sizes.items()})
        self.heads.to(next(hubert.parameters()).device)
        # the tokenizer clusters hidden states before the encoder's final norm, so the heads are trained on these;
        # `save_hubert` puts the norm back
        self.final_norm = hubert.encoder.layer_norm
        hubert.encoder.layer_norm = nn.Identity()
        self.centroids: dict[str, torch.Tensor] = {}
        self.responses = torch.empty(0)
        hubert.feature_extractor.conv_layers[0].conv.register_forward_hook(self._keep_responses)
        parameters = [p for module in (hubert, self.heads) for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            parameters, lr=arguments.learning_rate, betas=(0.9, 0.98), weight_decay=arguments.weight_decay
        )
        self.parameters = parameters
        self.step = 0

    def _keep_responses(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        """Forward hook of the first convolution: keeps the filter bank's last output, for the descriptors."""
        self.responses = output.detach()

    @property
    def device(self) -> torch.device:
        """Where HuBERT is."""
        return self.parameters[0].device

    def draw_batch(self, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """Draws the batch of a step.

        Returns:
            The padded crops (float [B, N + 2 · pad]: B crops of N samples), the label targets by name (int64 [B, T], T
            frames, each), and the frames to mask (bool [B, T]).
        """
        arguments = self.arguments
        rng = np.random.default_rng([arguments.seed, step])
        seconds = float(rng.choice(arguments.crop_seconds, p=arguments.crop_shares))
        rows = max(1, int(arguments.batch_seconds / seconds))
        crops = [draw_crop(self.pool, arguments, rng, seconds, self.pad, self.hop) for _ in range(rows)]
        values = torch.from_numpy(np.stack([samples for samples, _ in crops])).to(self.device)
        targets = {
            name: torch.from_numpy(np.stack([crop_targets[name] for _, crop_targets in crops])).to(self.device)
            for name in LABEL_SIZES
        }
        # without the padding
        frames = values.shape[1] // self.hop - 2 * self.pad // self.hop
        mask = draw_mask(rng, rows, frames, arguments.mask_share, arguments.mask_frames).to(self.device)
        return values, targets, mask

    @torch.no_grad()
    def _cluster_targets(self, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """The targets of masked prediction: by descriptor, the cluster of each frame of the last batch.

        Args:
            mask (bool [B, T]): the masked frames of B crops.

        Returns:
            int64 [B, T] each, IGNORED in frames that are not masked.
        """
        targets = {}
        for name, values in descriptors(self.responses).items():
            clusters = nearest(values.flatten(0, 1), self.centroids[name]).view(values.shape[:2])
            # the filter bank may return more frames than the network
            clusters = clusters[:, : mask.shape[1]]
            targets[name] = torch.where(mask, clusters, torch.full_like(clusters, IGNORED))
        return targets

    @torch.no_grad()
    def start_clusters(self) -> None:
        """Fit the clusters of each descriptor with k-means, to batches that are not drawn in training."""
        vectors: dict[str, list[torch.Tensor]] = {name: [] for name in self.arguments.clusters}
        for index in range(self.arguments.start_batches):
            values, _, _ = self.draw_batch(CLUSTERING_STEP + index)
            # its hook sets `responses`
            self.hubert.feature_extractor.conv_layers[0].conv(values.unsqueeze(1))
            for name, values_of_frames in descriptors(self.responses).items():
                vectors[name].append(values_of_frames.flatten(0, 1))
        generator = torch.Generator().manual_seed(self.arguments.seed)
        for name, size in self.arguments.clusters.items():
            self.centroids[name] = kmeans(torch.cat(vectors[name]), size, KMEANS_ITERATIONS, generator)

    def train_step(self) -> dict[str, float]:
        """Take one step, or skip the update if a gradient is not finite; the first call fits the clusters.

        Returns:
            By name, losses (cross-entropies in nats; mean squared activation), accuracies of the label targets
            (NAME_accuracy), and "learning_rate".
        """
        arguments = self.arguments
        if not self.centroids:
            self.start_clusters()
        rate = cosine_learning_rate(
            self.step, arguments.steps, arguments.learning_rate, arguments.final_learning_rate, arguments.warmup_steps
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        torch.manual_seed(arguments.seed * STEPS_PER_SEED + self.step)
        values, targets, mask = self.draw_batch(self.step)
        features = self.hubert(values, mask_time_indices=mask).last_hidden_state
        targets = targets | self._cluster_targets(mask)
        loss, report = self._loss(features, targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, LONGEST_GRADIENT)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.step += 1
        return {**report, "learning_rate": rate}

    def _loss(self, features: torch.Tensor, targets: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
        """The weighted sum of all losses, and a report for the log: each loss, and accuracies of the label targets.

        Args:
            features (float [B, T, D]): the network's hidden states, D wide, of T frames.
            targets: labels and clusters by name, int64 [B, T] each; IGNORED in frames that do not count.
        """
        weights = self.arguments.weights
        activation = features.pow(2).mean()
        loss = weights["activation"] * activation
        report = {"activation": float(activation.detach())}
        for name, head in self.heads.items():
            labelled = targets[name] != IGNORED
            if not bool(labelled.any()):
                continue
            logits = head(features[labelled])
            labels = targets[name][labelled]
            cross_entropy = nn.functional.cross_entropy(logits, labels)
            loss = loss + weights[name] * cross_entropy
            report[name] = float(cross_entropy.detach())
            if name in LABEL_SIZES:
                report[name + "_accuracy"] = float((logits.detach().argmax(-1) == labels).float().mean())
        return loss, report

    def save_hubert(self, folder: Path) -> None:
        """Write an ordinary HubertModel folder; its final norm, which is not used in training, is untrained."""
        self.hubert.encoder.layer_norm = self.final_norm
        self.hubert.save_pretrained(folder)
        self.hubert.encoder.layer_norm = nn.Identity()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume at the next step."""
        return {
            "hubert": self.hubert.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "centroids": self.centroids,
            "step": self.step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.hubert.load_state_dict(state["hubert"])
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.centroids = dict(state["centroids"])
        self.step = int(state["step"])
