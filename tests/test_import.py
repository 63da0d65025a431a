# SPDX-License-Identifier: Apache-2.0
"""`import hafm_hf` is quick, and registers with transformers whichever of the two is imported first."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hafm_hf
from programs import run_program

ASSERT_ALL_REGISTERED = """
import sys
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForCausalLM
stages = ["hafm_semantic", "hafm_coarse", "hafm_fine"]
for kind in [*stages, "hafm_semantic_tokenizer", "hafm"]:
    config = AutoConfig.for_model(kind)
    assert type(config) in AutoModel._model_mapping, kind
    assert (type(config) in AutoModelForCausalLM._model_mapping) == (kind in stages), kind
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING
from transformers.pipelines import PIPELINE_REGISTRY
import hafm_hf
assert FEATURE_EXTRACTOR_MAPPING[hafm_hf.HAFMConfig] is hafm_hf.HAFMFeatureExtractor
task = PIPELINE_REGISTRY.check_task("vocal-accompaniment")[1]
assert task["impl"] is hafm_hf.HAFMPipeline
assert task["default"]["model"][0] == str(hafm_hf.BUNDLED_MODEL)
"""


def run(script: str) -> str:
    """The output of a script in a new interpreter, in which warnings are errors."""
    script = f"import warnings; warnings.simplefilter('error', UserWarning)\n{script}"
    result = run_program([sys.executable, "-c", script], timeout=120, fresh=True, check=True)
    assert "already registered" not in result.stderr
    return result.stdout


def test_the_command_line_starts_without_torch_within_one_and_a_half_processor_seconds() -> None:
    script = """
import sys, time
began = time.process_time()
import hafm_command, os
os.environ["HAFM_COMMAND_LINE"] = "1"
import hafm_hf.cli
print(time.process_time() - began)
assert not {"torch", "transformers"} & set(sys.modules)
"""
    command = [sys.executable, "-c", script]
    # processor seconds
    times = [float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout) for _ in range(3)]
    assert min(times) < 1.5


def test_dir_shows_only_public_names() -> None:
    assert dir(hafm_hf) == sorted([*hafm_hf.__all__, "__version__"])


# transformers' own imports are nested differently in each case
@pytest.mark.parametrize(
    "first",
    [
        "import hafm_hf; from transformers import pipeline",
        "from transformers import pipeline; import hafm_hf",
        "from hafm_hf.modeling.modeling_stage import HAFMCoarseForCausalLM",
    ],
)
def test_everything_is_registered_whatever_is_imported_first(first: str) -> None:
    run(first + ASSERT_ALL_REGISTERED)


def test_names_for_type_checkers_match_those_at_run_time() -> None:
    tree = ast.parse(Path(hafm_hf.__file__).read_text())
    # if TYPE_CHECKING
    block = next(node for node in tree.body if isinstance(node, ast.If))
    nodes = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    imports = {alias.name: node.module for node in nodes for alias in node.names}
    assert imports == hafm_hf._MODULES
    assert sorted(imports) == sorted(hafm_hf.__all__)
    for name, module in imports.items():
        assert getattr(hafm_hf, name) is getattr(sys.modules[f"hafm_hf.{module}"], name)
    with pytest.raises(AttributeError, match="has no attribute 'HAFMNonsense'"):
        hafm_hf.HAFMNonsense  # noqa: B018
