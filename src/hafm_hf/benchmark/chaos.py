"""Kills a long job at random moments, starts it until it ends, and compares what it leaves with a quiet run's."""

from __future__ import annotations

import fnmatch
import hashlib
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

Digest = Callable[[Path], dict[str, str]]
# a job that has been killed so often is let run, so that every output is compared in the end
KILLS_PER_OUTPUT = 8
# and counts as lost when it takes so many times as long as undisturbed, and at least so many seconds
PATIENCE, LEAST_PATIENCE = 20.0, 60.0


class Work(Protocol):
    """A started job."""

    def wait(self, seconds: float | None) -> int | None:
        """Its exit code, or None if it still runs after so many seconds (None: wait for its end)."""

    def kill(self) -> None:
        """Ends it, and all that it has started, at once."""


@dataclass
class ChaosReport:
    """What became of a job under fire.

    Args:
        seconds: what an undisturbed run takes.
        kills: times that it was killed.
        outputs: times that it was brought to its end after that.
        lost (list of str): one sentence for each output that differs or job that failed.
    """

    seconds: float = 0.0
    kills: int = 0
    outputs: int = 0
    lost: list[str] = field(default_factory=list)


class HAFMChaosError(RuntimeError):
    """The job fails without anybody killing it."""


def torment(start: Callable[[Path], Work], folder: Path, digest: Digest, kills: int, seed: int = 0) -> ChaosReport:
    """Kills a job `kills` times at random moments of its run.

    Args:
        start: starts the job with its output in a folder; the same call goes on where a killed job was.
        folder: for the outputs; those that differ stay there.
        digest: what is compared of an output, by name.
        kills: how often to kill.
        seed: of the moments.

    Raises:
        HAFMChaosError: the undisturbed run fails.
    """
    moments, report = random.Random(seed), ChaosReport()
    # all outputs are called alike: some jobs write the name of their folder into it
    whole = _output_in(folder / "whole")
    began = time.monotonic()
    code = start(whole).wait(None)
    report.seconds = time.monotonic() - began
    if code != 0:
        raise HAFMChaosError(f"The job ends with {code} when nobody kills it; mend that first.")
    wanted = digest(whole)
    if not wanted:
        raise HAFMChaosError(f"The job leaves nothing in {whole} that could be compared.")
    while report.kills < kills:
        place = folder / f"killed-{report.outputs:04d}"
        output = _output_in(place)
        code = _until_done(start, output, report, kills, moments)
        report.outputs += 1
        found = digest(output)
        differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        if code is None:
            report.lost.append(f"{place.name} hangs after kills.")
        elif code != 0:
            report.lost.append(f"{place.name} ends with {code} after kills.")
        elif differing:
            report.lost.append(f"{place.name} differs in {', '.join(differing)}.")
        else:
            shutil.rmtree(place)
    return report


def _output_in(place: Path) -> Path:
    place.mkdir(parents=True)
    return place / "output"


def _until_done(
    start: Callable[[Path], Work], output: Path, report: ChaosReport, kills: int, moments: random.Random
) -> int | None:
    """Starts and kills until the job ends by itself; its exit code, or None if it hangs and nobody disturbs it."""
    killed = 0
    while True:
        work = start(output)
        spared = report.kills >= kills or killed >= KILLS_PER_OUTPUT
        patience = max(LEAST_PATIENCE, PATIENCE * report.seconds)
        code = work.wait(patience if spared else moments.uniform(0.0, report.seconds))
        if code is not None:
            return code
        work.kill()
        if spared:
            return None
        killed += 1
        report.kills += 1


class CommandWork:
    """A command as a job."""

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
        """See `Work`; launchers give their workers sessions of their own, so each is killed by itself."""
        import psutil

        try:
            started = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            started = []
        for process in started:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.kill()
        self.process.wait()


def digest_files(
    folder: Path, compared: Sequence[str] = ("*",), ignored: Sequence[str] = ("*.lock",)
) -> dict[str, str]:
    """SHA-256 of the files in a folder whose path in it fits one pattern of `compared` and none of `ignored`."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and _fits(name, compared) and not _fits(name, ignored):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
