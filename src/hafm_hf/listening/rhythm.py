# SPDX-License-Identifier: Apache-2.0
"""Where in the beat each frame of a vocal lies, from seconds of singing around it.

Part of the semantic tokenizer, beside HuBERT. One frame of a voice does not tell the beat, and
a small stage does not find it in ten seconds of tokens; a network of dilated convolutions with beats to learn from
does (as in Davies & Böck 2019, "Temporal convolutional networks for musical audio beat tracking"). It reads
descriptors of the voice (`descriptors`). Dimensions: B batch, T frames, P descriptors, C channels.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

# into how many parts a beat is divided, and how many numbers say where a frame lies among them
BEAT_PARTS, BEAT_NUMBERS = 8, 4
KERNEL = 5


class HAFMRhythmLayer(nn.Module):
    """Pre-norm dilated convolution with a residual; it sees 2 · dilation frames to each side."""

    def __init__(self, channels: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.conv = nn.Conv1d(channels, channels, KERNEL, padding=KERNEL // 2 * dilation, dilation=dilation)
        self.output = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, C] → [B, T, C]."""
        hidden = self.conv(self.norm(x).transpose(1, 2)).transpose(1, 2)
        return x + self.output(self.dropout(F.gelu(hidden)))


class HAFMRhythmNetwork(nn.Module):
    """Dilated convolutions over descriptors of a vocal, each layer looking twice as far as the one before.

    Args:
        width: P.
        channels: C.
        layers: with dilations 1, 2, 4 …; nine of them see ± 20 s at 50 frames a second.
        dropout: in training.
    """

    def __init__(self, width: int, channels: int, layers: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.input = nn.Linear(width, channels)
        self.layers = nn.ModuleList([HAFMRhythmLayer(channels, 2**number, dropout) for number in range(layers)])
        self.head = nn.Linear(channels, BEAT_PARTS)

    def forward(self, descriptors: torch.Tensor) -> torch.Tensor:
        """float [B, T, P] → logits of the parts of the beat, float [B, T, 8]."""
        hidden = self.input(descriptors)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(hidden)

    def place(self, descriptors: torch.Tensor) -> torch.Tensor:
        """Expected place in the beat and in the half beat as points of the unit disc; the surer, the further out.

        Returns:
            float [B, T, 4]: cosine and sine of the beat's phase, cosine and sine of twice that phase.
        """
        parts = (torch.arange(BEAT_PARTS, device=descriptors.device) + 0.5) * (2 * math.pi / BEAT_PARTS)
        points = torch.stack([parts.cos(), parts.sin(), (2 * parts).cos(), (2 * parts).sin()], dim=1)
        return self(descriptors).float().softmax(-1) @ points
