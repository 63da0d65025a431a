# SPDX-License-Identifier: Apache-2.0
"""librosa, loaded safely by several processes of a fresh installation at once.

Of the extras that analyse recordings; generation needs none of it.
"""

import importlib
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import filelock


def librosa_lock() -> Path:
    """The file that `load_librosa` locks, one for each user of the machine."""
    return Path(tempfile.gettempdir()) / f"hafm_librosa_{getattr(os, 'getuid', int)()}.lock"


@cache
def load_librosa() -> Any:
    """librosa, whose compiled functions are made or read by one process of a machine at a time.

    Two processes that fill numba's cache together leave files that do not fit each other, and whoever calls them dies
    of a segmentation fault (numba issue 10128): the first evaluation of a fresh installation with two workers did.
    """
    import librosa

    with filelock.FileLock(librosa_lock()):
        for part in ("util", "core.pitch", "sequence", "onset", "feature", "beat", "effects"):
            # compiled as they are imported
            importlib.import_module(f"librosa.{part}")
    return librosa
