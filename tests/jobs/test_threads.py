"""A generation on a CPU runs on as many threads as pay, and leaves torch's number as it was."""

import os
import subprocess
import sys
from collections.abc import Generator

import numpy as np
import pytest
import torch

from hafm_hf import HAFMCoarseConfig, HAFMCoarseForCausalLM, HAFMForVocalAccompaniment
from hafm_hf.accompaniment.modeling_accompaniment import BUNDLED_MODEL
from hafm_hf.jobs.threads import StepThreads, suitable_threads, torch_threads
from tiny_models import tiny_composite, tiny_stage


@pytest.fixture(autouse=True)
def _nobody_has_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def test_small_models_take_one_thread_and_the_papers_takes_torchs_own_number() -> None:
    with torch.device("meta"):
        paper = HAFMCoarseForCausalLM(HAFMCoarseConfig())
        of_the_papers_width = paper.model.layers[0].to_empty(device="cpu")
    assert suitable_threads([tiny_stage("coarse"), tiny_stage("fine")]) == 1
    assert suitable_threads([tiny_stage("coarse"), of_the_papers_width]) is None
    assert suitable_threads([paper]) is None, "what is not on a CPU is none of our business"


def test_a_user_who_has_set_omp_num_threads_has_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert suitable_threads([tiny_stage("coarse")]) is None


@pytest.mark.parametrize(("asked", "used"), [(None, {1, 2}), (1, {1}), (3, {3})])
def test_generate_and_stream_use_their_threads_and_put_the_callers_back(asked: int | None, used: set[int]) -> None:
    model = tiny_composite()
    vocal = np.zeros(model.sampling_rate // 5, dtype=np.float32)
    seen: list[int] = []

    def progress(stage: str, done: int, total: int) -> None:
        seen.append(torch.get_num_threads())

    with torch_threads(2):
        model.generate(vocal, seed=1, threads=asked, progress=progress)
        for _ in model.stream(vocal, seed=1, threads=asked, progress=progress):
            assert torch.get_num_threads() == 2, "between the chunks too"
        with pytest.raises(TypeError):
            model.generate(vocal, seed=1, threads=asked, progress=len)  # type: ignore[arg-type]
        assert torch.get_num_threads() == 2
    assert set(seen) == used


class Machine:
    """How long steps take on it: seconds, and those on a core, for the steps of `StepThreads`' course."""

    def __init__(self) -> None:
        self.seconds = {1: 1.0, 2: 0.7}
        self.core = 1.0
        self.threads = 1

    def run(self, course: Generator[int, tuple[float, float], None], steps: int) -> float:
        """The share of `steps` that took two threads."""
        together = 0
        for _ in range(steps):
            took = self.seconds[self.threads]
            together += self.threads == 2
            self.threads = course.send((took, self.core * took))
        return together / steps


def test_steps_take_two_threads_while_a_core_is_free_and_one_when_others_want_it() -> None:
    machine = Machine()
    course = StepThreads(2)._course()
    assert next(course) == machine.threads
    assert machine.run(course, 1000) > 0.8
    machine.seconds = {1: 1.5, 2: 6.0}
    assert machine.run(course, 1000) < 0.03
    machine.seconds = {1: 1.0, 2: 0.7}
    assert machine.run(course, 2000) > 0.6, "it tries again"
    machine.core = 0.6
    assert machine.run(course, 1000) < 0.1, "no slower, but at the cost of others"


@pytest.mark.slow
def test_tokens_do_not_depend_on_the_threads_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    def every_other(self: StepThreads) -> Generator[int, tuple[float, float], None]:
        while True:
            yield 1
            yield 2

    model = HAFMForVocalAccompaniment.from_pretrained(BUNDLED_MODEL)
    vocal = np.random.default_rng(0).standard_normal(2 * model.sampling_rate).astype(np.float32)
    with torch_threads(2):
        alone = model.generate(vocal, seed=1, threads=1)
        monkeypatch.setattr(StepThreads, "_course", every_other)
        mixed = model.generate(vocal, seed=1)
    assert torch.equal(mixed.codes[0], alone.codes[0])
    assert torch.equal(mixed.instrumental_semantic[0], alone.instrumental_semantic[0])


def test_importing_the_package_leaves_the_threads_alone() -> None:
    modules = "hafm_hf.jobs.threads, hafm_hf.accompaniment.pipeline_hafm"
    code = f"import torch; before = torch.get_num_threads(); import {modules}; "
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    subprocess.run(
        [sys.executable, "-c", code + "assert torch.get_num_threads() == before"], check=True, env=environment
    )
