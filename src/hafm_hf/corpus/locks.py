# SPDX-License-Identifier: Apache-2.0
"""One process per folder: a second one would duplicate its work or corrupt it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from ..atomic_files import PARTIAL_PREFIX, PARTIAL_SUFFIX

LOCK_FILE = ".lock"


class HAFMBusyError(ValueError):
    """The folder is in use by another process."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Creates `folder` if needed and locks it for this process; the lock is released even if the process is killed.

    What killed processes left half written in it is deleted.

    Raises:
        HAFMBusyError: another process holds the lock.
        OSError: the folder can't be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(folder / LOCK_FILE, timeout=0):
            for partial in folder.rglob(f"{PARTIAL_PREFIX}*{PARTIAL_SUFFIX}"):
                # left by a process that was killed while writing
                if partial.is_dir():
                    shutil.rmtree(partial)
                else:
                    partial.unlink(missing_ok=True)
            yield
    except filelock.Timeout as error:
        raise HAFMBusyError(f"{folder} is in use by another process; wait for it, stop it or name another.") from error
