# SPDX-License-Identifier: Apache-2.0
"""Seeds and threads of a long computation, which are restored after it."""

import os
import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

# matrices of at least this many elements (4 MB in float32) take longer to read than threads take to synchronise
THREADED_MATRIX = 1 << 20
_threads_lock = threading.Lock()
# torch's number of threads before a `torch_threads` block, for each Python thread inside one
_counts_before: dict[int, int] = {}
_seeding_lock = threading.Lock()
# the Python threads that are inside `seeded_torch` blocks, once for each, and the state of torch's generator before
_seeding_threads: list[int] = []
_state_outside: torch.Tensor | None = None


@contextmanager
def seeded_torch(device: torch.device, seed: int, threads: int | None) -> Iterator[None]:
    """Seeds torch and sets its number of threads inside the block, and restores the caller's state afterwards.

    Args:
        device: on which the computation runs.
        seed: of torch's random generators.
        threads: number of threads; None keeps torch's.
    """
    devices = [device] if device.type == "cuda" else []
    with _own_generators(), torch.random.fork_rng(devices=devices), torch_threads(threads):
        torch.manual_seed(seed)
        yield


@contextmanager
def _own_generators() -> Iterator[None]:
    """Restores the state of torch's generators once no thread seeds them any more.

    Blocks of several threads may overlap; the state that one of them restores is then that of another.
    """
    global _state_outside
    with _seeding_lock:
        if not _seeding_threads:
            _state_outside = torch.get_rng_state()
        _seeding_threads.append(threading.get_ident())
    try:
        yield
    finally:
        with _seeding_lock:
            _seeding_threads.remove(threading.get_ident())
            if not _seeding_threads and _state_outside is not None:
                torch.set_rng_state(_state_outside)


def drawn_seed() -> int:
    """A seed from torch's random generator, so that `torch.manual_seed` determines it; 0 to 2³¹ − 1.

    While another thread generates, that generator has the state of its song, and the system's is used.
    """
    with _seeding_lock:
        if any(thread != threading.get_ident() for thread in _seeding_threads):
            return secrets.randbits(31)
    return int(torch.randint(2**31, ()))


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Sets torch's number of threads inside the block and restores it afterwards; None keeps it.

    Each Python thread has a number of its own, but when it first uses torch, it takes the last one that any thread has
    set. That may be the number of a block in another thread, so where blocks overlap, each restores the number that
    held before the first of them.
    """
    current = threading.get_ident()
    with _threads_lock:
        # this thread is inside another block already
        nested = current in _counts_before
        if nested or not _counts_before:
            before = torch.get_num_threads()
        else:
            # this thread may just have taken the number of a block that another thread is in
            before = next(iter(_counts_before.values()))
        _counts_before.setdefault(current, before)
        torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        with _threads_lock:
            torch.set_num_threads(before)
            if not nested:
                del _counts_before[current]


def suitable_threads(models: Iterable[nn.Module]) -> int | None:
    """Number of threads for `torch_threads`: 1 if all models are on the CPU and have small matrices only, else None.

    Threads synchronise after every matrix product. Where products take microseconds a second thread gains little, and
    if another process competes for its core, a step takes three times as long. OMP_NUM_THREADS takes precedence.
    """
    parameters = [parameter for model in models for parameter in model.parameters()]
    if os.environ.get("OMP_NUM_THREADS") or any(parameter.device.type != "cpu" for parameter in parameters):
        return None
    # the last two dimensions: output heads and embedding tables hold one matrix per codebook
    largest = max((matrix.shape[-2] * matrix.shape[-1] for matrix in parameters if matrix.ndim > 1), default=0)
    return 1 if largest < THREADED_MATRIX else None
