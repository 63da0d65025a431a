# SPDX-License-Identifier: Apache-2.0
"""transformers' own tests of models, from the source distribution of the installed version.

`run.py` downloads it with pip; the tests themselves are not in the repository. The generation and export mixins, which
its modules import but the distribution lacks, are replaced by empty classes, so their tests do not run.
"""

import importlib.util
import sys
import types
from typing import Any

import torch

from conformance.run import TESTS

PACKAGE = "transformers_tests"


def _package(name: str, **contents: Any) -> None:
    """Makes an importable module with these contents; that called `PACKAGE` is the folder of the tests."""
    module = types.ModuleType(name)
    module.__path__ = [str(TESTS)] if name == PACKAGE else []
    vars(module).update(contents)
    sys.modules[name] = module


def _load(name: str) -> Any:
    """Imports NAME.py from the tests' folder as a module of `PACKAGE`, and returns it."""
    spec = importlib.util.spec_from_file_location(f"{PACKAGE}.{name}", TESTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class GenerationStandIn:
    """Replaces GenerationTesterMixin, which is not distributed; see tests/modeling/test_generation.py."""


class ExportStandIn:
    """Replaces ExportTesterMixin, which is not distributed."""


_package(PACKAGE)
_package(f"{PACKAGE}.generation")
_package(f"{PACKAGE}.generation.test_utils", GenerationTesterMixin=GenerationStandIn)
_package(f"{PACKAGE}.exporters")
_package(f"{PACKAGE}.exporters.test_export", ExportTesterMixin=ExportStandIn)
_package(f"{PACKAGE}.utils")
# arguments that every configuration takes, none at its default
_package(
    f"{PACKAGE}.utils.test_configuration_utils",
    config_common_kwargs={
        "output_hidden_states": True,
        "return_dict": False,
        "dtype": torch.float16,
        "chunk_size_feed_forward": 5,
        "architectures": ["Somebody"],
        "id2label": {0: "voice"},
        "label2id": {"voice": 0},
        "problem_type": "regression",
    },
)

ModelTesterMixin: Any = _load("test_modeling_common").ModelTesterMixin
ConfigTester: Any = _load("test_configuration_common").ConfigTester
TrainingTesterMixin: Any = _load("test_training_mixin").TrainingTesterMixin
