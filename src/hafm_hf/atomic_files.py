# SPDX-License-Identifier: Apache-2.0
"""Atomic writes: a file is complete or absent, however the process that writes it ends."""

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
    """Yields a temporary file that replaces `path` once complete and synced to disk; if writing fails, it is removed.

    Raises:
        OSError: if the disk is full, or the folder can't be written to.
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
    # the rename too: directory entries need a sync of their own
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def replace_folder(temporary: Path, folder: Path) -> None:
    """Replaces a folder by a complete new one; if that fails, the old one is restored."""
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
    """Writes JSON atomically, in ASCII; paths that are not UTF-8 survive as escapes."""
    with replacing(path) as file:
        file.write(json.dumps(content, indent=1).encode("ascii") + b"\n")
