# SPDX-License-Identifier: Apache-2.0
"""A generation on a CPU runs on as many threads as pay, and leaves torch's number as it was."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from hafm_hf import HAFMCoarseConfig, HAFMCoarseForCausalLM
from hafm_hf.accompaniment.song import suitable_threads, torch_threads
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


@pytest.mark.parametrize(("asked", "used"), [(None, {1}), (1, {1}), (3, {3})])
def test_generate_and_stream_use_their_threads_and_put_the_callers_back(asked: int | None, used: set[int]) -> None:
    model = tiny_composite()
    vocal = np.zeros(model.sampling_rate // 5, dtype=np.float32)
    seen: list[int] = []
    how: dict[str, Any] = {"threads": asked, "progress": lambda *_: seen.append(torch.get_num_threads())}
    with torch_threads(2):
        model.generate(vocal, CODEC_RATE, seed=1, **how)
        for _ in model.stream(vocal, CODEC_RATE, seed=1, **how):
            assert torch.get_num_threads() == 2, "between the chunks too"
        with pytest.raises(TypeError):
            model.generate(vocal, CODEC_RATE, seed=1, threads=asked, progress=len)  # type: ignore[arg-type]
        assert torch.get_num_threads() == 2
    assert set(seen) == used


def test_blocks_of_several_threads_that_overlap_put_torchs_number_back() -> None:
    before, other = torch.get_num_threads(), torch_threads(3)
    with ThreadPoolExecutor(1) as pool:
        with torch_threads(2):
            pool.submit(other.__enter__).result()
        pool.submit(other.__exit__, None, None, None).result()
        assert pool.submit(torch.get_num_threads).result() == before
    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == torch.get_num_threads() == before
