# SPDX-License-Identifier: Apache-2.0
"""Engines that run the jobs of the preparation, the evaluation and `hafm accompany FOLDER`."""

import os
import sys
import time
from typing import Any

import pytest

from hafm_hf.corpus.engines import HAFMJobError, run_on, visible_gpus


def double(options: Any, job: int) -> int:
    """A job: twice its number."""
    return 2 * job


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_without_jobs_no_engine_is_started(engine: str, workers: int) -> None:
    assert list(run_on(engine, double, None, [], workers, address="127.0.0.1:9")) == []


def test_one_job_with_two_workers_is_done_once() -> None:
    assert sorted(run_on("local", double, None, [1], workers=2)) == [2]


def parent(options: Any, job: int) -> int:
    """A job: the process id of the worker's parent."""
    return os.getppid()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers are spawned")
def test_workers_of_several_runs_are_forked_from_one_server() -> None:
    servers = {*run_on("local", parent, None, range(4), workers=2), *run_on("local", parent, None, [0, 1], workers=2)}
    assert len(servers) == 1
    assert os.getpid() not in servers


def gpu(options: Any, job: int) -> tuple[int, str]:
    """A job: the worker's process id, and the GPUs visible to it."""
    # long enough for all workers to get some
    time.sleep(0.2)
    return os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"]


def test_workers_take_the_gpus_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-5")
    assert visible_gpus() == ["3", "GPU-5"]
    seen = dict(run_on("local", gpu, None, range(12), workers=4))
    assert sorted(seen.values()) == ["3", "3", "GPU-5", "GPU-5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


def test_an_unknown_engine_is_refused_even_without_jobs() -> None:
    with pytest.raises(HAFMJobError, match="no engine 'slurm'"):
        list(run_on("slurm", double, None, []))
