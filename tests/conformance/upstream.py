# SPDX-License-Identifier: Apache-2.0
"""transformers' own tests of models, from the source distribution of the installed version.

`run.py` gets it by pip; the tests themselves stay outside of the repository. What the distribution leaves out and its
modules import are stand-ins here: the mixins of generation and of exporters, which have no tests then.
"""

import importlib.util
import sys
import types
from typing import Any

import torch

from conformance.run import TESTS

PACKAGE = "transformers_tests"


def _package(name: str, **contents: Any) -> None:
    module = types.ModuleType(name)
    module.__path__ = [str(TESTS)] if name == PACKAGE else []
    vars(module).update(contents)
    sys.modules[name] = module


def _load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"{PACKAGE}.{name}", TESTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class GenerationStandIn:
    """In place of GenerationTesterMixin, which is not distributed; tests/modeling/test_generation.py is ours."""


class ExportStandIn:
    """In place of ExportTesterMixin, which is not distributed."""


_package(PACKAGE)
_package(f"{PACKAGE}.generation")
_package(f"{PACKAGE}.generation.test_utils", GenerationTesterMixin=GenerationStandIn)
_package(f"{PACKAGE}.exporters")
_package(f"{PACKAGE}.exporters.test_export", ExportTesterMixin=ExportStandIn)
_package(f"{PACKAGE}.utils")
# arguments of every configuration, none of them at its default
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
