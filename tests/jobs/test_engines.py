"""Engines of the preparation, the evaluation and `hafm accompany FOLDER`: what each does with jobs."""

from typing import Any

import pytest

from hafm_hf.jobs.engines import HAFMJobError, run_on


def double(options: Any, job: int) -> int:
    return 2 * job


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_where_nothing_is_left_to_do_nothing_is_started(engine: str, workers: int) -> None:
    assert list(run_on(engine, double, None, [], workers, address="127.0.0.1:9")) == []


def test_there_are_never_more_processes_than_jobs() -> None:
    assert sorted(run_on("local", double, None, [1], workers=2)) == [2]


def test_an_unknown_engine_is_refused_even_for_nothing() -> None:
    with pytest.raises(HAFMJobError, match="no engine 'slurm'"):
        list(run_on("slurm", double, None, []))
