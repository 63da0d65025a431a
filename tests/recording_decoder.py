# SPDX-License-Identifier: Apache-2.0
"""The fast loop, which also keeps the scores from which every token is drawn."""

from typing import Any

import torch

from hafm_hf.modeling.fast_loop import FastDecoder


class RecordingDecoder(FastDecoder):
    """The fast loop, which also keeps the guided scores of every step in `scores`, float [B, V] each."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.compile = False  # graphs are not what is recorded
        self.scores: list[torch.Tensor] = []

    def draw(self, scores: torch.Tensor, uniforms: torch.Tensor | None) -> torch.Tensor:
        self.scores.append(scores.float())
        return super().draw(scores, uniforms)
