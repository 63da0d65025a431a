# SPDX-License-Identifier: Apache-2.0
"""Links to the settings: what the page accepts from one; static/page.js writes them.

A link has the options that a person has chosen, by their names in Python; a lead sheet is saved as a file instead.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from songs import OFFERED, OPTIONS, Request

# Browsers cannot tell larger whole numbers apart.
MOST_WHOLE = 2**53
# What is left out of a link, in the order of `Request.of`; whether stems are separated depends on the model.
USUAL: dict[str, Any] = {"model": OFFERED[0], **{name: option.default for name, option in OPTIONS.items()}}
USUAL |= {"stems": None, "seconds": 0, "tempo": 0, "tail": 0}
TRUTH = {"1": True, "0": False}
KINDS = {name: option.kind for name, option in OPTIONS.items()}
KINDS |= {"seconds": float, "tempo": float, "tail": float, "model": str}


def read_link(query: str) -> dict[str, Any]:
    """Inputs of the page by name, of a link's query; others are ignored, and of a wrong value a ValueError tells."""
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
    """A text of a link as a value of a kind."""
    if kind is str:
        return text
    try:
        number = TRUTH[text] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise ValueError(f"{name} is {text!r}; it must be {'1 or 0' if kind is bool else 'a number'}.") from None
    # a NaN is in no interval
    if not abs(number) < MOST_WHOLE:
        raise ValueError(f"{name} is {text!r}; such a number is not accepted.")
    return number
