# SPDX-License-Identifier: Apache-2.0
"""Atomic writes: a file is complete or absent, however the process that writes it ends; and the limits of file names.

On Windows, folders can't be opened, and lengths of names are counted in UTF-16 units rather than bytes.
"""

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

# of the names of files and folders that are being written
PARTIAL_PREFIX = ".hafm."
PARTIAL_SUFFIX = ".part"
ON_WINDOWS = os.name == "nt"
# of all usual file systems; pathconf knows the exceptions, such as encrypted folders
MOST_NAME_LENGTH = 255


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yields a temporary file that replaces `path` once complete and synced to disk; if writing fails, it is removed.

    Raises:
        OSError: if the disk is full, or the folder can't be written to.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{PARTIAL_PREFIX}{secrets.token_hex(8)}{PARTIAL_SUFFIX}"
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    """Syncs a folder to disk, so that a rename in it lasts: directory entries need a sync of their own."""
    try:
        folder = os.open(path, os.O_RDONLY)
    except PermissionError:
        # Windows opens no folders, and its file system logs renames; elsewhere a folder may be writable but not
        # readable, and is then not synced
        return
    try:
        os.fsync(folder)
    except OSError as error:
        # some network file systems sync no folders
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(folder)


def replace_folder(temporary: Path, folder: Path) -> None:
    """Syncs a complete new folder to disk and puts it in place of an old one, which is restored if that fails.

    Args:
        temporary: the new folder, on the same file system; it is moved.
        folder: where the new folder goes; need not exist yet.
    """
    for path in temporary.rglob("*"):
        if path.is_file():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
    old = temporary.with_name(f"{temporary.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    try:
        temporary.rename(folder)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
    _sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Writes `content` to `path` as JSON, atomically, in ASCII; paths in it that are not UTF-8 survive as escapes."""
    with replacing(path) as file:
        file.write(json.dumps(content, indent=1).encode("ascii") + b"\n")


def too_long(path: str | os.PathLike[str]) -> str:
    """Why a file can't be created because of its name's length, as the end of a sentence; empty if it can."""
    path = Path(path)
    # limits are those of the file system that the file would be on
    existing = next(folder for folder in path.absolute().parents if os.path.isdir(folder))
    try:
        most_name = os.pathconf(existing, "PC_NAME_MAX")
        most_path = os.pathconf(existing, "PC_PATH_MAX")
    except (AttributeError, OSError, ValueError):
        # Windows has no pathconf, and its own limit on paths depends on a setting: 0 for none
        most_name = MOST_NAME_LENGTH
        most_path = 0
    unit = "characters" if ON_WINDOWS else "bytes"
    for name in path.parts:
        if _length(name) > most_name:
            return f"{name} has {_length(name)} {unit}, and {most_name} is the longest name here"
    # the limit includes a final zero
    if most_path and _length(str(path)) >= most_path:
        return f"the path of {path.name} has {_length(str(path))} {unit}, and {most_path - 1} is the longest path here"
    return ""


def _length(name: str) -> int:
    """Length of a name in the units in which the system limits it."""
    if ON_WINDOWS:
        return len(name.encode("utf-16-le", "surrogatepass")) // 2
    return len(os.fsencode(name))


def possible_name(name: str) -> str:
    """A file name with _ for each character that names can't have on this system, such as that of a file in a URL."""
    return re.sub(r'[<>:"/\\|?*\x00-\x1f]' if ON_WINDOWS else r"[/\x00]", "_", name)


def shortened(name: str, most_bytes: int) -> str:
    """A file name cut to `most_bytes` bytes of UTF-8 at most, between characters."""
    return name.encode("utf-8", "surrogateescape")[:most_bytes].decode("utf-8", "ignore")
