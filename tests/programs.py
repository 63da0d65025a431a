# SPDX-License-Identifier: Apache-2.0
"""Runs programs as users start them, but forked from Python's fork server, which has imported their libraries: to
import torch and transformers takes 4 to 9 processor seconds, most of a short run. Tests of imports, or of environment
variables that libraries read at import, need a new interpreter (`fresh=True`).
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
RECIPES = REPOSITORY / "recipes"
# what the server imports; not hafm_hf.cli, since rich's console reads the environment when it is created
LIBRARIES = [
    "accelerate",
    "datasets",
    "hafm_hf.corpus.prepare",
    "hafm_hf.evaluation.run",
    "hafm_hf.training.recipe",
    "rich.progress",
    "scipy.signal",
    "sklearn.cluster",
    "transformers.models.encodec.modeling_encodec",
    "transformers.models.hubert.modeling_hubert",
    "typer",
]
# variables that are read while a library is imported, or when torch starts its threads
READ_AT_IMPORT = ("ATEN_", "HF_", "HUGGINGFACE_", "MKL_", "NUMBA_", "OMP_", "ONEDNN_", "TRANSFORMERS_")
READ_WHEN_USED = {"HF_TOKEN", "HF_DATASETS_CACHE"}


def start_fork_server() -> None:
    """Starts the fork server of the programs, before a test's own workers start one without these libraries."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(LIBRARIES)
    forkserver.ensure_running()


class ForkedWork:
    """Runs a function in its own process and session, so that a signal can reach all processes it starts.

    Args:
        function, arguments: the call to run.
        log: file to which stderr is appended, and stdout unless `out` is given.
        out: file to which stdout is appended.
    """

    def __init__(self, function: Callable[..., object], *arguments: Any, log: Path, out: Path | None = None) -> None:
        """Starts the process."""
        start_fork_server()
        self.log = log
        context = multiprocessing.get_context("forkserver")
        self.process = context.Process(target=_run_in_new_session, args=(out or log, log, function, *arguments))
        self.process.start()
        self.pid = self.process.pid or 0

    def wait(self, timeout: float | None = None) -> int | None:
        """Waits for the end, for at most `timeout` seconds (None: without a limit).

        Returns:
            the exit code, or None if it still runs.
        """
        self.process.join(timeout)
        return self.process.exitcode

    def poll(self) -> int | None:
        """Exit code, or None while it runs."""
        return self.process.exitcode

    def kill(self) -> None:
        """Sends SIGKILL to it and all processes it started; it may end by itself at the same moment."""
        with suppress(ProcessLookupError):
            if self.poll() is None:
                os.kill(self.pid, signal.SIGKILL)
            if group_lives(self.pid):
                os.killpg(self.pid, signal.SIGKILL)
        self.process.join()

    def said(self) -> list[str]:
        """The messages of a command in the log, each from "hafm: " to the end of its line."""
        lines = self.log.read_text(errors="replace").splitlines()
        # perhaps after an unfinished progress bar on the same line
        return [line[line.index("hafm: ") :] for line in lines if "hafm: " in line]


class Program(ForkedWork):
    """A program: [sys.executable, "-m", module, …], [sys.executable, "-c", code, …] or [Python script, …].

    Args:
        words: the program and its arguments.
        out, err: files to which stdout and stderr are appended; may be the same.
        env: the complete environment; by default that of this process.
        cwd: its working directory.

    Raises:
        ValueError: `env` differs from this process's in variables that libraries read at import.
    """

    def __init__(
        self, words: list[Any], out: Path, err: Path, env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        """Starts the program."""
        environment = dict(os.environ if env is None else env)
        changed = {name for name, _ in os.environ.items() ^ environment.items()}
        for name in changed - READ_WHEN_USED:
            if name.startswith(READ_AT_IMPORT):
                raise ValueError(f"{name} is read at import; ask for fresh=True.")
        super().__init__(_become, list(map(str, words)), environment, cwd or Path.cwd(), log=err, out=out)


def run_program(
    words: list[Any],
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 600.0,
    fresh: bool = False,
    check: bool = False,
) -> "subprocess.CompletedProcess[str]":
    """Runs a program to its end, and returns its output and exit code.

    Args:
        words, env, cwd: as for `Program`.
        timeout: seconds.
        fresh: whether to start a new interpreter instead of a fork.
        check: whether it must exit with 0.
    """
    if fresh:
        command = list(map(str, words))
        done = subprocess.run(command, env=env, cwd=cwd, timeout=timeout, capture_output=True, text=True, check=False)
    else:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "out")
            err = Path(folder, "err")
            program = Program(words, out, err, env, cwd)
            code = program.wait(timeout)
            program.kill()
            if code is None:
                raise subprocess.TimeoutExpired(words, timeout)
            done = subprocess.CompletedProcess(words, code, out.read_text(), err.read_text())
    assert not check or done.returncode == 0, done.stderr[-5000:]
    return done


def until(met: Callable[[], object], seconds: float = 300.0, pause: float = 0.01) -> bool:
    """Waits until a condition holds, for at most `seconds`, asking every `pause` seconds; returns whether it does."""
    deadline = time.monotonic() + seconds
    while not met() and time.monotonic() < deadline:
        time.sleep(pause)
    return bool(met())


def hafm(words: list[str]) -> None:
    """The command line, as a function for `ForkedWork`."""
    from hafm_hf.cli import main

    sys.argv = ["hafm", *words]
    main()


def unread_hafm(words: list[str]) -> None:
    """The command line when nobody reads what it prints, as after `| head`; a function for `ForkedWork`."""
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)
    # the old object belongs to a file, and would try to seek in the pipe
    sys.stdout = open(1, "w", closefd=False)
    hafm(words)


def train(words: list[str]) -> None:
    """recipes/train_stage.py, as a function for `ForkedWork`."""
    from hafm_hf.training.recipe import train_stage
    from running import run_recipe

    os.environ["ACCELERATE_USE_CPU"] = "true"
    run_recipe(lambda: train_stage(words))


def group_lives(group: int) -> bool:
    """Whether any process of a group is still running."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _run_in_new_session(out: Path, err: Path, function: Callable[..., object], *arguments: Any) -> None:
    """Runs a function in this new fork, in its own session and with its output in files."""
    os.setsid()
    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    sys.stdout = open(1, "w", closefd=False)
    sys.stderr = open(2, "w", closefd=False)
    # a shell that runs the tests in the background makes them and their children ignore SIGINT
    signal.signal(signal.SIGINT, signal.default_int_handler)
    function(*arguments)


def _become(words: list[str], environment: dict[str, str], cwd: Path) -> None:
    """Makes this process behave as the program."""
    import datasets

    os.chdir(cwd)
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ.clear()
    os.environ.update(environment)
    # values cached from the previous environment
    tempfile.tempdir = None
    if "HF_DATASETS_CACHE" in environment:
        datasets.config.HF_DATASETS_CACHE = Path(environment["HF_DATASETS_CACHE"])
    sys.path[:0] = [folder for folder in environment.get("PYTHONPATH", "").split(os.pathsep) if folder not in known]
    words = words[words[0] == sys.executable :]
    if words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        sys.path.insert(0, "")
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
    elif words[0] == "-m":
        sys.argv = words[1:]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        runpy.run_path(words[0], run_name="__main__")
