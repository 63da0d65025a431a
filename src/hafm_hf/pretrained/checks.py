# SPDX-License-Identifier: Apache-2.0
"""Checks of the sizes in a configuration, before anything is allocated."""

from collections.abc import Sequence

MAX_LAYERS = 1024
MAX_WIDTH = 65_536
MAX_STREAMS = 64
MAX_WINDOW_SECONDS = 3600.0
MAX_SAMPLING_RATE = 1_000_000
# layers whose dilation doubles: twelve see more than a minute to each side
MAX_DILATIONS = 12


def check_list(name: str, values: Sequence[int], limit: int) -> None:
    """Raises ValueError unless there are 1 to `MAX_STREAMS` values, each from 1 to the limit."""
    if not 0 < len(values) <= MAX_STREAMS:
        raise ValueError(f"{name} has {len(values)} entries; it must have 1 to {MAX_STREAMS}.")
    for value in values:
        check_range(name, value, limit)


def check_range(name: str, value: float, limit: int, least: int = 1) -> None:
    """Raises ValueError unless the value lies between `least` and the limit."""
    if not least <= value <= limit:
        raise ValueError(f"{name} is {value}; it must lie between {least} and {limit}.")
