# SPDX-License-Identifier: Apache-2.0
"""What the commands share of a request: reading beside other work."""

import threading

import pytest

from hafm_hf.cli.request import beside


def test_slow_reading_goes_on_beside_other_work() -> None:
    worked = threading.Event()

    def read() -> str:
        assert worked.wait(60)
        return threading.current_thread().name

    assert beside(read, worked.set) != threading.current_thread().name


def test_what_is_read_at_once_or_refused_at_once_has_no_other_work_done() -> None:
    worked = threading.Event()
    assert beside(lambda: 5, worked.set) == 5
    with pytest.raises(ZeroDivisionError):
        beside(lambda: 1 // 0, worked.set)
    assert not worked.is_set()
