# SPDX-License-Identifier: Apache-2.0
"""Checks the sizes in a configuration before anything is allocated."""

MAX_LAYERS = 1024
MAX_WIDTH = 65_536
MAX_STREAMS = 64
MAX_WINDOW_SECONDS = 3600.0
MAX_SAMPLING_RATE = 1_000_000
# layers with doubling dilation: twelve see more than a minute to each side
MAX_DILATIONS = 12


def check_range(name: str, value: float, limit: int, least: int = 1) -> None:
    """Raises ValueError unless the value lies between `least` and `limit`, inclusive."""
    if not least <= value <= limit:
        raise ValueError(f"{name} is {value}; it must lie between {least} and {limit}.")
