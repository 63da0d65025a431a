# SPDX-License-Identifier: Apache-2.0
"""Links to the settings: what the page writes into its address, and what it accepts from one.

A link has what a person has chosen or corrected, by its name in Python; estimates follow from the voice again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlencode

from hafm_hf import LeadSheet
from hafm_hf.accompaniment.options import PUBLIC_OPTIONS, GenerationOptions, MixOptions
from hafm_hf.lead_sheet.bars import chart
from listening import lead_sheet_of
from parts import MOST
from songs import MAX_SECONDS, OFFERED, Request

# Longer lead sheets do not go into a link, and longer values are not read.
MOST_BARS, MOST_CHARACTERS = 32, 400
# Browsers cannot tell larger whole numbers apart.
MOST_WHOLE = 2**53
TRUTH = {"1": True, "0": False}
# What of a link belongs to the lead sheet.
SHEET_KINDS = {"tempo": float, "beats_per_bar": int, "key": str, "chords": str}


def write_link(timeline: dict[str, Any] | None, seed: int | None, request: Request) -> str:
    """The query of a link to a request and to its lead sheet, "?tempo=96&style=folk".

    Args:
        timeline: as the page has it.
        seed: of the chosen take, used where the request has none.
        request: of the page.

    Raises:
        ValueError: what the timeline sends makes no sense.
    """
    known: dict[str, Any] = {"tempo": request.tempo, **_corrected(timeline, request.vocal)}
    known |= {name: getattr(request.options, name) for name in PUBLIC_OPTIONS}
    known |= {"seconds": request.seconds, "tail": request.tail, "model": request.model}
    known["seed"] = seed if known["seed"] is None else known["seed"]
    usual = {name: option.default for name, option in PUBLIC_OPTIONS.items()} | {"model": OFFERED[0]}
    kept = {name: value for name, value in known.items() if value not in (None, "") and value != usual.get(name, 0)}
    # no 120.0, and 1 for True
    short = {name: int(value) for name, value in kept.items() if not isinstance(value, str) and value == int(value)}
    return "?" + urlencode({**kept, **short})


def _corrected(timeline: dict[str, Any] | None, vocal: str | None) -> dict[str, Any]:
    """Tempo, metre, key and chords unless they are estimated; chords only if each bar has one."""
    sheet = lead_sheet_of(timeline, vocal)
    if sheet is None or timeline is None:
        return {}
    known: dict[str, Any] = {"beats_per_bar": sheet.beats_per_bar, "key": sheet.key, "tempo": None, "chords": None}
    beats, bars = sheet.beats or (), chart(sheet, float(timeline["seconds"])).bars
    if len(beats) > 1:
        known["tempo"] = round(60 * (len(beats) - 1) / (beats[-1] - beats[0]), 2)
    labels = [bar.chords[0][1] for bar in bars if bar.number > 0]
    if sheet.chords and len(labels) <= MOST_BARS and all(len(bar.chords) == 1 for bar in bars):
        known["chords"] = " | ".join(labels)
    found = {name: value for name, value in known.items()
             if value and {"tempo": "beats"}.get(name, name) not in sheet.estimated}  # fmt: skip
    # without a tempo, nobody knows how long the chords' bars are
    return found | ({"tempo": known["tempo"]} if "chords" in found else {})


def read_link(query: str) -> tuple[dict[str, Any], LeadSheet]:
    """What a link's query says: inputs of the page by name, and what is known of the song to come.

    Other names in an address are ignored.

    Raises:
        ValueError: a value that the page would not take, in one sentence.
    """
    try:
        given = dict(parse_qsl(query.removeprefix("?"), keep_blank_values=True, max_num_fields=50))
    except ValueError:
        raise ValueError("The link has too many parts; its settings are not used.") from None
    kinds = {name: option.kind for name, option in PUBLIC_OPTIONS.items()} | {"seconds": float, "tail": float}
    kinds |= {**SHEET_KINDS, "model": str}
    try:
        found = {name: _value(name, value.strip(), kinds[name]) for name, value in given.items() if name in kinds}
        sheet = LeadSheet(**{name: found.pop(name) for name in SHEET_KINDS if name in found})
        if len(sheet.bars) > MOST_BARS:
            raise ValueError(f"chords has {len(sheet.bars)} bars; a link takes {MOST_BARS}.")
        GenerationOptions.of(given={name: value for name, value in found.items() if name in PUBLIC_OPTIONS})
        MixOptions.of(given={"tail": found.get("tail")})
        if not 0 <= found.get("seconds", 0) <= MAX_SECONDS:
            raise ValueError(f"seconds is {found['seconds']:g}; it must be between 0 and {MAX_SECONDS:g}.")
        if found.get("model", OFFERED[0]) not in OFFERED:
            # opening a link must not make a server fetch what its writer likes
            raise ValueError("model is not one that this page offers.")
    except ValueError as error:
        raise ValueError(f"The settings of this link are not used: {error}") from error
    return found | ({"tempo": sheet.tempo} if sheet.tempo else {}), sheet


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


def known_of(take: LeadSheet | None, tempo: float, linked: LeadSheet) -> LeadSheet:
    """What is known of a voice before it is analysed: from a take to a click, the tempo field, and a link."""
    if take is not None:
        return replace(take, key=take.key or linked.key, bars=linked.bars)
    return replace(linked, tempo=tempo or None, bars=linked.bars if tempo else ())
