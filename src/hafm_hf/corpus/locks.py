# SPDX-License-Identifier: Apache-2.0
"""One process a folder: what a second one would render, prepare or train twice, or spoil."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from ..atomic_files import PARTIAL_SUFFIX

LOCK_FILE = ".lock"


@contextmanager
def locked(folder: Path, busy: Exception) -> Iterator[None]:
    """`folder`, made if need be, for this process alone; the lock ends with the process, however that ends.

    Args:
        folder: where results go.
        busy: what to raise when another process has it.

    Raises:
        OSError: the folder can't be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise busy from error
    try:
        for partial in folder.rglob(f".*{PARTIAL_SUFFIX}"):
            # of a process that was killed while it wrote
            partial.unlink(missing_ok=True)
        yield
    finally:
        lock.release()
