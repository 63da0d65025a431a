# SPDX-License-Identifier: Apache-2.0
"""Fetching a URL that somebody has named: http(s) only, up to a size and a time."""

from __future__ import annotations

import time

URL_MAX_BYTES = 200_000_000
URL_TIMEOUT_SECONDS = 60.0


class HAFMAudioError(ValueError):
    """A vocal that cannot be used; the message is one sentence that names the source, the value and the way out."""


def is_url(source: str) -> bool:
    """Whether `source` is an http(s) URL."""
    return source.lower().startswith(("http://", "https://"))


def download(url: str, *, max_bytes: int = URL_MAX_BYTES, timeout: float = URL_TIMEOUT_SECONDS) -> bytes:
    """Fetches `url`, giving up beyond `max_bytes` or after `timeout` seconds in all.

    Raises:
        HAFMAudioError: unreachable, not an http(s) URL, too large or too slow.
    """
    # of huggingface_hub; its own client would refuse every address where HF_HUB_OFFLINE is set
    import httpx2

    late = HAFMAudioError(f"{url} took longer than {timeout:g} s; download it yourself first.")
    end = time.monotonic() + timeout
    received = bytearray()
    try:
        with httpx2.stream("GET", url, timeout=timeout, follow_redirects=True) as response:
            response.raise_for_status()
            for block in response.iter_bytes():
                received += block
                if len(received) > max_bytes:
                    raise HAFMAudioError(f"{url} is larger than {max_bytes / 1e6:g} MB; cut it first.")
                if time.monotonic() > end:
                    raise late
    except httpx2.TimeoutException as error:
        raise late from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise HAFMAudioError(f"{url} cannot be fetched: {str(error).splitlines()[0]}.") from error
    return bytes(received)
