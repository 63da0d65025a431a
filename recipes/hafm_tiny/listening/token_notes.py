# SPDX-License-Identifier: Apache-2.0
"""Which pitch classes are sung where a vocal has a token, counted on songs with labels.

Dimensions: T frames, K clusters.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hafm_hf.lead_sheet.chords import PITCH_CLASSES
from hafm_hf.listening.modeling_listener import HAFMListenerModel

from ..targets import LOWEST_NOTE, note_targets

# frames of every token that are taken to say what all tokens say
NOTE_SMOOTHING = 5.0
NO_NOTE = 0


def sung_classes(labels: dict[str, Any], times: NDArray[np.float64]) -> NDArray[np.int64]:
    """What is sung at each instant, 0 for nothing, 1 to 12 from C: int64 [T]."""
    pitch = note_targets(labels, times, 0)["pitch"]
    return np.where(pitch > 0, 1 + (pitch + LOWEST_NOTE - 1) % PITCH_CLASSES, NO_NOTE)


class TokenCounts:
    """What a vocal's tokens stand for, counted frame by frame.

    Args:
        clusters: K.
        frame_rate: of the tokens, in Hz.
    """

    def __init__(self, clusters: int, frame_rate: int) -> None:
        self.frame_rate = frame_rate
        self.classes = torch.zeros(clusters, 1 + PITCH_CLASSES)

    def add(self, vocal: torch.Tensor, labels: dict[str, Any], start: float) -> None:
        """Counts the vocal of an excerpt (int64 [T]) that begins `start` seconds into its song."""
        times = start + (np.arange(len(vocal)) + 0.5) / self.frame_rate
        found = (vocal, torch.from_numpy(sung_classes(labels, times)))
        self.classes.index_put_(found, torch.ones(len(vocal)), accumulate=True)

    def write_to(self, model: HAFMListenerModel) -> None:
        """Sets the table of a model.

        Raises:
            ValueError: nothing was counted.
        """
        if not self.classes.any():
            raise ValueError("No token has a label: do the token corpus and the songs belong together?")
        usual = self.classes.sum(0) / self.classes.sum()
        shares = self.classes + NOTE_SMOOTHING * usual
        model.notes.copy_((shares / shares.sum(1, keepdim=True))[:, 1:])
