# SPDX-License-Identifier: Apache-2.0
"""One network that hears chords, key, beats, bars and tempo in the pitch line of a whole song.

A part of the composite, between `pitch_line` and `decoding` on the path of the data. Two towers of dilated
convolutions, each of whose layers also sees the mean of the song: harmony looks from each of the twelve pitch classes
as if it were the root, with the same weights, so that a song in another key has the same chords in that key; time does
not look at pitch classes at all.

Dimensions: B batch, H cells of harmony, T cells of time, C channels.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from hafm_hf.pretrained.saving import HAFMHubMixin

from .configuration_listener import HAFMListenerConfig
from .pitch_line import HARMONY_EXTRAS, HARMONY_NUMBERS, LINE_RATE, PITCH_CLASSES, TIME_NUMBERS, PitchLine

# what a root can carry: a triad without and with a minor third; a key the same
MODES = 2
KERNEL = 5
# into how many parts a beat is divided
BEAT_PARTS = 8
# curves whose rhythm tells the tempo, and the multiples of a tempo at which it is looked at
PULSES, MULTIPLES = 8, (0.25, 0.5, 1.0, 2.0, 3.0, 4.0)


@dataclass
class HAFMListenerOutput(ModelOutput):
    """Logits of what is heard.

    Args:
        chords: float [B, H, 25], no chord, 12 triads without and 12 with a minor third.
        key: float [B, 24], 12 major and 12 minor.
        beats: float [B, T, 8], in which part of the beat a cell lies.
        bars: float [B, T], whether it lies in the first beat of a bar.
        tempo: float [B, K], tempi evenly spaced in octaves between the configuration's.
    """

    chords: torch.Tensor | None = None
    key: torch.Tensor | None = None
    beats: torch.Tensor | None = None
    bars: torch.Tensor | None = None
    tempo: torch.Tensor | None = None


class HAFMListenerLayer(nn.Module):
    """Pre-norm dilated convolution, and the mean over the song, with a residual."""

    def __init__(self, channels: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.conv = nn.Conv1d(channels, channels, KERNEL, padding=KERNEL // 2 * dilation, dilation=dilation)
        self.song = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[B, T, C], of which the mask (float [B, T, 1]) says what there is → [B, T, C]."""
        normed = self.norm(x) * mask
        song = self.song(normed.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp_min(1))
        hidden = self.conv(normed.transpose(1, 2)).transpose(1, 2) + song
        return x + self.output(self.dropout(F.gelu(hidden)))


class HAFMListenerTower(nn.Module):
    """Layers of which each looks twice as far as the one before."""

    def __init__(self, width: int, channels: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.input = nn.Linear(width, channels)
        self.layers = nn.ModuleList([HAFMListenerLayer(channels, 2**n, dropout) for n in range(layers)])
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """float [B, T, width] → [B, T, C]."""
        hidden = self.input(x)
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return self.norm(hidden)


class HAFMTempoHead(nn.Module):
    """Reads the tempo off the rhythm of learnt pulses: how strongly each repeats at a tempo and at its multiples."""

    def __init__(self, channels: int, bins: int) -> None:
        super().__init__()
        self.pulses = nn.Linear(channels, PULSES)
        self.hidden = nn.Linear(PULSES * len(MULTIPLES) + channels, channels)
        self.output = nn.Linear(channels, 1)
        self.prior = nn.Parameter(torch.zeros(bins))

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor, speeds: torch.Tensor) -> torch.Tensor:
        """float [B, T, C] and tempi in beats a cell (float [K]) → logits [B, K]."""
        total = mask.sum(1, keepdim=True).clamp_min(1)
        song = (hidden * mask).sum(1, keepdim=True) / total
        pulses = self.pulses(hidden)
        pulses = (pulses - (pulses * mask).sum(1, keepdim=True) / total) * mask
        turns = 2 * math.pi * torch.arange(hidden.shape[1], device=hidden.device)
        turns = turns[:, None] * (speeds[:, None] * speeds.new_tensor(MULTIPLES)).flatten()
        # [B, P, K · M]
        real, imaginary = (pulses.float().transpose(1, 2) @ wave for wave in (turns.cos(), turns.sin()))
        energy = pulses.float().pow(2).sum(1)[..., None] * total + 1e-3
        power = ((real**2 + imaginary**2) / energy).clamp_min(1e-9).sqrt()
        seen = power.unflatten(2, (len(speeds), len(MULTIPLES))).permute(0, 2, 1, 3).flatten(2).to(hidden.dtype)
        song = song.expand(-1, len(speeds), -1)
        return self.output(F.gelu(self.hidden(torch.cat([seen, song], dim=2))))[..., 0] + self.prior


class HAFMListenerModel(HAFMHubMixin, PreTrainedModel):
    """Pitch lines → chords, key, beats, bars and tempo."""

    config_class = HAFMListenerConfig
    config: HAFMListenerConfig
    main_input_name = "harmony_cells"
    base_model_prefix = "listener"

    def __init__(self, config: HAFMListenerConfig) -> None:
        super().__init__(config)
        self.harmony = HAFMListenerTower(
            HARMONY_NUMBERS, config.harmony_channels, config.harmony_layers, config.dropout
        )
        self.time = HAFMListenerTower(TIME_NUMBERS, config.time_channels, config.time_layers, config.dropout)
        self.chord_head = nn.Linear(config.harmony_channels, MODES + 1)
        self.key_head = nn.Linear(config.harmony_channels, MODES)
        self.beat_head = nn.Linear(config.time_channels, BEAT_PARTS)
        self.bar_head = nn.Linear(config.time_channels, 1)
        self.tempo_head = HAFMTempoHead(config.time_channels, config.tempo_bins)
        self.post_init()

    @property
    def tempo_step(self) -> float:
        """Octaves between two tempi of the configuration."""
        config = self.config
        return math.log2(config.fastest_tempo / config.slowest_tempo) / (config.tempo_bins - 1)

    @property
    def tempi(self) -> torch.Tensor:
        """Tempi of the bins, beats a minute: float [K]."""
        steps = torch.arange(self.config.tempo_bins, device=self.beat_head.weight.device)
        return self.config.slowest_tempo * 2 ** (steps * self.tempo_step)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Layers as torch initialises them; no tempo is likelier than another."""
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.LayerNorm)):
            module.reset_parameters()
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
        """Hears songs.

        Args:
            harmony_cells (float [B, H, 27]), time_cells (float [B, T, 10]): `PitchLine.harmony_cells`, `time_cells`.
            harmony_mask (float [B, H]), time_mask (float [B, T], *optional*): 0 behind the end of a song.
        """
        chords, key = self.hear_harmony(harmony_cells, _mask(harmony_cells, harmony_mask))
        return HAFMListenerOutput(chords, key, *self.hear_time(time_cells, _mask(time_cells, time_mask)))

    def hear_harmony(self, cells: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of chords, [B, H, 25], and of the key, [B, 24], of cells (float [B, H, 27])."""
        batch, count, _ = cells.shape
        held, sung, extras = cells.split([PITCH_CLASSES, PITCH_CLASSES, HARMONY_EXTRAS], dim=2)
        # as seen from each root: [B, 12, H, 27]
        seen = torch.stack(
            [torch.cat([held.roll(-n, 2), sung.roll(-n, 2), extras], 2) for n in range(PITCH_CLASSES)], 1
        )
        masks = mask.repeat_interleave(PITCH_CLASSES, 0)
        hidden = self.harmony(seen.flatten(0, 1), masks).unflatten(0, (batch, PITCH_CLASSES))
        # [B, 12, H, 3] → [B, H, 2, 12]
        triads = self.chord_head(hidden).permute(0, 2, 3, 1)
        none = triads[:, :, MODES:].mean(-1)
        song = (hidden * mask[:, None]).sum(2) / mask.sum(1)[:, None].clamp_min(1)
        key = self.key_head(song).transpose(1, 2).flatten(1)
        return torch.cat([none, triads[:, :, :MODES].flatten(2)], dim=2), key

    def hear_time(self, cells: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits of the parts of the beat, [B, T, 8], of bars, [B, T], and of the tempo, [B, K]."""
        hidden = self.time(cells, mask)
        # in beats a cell
        speeds = self.tempi.float() / 60 * self.config.time_frames / LINE_RATE
        return self.beat_head(hidden), self.bar_head(hidden)[..., 0], self.tempo_head(hidden, mask, speeds)

    @torch.no_grad()
    def hear(self, line: PitchLine) -> HAFMListenerOutput:
        """Logits of one pitch line, as a batch of one."""
        cells = (line.harmony_cells(self.config.harmony_frames), line.time_cells(self.config.time_frames))
        weight = self.beat_head.weight
        return self(*(torch.from_numpy(each)[None].to(weight.device, weight.dtype) for each in cells))


def _mask(cells: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """[B, T, 1], of what there is."""
    return cells.new_ones(*cells.shape[:2], 1) if mask is None else mask[..., None].to(cells.dtype)
