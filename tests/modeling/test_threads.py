# SPDX-License-Identifier: Apache-2.0
"""Generation on a CPU uses a suitable number of threads, and restores torch's number afterwards."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from hafm_hf import HAFMCoarseConfig, HAFMCoarseForCausalLM
from hafm_hf.computing import suitable_threads, torch_threads
from tiny_models import tiny_composite, tiny_stage
from vocals import CODEC_RATE


@pytest.fixture(autouse=True)
def _no_environment_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes the number of threads that the environment sets."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def test_small_models_use_one_thread_and_the_papers_model_torchs_number() -> None:
    with torch.device("meta"):
        paper = HAFMCoarseForCausalLM(HAFMCoarseConfig())
        paper_layer = paper.model.layers[0].to_empty(device="cpu")
    assert suitable_threads([tiny_stage("coarse"), tiny_stage("fine")]) == 1
    assert suitable_threads([tiny_stage("coarse"), paper_layer]) is None
    assert suitable_threads([paper]) is None, "models that are not on a CPU keep torch's number"


def test_omp_num_threads_takes_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert suitable_threads([tiny_stage("coarse")]) is None


@pytest.mark.parametrize(("asked", "used"), [(None, {1}), (1, {1}), (3, {3})])
def test_generate_and_stream_set_their_threads_and_restore_the_callers(asked: int | None, used: set[int]) -> None:
    model = tiny_composite()
    vocal = np.zeros(model.sampling_rate // 5, dtype=np.float32)
    seen: list[int] = []
    how: dict[str, Any] = {"threads": asked, "progress": lambda *_: seen.append(torch.get_num_threads())}
    with torch_threads(2):
        model.generate(vocal, CODEC_RATE, seed=1, **how)
        for _ in model.stream(vocal, CODEC_RATE, seed=1, **how):
            assert torch.get_num_threads() == 2, "also between chunks"
        with pytest.raises(TypeError):
            model.generate(vocal, CODEC_RATE, seed=1, threads=asked, progress=len)  # type: ignore[arg-type]
        assert torch.get_num_threads() == 2
    assert set(seen) == used


def test_overlapping_blocks_of_several_threads_restore_torchs_number() -> None:
    before = torch.get_num_threads()
    other = torch_threads(3)
    with ThreadPoolExecutor(1) as pool:
        with torch_threads(2):
            pool.submit(other.__enter__).result()
        pool.submit(other.__exit__, None, None, None).result()
        assert pool.submit(torch.get_num_threads).result() == before
    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == torch.get_num_threads() == before
