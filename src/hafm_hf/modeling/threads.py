# SPDX-License-Identifier: Apache-2.0
"""How many of torch's threads a generation uses.

Threads share every product between them and wait for each other at its end. Where products take microseconds, a
second thread gains little while it has a core to itself, and makes a decoding step three times as slow beside a
process that wants that core. So small models run on one thread.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

# numbers of the largest matrix from which on reading it takes longer than waiting for another thread: 4 MB in float32
THREADED_MATRIX = 1 << 20


def suitable_threads(models: Iterable[torch.nn.Module]) -> int | None:
    """1 for models on the CPU whose matrices are all small; None where torch's own number suits.

    A user who has set OMP_NUM_THREADS has decided.
    """
    if os.environ.get("OMP_NUM_THREADS"):
        return None
    parameters = [parameter for model in models for parameter in model.parameters()]
    if any(parameter.device.type != "cpu" for parameter in parameters):
        return None
    # heads and tables hold a matrix for each codebook
    matrices = (each.shape[-2] * each.shape[-1] for each in parameters if each.ndim > 1)
    return 1 if max(matrices, default=0) < THREADED_MATRIX else None


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """torch on so many threads inside the block, on as many as before behind it; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
