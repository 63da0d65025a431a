# SPDX-License-Identifier: Apache-2.0
"""The listener: a network that estimates chords and tempo from the pitch contour of a whole song.

It is an optional part of the composite, and reads the output of `pitch_contour`. It estimates the tempo only; the
beats themselves come from the tokenizer's rhythm network (`beat_tracker`). Each beat has one chord. Two towers are
of dilated convolutions whose layers also see the mean over the song. The harmony tower's weights are tied across the
twelve pitch classes, so that transposing a song transposes its chords. The key is the one that fits the chords best
(`lead_sheet.bars`), which was more accurate than a head of its own.

The towers read cells, each of a few frames of the contour (`harmony_frames` and `time_frames` of the configuration).
Their channels are grouped by root: the harmony tower has twelve roots, the time tower one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from ..lead_sheet.bars import chord_prior
from ..lead_sheet.chords import NUM_TRIADS, PITCH_CLASSES, chord_label, triad_class
from ..lead_sheet.lead_sheet import LeadSheet, begins_beat
from ..pretrained.saving import HAFMModelMixin
from ..tokenizers.pitch_contour import (
    CLASS_FEATURES,
    CONTOUR_RATE,
    HARMONY_PARTS,
    PART_FEATURES,
    TIME_FEATURES,
    PitchContour,
)
from .configuration_listener import HAFMListenerConfig

# triads per root: without and with a minor third
MODES = 2
HARMONY_KERNEL = 3
TIME_KERNEL = 5
# learnt curves whose periodicity reveals the tempo, and the multiples of each tempo at which it is measured
PULSES = 8
MULTIPLES = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0)
# penalty on "no chord", in nats: an accompaniment should not fall silent
NO_CHORD_COST = 1.0
# penalty on a chord change between beats, in nats; chords then change as often as in real bands
CHANGE_COST = 0.3
# penalty on all others where a chord is known, in nats
CERTAIN = 20.0
# start s, stop s, label, probability of the chord against the runner-up, label of the runner-up
ChordChoice = tuple[float, float, str, float, str]


@dataclass
class HAFMListenerOutput(ModelOutput):
    """Logits of chords and tempo.

    Args:
        chords (float [batch, harmony cells, 25]): no chord, 12 triads without and 12 with a minor third, from C each.
        tempo (float [batch, tempi]): the candidates are `HAFMListenerModel.tempi`.
    """

    chords: torch.Tensor | None = None
    tempo: torch.Tensor | None = None


class HAFMTiedLayer(nn.Module):
    """A linear layer or dilated convolution over channels of each root, equivariant to rotations of the roots.

    If the roots of its input are rotated (the song is transposed), those of its output are rotated as well.

    Args:
        roots: number of roots, R in the shapes below.
        inputs, outputs: channels per root before and after the layer, I and O in the shapes below.
        kernel, dilation: of the convolution, in cells; a kernel of 1 (k in the shapes below) is a linear layer.
    """

    def __init__(self, roots: int, inputs: int, outputs: int, kernel: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.roots = roots
        self.padding = kernel // 2 * dilation
        self.dilation = dilation
        self.weight = nn.Parameter(torch.empty(outputs, inputs, roots, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialises weights as torch does for linear layers, and biases with zeros."""
        # one over the square root of the inputs of one output
        bound = self.weight[0].numel() ** -0.5
        init.uniform_(self.weight, -bound, bound)
        init.zeros_(self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Applies the layer: float [batch, cells, roots · inputs] → [batch, cells, roots · outputs]."""
        # the weights are stored by the interval from a root of the input to one of the output; here, for each root of
        # the output, they are ordered by the root of the input, [O, I, R, k];
        # rolled rather than indexed: a list of indices would be copied to the GPU at each call
        by_root = [self.weight.flip(2).roll(root + 1, 2) for root in range(self.roots)]
        dense = torch.stack(by_root).transpose(2, 3)  # [R, O, R, I, k]
        matrix = dense.flatten(2, 3).flatten(0, 1)  # [R · O, R · I, k]
        bias = self.bias.repeat(self.roots)
        if matrix.shape[-1] == 1:
            return F.linear(x, matrix[..., 0], bias)
        return F.conv1d(x.transpose(1, 2), matrix, bias, 1, self.padding, self.dilation).transpose(1, 2)


class HAFMTiedNorm(nn.Module):
    """Layer norm over the channels of all roots, with weights shared by the roots.

    Args:
        roots: number of roots.
        channels: channels per root.
    """

    def __init__(self, roots: int, channels: int) -> None:
        super().__init__()
        self.roots = roots
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalises each cell of x (float [batch, cells, roots · channels]); the result has the same shape."""
        return F.layer_norm(x, x.shape[-1:], self.weight.repeat(self.roots), self.bias.repeat(self.roots))


class HAFMListenerLayer(nn.Module):
    """Pre-norm dilated convolution, and the mean over the song, with a residual.

    Args:
        roots: number of roots.
        channels: channels per root.
        kernel, dilation: of the convolution, in cells.
        dropout: dropout probability before the last linear layer.
    """

    def __init__(self, roots: int, channels: int, kernel: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.norm = HAFMTiedNorm(roots, channels)
        self.conv = HAFMTiedLayer(roots, channels, channels, kernel, dilation)
        self.song = HAFMTiedLayer(roots, channels, channels)
        self.output = HAFMTiedLayer(roots, channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Adds the context of each cell.

        Args:
            x (float [batch, cells, roots · channels]): hidden states.
            mask (float [batch, cells, 1]): 0 after the end of a song.

        Returns:
            float [batch, cells, roots · channels].
        """
        normed = self.norm(x) * mask
        # the mean [batch, 1, roots · channels] is added at every cell
        hidden = self.conv(normed) + self.song(song_mean(normed, mask))
        return x + self.output(self.dropout(F.gelu(hidden)))


class HAFMListenerTower(nn.Module):
    """A stack of layers, the dilation doubling with each.

    Args:
        roots, channels, kernel, dropout: as for `HAFMListenerLayer`.
        layers: number of layers.
        numbers: number of input features per root.
        extras: number of further input features, which belong to no root; 0 for none.
        ear: number of features of the composite's `ear`, 0 for none; they are not ordered by root, so the layer that
            reads them is not equivariant.
    """

    def __init__(
        self, roots: int, numbers: int, extras: int, ear: int, channels: int, layers: int, kernel: int, dropout: float
    ) -> None:
        super().__init__()
        self.split = [roots * numbers, extras, ear]
        self.input = HAFMTiedLayer(roots, numbers, channels)
        self.extra = nn.Linear(extras, channels) if extras else None
        self.ear = nn.Linear(ear, roots * channels) if ear else None
        self.layers = nn.ModuleList(
            [HAFMListenerLayer(roots, channels, kernel, 2**number, dropout) for number in range(layers)]
        )
        self.norm = HAFMTiedNorm(roots, channels)

    def forward(self, cells: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Computes hidden states of the cells of songs.

        Args:
            cells (float [batch, cells, roots · numbers + extras + ear]): the three kinds of features, in this order.
            mask (float [batch, cells, 1]): 0 after the end of a song.

        Returns:
            float [batch, cells, roots · channels].
        """
        by_root, extras, ear_features = cells.split(self.split, dim=2)
        hidden = self.input(by_root)
        if self.extra is not None:
            # the same for every root; only the harmony tower, of twelve roots, has such features
            hidden = hidden + self.extra(extras).repeat(1, 1, PITCH_CLASSES)
        if self.ear is not None:
            hidden = hidden + self.ear(F.layer_norm(ear_features, ear_features.shape[-1:]))
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return self.norm(hidden)


class HAFMTempoHead(nn.Module):
    """Estimates the tempo from the periodicity of learnt pulse curves at each tempo and its multiples.

    Args:
        channels: width of the time tower.
        bins: number of candidate tempi.
    """

    def __init__(self, channels: int, bins: int) -> None:
        super().__init__()
        self.pulses = nn.Linear(channels, PULSES)
        self.hidden = nn.Linear(PULSES * len(MULTIPLES) + channels, channels)
        self.output = nn.Linear(channels, 1)
        self.prior = nn.Parameter(torch.zeros(bins))

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor, speeds: torch.Tensor) -> torch.Tensor:
        """Tempo logits of songs.

        P learnt pulse curves are compared with waves at each of the K tempi and its M multiples (a Fourier transform
        at these frequencies). B is the batch, T the number of time cells, C the tower's width.

        Args:
            hidden (float [B, T, C]): the time tower's output for each cell.
            mask (float [B, T, 1]): 0 after the end of a song.
            speeds (float [K]): the tempi in beats per cell.

        Returns:
            float [B, K].
        """
        pulses = self.pulses(hidden)  # [B, T, P]
        pulses = ((pulses - song_mean(pulses, mask)) * mask).float()

        frequencies = (speeds[:, None] * speeds.new_tensor(MULTIPLES)).flatten()  # [K · M], in turns per cell
        radians = 2 * math.pi * torch.arange(hidden.shape[1], dtype=torch.float32, device=hidden.device)
        angles = radians[:, None] * frequencies  # [T, K · M]
        real = pulses.transpose(1, 2) @ angles.cos()  # [B, P, K · M]
        imaginary = pulses.transpose(1, 2) @ angles.sin()

        # the largest possible power, so that a strength lies between 0 and 1; 1e-3 avoids 0 / 0 for flat curves
        cells = mask.float().sum(1, keepdim=True).clamp_min(1)  # [B, 1, 1]
        energy = pulses.pow(2).sum(1)[..., None] * cells + 1e-3  # [B, P, 1]
        # the square root's gradient is infinite at 0
        strength = ((real**2 + imaginary**2) / energy).clamp_min(1e-9).sqrt()  # [B, P, K · M]
        by_tempo = strength.unflatten(2, (len(speeds), len(MULTIPLES))).permute(0, 2, 1, 3).flatten(2)  # [B, K, P · M]
        song = song_mean(hidden, mask).expand(-1, len(speeds), -1)  # [B, K, C]
        inputs = torch.cat([by_tempo.to(hidden.dtype), song], dim=2)
        return self.output(F.gelu(self.hidden(inputs)))[..., 0] + self.prior


class HAFMListenerModel(HAFMModelMixin, PreTrainedModel):
    """Pitch contours → chords and tempo."""

    config_class = HAFMListenerConfig
    config: HAFMListenerConfig
    main_input_name = "harmony_cells"
    base_model_prefix = "listener"

    def __init__(self, config: HAFMListenerConfig) -> None:
        super().__init__(config)
        self.harmony = HAFMListenerTower(
            roots=PITCH_CLASSES,
            numbers=HARMONY_PARTS * CLASS_FEATURES,
            extras=HARMONY_PARTS * PART_FEATURES,
            ear=config.ear_size,
            channels=config.harmony_channels,
            layers=config.harmony_layers,
            kernel=HARMONY_KERNEL,
            dropout=config.dropout,
        )
        # for each root its triads, and "no chord"
        self.chord_head = HAFMTiedLayer(PITCH_CLASSES, config.harmony_channels, MODES + 1)
        self.time = HAFMListenerTower(
            roots=1,
            numbers=TIME_FEATURES,
            extras=0,
            ear=config.ear_size,
            channels=config.time_channels,
            layers=config.time_layers,
            kernel=TIME_KERNEL,
            dropout=config.dropout,
        )
        self.tempo_head = HAFMTempoHead(config.time_channels, config.tempo_bins)
        self.post_init()

    @property
    def tempo_step(self) -> float:
        """Octaves between neighbouring tempo bins."""
        config = self.config
        return math.log2(config.fastest_tempo / config.slowest_tempo) / max(config.tempo_bins - 1, 1)

    @property
    def tempi(self) -> torch.Tensor:
        """Candidate tempi in beats a minute, evenly spaced in octaves: float [tempo_bins]."""
        steps = torch.arange(self.config.tempo_bins, dtype=torch.float32, device=self.tempo_head.prior.device)
        return self.config.slowest_tempo * 2 ** (steps * self.tempo_step)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialises layers as torch does, and the tempo prior as uniform."""
        if isinstance(module, (nn.Linear, HAFMTiedLayer)):
            module.reset_parameters()
        elif isinstance(module, HAFMTiedNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, HAFMTempoHead):
            init.zeros_(module.prior)

    def forward(
        self,
        harmony_cells: torch.Tensor,
        time_cells: torch.Tensor,
        harmony_mask: torch.Tensor | None = None,
        time_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> HAFMListenerOutput:
        """Estimates chords and tempo of songs.

        Args:
            harmony_cells (float [batch, harmony cells, 54 + ear_size]): from `PitchContour.harmony_cells`.
            time_cells (float [batch, time cells, 10 + ear_size]): from `PitchContour.time_cells`.
            harmony_mask (float [batch, harmony cells], *optional*), time_mask (float [batch, time cells], *optional*):
                0 after the end of a song; None: no song is padded.
        """
        chords = self.chord_logits(harmony_cells, _mask(harmony_cells, harmony_mask))
        mask = _mask(time_cells, time_mask)
        return HAFMListenerOutput(chords, self.tempo_logits(self.time(time_cells, mask), mask))

    def chord_logits(self, cells: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Chord logits of each harmony cell.

        Args:
            cells (float [batch, cells, 54 + ear_size]): from `PitchContour.harmony_cells`.
            mask (float [batch, cells, 1]): 0 after the end of a song.

        Returns:
            float [batch, cells, 25]: no chord, 12 triads without and 12 with a minor third, from C each.
        """
        # [batch, cells, 12, 3]
        by_root = self.chord_head(self.harmony(cells, mask)).unflatten(2, (PITCH_CLASSES, -1))
        major, minor, none = by_root.unbind(-1)
        # "no chord" has no root: the mean over the roots keeps the network equivariant
        return torch.cat([none.mean(-1, keepdim=True), major, minor], dim=2)

    def tempo_logits(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits of the candidates `tempi`: float [batch, tempi].

        Args:
            hidden (float [batch, time cells, channels]): the time tower's output.
            mask (float [batch, time cells, 1]): 0 after the end of a song.
        """
        # from beats a minute to beats per cell
        speeds = self.tempi.float() / 60 * self.config.time_frames / CONTOUR_RATE
        return self.tempo_head(hidden, mask, speeds)

    @torch.no_grad()
    def tempo_logits_of(self, contour: PitchContour) -> torch.Tensor:
        """Logits of the candidates `tempi` for a single song: float [tempi]."""
        cells = self._batch(contour.time_cells(self.config.time_frames))
        mask = _mask(cells)
        return self.tempo_logits(self.time(cells, mask), mask)[0]

    @torch.no_grad()
    def chord_probabilities(
        self, contour: PitchContour, phase: torch.Tensor, known: LeadSheet | None = None
    ) -> torch.Tensor:
        """Probability of each chord at each frame of a song.

        Args:
            contour: pitch contour of the vocal.
            phase (float [frames at 50 Hz]): beat phase of each frame, from 0 at a beat to 1 at the next; each beat has
                one chord.
            known: known chords of parts of the song, and its key, which also inform the estimates elsewhere.

        Returns:
            float32 [frames, 25]: no chord, 12 triads without and 12 with a minor third, from C each.
        """
        if not len(contour) or not len(phase):
            return torch.zeros(len(phase), NUM_TRIADS)
        cells = self._batch(contour.harmony_cells(self.config.harmony_frames))
        chords = self.chord_logits(cells, _mask(cells))[0].cpu()
        return chords_of_beats(chords, phase.cpu(), self.config.harmony_frames, known)

    def _batch(self, cells: np.ndarray) -> torch.Tensor:
        """Cells of one song (float [cells, features]) as a batch of one, in the model's dtype and on its device."""
        weight = self.tempo_head.prior
        return torch.from_numpy(cells)[None].to(weight.device, weight.dtype)


def song_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of values (float [batch, cells, channels]) over the cells whose mask (float [batch, cells, 1]) is 1.

    Returns:
        float [batch, 1, channels].
    """
    return (values * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp_min(1)


def _mask(cells: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """The mask of cells (float [batch, cells], all ones if None) as [batch, cells, 1] in the cells' dtype."""
    if mask is None:
        return cells.new_ones(*cells.shape[:2], 1)
    return mask[..., None].to(cells.dtype)


def chords_of_beats(
    logits: torch.Tensor, phase: torch.Tensor, frames_per_cell: int, known: LeadSheet | None = None
) -> torch.Tensor:
    """Probability of each chord in each frame; all frames of a beat have the same.

    A chord's score in a beat is that of the best path of chords through the song that has it there; the probabilities
    are the softmax of these scores.

    Args:
        logits (float [cells, 25]): of each chord in each cell.
        phase (float [frames]): beat phase of each frame, from 0 at a beat to 1 at the next.
        frames_per_cell: length of a cell.
        known: its chords are certain; they and the key make others more or less likely (`chord_prior`).

    Returns:
        float32 [frames, 25].
    """
    # scores are log-probabilities, [frames, 25]; the last cell may be cut off
    cell_of_frame = (torch.arange(len(phase)) // frames_per_cell).clamp_max(len(logits) - 1)
    frame_scores = logits.float().log_softmax(-1)[cell_of_frame]
    frame_scores[:, 0] -= NO_CHORD_COST
    sheet = known or LeadSheet()
    frame_scores += torch.from_numpy(chord_prior(sheet))
    for start, stop, label in sheet.chords:
        # a view: `frame_scores` is changed
        inside = frame_scores[max(round(start * CONTOUR_RATE), 0) : max(round(stop * CONTOUR_RATE), 0)]
        inside -= CERTAIN * (torch.arange(NUM_TRIADS) != triad_class(label))

    # index of the beat that each frame is in, [frames]
    beat_of_frame = F.pad(begins_beat(phase).cumsum(0), (1, 0))
    frames_in_beat = torch.bincount(beat_of_frame)  # [beats]
    sums = frame_scores.new_zeros(len(frames_in_beat), NUM_TRIADS).index_add_(0, beat_of_frame, frame_scores)
    beat_scores = sums / frames_in_beat[:, None]  # [beats, 25]

    # of the best path through each chord at each beat; the beat's own score is in both directions
    backward_scores = _forward_scores(beat_scores.flip(0)).flip(0)
    path_scores = _forward_scores(beat_scores) + backward_scores - beat_scores
    return path_scores.softmax(-1)[beat_of_frame]


def _forward_scores(beat_scores: torch.Tensor) -> torch.Tensor:
    """Scores of the best path from the first beat to each beat that ends with each chord (Viterbi algorithm).

    Args:
        beat_scores (float [beats, 25]): log-likelihood of each chord in each beat.

    Returns:
        float [beats, 25], in nats; a change of chord costs `CHANGE_COST`.
    """
    scores = [beat_scores[0]]
    for likelihoods in beat_scores[1:]:
        # the chord of the previous beat goes on, or the best of all chords changes to this one
        scores.append(likelihoods + torch.maximum(scores[-1], scores[-1].max() - CHANGE_COST))
    return torch.stack(scores)


def chord_choices(
    likely: torch.Tensor, chords: Sequence[tuple[float, float, str]], frame_rate: int
) -> list[ChordChoice]:
    """The listener's confidence in each chord of a song, and the runner-up.

    Args:
        likely (float [frames, 25]): probability of each chord at each frame
            (`HAFMListenerModel.chord_probabilities`).
        chords: chords of the song, (start s, stop s, label) each.
        frame_rate: in Hz.

    Returns:
        For each chord that lasts at least one frame: start (s), stop (s), label, its probability relative to the
        runner-up (0 to 1: its share of the sum of both), and the label of the runner-up.
    """
    choices = []
    for start, stop, label in chords:
        frames = likely[max(round(start * frame_rate), 0) : max(round(stop * frame_rate), 0)]  # [n, 25]
        if not len(frames):
            continue
        mean_probabilities = frames.mean(0)  # [25]
        chosen = triad_class(label)
        other_probabilities = mean_probabilities.clone()
        # "no chord" cannot be the runner-up
        other_probabilities[[0, chosen]] = 0.0
        probability = float(
            mean_probabilities[chosen] / (mean_probabilities[chosen] + other_probabilities.max()).clamp_min(1e-9)
        )
        runner_up = chord_label(int(other_probabilities.argmax()))
        choices.append((start, stop, label, probability, runner_up))
    return choices
