# SPDX-License-Identifier: Apache-2.0
"""Who does the work: this process, worker processes beside it, or a Ray cluster. All give the same results.

An engine takes jobs and yields results as they come. It stops at the first failure; what is finished is kept.
"""

import logging
import multiprocessing
import multiprocessing.connection
import os
import pickle
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import Any

from ..pretrained.redaction import first_line

ENGINES = ("local", "ray")
AGAIN = "what is finished is kept, run the same command again"
# (options, job) → result; a function of a module, so that workers can import it
Make = Callable[[Any, Any], Any]


class HAFMJobError(ValueError):
    """Work that an engine could not do; the message is one sentence that says the way out."""


def run_on(
    engine: str,
    make: Make,
    options: Any,
    jobs: Sequence[Any],
    workers: int = 1,
    address: str = "",
    threads: int = 1,
    gpus: int = 0,
) -> Iterator[Any]:
    """Yields make(options, job) for each job, in any order.

    Args:
        engine: local or ray.
        workers: processes of the local engine, which take this machine's GPUs in turn, or tasks at a time of a Ray
            cluster (0: as many as it has room for).
        address: of a running Ray cluster; a new one on this machine if empty.
        make: a function of a module; what it loads it keeps for the process' next job.
        options, jobs: what it is called with; they are pickled.
        threads, gpus: what a task of Ray needs.

    Raises:
        HAFMJobError: unknown engine, Ray is not installed or not reachable, or a worker died; what `make` raises is
            passed on.
    """
    if engine not in ENGINES:
        raise HAFMJobError(f"There is no engine {engine!r}; choose from {', '.join(ENGINES)}.")
    if not jobs:
        return
    if engine == "ray":
        with _cluster(address) as ray:
            yield from _map_on_ray(ray, make, options, jobs, workers, threads, gpus)
    elif workers <= 1:
        yield from (make(options, job) for job in jobs)
    else:
        yield from _run_in_processes(make, options, jobs, min(workers, len(jobs)))


def _run_in_processes(make: Make, options: Any, jobs: Sequence[Any], workers: int) -> Iterator[Any]:
    # a fork of this process would share torch's threads and CUDA's context; one of a server that has imported what
    # `make` needs, and done nothing else, spares each worker these seconds and shares their memory
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    context.set_forkserver_preload([make.__module__])
    turn = context.Value("i", 0)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(turn, visible_gpus()))
    try:
        futures = [pool.submit(make, options, job) for job in jobs]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise HAFMJobError(f"A worker died, perhaps for lack of memory; {AGAIN}.") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def visible_gpus() -> list[str]:
    """The GPUs of this process, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def _start_worker(numbers: Any, gpus: list[str]) -> None:
    """Gives a worker the next of the GPUs, which every library then takes for the only one."""
    if gpus:
        with numbers.get_lock():
            os.environ["CUDA_VISIBLE_DEVICES"] = gpus[numbers.value % len(gpus)]
            numbers.value += 1
    _end_with_parent()


def _end_with_parent() -> None:
    """Lets a worker end when the process that started it does, even by SIGKILL: nobody would wait for its result."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """Ray, connected to the cluster at `address`; a cluster of this machine if empty."""
    try:
        import ray
    except ImportError as error:
        raise HAFMJobError('Ray is not installed; run: pip install "hafm-hf[ray]".') from error
    if ray.is_initialized():
        yield ray
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdigit():
            # where nobody listens, Ray itself would try for many minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        reason = f"at {address or 'this machine'} ({first_line(error)})"
        raise HAFMJobError(f"No Ray cluster can be reached {reason}.") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _map_on_ray(
    ray: Any, make: Make, options: Any, jobs: Sequence[Any], workers: int, threads: int, gpus: int
) -> Iterator[Any]:
    def perform(job: bytes) -> bytes:
        return pickle.dumps(make(options, pickle.loads(job)))

    # a node that goes away is not an error of the job: its shards are made elsewhere, to the same bytes; and a worker
    # that has a GPU would end after each job, with the model that it has loaded
    task = ray.remote(
        num_cpus=threads, num_gpus=gpus, max_retries=-1, max_calls=0, scheduling_strategy="SPREAD"
    )(perform)  # fmt: skip
    left = iter(jobs)
    running = [task.remote(pickle.dumps(job)) for job in islice(left, workers or len(jobs))]
    try:
        while running:
            (done,), running = ray.wait(running)
            running += [task.remote(pickle.dumps(job)) for job in islice(left, 1)]
            yield pickle.loads(ray.get(done))
    except ray.exceptions.RayTaskError as error:
        cause = error.cause if isinstance(error.cause, ValueError) else None
        raise cause or HAFMJobError(f"A task of Ray failed ({str(error).splitlines()[-1]}); {AGAIN}.") from error
    except ray.exceptions.RayError as error:
        raise HAFMJobError(f"Ray failed ({first_line(error)}); {AGAIN}.") from error
    finally:
        for one in running:
            ray.cancel(one)
