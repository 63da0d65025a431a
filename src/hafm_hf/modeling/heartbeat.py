# SPDX-License-Identifier: Apache-2.0
"""A generation that can be stopped at any moment: progress is reported again during a long computation.

A step of decoding takes milliseconds, but the tokenizer, the beginning of a window and the codec take longer.
`modeling_accompaniment` puts it around all of them.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Progress = Callable[[str, int, int], None]
# a third of what a person feels as at once; the layer that computes when it is over may take the rest
BEAT_SECONDS = 0.03


class Heartbeat:
    """Passes reports on, and repeats the last one between the layers of whatever computes for longer.

    A context manager: it beats inside the block only, which may be entered again.

    Args:
        model: whose layers, the members of its lists of modules, are asked before they compute.
        progress: called with (stage, steps done, steps in all); what it raises ends the computation. None: no beats.
    """

    def __init__(self, model: nn.Module, progress: Progress | None) -> None:
        self.model, self.progress = model, progress
        self.last = ("semantic", 0, 1)
        self.reported = 0.0
        self.thread = 0
        self.handles: list[Any] = []

    @property
    def report(self) -> Progress | None:
        """What to call with (stage, steps done, steps in all); None where nobody listens."""
        return None if self.progress is None else self._report

    def __enter__(self) -> "Heartbeat":
        self.reported = time.perf_counter()
        self.thread = threading.get_ident()
        if self.progress is not None:
            lists = (module for module in self.model.modules() if isinstance(module, nn.ModuleList))
            layers = {layer for members in lists for layer in members}
            self.handles = [layer.register_forward_pre_hook(self._beat) for layer in layers]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def _report(self, stage: str, done: int, total: int) -> None:
        assert self.progress is not None
        self.last, self.reported = (stage, done, total), time.perf_counter()
        self.progress(stage, done, total)

    def _beat(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        # other threads may use the model at the same time; they are not this computation's to report or to end
        if threading.get_ident() == self.thread and time.perf_counter() - self.reported >= BEAT_SECONDS:
            self._report(*self.last)
