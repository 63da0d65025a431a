# SPDX-License-Identifier: Apache-2.0
"""A generation on a CPU runs on as many threads as pay, and leaves torch's number as it was."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from hafm_hf import HAFMCoarseConfig, HAFMCoarseForCausalLM, HAFMForVocalAccompaniment
from hafm_hf.modeling import fast_loop
from hafm_hf.modeling import threads as threads_module
from hafm_hf.modeling.threads import free_cores, step_threads, suitable_threads, torch_threads
from hafm_hf.pretrained.loading import BUNDLED_MODEL
from tiny_models import tiny_composite, tiny_stage
from vocals import CODEC_RATE


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
def test_generate_and_stream_use_their_threads_and_put_the_callers_back(
    asked: int | None, used: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads_module, "free_cores", lambda: 2)
    model = tiny_composite()
    vocal = np.zeros(model.sampling_rate // 5, dtype=np.float32)
    seen: list[int] = []

    def progress(stage: str, done: int, total: int) -> None:
        seen.append(torch.get_num_threads())

    with torch_threads(2):
        model.generate(vocal, CODEC_RATE, seed=1, threads=asked, progress=progress)
        for _ in model.stream(vocal, CODEC_RATE, seed=1, threads=asked, progress=progress):
            assert torch.get_num_threads() == 2, "between the chunks too"
        with pytest.raises(TypeError):
            model.generate(vocal, CODEC_RATE, seed=1, threads=asked, progress=len)  # type: ignore[arg-type]
        assert torch.get_num_threads() == 2
    assert set(seen) == used


@pytest.mark.parametrize(("running", "threads"), [("1/80", 2), ("2/80", 1), ("9/80", 1)])
def test_steps_take_two_threads_while_two_cores_are_free(
    running: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This thread is one of those that the system counts."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(Path, "read_text", lambda path: f"0.20 0.18 0.12 {running} 11206")
    assert step_threads(2) == threads and step_threads(1) == 1


def test_steps_take_one_thread_on_a_machine_whose_cores_are_busy() -> None:
    busy = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        deadline = time.monotonic() + 60
        while free_cores() > 0:
            assert time.monotonic() < deadline
        assert step_threads(2) == 1
    finally:
        for process in busy:
            process.kill()
            process.wait()


@pytest.mark.slow
def test_tokens_do_not_depend_on_the_threads_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    model = HAFMForVocalAccompaniment.from_pretrained(BUNDLED_MODEL)
    vocal = np.random.default_rng(0).standard_normal(2 * model.sampling_rate).astype(np.float32)
    taken: list[int] = []

    def in_turn(most: int) -> int:
        taken.append(1 + len(taken) % most)
        return taken[-1]

    with torch_threads(2):
        alone = model.generate(vocal, CODEC_RATE, seed=1, threads=1)
        monkeypatch.setattr(fast_loop, "step_threads", in_turn)
        mixed = model.generate(vocal, CODEC_RATE, seed=1)
    assert set(taken) == {1, 2}
    assert torch.equal(mixed.codes[0], alone.codes[0])
    assert torch.equal(mixed.instrumental_semantic[0], alone.instrumental_semantic[0])


def test_importing_the_package_leaves_the_threads_alone() -> None:
    modules = "hafm_hf.modeling.threads, hafm_hf.accompaniment.pipeline_hafm"
    code = f"import torch; before = torch.get_num_threads(); import {modules}; "
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    subprocess.run(
        [sys.executable, "-c", code + "assert torch.get_num_threads() == before"], check=True, env=environment
    )
