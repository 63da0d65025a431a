# SPDX-License-Identifier: Apache-2.0
"""Which package index `make` installs torch from: prints options of pip, and on stderr a sentence about them.

    pip install $(python requirements/torch_index.py) torch

On Linux PyPI has CUDA builds of several gigabytes, so that PyTorch's own index of CPU builds is taken where it
answers. `TORCH_INDEX` says it otherwise: options of pip, or nothing for the index that pip is set up with.
"""

from __future__ import annotations

import http.client
import os
import platform
import sys
import urllib.request

CPU_INDEX = "https://download.pytorch.org/whl/cpu/"
TIMEOUT_SECONDS = 3.0


def answers(url: str) -> bool:
    """Whether there is a page at `url`, asked for once."""
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):
            return True
    except (OSError, http.client.HTTPException):
        return False


def torch_index(system: str, options: str | None, url: str = CPU_INDEX) -> tuple[str, str]:
    """Options of pip, and where torch comes from with them.

    Args:
        system: "Linux", "Darwin" or "Windows".
        options: what somebody asks for; None if nobody does.
        url: an index of CPU builds.
    """
    if options is not None:
        return options, f"with {options}" if options else "from pip's own index"
    if system != "Linux":
        return "", "from pip's own index"
    if answers(url):
        return f"--extra-index-url {url}", f"from the CPU builds at {url}"
    return "", f"from pip's own index, which may give a CUDA build of several gigabytes: {url} can't be reached"


if __name__ == "__main__":
    options, where = torch_index(platform.system(), os.environ.get("TORCH_INDEX"))
    print(f"==> installing torch {where}", file=sys.stderr)
    print(options)
