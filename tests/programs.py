# SPDX-License-Identifier: Apache-2.0
"""Programs as people start them, forked from an interpreter that has imported their libraries already.

Importing torch and transformers takes a program 4 to 9 processor seconds, which is most of a short run. Each process
of pytest starts one server, this file run as a script; it imports the libraries once and forks for every program,
which then runs as `__main__`. What `Program` starts runs to the end of its interpreter; what `run_program` runs ends
behind its threads and exit handlers, since taking down torch costs more than most programs do. What a test claims of
importing hafm_hf needs a server of other people's libraries alone, `BARE`; of the hub or of importing transformers,
`TORCH`; of another environment that is read at import, `subprocess` itself.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import sitecustomize
from sitecustomize import PROGRAMS

LIBRARIES = (
    "accelerate",
    "datasets",
    "hafm_hf.batch.run",
    "hafm_hf.corpus.prepare",
    "hafm_hf.evaluation.run",
    "hafm_hf.registration",
    "hafm_hf.training.recipe",
    "rich.progress",
    "scipy.signal",
    "sklearn.cluster",
    "transformers.models.encodec.modeling_encodec",
    "transformers.models.hubert.modeling_hubert",
    "typer",
)
# for programs whose own first import of hafm_hf is what is tested
BARE = (
    "scipy.signal",
    "soundfile",
    "transformers.models.encodec.modeling_encodec",
    "transformers.models.hubert.modeling_hubert",
    "transformers.pipelines",
    "typer",
)
# for programs that import transformers in a way of their own, or with another hub
TORCH = ("scipy.signal", "soundfile", "torch")
# hafm_hf.cli is in none: a console of rich reads its environment as it is made
# the names of variables that libraries read while they are imported begin so: torch, then the others
READ_BY_TORCH = ("ATEN_", "MKL_", "OMP_", "ONEDNN_")
READ_AT_IMPORT = (*READ_BY_TORCH, "HF_", "HUGGINGFACE_", "NUMBA_", "TRANSFORMERS_")
READ_WHEN_USED = {"HF_TOKEN"}


class Program:
    """A program that runs in a session of its own, so that a signal can go to all that it starts.

    Args:
        words: [sys.executable, "-m", module, …], [sys.executable, "-c", code, …], [sys.executable, script, …] or
            [a script of the environment, …].
        out: file for its stdout.
        err: file for its stderr; the same one may be named.
        env: the whole environment; that of this process by default.
        cwd: the folder in which it runs.
        libraries: LIBRARIES, BARE or TORCH, which its server has imported.
        python: the interpreter; another environment's has a server of its own.
        to_the_end: whether its interpreter takes everything down when it ends.

    Raises:
        ValueError: `env` differs from this process's in what libraries read at import.
    """

    def __init__(
        self,
        words: list[Any],
        out: Path,
        err: Path,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        libraries: tuple[str, ...] = LIBRARIES,
        python: str = sys.executable,
        to_the_end: bool = True,
    ) -> None:
        environment = dict(os.environ if env is None else env)
        read = READ_BY_TORCH if libraries is TORCH else READ_AT_IMPORT
        for name in os.environ.keys() | environment.keys():
            if name in READ_WHEN_USED or not name.startswith(read):
                continue
            if os.environ.get(name) != environment.get(name):
                raise ValueError(f"{name} is read at import; start the program with subprocess.")
        request: dict[str, Any] = {"words": [*map(str, words)], "env": environment, "cwd": str(cwd or Path.cwd())}
        request |= {"out": str(out), "err": str(err), "to_the_end": to_the_end}
        self.returncode: int | None = None
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(_server(libraries, python))
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        self._answers = self._socket.makefile("r")
        self.pid = int(self._answers.readline())

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended.

        Raises:
            subprocess.TimeoutExpired: it runs longer.
        """
        if self.returncode is None:
            if not select.select([self._socket], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            self.returncode = int(self._answers.readline())
            self._socket.close()
        return self.returncode

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """SIGKILL to it and all that it has started."""
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)


def run_program(
    words: list[Any],
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 600.0,
    scripts_too: bool = False,
    libraries: tuple[str, ...] = LIBRARIES,
    python: str = sys.executable,
) -> "subprocess.CompletedProcess[str]":
    """What `subprocess.run(words, capture_output=True, text=True)` gives for a `Program`.

    Args:
        words, env, cwd, libraries, python: as of `Program`.
        timeout: seconds.
        scripts_too: whether Python scripts that the program starts are forked from the server as well.
    """
    if scripts_too:
        env = {**(env or os.environ), PROGRAMS: _server(libraries, python)}
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        program = Program(words, out, err, env, cwd, libraries, python, to_the_end=False)
        try:
            code = program.wait(timeout)
        finally:
            program.kill()
        return subprocess.CompletedProcess(words, code, out.read_text(), err.read_text())


@cache
def _server(libraries: tuple[str, ...], python: str) -> str:
    """Starts a server and returns the address of its socket."""
    address = tempfile.mkdtemp() + "/programs"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    number = listener.fileno()
    log = open(f"{address}.log", "wb")
    # as `hafm` does before it imports transformers
    environment = os.environ | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    if python != sys.executable:
        # nothing of this one's packages
        environment |= {"PYTHONPATH": str(Path(sitecustomize.__file__).parent), "PYTHONNOUSERSITE": "1"}
    subprocess.Popen(
        [python, __file__, str(number), *libraries], env=environment,
        pass_fds=[number], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
    )  # fmt: skip
    return address


def _next_request(listener: socket.socket) -> dict[str, Any]:
    """Forks for every request until pytest has ended; returns only in the program that is to run."""
    parent = os.getppid()
    listener.settimeout(2.0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while os.getppid() == parent:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        if os.fork() == 0:
            listener.close()
            connection.setblocking(True)
            return _waited_for(connection)
        connection.close()
    os._exit(0)


def _waited_for(connection: socket.socket) -> dict[str, Any]:
    """Forks the program, in which this returns, and waits for it, so that the server need not."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request = json.loads(connection.makefile("r").readline())
    child = os.fork()
    if child == 0:
        os.setsid()
        connection.sendall(f"{os.getpid()}\n".encode())
        connection.close()
        return request
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    connection.sendall(f"{code}\n".encode())
    os._exit(0)


def _become(request: dict[str, Any]) -> None:
    """Turns this process into the program."""
    for name, descriptor in (("out", 1), ("err", 2)):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os.chdir(request["cwd"])
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ.clear()
    os.environ.update(request["env"])
    # TMPDIR may be another one
    tempfile.tempdir = None
    # a shell that runs the tests in the background has told them and their children to ignore it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.path[:0] = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder not in known]
    words = request["words"][request["words"][0] == sys.executable :]
    sys.argv = words if words[0] != "-m" else words[1:]
    if words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        sys.path.insert(0, "")
        namespace = {"__name__": "__main__", "__builtins__": __builtins__}
        exec(compile(words[1], "<string>", "exec"), namespace)
    elif words[0] == "-m":
        sys.path.insert(0, os.getcwd())
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        runpy.run_path(words[0], run_name="__main__")


def _end_with(program: Callable[[], None]) -> NoReturn:
    """Runs what it is given and ends with its exit code, as an interpreter does, but takes nothing down."""
    code: object = None
    try:
        program()
    except SystemExit as ended:
        code = ended.code
    except Exception:
        sys.excepthook(*sys.exc_info())
        code = 1
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(int(code or 0) & 0xFF)


if __name__ == "__main__":
    # that of this file, which no program has
    sys.path.pop(0)
    for library in sys.argv[2:]:
        importlib.import_module(library)
    # what is there is not copied by the collector of each program
    gc.collect()
    gc.freeze()
    request = _next_request(socket.socket(fileno=int(sys.argv[1])))
    if request["to_the_end"]:
        _become(request)
    else:
        _end_with(lambda: _become(request))
