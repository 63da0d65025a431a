# SPDX-License-Identifier: Apache-2.0
"""Older processors: reruns the tests marked `processor` in processes restricted to fewer instructions.

oneDNN reads ONEDNN_MAX_CPU_ISA, PyTorch's own kernels ATEN_CPU_CAPABILITY, FBGEMM FBGEMM_ENABLE_INSTRUCTIONS.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PROCESSORS = {
    # like most laptops and many servers: no AVX-512, and no bfloat16 or 8-bit products
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2"},
    # the lowest setting of each library
    "default": {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default", "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2"},
}


@pytest.mark.parametrize("processor", PROCESSORS)
def test_generation_works_on_other_processors(processor: str) -> None:
    marked = [path for path in sorted(TESTS.rglob("test_*.py")) if "pytest.mark.processor" in path.read_text()]
    files = [path for path in marked if path != Path(__file__)]
    words = ["-m", "processor", "-q", "-rp", "-p", "no:cacheprovider", "-p", "no:xdist", *map(str, files)]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=TESTS.parent, env=os.environ | PROCESSORS[processor], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-5000:]
    passed = set(re.findall(r"^PASSED ([\w/.]+)::", run.stdout, re.MULTILINE))
    assert passed == {str(path.relative_to(TESTS.parent)) for path in files}
    assert "test_missing_instructions" in run.stdout
