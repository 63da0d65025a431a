# SPDX-License-Identifier: Apache-2.0
"""Where jobs run: in this process, in local worker processes, or on a Ray cluster. All give the same results.

An engine takes jobs and yields results as they complete. It stops at the first failure; finished work is kept.
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
# end of error messages
AGAIN = "what is finished is kept, run the same command again"
# (options, job) → result; defined at module level, so that workers can import it
Make = Callable[[Any, Any], Any]


class HAFMJobError(ValueError):
    """A job that an engine could not run; the message is one sentence that says what to do."""


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
        workers: processes of the local engine, which are assigned this machine's GPUs in turn, or concurrent tasks on
            a Ray cluster (0: as many as fit).
        address: of a running Ray cluster; if empty, a new one is started on this machine.
        make: a module-level function; it may cache what it loads for the next job of the same process.
        options, jobs: its arguments; they are pickled.
        threads, gpus: CPUs and GPUs that a Ray task needs.

    Raises:
        HAFMJobError: unknown engine, Ray is not installed or not reachable, or a worker died; exceptions of `make` are
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
    """Yields make(options, job) for each job, in the order in which worker processes of this machine finish them.

    Raises:
        HAFMJobError: a worker died; exceptions of `make` are passed on.
    """
    # a fork of this process would inherit torch's threads and CUDA's context; a fork server that has imported what
    # `make` needs, and nothing else, saves each worker the import time and shares the imported memory
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    context.set_forkserver_preload([make.__module__])
    # number of workers that have started, shared by all, so that they take GPUs in turn
    started = context.Value("i", 0)
    initargs = (started, visible_gpus())
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=initargs)
    try:
        futures = [pool.submit(make, options, job) for job in jobs]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool as error:
        raise HAFMJobError(f"A worker died, perhaps for lack of memory; {AGAIN}.") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def visible_gpus() -> list[str]:
    """Names of the GPUs that this process may use: those in CUDA_VISIBLE_DEVICES, or all if it is not set."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def _start_worker(started: Any, gpus: list[str]) -> None:
    """Initialises a worker: makes the next GPU the only visible one, and ties the worker's life to its parent's.

    Args:
        started: number of workers started before, a `multiprocessing.Value` that all of them share.
        gpus: names of the GPUs to share out, as in CUDA_VISIBLE_DEVICES; empty without any.
    """
    if gpus:
        with started.get_lock():
            os.environ["CUDA_VISIBLE_DEVICES"] = gpus[started.value % len(gpus)]
            started.value += 1
    _end_with_parent()


def _end_with_parent() -> None:
    """Makes a worker exit when its parent process ends, even by SIGKILL, as nobody would read its results."""
    parent = multiprocessing.parent_process()
    if parent is None:
        # this process is not a worker
        return

    def wait() -> None:
        """Waits for the end of the parent, then ends this process at once, whatever its other threads do."""
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """Connects to the Ray cluster at `address`, or to a new one on this machine if empty, and yields the ray module.

    The connection is closed when the block is left, unless there was one before.

    Raises:
        HAFMJobError: Ray is not installed, or the cluster cannot be reached.
    """
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
            # Ray itself would retry an unreachable address for many minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        reason = f"at {address or 'this machine'} ({first_line(error)})"
        raise HAFMJobError(f"No Ray cluster can be reached {reason}; start one, or leave the address out.") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _map_on_ray(
    ray: Any, make: Make, options: Any, jobs: Sequence[Any], workers: int, threads: int, gpus: int
) -> Iterator[Any]:
    """Yields make(options, job) for each job, by tasks of Ray, in the order in which they finish.

    Args:
        ray: the module, connected to a cluster.
        make, options, jobs: as for `run_on`.
        workers: tasks that run at the same time; 0: as many as fit.
        threads, gpus: CPUs and GPUs that a task needs.

    Raises:
        HAFMJobError: a task or Ray failed; a ValueError of `make` is passed on.
    """

    def perform(job: bytes) -> bytes:
        """Runs one pickled job and returns its pickled result; `run_on` promises that jobs are pickled."""
        return pickle.dumps(make(options, pickle.loads(job)))

    # losing a node is not the job's fault: retry it elsewhere, with the same result (max_retries=-1). By default, a
    # worker with a GPU exits after each task and loses its loaded models (max_calls=0 keeps it)
    task = ray.remote(
        num_cpus=threads, num_gpus=gpus, max_retries=-1, max_calls=0, scheduling_strategy="SPREAD"
    )(perform)  # fmt: skip
    waiting = iter(jobs)
    running = [task.remote(pickle.dumps(job)) for job in islice(waiting, workers or len(jobs))]
    try:
        while running:
            (done,), running = ray.wait(running)
            # the next job, if there is one, takes the place of the one that is done
            running += [task.remote(pickle.dumps(job)) for job in islice(waiting, 1)]
            yield pickle.loads(ray.get(done))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ValueError):
            raise error.cause from error
        raise HAFMJobError(f"A task of Ray failed ({str(error).splitlines()[-1]}); {AGAIN}.") from error
    except ray.exceptions.RayError as error:
        raise HAFMJobError(f"Ray failed ({first_line(error)}); {AGAIN}.") from error
    finally:
        # after a failure, or if no more results are wanted
        for unfinished in running:
            ray.cancel(unfinished)
