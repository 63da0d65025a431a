# SPDX-License-Identifier: Apache-2.0
"""Shared by all tests: no network, no hub, one thread, common fixtures, and the optional test data."""

import os
import sys
from pathlib import Path
from typing import Any

# Blocks the network in this process now, and in every Python process it starts.
NO_NETWORK = Path(__file__).parent / "no_network"
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(NO_NETWORK), os.environ.get("PYTHONPATH"))))
sys.path.insert(0, str(NO_NETWORK))
sys.modules.pop("sitecustomize", None)
import sitecustomize

sys.path.remove(str(NO_NETWORK))
# Last, so that no recipe shadows a package of the same name.
sys.path.append(str(Path(__file__).resolve().parents[1] / "recipes"))

# Before transformers or torch is imported anywhere: both read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Trust the processor's reported vector instructions instead of compiling a trial for each.
os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")
# By default Ray lowers its workers' priority, so that next to a busy process they hardly start.
os.environ.setdefault("RAY_worker_niceness", "0")

import pytest
import torch

from faults import pytest_addoption, pytest_runtest_makereport, pytest_terminal_summary, tally
from programs import REPOSITORY, start_fork_server

SHARED_DATA = Path(os.environ.get("HAFM_TEST_DATA", REPOSITORY.parent / "shared" / "data"))

# The slowest files, slowest first: when two processes share the suite (--dist loadfile), a slow file that starts
# last leaves one of them idle.
LONGEST = (
    "space/test_page.py",
    "integration/test_evaluate.py",
    "integration/test_documents.py",
    "space/test_take_home.py",
    "distribution/test_wheel.py",
    "integration/test_command_line.py",
    "space/test_timeline.py",
    "integration/test_training_document.py",
    "test_processors.py",
    "integration/test_overfit.py",
    "integration/test_other_codecs.py",
    "space/test_recorder.py",
    "space/test_endpoint.py",
    "integration/test_prepare.py",
    "corpus/test_prepare_on_ray.py",
    "corpus/test_prepare.py",
    "integration/test_train_stage.py",
    "lead_sheet/test_lead_sheet.py",
)

torch.set_num_threads(1)
# in parallel runs of the suite, the fork server imports while tests are collected
if os.environ.get("PYTEST_XDIST_WORKER"):
    start_fork_server()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs the slowest files first."""
    places = {REPOSITORY / "tests" / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a saved composite with random weights, which generates (noise) in seconds."""
    from tiny_models import tiny_composite

    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_composite(num_hidden_layers=1).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def accompany(tiny_model: Path) -> Any:
    """The pipeline of `tiny_model`."""
    import transformers

    import hafm_hf

    return transformers.pipeline("vocal-accompaniment", model=str(tiny_model), device="cpu")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small corpus of random tokens."""
    from training.toy_corpus import write_toy_corpus

    folder = tmp_path_factory.mktemp("corpus")
    write_toy_corpus(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Paths of saved tiny tokenizers, as keyword arguments of `TokenizerOptions`."""
    from corpus.karaoke import save_tokenizers

    return save_tokenizers(tmp_path_factory.mktemp("tokenizers"))


@pytest.fixture(scope="session")
def bundled_model() -> Path:
    """Folder of the bundled hafm-tiny; skips while there is none."""
    from hafm_hf.pretrained.loading import BUNDLED_MODEL

    if not (BUNDLED_MODEL / "config.json").exists():
        pytest.skip(f"no bundled model at {BUNDLED_MODEL}")
    return BUNDLED_MODEL


@pytest.fixture(scope="session")
def bundled(bundled_model: Path) -> Any:
    """The loaded hafm-tiny, shared by all tests, so none may change it."""
    from hafm_hf import HAFMForVocalAccompaniment

    return HAFMForVocalAccompaniment.from_pretrained(bundled_model)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the optional test data (`HAFM_TEST_DATA`, else ../shared/data); skips where it is missing."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no test data at {SHARED_DATA}; set HAFM_TEST_DATA to its folder")
    return SHARED_DATA
