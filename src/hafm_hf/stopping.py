# SPDX-License-Identifier: Apache-2.0
"""How a long computation is ended between its pieces; without torch, since sounds are mixed without it, too."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

# called between the pieces of a long computation; raises to end it, and returns nothing
CheckStop = Callable[[], None]
Piece = TypeVar("Piece")


def stoppable(pieces: Iterable[Piece], check_stop: CheckStop | None) -> Iterator[Piece]:
    """Iterates over pieces of work, and calls `check_stop`, if there is one, before each."""
    for piece in pieces:
        if check_stop is not None:
            check_stop()
        yield piece
