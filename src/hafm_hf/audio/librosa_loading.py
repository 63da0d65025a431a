# SPDX-License-Identifier: Apache-2.0
"""Loads librosa safely where several processes of a fresh installation start at once.

Only the extras that analyse recordings need librosa; generation does not.
"""

import importlib
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import filelock


def librosa_lock() -> Path:
    """The lock file of `load_librosa`, one per user of the machine."""
    # Windows has no user ids: 0
    user_id = getattr(os, "getuid", int)()
    return Path(tempfile.gettempdir()) / f"hafm_librosa_{user_id}.lock"


@cache
def load_librosa() -> Any:
    """Imports librosa; only one process at a time compiles its functions or reads them from numba's cache.

    Two processes that fill numba's cache concurrently can leave inconsistent files, and calling the cached functions
    then segfaults (numba issue 10128), as it did in the first evaluation with two workers on a fresh installation.
    """
    import librosa

    with filelock.FileLock(librosa_lock()):
        for part in ("util", "core.pitch", "sequence", "onset", "feature", "beat", "effects"):
            # importing these compiles them
            importlib.import_module(f"librosa.{part}")
    return librosa
