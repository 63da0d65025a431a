# SPDX-License-Identifier: Apache-2.0
"""Trains a listener on simulated singers.

The harmony tower, which estimates chords, is trained on crops of a pool of performances, some of which are replaced at
each step; the time tower, which estimates tempo, on crops that are all new. A listener may have an ear, a pretrained
network whose features of the voice it reads; simulated singers have no such features.

A cell is a few frames of a pitch contour (`PitchContour.harmony_cells`, `PitchContour.time_cells`).
Dimensions: B batch, H harmony cells, T time cells, K tempo bins.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from hafm_hf.lead_sheet.chords import NUM_TRIADS, PITCH_CLASSES
from hafm_hf.listening.modeling_listener import HAFMListenerModel
from hafm_hf.tokenizers.beat_tracker import BEAT_PARTS
from hafm_hf.tokenizers.pitch_contour import CLASS_FEATURES, HARMONY_PARTS, PitchContour

from ..steps import StepArguments, in_half, take_steps
from .simulated_singer import SimulatedSinger
from .takes import TimedContour, crop_of_takes
from .tunes import SHEETS, SONGS, Tune, of_source

# target of cells that do not count
IGNORED = -100
# smoothing of a song's chord frequencies: added to each
RARE = 0.02
# seconds to sing of a tune: all of it
WHOLE = 1e9
# attempts to draw a crop with enough singing, and the share of voiced frames that is enough
TRIES = 6
LEAST_SUNG = 0.3
# minimum cells of a crop that is joined from pieces of a song, and maximum number of pieces
JOINED_CELLS = 40
PIECES = 6


@dataclass
class ListenerArguments(StepArguments):
    """How a listener is trained, in addition to its steps.

    Attributes:
        harmony_cells (list of int): crop lengths of the harmony tower, of which one is drawn per step.
        harmony_batch (int): total number of cells per step.
        harmony_rate (float): highest learning rate of the harmony tower; `learning_rate` is the time tower's.
        pool (int): number of performances in the pool.
        sung_a_step (int): performances of the pool that are replaced at each step.
        left_out (float): share of crops in which one feature is dropped for all pitch classes.
        joined (float): share of the longer crops that are concatenated from pieces of a song.
        prior_weight (float): weight of a song's chord frequencies as a prior in training (logit adjustment, Menon et
            al. 2021), so that the model learns to distinguish moments of a song rather than its commonest chords.
        time_seconds (list of float): crop lengths of the time tower, of which one is drawn per step.
        time_batch (float): total length in seconds of the crops per step.
        time_share (float): number of steps of the time tower, relative to the harmony tower's.
        sheet_share, time_sheet_share (float): share of lead sheets among the tunes, for each tower.
        own_tempo, time_own_tempo (float): share of songs sung near their original tempo, for each tower.
        takes_share (float): share of the time tower's steps that use takes of rendered songs, if there are any; and
            of the harmony tower's crops, if the listener has an ear, which cannot hear simulated singers.
        takes_octaves (list of float): lowest and highest change of the takes' speed, in octaves.
        bar_weight, tempo_weight (float): weights of these losses relative to the beat loss.
    """

    steps: int = 4000
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    ema_decay: float = 0.995
    harmony_cells: list[int] = field(default_factory=lambda: [20, 30, 50, 75, 150, 300])
    harmony_batch: int = 1800
    harmony_rate: float = 3e-3
    pool: int = 3000
    sung_a_step: int = 1
    left_out: float = 0.15
    joined: float = 0.4
    prior_weight: float = 0.2
    time_seconds: list[float] = field(default_factory=lambda: [7.0, 9.0, 14.0, 30.0, 60.0])
    time_batch: float = 240.0
    time_share: float = 0.75
    sheet_share: float = 0.2
    time_sheet_share: float = 0.3
    own_tempo: float = 0.6
    time_own_tempo: float = 0.1
    takes_share: float = 0.6
    takes_octaves: list[float] = field(default_factory=lambda: [-0.15, 0.65])
    bar_weight: float = 0.2
    tempo_weight: float = 0.25


@dataclass(frozen=True)
class SungSong:
    """A performance, or a crop of one, for training the harmony tower.

    Args:
        cells (float16 [H, 54], or [H, 54 + ear_size]): features of H harmony cells (`PitchContour.harmony_cells`).
        chords (int64 [H]): triad of each cell, 0 to 24 (`triad_class`).
    """

    cells: torch.Tensor
    chords: torch.Tensor

    @property
    def prior(self) -> torch.Tensor:
        """Log of the smoothed frequency of each triad in the song: float32 [25]."""
        share = torch.bincount(self.chords, minlength=NUM_TRIADS) / max(len(self.chords), 1)
        return ((share + RARE) / (share + RARE).sum()).log()


class HarmonyTrainer:
    """Computes the loss of a listener's harmony tower on simulated performances.

    Args:
        model: the listener.
        tunes: training tunes.
        arguments: see `ListenerArguments`.
        takes: takes of rendered songs with chords, and with features of the ear; only used if the listener has one.

    Raises:
        ValueError: there are no tunes.
    """

    def __init__(
        self,
        model: HAFMListenerModel,
        tunes: Sequence[Tune],
        arguments: ListenerArguments,
        takes: Sequence[TimedContour] = (),
    ) -> None:
        self.model = model
        self.arguments = arguments
        if model.config.ear_size:
            self.takes = [self._cells_of(take.contour, take.chords) for take in takes]
        else:
            self.takes = []
        self.rng = np.random.default_rng(arguments.seed)
        self.singer = SimulatedSinger(self.rng, arguments.own_tempo, joined=0.0)
        self.tunes = TuneDraw(tunes, arguments.sheet_share, self.rng)
        self.pool = [self._sung() for _ in range(arguments.pool)]

    def loss(self) -> torch.Tensor:
        """Cross-entropy of the cells' chords in a random batch."""
        length = int(self.rng.choice(self.arguments.harmony_cells))
        crops = [self._crop(length) for _ in range(max(self.arguments.harmony_batch // length, 1))]
        # replaced by new performances
        for index in self.rng.integers(len(self.pool), size=self.arguments.sung_a_step):
            self.pool[int(index)] = self._sung()
        cells, mask = stacked([self._without_a_feature(crop.cells.float()).numpy() for crop in crops])
        chords, _ = stacked([crop.chords.numpy() for crop in crops], IGNORED)  # [B, H]
        device = self.model.device
        with in_half(device):
            logits = self.model.chord_logits(cells.to(device), mask.to(device))  # [B, H, chords]
        # logit adjustment (`ListenerArguments.prior_weight`)
        priors = torch.stack([crop.prior for crop in crops])[:, None]
        logits = logits.float().cpu() + self.arguments.prior_weight * priors
        return F.cross_entropy(logits.flatten(0, 1), chords.flatten(), ignore_index=IGNORED)

    def _without_a_feature(self, cells: torch.Tensor) -> torch.Tensor:
        """In a share `left_out` of crops, sets one feature of all pitch classes to 0, so that none is indispensable.

        Args:
            cells (float [H, 54 + ear_size]): features of H harmony cells, changed in place.

        Returns:
            `cells`.
        """
        if self.rng.random() < self.arguments.left_out:
            # the features of each of the 12 pitch classes come first, class by class
            per_class = HARMONY_PARTS * CLASS_FEATURES
            feature = int(self.rng.integers(per_class))
            cells[:, feature : PITCH_CLASSES * per_class : per_class] = 0.0
        return cells

    def _sung(self) -> SungSong:
        """A whole tune, sung by the simulated singer."""
        sung = self.singer.sing(self.tunes.draw(), WHOLE)
        return self._cells_of(sung.contour, sung.chords)

    def _cells_of(self, contour: PitchContour, chords: np.ndarray) -> SungSong:
        """Features and chords of a song's harmony cells.

        Args:
            contour: of the song.
            chords (int64 [frames of the contour]): triad of each frame.
        """
        size = self.model.config.harmony_frames
        cells = torch.from_numpy(contour.harmony_cells(size)).half()
        return SungSong(cells, torch.from_numpy(chords[_middles(contour, size)]))

    def _crop(self, length: int) -> SungSong:
        """A random crop of up to `length` cells of a random song: one piece, or several joined.

        Up to `TRIES` crops are drawn: the first with enough singing is taken, or the last.
        """
        rng = self.rng
        from_take = bool(self.takes) and rng.random() < self.arguments.takes_share
        songs = self.takes if from_take else self.pool
        song = songs[int(rng.integers(len(songs)))]
        # the features that follow the pitch classes start with the share of voiced frames
        voiced_share = PITCH_CLASSES * HARMONY_PARTS * CLASS_FEATURES
        for _ in range(TRIES):
            pieces = 1
            if length >= JOINED_CELLS and rng.random() < self.arguments.joined:
                pieces = int(rng.integers(2, PIECES + 1))
            piece_length = min(length // pieces, len(song.cells))
            starts = rng.integers(len(song.cells) - piece_length + 1, size=pieces)
            # of the cells, piece after piece
            indices = torch.from_numpy((starts[:, None] + np.arange(piece_length)).ravel())
            if float(song.cells[indices, voiced_share].float().mean()) > LEAST_SUNG:
                break
        cells = song.cells[indices]
        if not from_take:
            # the simulated singer has no features of the ear
            cells = F.pad(cells, (0, self.model.config.ear_size))
        return SungSong(cells, song.chords[indices])


class TimeTrainer(nn.Module):
    """Computes the loss of a listener's time tower: tempo, and beats and bars as auxiliary tasks.

    Args:
        model: the listener.
        tunes: training tunes.
        arguments: see `ListenerArguments`.
        takes: takes of rendered songs, with features of the ear if the listener has one; empty: none.

    Raises:
        ValueError: there are no tunes.
    """

    def __init__(
        self,
        model: HAFMListenerModel,
        tunes: Sequence[Tune],
        arguments: ListenerArguments,
        takes: Sequence[TimedContour] = (),
    ) -> None:
        super().__init__()
        self.takes = takes
        self.model = model
        self.arguments = arguments
        # for the auxiliary tasks only
        self.beat_head = nn.Linear(model.config.time_channels, BEAT_PARTS)
        self.bar_head = nn.Linear(model.config.time_channels, 1)
        self.rng = np.random.default_rng(arguments.seed)
        self.singer = SimulatedSinger(self.rng, arguments.time_own_tempo)
        self.tunes = TuneDraw(tunes, arguments.time_sheet_share, self.rng)

    def loss(self) -> torch.Tensor:
        """Weighted sum of the cross-entropies of the part of the beat, of first beats of bars, and of the tempo.

        The batch is of random crops, either all of takes or all of the simulated singer.
        """
        seconds = float(self.rng.choice(self.arguments.time_seconds))
        size = self.model.config.time_frames
        rows = max(round(self.arguments.time_batch / seconds), 1)
        from_takes = bool(self.takes) and self.rng.random() < self.arguments.takes_share
        draw = self._take if from_takes else self._sung
        batch = [draw(seconds) for _ in range(rows)]
        # targets of a cell are those of its middle frame
        middles = [_middles(crop.contour, size) for crop in batch]
        cells, mask = stacked([crop.contour.time_cells(size) for crop in batch])
        if not from_takes:
            # the simulated singer has no features of the ear
            cells = F.pad(cells, (0, self.model.config.ear_size))
        parts, _ = stacked([crop.parts[middle] for crop, middle in zip(batch, middles, strict=True)], IGNORED)
        bars, _ = stacked([crop.bars[middle] for crop, middle in zip(batch, middles, strict=True)], np.nan)
        has_bars = bars.isfinite()
        bars = bars.nan_to_num()

        hidden = self.model.time(cells, mask)  # [B, T, channels]
        beat_loss = F.cross_entropy(self.beat_head(hidden).flatten(0, 1), parts.flatten(), ignore_index=IGNORED)
        bar_losses = F.binary_cross_entropy_with_logits(self.bar_head(hidden)[..., 0], bars, reduction="none")
        bar_loss = (bar_losses * has_bars).sum() / has_bars.sum().clamp_min(1)
        tempi = torch.tensor([crop.tempo for crop in batch], dtype=torch.float32)
        log_likelihoods = self.model.tempo_logits(hidden, mask).log_softmax(-1)  # [B, K]
        tempo_loss = -(tempo_targets(self.model, tempi) * log_likelihoods).sum(-1).mean()
        return beat_loss + self.arguments.bar_weight * bar_loss + self.arguments.tempo_weight * tempo_loss

    def _take(self, seconds: float) -> TimedContour:
        """A random crop of `seconds` of a take of a rendered song, or all of a shorter one."""
        return crop_of_takes(self.takes, seconds, self.arguments.takes_octaves, self.rng)

    def _sung(self, seconds: float) -> TimedContour:
        """A random crop of `seconds` of a tune, or all of a shorter one, sung by the simulated singer."""
        sung = self.singer.sing(self.tunes.draw(), seconds)
        # 1 in the first beat of a bar
        bars = ((np.floor(sung.beats) - sung.downbeat) % sung.metre == 0).astype(np.float32)
        # bars of other metres are not used: in POP909, beats of songs in 6/8 are eighths
        if sung.metre not in (3, 4):
            bars = np.full_like(bars, np.nan)
        parts = np.floor(sung.beats % 1 * BEAT_PARTS).astype(np.int64)
        return TimedContour(sung.contour, parts, bars, sung.tempo, sung.chords)


class TuneDraw:
    """Draws tunes from songs and from lead sheets.

    Args:
        tunes: of either or both.
        sheet_share: share of lead sheets among the tunes drawn, if there are both.
        rng: source of all randomness.

    Raises:
        ValueError: there are no tunes.
    """

    def __init__(self, tunes: Sequence[Tune], sheet_share: float, rng: np.random.Generator) -> None:
        if not tunes:
            raise ValueError("There are no tunes to learn from: are songs, corpus or sheets the right ones?")
        self.songs = of_source(tunes, SONGS)
        self.sheets = of_source(tunes, SHEETS)
        self.sheet_share = sheet_share
        self.rng = rng

    def draw(self) -> Tune:
        """Draws a tune, from songs or lead sheets by `sheet_share`, then uniformly."""
        if self.songs and self.sheets:
            tunes = self.sheets if self.rng.random() < self.sheet_share else self.songs
        else:
            tunes = self.songs or self.sheets
        return tunes[int(self.rng.integers(len(tunes)))]


def train_listener(
    model: HAFMListenerModel,
    tunes: Sequence[Tune],
    arguments: ListenerArguments,
    takes: Sequence[TimedContour] = (),
    only_time: bool = False,
) -> dict[str, float]:
    """Trains the harmony tower, unless `only_time`, and then the time tower, on the CPU.

    Args:
        model: the listener; it ends with the averages of its weights, on the CPU.
        tunes: training tunes.
        arguments: see `ListenerArguments`.
        takes: takes of rendered songs with chords; empty: none.
        only_time: whether to leave the harmony tower unchanged.

    Returns:
        `harmony_nats`, if that tower was trained, and `time_nats`: the mean loss of each tower over the last tenth of
        its steps, in nats.
    """
    figures = {}
    if not only_time:
        harmony = HarmonyTrainer(model, tunes, arguments, takes)
        harmony_arguments = replace(arguments, learning_rate=arguments.harmony_rate)
        figures = {"harmony_nats": take_steps(model, harmony.loss, harmony_arguments)}
    # a module of the model and auxiliary heads, which are trained with it
    time = TimeTrainer(model.cpu(), tunes, arguments, takes)
    steps = max(round(arguments.steps * arguments.time_share), 1)
    return figures | {"time_nats": take_steps(time, time.loss, replace(arguments, steps=steps))}


def tempo_targets(model: HAFMListenerModel, tempi: torch.Tensor) -> torch.Tensor:
    """Soft targets over a listener's tempo bins: a Gaussian over log tempo, with a standard deviation of one bin.

    Args:
        model: the listener.
        tempi (float [B]): true tempi in BPM.

    Returns:
        float [B, K], with sum 1 over the K bins.
    """
    distance = (torch.log2(model.tempi)[None] - torch.log2(tempi)[:, None]) / model.tempo_step  # in bins
    return torch.softmax(-0.5 * distance**2, dim=-1)


def _middles(contour: PitchContour, step: int) -> np.ndarray:
    """Index of the middle frame of each cell of a contour: int64 [cells].

    Args:
        contour: its last cell may be shorter than the others.
        step: frames in a cell.
    """
    cells = -(-len(contour) // step)  # rounded up
    return np.minimum(np.arange(cells) * step + step // 2, len(contour) - 1)


def stacked(rows: Sequence[np.ndarray], fill: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Stacks arrays, padded to the longest one.

    Args:
        rows ([length, …] each): B arrays.
        fill: value of the padding.

    Returns:
        The padded rows ([B, longest, …]), and a mask (float32 [B, longest, 1]), 0 in the padding, else 1.
    """
    longest = max(map(len, rows))
    padded = []
    for row in rows:
        widths = [(0, longest - len(row))] + [(0, 0)] * (row.ndim - 1)
        padded.append(np.pad(row, widths, constant_values=fill))
    mask = np.arange(longest)[None] < np.array([len(row) for row in rows])[:, None]
    return torch.from_numpy(np.stack(padded)), torch.from_numpy(mask.astype(np.float32))[..., None]
