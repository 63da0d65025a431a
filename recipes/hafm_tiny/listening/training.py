# SPDX-License-Identifier: Apache-2.0
"""Teaches a listener what the simulated singer sings: crops from seconds to whole songs, new ones at each step.

Dimensions: B batch, H cells of harmony, T cells of time.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional as F

from ..steps import StepArguments
from .modeling_listener import BEAT_PARTS, HAFMListenerModel
from .simulated_singer import Performance, SimulatedSinger
from .tunes import SHEETS, SONGS, Tune, of_source

IGNORED = -100
HARMONY, TIME = "harmony", "time"


@dataclass
class ListenerArguments(StepArguments):
    """How a listener learns, beside its steps.

    Attributes:
        crop_seconds (list of float): lengths of crops, one a step.
        batch_seconds (float): of all crops of a step.
        sheet_share (float): share of the crops that are of lead sheets.
        own_tempo (float): share of the songs' crops that are sung near the tempo they were played in.
        time_share (float): steps of the tower that hears beats, for each of the one that hears chords.
        key_weight, bar_weight, tempo_weight (float): of their losses beside that of chords or beats.
    """

    steps: int = 4500
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    weight_decay: float = 0.05
    ema_decay: float = 0.998
    crop_seconds: list[float] = field(default_factory=lambda: [8.0, 15.0, 30.0, 60.0, 120.0, 240.0])
    batch_seconds: float = 180.0
    sheet_share: float = 0.3
    own_tempo: float = 0.5
    time_share: float = 0.6
    key_weight: float = 0.1
    bar_weight: float = 0.3
    tempo_weight: float = 0.15


class ListenerTrainer:
    """Draws batches and says how wrong a listener is about them.

    Args:
        model: whose losses are asked for.
        tunes: for training.
        arguments: see above.

    Raises:
        ValueError: there are no tunes.
    """

    def __init__(self, model: HAFMListenerModel, tunes: Sequence[Tune], arguments: ListenerArguments) -> None:
        self.model, self.arguments = model, arguments
        self.rng = np.random.default_rng(arguments.seed)
        self.singer = SimulatedSinger(self.rng, arguments.own_tempo)
        if not tunes:
            raise ValueError("There are no tunes to learn from: are songs, corpus or sheets the right ones?")
        self.sources = [of_source(tunes, SONGS), of_source(tunes, SHEETS)]

    def performances(self) -> list[Performance]:
        """One batch, of one length but for tunes that are shorter."""
        seconds = float(self.rng.choice(self.arguments.crop_seconds))
        rows = max(round(self.arguments.batch_seconds / seconds), 1)
        found = []
        for _ in range(rows):
            songs, sheets = self.sources
            tunes = sheets if sheets and (not songs or self.rng.random() < self.arguments.sheet_share) else songs
            found.append(self.singer.sing(tunes[int(self.rng.integers(len(tunes)))], seconds))
        return found

    def harmony_loss(self) -> torch.Tensor:
        """Of chords and key."""
        return harmony_loss(self.model, self.performances(), self.arguments.key_weight)

    def time_loss(self) -> torch.Tensor:
        """Of beats, bars and tempo."""
        arguments = self.arguments
        return time_loss(self.model, self.performances(), arguments.bar_weight, arguments.tempo_weight)


def harmony_loss(model: HAFMListenerModel, batch: Sequence[Performance], key_weight: float) -> torch.Tensor:
    """Cross-entropy of the chord of each cell, and of the key."""
    each_cell = model.config.harmony_frames
    cells, mask = _stacked([each.line.harmony_cells(each_cell) for each in batch])
    wanted, _ = _stacked([each.chords[_middles(each, each_cell)] for each in batch], IGNORED)
    chords, key = model.hear_harmony(cells, mask[..., None])
    keys = torch.tensor([each.key for each in batch])
    loss = F.cross_entropy(chords.flatten(0, 1), wanted.flatten(), ignore_index=IGNORED)
    return loss + key_weight * F.cross_entropy(key, keys)


def time_loss(
    model: HAFMListenerModel, batch: Sequence[Performance], bar_weight: float, tempo_weight: float
) -> torch.Tensor:
    """Cross-entropy of the part of the beat, of whether a bar begins with it, and of the tempo."""
    each_cell = model.config.time_frames
    cells, mask = _stacked([each.line.time_cells(each_cell) for each in batch])
    beats = [each.beats[_middles(each, each_cell)] for each in batch]
    parts, _ = _stacked([np.floor(each % 1 * BEAT_PARTS).astype(np.int64) for each in beats], IGNORED)
    first = [(np.floor(each) - b.downbeat) % b.metre == 0 for each, b in zip(beats, batch, strict=True)]
    bars, _ = _stacked([each.astype(np.float32) for each in first])
    # beats of POP909's songs in six are eighths: their bars teach nothing
    known = mask * torch.tensor([float(each.metre in (3, 4)) for each in batch])[:, None]
    heard, bar, tempo = model.hear_time(cells, mask[..., None])
    loss = F.cross_entropy(heard.flatten(0, 1), parts.flatten(), ignore_index=IGNORED)
    binary = F.binary_cross_entropy_with_logits(bar, bars, reduction="none")
    loss = loss + bar_weight * (binary * known).sum() / known.sum().clamp_min(1)
    tempi = torch.tensor([each.tempo for each in batch], dtype=torch.float32)
    return loss + tempo_weight * -(tempo_targets(model, tempi) * tempo.log_softmax(-1)).sum(-1).mean()


def tempo_targets(model: HAFMListenerModel, tempi: torch.Tensor) -> torch.Tensor:
    """Tempi (float [B]) as distributions over the bins, a Gaussian of one bin's width: float [B, K]."""
    away = (torch.log2(model.tempi)[None] - torch.log2(tempi)[:, None]) / model.tempo_step
    return torch.softmax(-0.5 * away**2, dim=-1)


def _middles(each: Performance, step: int) -> np.ndarray:
    """The frame in the middle of each cell."""
    return np.minimum(np.arange(-(-len(each.line) // step)) * step + step // 2, len(each.line) - 1)


def _stacked(rows: Sequence[np.ndarray], fill: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, longest, …] with `fill` behind the end, and float [B, longest], 1 where there is something."""
    longest = max(map(len, rows))
    stacked = np.stack(
        [np.pad(r, [(0, longest - len(r))] + [(0, 0)] * (r.ndim - 1), constant_values=fill) for r in rows]
    )
    mask = np.arange(longest)[None] < np.array([len(row) for row in rows])[:, None]
    return torch.from_numpy(stacked), torch.from_numpy(mask.astype(np.float32))
