# SPDX-License-Identifier: Apache-2.0
"""Reads links to the page's settings, which static/page.js writes.

A link contains the options that the user has changed, by their Python names; a lead sheet is saved as a file instead.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from songs import OFFERED, OPTIONS, Request

# JavaScript cannot represent larger integers exactly.
MOST_WHOLE = 2**53
# Default values, which links leave out, in the order of `Request.of`; the default for stems depends on the model.
USUAL: dict[str, Any] = {"model": OFFERED[0], **{name: option.default for name, option in OPTIONS.items()}}
USUAL |= {"stems": None, "seconds": 0, "tempo": 0, "tail": 0}
TRUTH = {"1": True, "0": False}
KINDS = {name: option.kind for name, option in OPTIONS.items()}
KINDS |= {"seconds": float, "tempo": float, "tail": float, "model": str}


def read_link(query: str) -> dict[str, Any]:
    """The page's inputs by name, from a link's query; unknown names are ignored, bad values raise a ValueError."""
    try:
        given = dict(parse_qsl(query.removeprefix("?"), keep_blank_values=True, max_num_fields=50))
        found = {name: _value(name, value.strip(), KINDS[name]) for name, value in given.items() if name in KINDS}
        Request.of(None, *{**USUAL, **found}.values()).parameters()
        if found.get("model", OFFERED[0]) not in OFFERED:
            raise ValueError("model is not one that this page offers.")
    except ValueError as error:
        raise ValueError(f"The settings of this link are not used: {error}") from error
    return found


def _value(name: str, text: str, kind: type) -> Any:
    """Converts the text of a link's parameter to a value of type `kind`."""
    if kind is str:
        return text
    try:
        number = TRUTH[text] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise ValueError(f"{name} is {text!r}; it must be {'1 or 0' if kind is bool else 'a number'}.") from None
    # written so that NaN fails
    if not abs(number) < MOST_WHOLE:
        raise ValueError(f"{name} is {text!r}; it must be a finite number below 2^53.")
    return number
