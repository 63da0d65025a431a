# SPDX-License-Identifier: Apache-2.0
"""The fast loop, which also keeps the scores from which every token is drawn."""

from typing import Any

import torch

from hafm_hf.modeling.fast_loop import FastDecoder


class RecordingDecoder(FastDecoder):
    """The fast loop, which also keeps the guided scores of every step in `scores`, float [B, V] each."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.compile = False  # a graph would run through `limited` when it is captured only
        self.scores: list[torch.Tensor] = []

    def limited(self, scores: torch.Tensor, target: int) -> torch.Tensor:
        self.scores.append(scores.float())
        return super().limited(scores, target)
