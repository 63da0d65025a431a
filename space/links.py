# SPDX-License-Identifier: Apache-2.0
"""Links to the settings: what the page accepts from one; static/page.js writes them.

A link has the options that a person has chosen, by their names in Python; a lead sheet is saved as a file instead.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from hafm_hf import LeadSheet
from hafm_hf.accompaniment.options import PUBLIC_OPTIONS, GenerationOptions, MixOptions
from parts import MOST
from songs import MAX_SECONDS, OFFERED

# Longer values are not read.
MOST_CHARACTERS = 400
# Browsers cannot tell larger whole numbers apart.
MOST_WHOLE = 2**53
# What is left out of a link, in the order of `Request.of`; whether stems are separated depends on the model.
USUAL: dict[str, Any] = {"model": OFFERED[0], **{name: option.default for name, option in PUBLIC_OPTIONS.items()}}
USUAL |= {"stems": None, "seconds": 0, "tempo": 0, "tail": 0}
TRUTH = {"1": True, "0": False}
KINDS = {name: option.kind for name, option in PUBLIC_OPTIONS.items()}
KINDS |= {"seconds": float, "tempo": float, "tail": float, "model": str}


def read_link(query: str) -> dict[str, Any]:
    """What a link's query says: inputs of the page by name. Other names in an address are ignored.

    Raises:
        ValueError: a value that the page would not take, in one sentence.
    """
    try:
        given = dict(parse_qsl(query.removeprefix("?"), keep_blank_values=True, max_num_fields=50))
    except ValueError:
        raise ValueError("The link has too many parts; its settings are not used.") from None
    try:
        found = {name: _value(name, value.strip(), KINDS[name]) for name, value in given.items() if name in KINDS}
        GenerationOptions.of(given={name: value for name, value in found.items() if name in PUBLIC_OPTIONS})
        MixOptions.of(given={"tail": found.get("tail")})
        LeadSheet(tempo=found.get("tempo"))
        if not 0 <= found.get("seconds", 0) <= MAX_SECONDS:
            raise ValueError(f"seconds is {found['seconds']:g}; it must be between 0 and {MAX_SECONDS:g}.")
        if found.get("model", OFFERED[0]) not in OFFERED:
            # opening a link must not make a server fetch what its writer likes
            raise ValueError("model is not one that this page offers.")
    except ValueError as error:
        raise ValueError(f"The settings of this link are not used: {error}") from error
    return found


def _value(name: str, text: str, kind: type) -> Any:
    """A text of a link as a value of a kind."""
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"{name} is longer than {MOST_CHARACTERS} characters.")
    if kind is str:
        return text
    if kind is bool:
        if text not in TRUTH:
            raise ValueError(f"{name} is {text!r}; it must be 1 or 0.")
        return TRUTH[text]
    try:
        number = kind(text)
    except ValueError:
        raise ValueError(f"{name} is {text!r}; it must be a number.") from None
    # a NaN is in no interval
    if not abs(number) < MOST_WHOLE or number > MOST.get(name, number):
        raise ValueError(f"{name} is {text!r}; such a number is not accepted.")
    return number
