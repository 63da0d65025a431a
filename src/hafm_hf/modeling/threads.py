# SPDX-License-Identifier: Apache-2.0
"""How many of torch's threads a generation uses.

Beside the path of the data. Threads share every product between them, and wait for each other at its end. Where
products take microseconds a second thread makes a decoding step up to a third faster while it has a core to itself,
and three times as slow beside a process that wants that core. So a small model runs on one thread, and its decoding
steps on two while cores are free.
"""

import math
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

# numbers of the largest matrix from which on reading it takes longer than waiting for another thread: 4 MB in float32
THREADED_MATRIX = 1 << 20
# threads of a small model's decoding steps; more have not been measured
STEP_THREADS = 2
# looks at who else is running, so that what wakes up for an instant does not count
LOOKS, SECONDS_BETWEEN_LOOKS = 3, 0.002


def step_threads(most: int) -> int:
    """Threads for the next decoding steps: `most` while so many cores are free, else 1."""
    return most if most > 1 and free_cores() >= most else 1


def free_cores() -> float:
    """Cores of the machine that no other thread is using now; less than none where the system does not say."""
    return (os.cpu_count() or 1) - min(_others_running() for _ in range(LOOKS))


def _others_running() -> float:
    """Threads besides this one that run or wait for a core: now on Linux, in the last minute's mean elsewhere."""
    time.sleep(SECONDS_BETWEEN_LOOKS)
    try:
        # "0.20 0.18 0.12 1/80 11206": running and existing threads before the slash and behind it
        return int(Path("/proc/loadavg").read_text().split()[3].split("/")[0]) - 1
    except (OSError, ValueError, IndexError):
        return os.getloadavg()[0] if hasattr(os, "getloadavg") else math.inf


class GenerationThreads:
    """torch on the threads of a generation, inside the block, which may be entered again; behind it on the caller's.

    Args:
        models: that generate.
        asked: threads, where the user says so.

    Attributes:
        steps (int, *optional*): the most threads of decoding steps, whose tokens do not depend on it; None: the same.
    """

    def __init__(self, models: Iterable[torch.nn.Module], asked: int | None = None) -> None:
        self.number = suitable_threads(models) if asked is None else asked
        small = asked is None and self.number == 1
        self.steps = min(torch.get_num_threads(), STEP_THREADS) if small else None
        self.before = 0

    def __enter__(self) -> None:
        self.before = torch.get_num_threads()
        torch.set_num_threads(self.number or self.before)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self.before)


def suitable_threads(models: Iterable[torch.nn.Module]) -> int | None:
    """1 for models on the CPU whose matrices are all small; None where torch's own number suits.

    A user who has set OMP_NUM_THREADS has decided.
    """
    if os.environ.get("OMP_NUM_THREADS"):
        return None
    parameters = [parameter for model in models for parameter in model.parameters()]
    if any(p.device.type != "cpu" for p in parameters):
        return None
    # heads and tables hold a matrix for each codebook
    matrices = (p.shape[-2] * p.shape[-1] for p in parameters if p.ndim > 1)
    return 1 if max(matrices, default=0) < THREADED_MATRIX else None


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """torch on so many threads, and then on as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
