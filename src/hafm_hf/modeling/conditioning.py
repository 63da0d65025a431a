# SPDX-License-Identifier: Apache-2.0
"""How the conditioning reaches the target: in slots before it, or added to its own.

Beside the decoder on the path of the data. Prepended (the paper), conditioning costs a slot a frame and source, and
attention has to learn which of them sound at the same time as the target. Added ("sum", as MusicGen's melodies of
AudioCraft may be, and JASCO's chords, arXiv 2406.10970), each target slot holds the conditioning of its own instant;
the sequence is less than half as long, and time is right from the first step.

Dimensions: B batch, L target slots, T_c conditioning frames, D width.
"""

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_hafm import HAFMStageConfig


class HAFMConditioningMixer(nn.Module):
    """Lets every frame of the conditioning know those around it: x + W₂ GELU(depthwise convolution of W₁ x).

    Slots of the target do not see the conditioning of other instants, so what begins just after a slot, or has just
    ended, has to stand in its frame. Without biases, conditioning that is null stays 0.
    """

    def __init__(self, config: HAFMStageConfig) -> None:
        super().__init__()
        width, context = config.hidden_size, config.conditioning_context
        self.in_proj = nn.Linear(width, width, bias=False)
        self.around = nn.Conv1d(width, width, 2 * context + 1, padding=context, groups=width, bias=False)
        self.out_proj = nn.Linear(width, width, bias=False)

    def forward(self, frames: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Frames, float [B, T_c, D], likewise; those that a mask (bool [B, T_c]) calls padding count as silence."""
        if mask is not None:
            frames = frames.masked_fill(~mask[..., None].bool(), 0.0)
        around = self.around(self.in_proj(frames).transpose(1, 2)).transpose(1, 2)
        return frames + self.out_proj(F.gelu(around))


def at_slots(frames: torch.Tensor, slot_frames: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The conditioning at the instants of the target's slots.

    Args:
        frames (float [B, T_c, D]): the conditioning.
        slot_frames (int64 [L]): the conditioning's frame that sounds with each slot, counted from the row's first;
            behind the last it is the last.
        mask (bool [B, T_c], *optional*): False where a row's conditioning is padding, on either side.

    Returns:
        float [B, L, D].
    """
    if mask is None:
        return frames.index_select(1, slot_frames.clamp(max=frames.shape[1] - 1))
    present = mask.long()
    first = present.argmax(dim=1, keepdim=True)
    places = torch.minimum(first + slot_frames, first + present.sum(dim=1, keepdim=True) - 1).clamp(min=0)
    return frames.gather(1, places[..., None].expand(-1, -1, frames.shape[2]))
