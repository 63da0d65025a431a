# SPDX-License-Identifier: Apache-2.0
"""Jobs forked from the test, so that the libraries are there already and kills fall into the work."""

import importlib
import multiprocessing
import multiprocessing.forkserver
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hafm_hf.audio.librosa_loading import load_librosa

# imported before anything is forked, or most of a short job's time would be imports
LIBRARIES = (
    "accelerate.state",
    "datasets",
    "hafm_hf.cli",
    "hafm_hf.corpus.prepare",
    "hafm_hf.evaluation.run",
    "hafm_hf.training.recipe",
)


def import_libraries() -> None:
    """All that jobs import; librosa under its lock, since another process of a fresh clone may compile it."""
    load_librosa()
    for name in LIBRARIES:
        importlib.import_module(name)


class ForkedWork:
    """A function in a process of its own; what it says on stderr is in a file."""

    def __init__(self, function: Callable[..., object], *arguments: Any, log: Path) -> None:
        self.log = log
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=_quietly, args=(log, function, *arguments))
        self.process.start()

    def wait(self, seconds: float | None) -> int | None:
        """Exit code, or None while it runs."""
        self.process.join(seconds)
        return self.process.exitcode

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.join()

    def said(self) -> list[str]:
        """Lines of stderr that are errors of a command."""
        lines = self.log.read_text(errors="replace").splitlines()
        # behind a bar that was not at its end, perhaps
        return [line[line.index("hafm: ") :] for line in lines if "hafm: " in line]


def _quietly(log: Path, function: Callable[..., object], *arguments: Any) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    # pytest has put its own in their place
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
    # forks share tqdm's lock, and a job that was killed with it in hand would keep it from all that come after; a
    # class of bars that was used in threads keeps the lock by itself
    lock: Any = threading.RLock()
    classes: list[Any] = [tqdm]
    for each in classes:
        each.set_lock(lock)
        classes += each.__subclasses__()
    # the server of the process that this one is forked from is no child of this one, which may not wait for it
    multiprocessing.forkserver._forkserver.__init__()  # type: ignore[misc]
    function(*arguments)


def hafm(words: list[str]) -> None:
    """The command line."""
    from rich.console import Console

    from hafm_hf.cli import console, main

    console.stderr.file = sys.stderr
    console.stdout.file = sys.stdout
    assert isinstance(console.stderr, Console)
    sys.argv = ["hafm", *words]
    main()


def train(words: list[str]) -> None:
    """recipes/train_stage.py."""
    from accelerate.state import AcceleratorState, GradientState

    from hafm_hf.cli import console
    from hafm_hf.cli.training import run_recipe
    from hafm_hf.training.recipe import train_stage

    console.stderr.file = sys.stderr
    os.environ["ACCELERATE_USE_CPU"] = "true"
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    run_recipe(lambda: train_stage(words))
