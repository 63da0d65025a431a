# SPDX-License-Identifier: Apache-2.0
"""Kills any command of a long job at random moments, and proves that it ends as if nobody had.

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


def main() -> None:
    """Reads the arguments, kills, and prints the row of a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, default=Path("chaos"), help="for the outputs and the log")
    parser.add_argument("--compare", action="append", help="pattern of files in {out}; all if not given")
    parser.add_argument("--ignore", action="append", default=["*.lock"], help="pattern of files that may differ")
    parser.add_argument("command", nargs="+", help="the job; {out} stands for its output folder")
    options = parser.parse_args()
    if not any("{out}" in word for word in options.command):
        parser.error("the command must say {out} where its output folder belongs.")
    if options.folder.exists():
        parser.error(f"{options.folder} exists; name another --folder.")
    options.folder.mkdir(parents=True)
    log = options.folder / "log.txt"

    def start(output: Path) -> CommandWork:
        return CommandWork([word.replace("{out}", str(output)) for word in options.command], log)

    digest = partial(digest_files, compared=options.compare or ["*"], ignored=options.ignore)
    try:
        report = torment(start, options.folder, digest, options.kills, options.seed)
    except HAFMChaosError as error:
        sys.exit(f"{error} Its output is in {log}.")
    print("fault  tries  survived  lost")
    print(f"kill   {report.kills:5d}  {report.kills - len(report.lost):8d}  {len(report.lost):4d}")
    for sentence in report.lost:
        print(sentence)
    sys.exit(1 if report.lost else 0)


if __name__ == "__main__":
    main()
