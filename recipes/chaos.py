# SPDX-License-Identifier: Apache-2.0
"""Kills a long-running command at random moments and checks that it still ends with the same output.

python recipes/chaos.py --kills 50 -- hafm prepare my-songs {out}
python recipes/chaos.py --kills 50 --compare "final/*" -- python recipes/train_stage.py \\
    recipes/configs/tiny/smoke.yaml --corpus corpus --output_dir {out}
python recipes/chaos.py --kills 50 --compare "report.*" -- hafm evaluate --pairs pairs --out {out}
"""

import argparse
import fnmatch
import hashlib
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

Digest = Callable[[Path], dict[str, str]]
# after this many kills, a job may finish, so that every output is compared in the end
KILLS_PER_OUTPUT = 8
# it then counts as hanging after this many times the undisturbed duration, but at least after this many seconds
PATIENCE = 20.0
LEAST_PATIENCE = 60.0


class Work(Protocol):
    """A started job."""

    def wait(self, seconds: float | None) -> int | None:
        """Its exit code, or None if it still runs after `seconds` (None: wait until it ends)."""

    def kill(self) -> None:
        """Kills it and all processes it has started."""


@dataclass
class ChaosReport:
    """Results of killing a job.

    Args:
        seconds: duration of an undisturbed run.
        kills: number of kills.
        outputs: number of outputs that were completed after kills.
        lost (list of str): one sentence for each output that differs, hangs or fails.
    """

    seconds: float = 0.0
    kills: int = 0
    outputs: int = 0
    lost: list[str] = field(default_factory=list)


class HAFMChaosError(RuntimeError):
    """The job fails, or leaves no output, without being killed."""


def kill_repeatedly(
    start: Callable[[Path], Work], folder: Path, digest: Digest, kills: int, seed: int = 0
) -> ChaosReport:
    """Kills a job `kills` times at random moments of its run.

    Args:
        start: starts the job with its output in a folder; called again, it resumes a killed job.
        folder: for the outputs; those that differ are kept there.
        digest: hashes of the files to compare in an output, by name.
        kills: number of kills.
        seed: seed of the moments.

    Raises:
        HAFMChaosError: the undisturbed run fails or leaves nothing to compare.
    """
    moments = random.Random(seed)
    report = ChaosReport()

    # all output folders have the same name: some jobs write it into their output
    undisturbed = _output_in(folder / "whole")
    began = time.monotonic()
    code = start(undisturbed).wait(None)
    report.seconds = time.monotonic() - began
    if code != 0:
        raise HAFMChaosError(f"The job exits with {code} without being killed; fix that first.")
    expected = digest(undisturbed)
    if not expected:
        raise HAFMChaosError(f"The job leaves nothing in {undisturbed} to compare; check --compare and --ignore.")

    while report.kills < kills:
        killed_folder = folder / f"killed-{report.outputs:04d}"
        output = _output_in(killed_folder)
        code = _until_done(start, output, report, kills, moments)
        report.outputs += 1
        digests = digest(output)
        names = expected.keys() | digests.keys()
        differing = sorted(name for name in names if expected.get(name) != digests.get(name))
        if code is None:
            report.lost.append(f"{killed_folder.name} hangs after kills.")
        elif code != 0:
            report.lost.append(f"{killed_folder.name} exits with {code} after kills.")
        elif differing:
            report.lost.append(f"{killed_folder.name} differs in {', '.join(differing)}.")
        else:
            shutil.rmtree(killed_folder)
    return report


def _output_in(folder: Path) -> Path:
    """Makes a folder, and returns the path of an output in it."""
    folder.mkdir(parents=True)
    return folder / "output"


def _until_done(
    start: Callable[[Path], Work], output: Path, report: ChaosReport, kills: int, moments: random.Random
) -> int | None:
    """Starts and kills the job at random moments until it exits.

    Args:
        start: starts the job with its output in a folder.
        output: the folder.
        report: its kills are counted.
        kills: after so many in the report, it is not killed any more.
        moments: draws the moments.

    Returns:
        The job's exit code, or None if it hangs without being killed.
    """
    killed = 0
    while True:
        work = start(output)
        # after enough kills, this start may finish, so that its output can be compared
        spared = report.kills >= kills or killed >= KILLS_PER_OUTPUT
        if spared:
            code = work.wait(max(LEAST_PATIENCE, PATIENCE * report.seconds))
        else:
            code = work.wait(moments.uniform(0.0, report.seconds))
        if code is not None:
            return code
        work.kill()
        if spared:
            return None
        killed += 1
        report.kills += 1


class CommandWork:
    """A command as a job, which starts at once.

    Args:
        command: the program and its arguments.
        log: file to which everything that it prints is added.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        with log.open("ab") as stream:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)

    def wait(self, seconds: float | None) -> int | None:
        """See `Work`."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def kill(self) -> None:
        """See `Work`; every process is killed separately, as launchers start workers in sessions of their own."""
        import psutil

        try:
            descendants = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            descendants = []
        for process in descendants:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.kill()
        self.process.wait()


def digest_files(
    folder: Path, compared: Sequence[str] = ("*",), ignored: Sequence[str] = ("*.lock",)
) -> dict[str, str]:
    """SHA-256 by relative path of a folder's files whose path matches a pattern in `compared` and none in `ignored`.

    Patterns are fnmatch's, in which `*` also matches `/`.
    """
    digests = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and _fits(name, compared) and not _fits(name, ignored):
            digests[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return digests


def _fits(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name matches one of the patterns."""
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def main() -> None:
    """Parses the arguments, kills the job, prints the results as a table, and exits with 1 if an output was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="number of kills")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments of the kills")
    parser.add_argument("--folder", type=Path, default=Path("chaos"), help="folder for outputs and log")
    parser.add_argument("--compare", action="append", help="pattern of files in {out} to compare; default: all")
    parser.add_argument("--ignore", action="append", default=["*.lock"], help="pattern of files that may differ")
    parser.add_argument("command", nargs="+", help="the job; {out} stands for its output folder")
    options = parser.parse_args()
    if not any("{out}" in word for word in options.command):
        parser.error("the command must contain {out} in place of its output folder.")
    if options.folder.exists():
        parser.error(f"{options.folder} exists; name another --folder.")
    options.folder.mkdir(parents=True)
    log = options.folder / "log.txt"

    def start(output: Path) -> CommandWork:
        """Starts the job with its output in a folder."""
        return CommandWork([word.replace("{out}", str(output)) for word in options.command], log)

    digest = partial(digest_files, compared=options.compare or ["*"], ignored=options.ignore)
    try:
        report = kill_repeatedly(start, options.folder, digest, options.kills, options.seed)
    except HAFMChaosError as error:
        sys.exit(f"{error} What the job printed is in {log}.")
    print("fault  tries  survived  lost")
    print(f"kill   {report.kills:5d}  {report.kills - len(report.lost):8d}  {len(report.lost):4d}")
    for sentence in report.lost:
        print(sentence)
    sys.exit(1 if report.lost else 0)


if __name__ == "__main__":
    main()
