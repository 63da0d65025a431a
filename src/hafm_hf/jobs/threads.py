"""How many of torch's threads a generation uses.

Beside the path of the data. Threads share every product between them, and wait for each other at its end. Where
products take microseconds that gains a quarter on an idle machine, whose memory two threads read faster than one, and
on a busy one the waiting takes nearly all the time. So small models run on one thread, but for their decoding loops,
which try whether a second one pays.
"""

import math
import os
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager

import torch

# numbers of the largest matrix from which on reading it takes longer than waiting for another thread: 4 MB in float32
THREADED_MATRIX = 1 << 20
# threads that the steps of a small model try; more have not been measured
STEP_THREADS = 2
# steps that are timed together, and the fewest and the most until all is tried again
TRIAL, PATIENCE = 6, (50, 400)
# the share of one thread's time beyond which more are given up, and that of theirs which they must have on a core
SLOW, FREE_CORES = 1.25, 0.95


class StepThreads:
    """Finds out while a loop runs on how many threads its steps are fastest: a context manager around the loop.

    Every now and then a few steps are timed on one thread and on more. More are used where they are faster and get the
    cores that they want; as soon as others want those too, it is one again. The scores of hafm-tiny are the same on
    either, bit for bit: for few rows torch shares out outputs and heads, never a sum.

    Args:
        most: threads to try beside one; below 2 nothing is tried or changed.
    """

    def __init__(self, most: int = 1) -> None:
        self.most = most
        self.course = self._course()
        self.now = next(self.course)
        self.before = 0
        self.started = (0.0, 0.0)

    def __enter__(self) -> None:
        if self.most > 1:
            self.before, self.started = torch.get_num_threads(), _clocks()
            torch.set_num_threads(self.now)

    def __exit__(self, *_: object) -> None:
        if self.most > 1:
            torch.set_num_threads(self.before)

    def step(self) -> None:
        """To be called after each step of the loop."""
        if self.most < 2:
            return
        before, self.started = self.started, _clocks()
        threads = self.course.send((self.started[0] - before[0], self.started[1] - before[1]))
        if threads != self.now:
            self.now = threads
            torch.set_num_threads(threads)

    def _course(self) -> Generator[int, tuple[float, float], None]:
        """Yields the threads of each step, and is sent the seconds that it took and those on a core."""
        patience = PATIENCE[0]
        while True:
            alone = yield from self._timed(1)
            together = yield from self._timed(self.most, alone)
            if together < alone:
                patience = PATIENCE[0]
                for _ in range(PATIENCE[1] // TRIAL):
                    if (yield from self._timed(self.most, SLOW * alone)) == math.inf:
                        break
            else:
                for _ in range(patience):
                    yield 1
                patience = min(2 * patience, PATIENCE[1])

    def _timed(self, threads: int, limit: float = math.inf) -> Generator[int, tuple[float, float], float]:
        """Seconds of a few steps behind a first one, in which threads wake up; infinite beyond `limit`, where the rest
        is left out, and where this thread had to wait for a core."""
        yield threads
        seconds = busy = 0.0
        for _ in range(TRIAL):
            wall, core = yield threads
            seconds, busy = seconds + wall, busy + core
            if seconds > limit:
                return math.inf
        return seconds if threads == 1 or busy > FREE_CORES * seconds else math.inf


def _clocks() -> tuple[float, float]:
    """Seconds, and those that this thread has had on a core."""
    return time.perf_counter(), time.thread_time()


class GenerationThreads:
    """torch on the threads of a generation, inside the block, which may be entered again; behind it on the caller's.

    Args:
        models: that generate.
        asked: threads, where the user says so.

    Attributes:
        steps (`StepThreads`): for the loops of decoding steps.
    """

    def __init__(self, models: Iterable[torch.nn.Module], asked: int | None = None) -> None:
        self.number = suitable_threads(models) if asked is None else asked
        tries = asked is None and self.number == 1
        self.steps = StepThreads(min(torch.get_num_threads(), STEP_THREADS) if tries else 1)
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
