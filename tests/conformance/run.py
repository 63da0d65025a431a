# SPDX-License-Identifier: Apache-2.0
"""Runs transformers' own tests on every model class, and prints what passed, failed and was skipped, and why.

    python tests/conformance/run.py [--all] [pytest options, such as -k Coarse]

`--all` also runs what `reasons.py` skips.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
import transformers
from rich.console import Console
from rich.table import Table

CASES = Path(__file__).with_name("cases.py")
FOLDER = Path(__file__).parents[2] / "build" / "conformance"
TESTS = FOLDER / f"transformers-{transformers.__version__}" / "tests"


def fetch() -> None:
    """Downloads the source distribution of the installed transformers and unpacks its tests, unless they are there."""
    if TESTS.is_dir():
        return
    version = f"transformers=={transformers.__version__}"
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        subprocess.run([*pip, "--no-build-isolation", "--dest", folder, version], check=True)
        (archive,) = Path(folder).glob("*.tar.gz")
        shutil.unpack_archive(archive, FOLDER)
    # its configuration test finds transformers through this file
    (TESTS / "__init__.py").touch()


class Results:
    """Collects the outcome of each test."""

    def __init__(self) -> None:
        """Starts with nothing: outcomes counted by class, failures, and skipped tests by reason."""
        self.outcomes: dict[str, Counter[str]] = defaultdict(Counter)
        self.failures: list[str] = []
        self.reasons: dict[str, list[str]] = defaultdict(list)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Called by pytest after the setup, call and teardown of each test."""
        if report.when != "call" and report.passed:
            return
        case, test = report.nodeid.split("::")[-2:]
        if type(report).__name__ == "SubtestReport":
            # its test is counted as a whole
            if report.failed:
                self.failures.append(f"{case}.{test}: a subtest")
            return
        self.outcomes[case][report.outcome] += 1
        if report.failed:
            self.failures.append(f"{case}.{test}: {report.longrepr.reprcrash.message.splitlines()[0]}")
        elif report.skipped:
            self.reasons[str(report.longrepr[2]).removeprefix("Skipped: ")].append(f"{case}.{test}")

    def show(self) -> None:
        """Prints one line per class, each failure, and each reason with its number of tests."""
        console = Console(width=150)
        table = Table("class", "passed", "failed", "skipped")
        for case, counts in sorted(self.outcomes.items()):
            table.add_row(case, *(str(counts[outcome]) for outcome in ("passed", "failed", "skipped")))
        for reason, tests in sorted(self.reasons.items(), key=lambda item: -len(item[1])):
            console.print(f"skipped {len(tests):>3}: {reason}", highlight=False, markup=False)
        for failure in self.failures:
            console.print(f"FAILED {failure}", highlight=False, markup=False)
        console.print(table)


def main() -> int:
    """Runs the tests, prints their results, and returns pytest's exit code: 0 if nothing failed."""
    arguments = sys.argv[1:]
    if "--all" in arguments:
        arguments.remove("--all")
        os.environ["HAFM_CONFORMANCE_ALL"] = "1"
    # before pytest, since conftest.py blocks the network
    fetch()
    results = Results()
    # not the options of pyproject.toml: transformers' tests have marks of their own
    options = ["-o", "addopts=", "--import-mode=importlib", "-q", "--no-summary", "-pno:warnings", "-pno:logging"]
    code = pytest.main([*options, str(CASES), *arguments], plugins=[results])
    results.show()
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
