# SPDX-License-Identifier: Apache-2.0
"""Chaos finds what a kill loses, and nothing else."""

import sys
from pathlib import Path

from chaos import CommandWork, digest_files, torment
from programs import run_program

REPOSITORY = Path(__file__).resolve().parents[2]
CAREFUL = """
import os, sys, time
os.makedirs(sys.argv[1], exist_ok=True)
for number in range(4):
    path = f"{sys.argv[1]}/{number}"
    if not os.path.exists(path):
        time.sleep(0.05)
        open(path + ".part", "w").write(f"work {number}")
        os.replace(path + ".part", path)
"""
CARELESS = """
import os, sys, time
os.makedirs(sys.argv[1], exist_ok=True)
for number in range(4):
    time.sleep(0.05)
    open(f"{sys.argv[1]}/all", "a").write(f"work {number}")
"""


def command(job: str, output: object) -> list[str]:
    return [sys.executable, "-S", "-c", job, str(output)]


def test_a_job_that_goes_on_where_it_was_killed_loses_nothing(tmp_path: Path) -> None:
    report = torment(
        lambda output: CommandWork(command(CAREFUL, output), tmp_path / "log"), tmp_path, digest_files, kills=9
    )
    assert report.lost == [] and report.kills == 9 and report.outputs >= 2
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["whole"]


def test_a_job_that_does_not_is_found_out_by_the_recipe(tmp_path: Path) -> None:
    words = ["--kills", "9", "--folder", str(tmp_path / "chaos"), "--", *command(CARELESS, "{out}")]
    run = run_program([sys.executable, REPOSITORY / "recipes" / "chaos.py", *words])
    assert run.returncode == 1, run.stderr
    assert "differs in all." in run.stdout and run.stdout.splitlines()[1].split()[:2] == ["kill", "9"]
