# SPDX-License-Identifier: Apache-2.0
"""One process a folder: what a second one would render, prepare or train twice, or spoil."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from ..atomic_files import PARTIAL_SUFFIX

LOCK_FILE = ".lock"


class HAFMBusyError(ValueError):
    """A folder that another process works in."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """`folder`, made if need be, for this process alone; the lock ends with the process, however that ends.

    Raises:
        HAFMBusyError: another process has it.
        OSError: it can't be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise HAFMBusyError(
            f"{folder} is in use by another process; wait for it, stop it, or name another folder."
        ) from error
    try:
        for partial in folder.rglob(f".*{PARTIAL_SUFFIX}"):
            # of a process that was killed while it wrote
            shutil.rmtree(partial) if partial.is_dir() else partial.unlink(missing_ok=True)
        yield
    finally:
        lock.release()
