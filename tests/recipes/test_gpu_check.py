# SPDX-License-Identifier: Apache-2.0
"""recipes/gpu_check.py in its own process, at tiny sizes on the CPU."""

import json
import math
import os
import subprocess
from pathlib import Path

from programs import RECIPES, run_program


def run(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_program([RECIPES / "gpu_check.py", *words], {**os.environ, **environment})


def test_every_part_that_a_cpu_can_run_runs(tmp_path: Path) -> None:
    done = run("--device", "cpu", "--tiny", "--out", tmp_path / "check.json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "check.json").read_text())
    assert report["cuda_graph_tokens"].startswith("not measured")
    assert len(report["logits"]) == 7 and report["logits"]["coarse, delay"] == 0.0
    lines = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("|")]
    assert [line[0] for line in lines[2:]] == [f"| {name}" for name in (*list(report)[4:],)]
    assert lines[2][1] == "ok" and lines[3][1].startswith("not measured") and "real_time_factor" in lines[-1][2]
    steps = {name: entry for name, entry in report["steps"].items() if name != "took_seconds"}
    assert len(steps) == 4 and all(set(entry) == {"eager"} for entry in steps.values())
    training = report["training"]
    assert (training["backend"], training["distributed"]) == ("gloo", "DistributedDataParallel")
    assert training["steps_per_second"] > 0
    assert training["losses"] and all(map(math.isfinite, training["losses"]))
    for pattern in ("flat", "delay"):
        song = report[f"song, {pattern}"]
        assert not song["failed"] and song["real_time_factor"] == song["wall_seconds"] / song["seconds"] > 0


def test_without_a_gpu_it_fails_with_one_sentence(tmp_path: Path) -> None:
    done = run("--out", tmp_path / "check.json", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 3 and "no GPU" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "check.json").exists()
