# SPDX-License-Identifier: Apache-2.0
"""Scripts that a forked program starts are forked too, and nobody can tell by what they say or how they end."""

import sys
from pathlib import Path

import pytest

from programs import TORCH, run_program

STARTER = """
import subprocess, sys
run = subprocess.run([sys.executable, "-u", sys.argv[1], "word"], capture_output=True, text=True)
print([run.returncode, run.stdout, run.stderr.splitlines()[-1:]])
"""


@pytest.mark.parametrize(
    ("script", "ended"),
    [
        ("import sys; print(sys.argv[1], 'torch' in sys.modules, __name__)", [0, "word True __main__\n", []]),
        ("import sys; sys.exit('no')", [1, "", ["no"]]),
        ("1/0", [1, "", ["ZeroDivisionError: division by zero"]]),
        ("import os; os.kill(os.getpid(), 9)", [-9, "", []]),
    ],
)
def test_a_script_of_a_program_ends_as_it_would_by_itself(script: str, ended: list[object], tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(script)
    (tmp_path / "starter.py").write_text(STARTER)
    done = run_program([sys.executable, tmp_path / "starter.py", tmp_path / "script.py"], scripts_too=True)
    assert (done.returncode, done.stdout) == (0, f"{ended}\n"), done.stderr


def test_programs_with_torch_alone_have_the_rest_of_their_imports_before_them() -> None:
    code = (
        "import sys; print(*(name in sys.modules for name in ('torch', 'transformers', 'huggingface_hub', 'hafm_hf')))"
    )
    assert run_program([sys.executable, "-c", code], libraries=TORCH).stdout == "True False False False\n"
