# SPDX-License-Identifier: Apache-2.0
"""The marker `fault`, which counts trials of each fault, and the table that `make torture` prints.

A test marked `@pytest.mark.fault("killed prepare")` is one try. A test that uses the fixture `tally` makes as many as
its marker says: `cut` in every run of the suite, `full` with `--torture`.
"""

from collections.abc import Generator, Iterator
from typing import Any

import pytest

PROPERTY = "fault"


class Tally:
    """Tries of one fault: how many to make, how many were made, what was lost, and a remark for the table."""

    def __init__(self, tries: int) -> None:
        """Takes the number of tries to make."""
        self.tries = tries
        self.made = 0
        self.lost: list[str] = []
        self.measured = ""

    def survived(self) -> None:
        """Records a try that lost nothing."""
        self.made += 1

    def lose(self, what: str) -> None:
        """Records a try that lost something."""
        self.made += 1
        self.lost.append(what)


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """Counts the tries of a test marked `fault`; the test fails if any of them lost something."""
    marker = request.node.get_closest_marker("fault")
    tally = Tally(marker.kwargs["full" if request.config.getoption("--torture", False) else "cut"])
    yield tally
    assert not tally.lost, tally.lost
    assert tally.made >= tally.tries, f"{tally.made} tries were made of {tally.tries}"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option `--torture`."""
    parser.addoption("--torture", action="store_true", help="try every fault as often as its marker's `full` says")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Adds to the report of a test marked `fault`: the fault, the test, its tries, losses and measurement."""
    report = yield
    marker = item.get_closest_marker("fault")
    if marker is not None and (report.when == "teardown" or report.failed or report.skipped):
        tally = getattr(item, "funcargs", {}).get("tally")
        tries = 0 if report.skipped else tally.made if isinstance(tally, Tally) else int(report.when != "setup")
        lost = len(tally.lost) if isinstance(tally, Tally) else 0
        # a failure that no tally has counted is one loss
        if report.failed and not lost:
            tries, lost = (tries, 1) if report.when == "teardown" else (max(tries, 1), 1)
        # a test may be reported more than once: only the last report counts
        measured = tally.measured if isinstance(tally, Tally) else ""
        report.user_properties.append((PROPERTY, [marker.args[0], item.nodeid, tries, lost, measured]))
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints tries and losses of each fault."""
    rows = fault_rows([report for reports in terminalreporter.stats.values() for report in reports])
    if not rows:
        return
    width = max(map(len, rows))
    terminalreporter.section("faults")
    terminalreporter.write_line(f"{'fault':{width}}   tries  survived  lost")
    for fault, (tries, lost, measured) in sorted(rows.items()):
        row = f"{fault:{width}}  {tries:6d}  {tries - lost:8d}  {lost:4d}  {measured}"
        terminalreporter.write_line(row.rstrip(), red=bool(lost))


def fault_rows(reports: list[Any]) -> dict[str, tuple[int, int, str]]:
    """Tries, losses and measurements of each fault, over all of its tests.

    Args:
        reports: of all tests; those of other tests are ignored.
    """
    # by test: its fault, tries, losses and measurement
    tests: dict[str, list[Any]] = {}
    for report in reports:
        for name, value in getattr(report, "user_properties", ()):
            if name == PROPERTY:
                fault, test, tries, lost, measured = value
                before = tests.get(test, [fault, 0, 0, ""])
                tests[test] = [fault, max(tries, before[1]), max(lost, before[2]), measured or before[3]]
    rows: dict[str, tuple[int, int, str]] = {}
    for fault, tries, lost, measured in tests.values():
        before_tries, before_lost, others = rows.get(fault, (0, 0, ""))
        rows[fault] = (before_tries + tries, before_lost + lost, "; ".join(filter(None, (others, measured))))
    return rows
