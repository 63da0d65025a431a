# SPDX-License-Identifier: Apache-2.0
"""Files that are whole or not there, whatever ends the process that writes them."""

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

PARTIAL_SUFFIX = ".part"


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file that becomes `path` once it is whole and on the disk; nothing of it remains when writing fails.

    Raises:
        OSError: the disk is full, or the folder can't be written to.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".hafm.{secrets.token_hex(8)}{PARTIAL_SUFFIX}"
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # the name too: a folder's entries have a sync of their own
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def replace_folder(temporary: Path, folder: Path) -> None:
    """Puts a complete folder in place of an older one, which comes back where that fails."""
    old = temporary.with_name(f"{temporary.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    try:
        temporary.rename(folder)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Writes JSON, whole or not at all; paths that are no UTF-8 survive as escapes."""
    with replacing(path) as file:
        file.write(json.dumps(content, indent=1).encode("ascii") + b"\n")
