# SPDX-License-Identifier: Apache-2.0
"""Runs recipes/train_stage.py on the toy corpus, as separate processes or in the test's own."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState, GradientState

from commands import ranks
from programs import RECIPES, REPOSITORY, Program, run_program

RECIPE = RECIPES / "train_stage.py"
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]
# what the weights of a stage determine
ARCHITECTURE: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "head_dim": 8,
    "position_scheme": "time",
}
CROP_SECONDS = 1.2
GLOBAL_BATCH = 8
STEPS = 30
VALIDATION_STEPS = 15
FLAGS: dict[str, Any] = {
    "stage": "semantic",
    "crop_seconds": CROP_SECONDS,
    "global_batch": GLOBAL_BATCH,
    "max_steps": STEPS,
    "warmup_steps": 5,
    "learning_rate": 1e-2,
    "history_dropout": 0.4,
    "history_dropout_end": 0.2,
    "logging_steps": 1,
    "validation_steps": VALIDATION_STEPS,
    "save_steps": 5,
    "keep_checkpoints": 2,
}


def words(corpus: Path, output: Path, **changes: Any) -> list[str]:
    """Command-line words of a run, with some of `FLAGS` changed; the last two are the cache's flag and folder.

    If it starts from a stage (`init_from`), the flags of `ARCHITECTURE` are left out.
    """
    architecture = {} if "init_from" in changes else ARCHITECTURE
    flags = {**architecture, **FLAGS, **changes, "corpus": corpus, "output_dir": output, "cache_dir": corpus / "cache"}
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def launch(corpus: Path, output: Path, processes: int = 1) -> None:
    """Runs the recipe to its end through `accelerate launch`: one process on the CPU, or several with gloo."""
    launcher = [*LAUNCH, "--config_file", str(REPOSITORY / "recipes/accelerate/cpu.yaml")]
    if processes > 1:
        launcher = [*LAUNCH, "--multi_gpu", "--num_processes", str(processes), "--main_process_port", "0"]
        launcher += ["--mixed_precision", "no"]
    paths = os.pathsep.join([str(REPOSITORY / "src"), os.environ["PYTHONPATH"]])
    environment = {**os.environ, "PYTHONPATH": paths, "ACCELERATE_USE_CPU": "true"}
    run_program([*launcher, RECIPE, *words(corpus, output)], environment, timeout=300, fresh=True, check=True)


def start(corpus: Path, output: Path, processes: int = 1, **changes: Any) -> list[Program]:
    """Starts the processes of a run without the slow launcher; they log to OUTPUT/stderr.txt."""
    output.mkdir(parents=True, exist_ok=True)
    log = output / "stderr.txt"
    log.unlink(missing_ok=True)
    command = [sys.executable, RECIPE, *words(corpus, output, **changes)]
    return [Program(command, log, log, {**os.environ, **each}) for each in ranks(processes)]


def train(corpus: Path, output: Path, processes: int = 1, **changes: Any) -> list[dict[str, Any]]:
    """Runs the recipe to its end, within 300 s, and returns the lines of its metrics."""
    codes = [run.wait(timeout=300) for run in start(corpus, output, processes, **changes)]
    assert codes == [0] * processes, (output / "stderr.txt").read_text()[-3000:]
    return read_metrics(output)


def kill_after(runs: list[Program], output: Path, step: int) -> int:
    """Waits, for at most 240 s, until a run has logged more than `step` lines of metrics, and kills its processes.

    Returns:
        the last step in its metrics.
    """
    log = output / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while not log.is_file() or len(log.read_text().splitlines()) <= step:
        ended = any(run.poll() is not None for run in runs)
        assert not ended, f"the run ended before it could be killed: {(output / 'stderr.txt').read_text()}"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    for run in runs:
        run.kill()
    for run in runs:
        run.wait()
    return read_metrics(output)[-1]["step"]


def read_metrics(output: Path) -> list[dict[str, Any]]:
    """The run's lines of metrics.jsonl, in the order of steps, without one that a kill truncated."""
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


def losses(lines: list[dict[str, Any]]) -> dict[int, float]:
    """Training loss by step."""
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def train_here(corpus: Path, output: Path, **changes: Any) -> list[dict[str, Any]]:
    """Runs the recipe in the test's own process, so that its errors reach the test; returns the metrics' lines."""
    from hafm_hf.training.recipe import train_stage

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        train_stage(words(corpus, output, **changes))
    return read_metrics(output)
