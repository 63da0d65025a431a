# SPDX-License-Identifier: Apache-2.0
"""Links to the settings: what of the page stands in its address, and what of an address is believed.

Beside songs.py, whose requests are written and read here. A link has what a person has chosen or told, by name; what
is estimated follows from the voice again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlencode

from hafm_hf import LeadSheet
from hafm_hf.accompaniment.options import MIX_OPTIONS, GenerationOptions, MixOptions
from hafm_hf.lead_sheet.bars import chart
from listening import lead_sheet_of
from parts import MOST
from songs import CHOICES, MAX_SECONDS, OFFERED, Request

# More bars are no short text any more, and no longer value is looked at.
MOST_BARS, MOST_CHARACTERS = 32, 400
# Larger whole numbers are others in a browser.
MOST_WHOLE = 2**53
TRUTH = {"1": True, "0": False}


def write_link(timeline: dict[str, Any] | None, seed: int | None, request: Request) -> str:
    """The query of a link to a request and to what is told of its song, "?tempo=96&style=folk".

    Args:
        timeline: as the page has it.
        seed: of the chosen take, where the request leaves it to chance.
        request: of the page.

    Raises:
        ValueError: what the timeline sends makes no sense.
    """
    known: dict[str, Any] = {"tempo": request.tempo, **_told(timeline, request.vocal)}
    known |= {name: getattr(request.options, option.name) for name, option in CHOICES.items()}
    known |= {"length": request.length, "tail": request.tail, "model": request.model}
    known["seed"] = seed if known["seed"] is None else known["seed"]
    usual = {name: option.default for name, option in CHOICES.items()} | {"model": OFFERED[0]}
    kept = {name: value for name, value in known.items() if value not in (None, "") and value != usual.get(name, 0)}
    # no 120.0, and 1 for True
    whole = {name: int(value) for name, value in kept.items() if not isinstance(value, str) and value == int(value)}
    return "?" + urlencode({**kept, **whole})


def _told(timeline: dict[str, Any] | None, vocal: str | None) -> dict[str, Any]:
    """Tempo, metre, key and chords as far as a person has told them; chords only if each bar has one."""
    sheet = lead_sheet_of(timeline, vocal)
    if sheet is None or timeline is None:
        return {}
    told: dict[str, Any] = {"metre": sheet.beats_per_bar, "key": sheet.key, "tempo": None, "chords": None}
    beats, bars = sheet.beats or (), chart(sheet, float(timeline["seconds"])).bars
    if len(beats) > 1:
        told["tempo"] = round(60 * (len(beats) - 1) / (beats[-1] - beats[0]), 2)
    labels = [bar.chords[0][1] for bar in bars if bar.number > 0]
    if sheet.chords and len(labels) <= MOST_BARS and all(len(bar.chords) == 1 for bar in bars):
        told["chords"] = " | ".join(labels)
    parts = {"metre": "beats_per_bar", "tempo": "beats"}
    found = {name: value for name, value in told.items() if value and parts.get(name, name) not in sheet.estimated}
    # chords by the bar need a tempo, whoever knows it
    return found | ({"tempo": told["tempo"]} if "chords" in found else {})


def read_link(query: str) -> tuple[dict[str, Any], LeadSheet]:
    """What a link's query says: inputs of the page by name, and what is told of the song to come.

    Whatever else stands in an address is left alone.

    Raises:
        ValueError: a value that the page would not take, in one sentence.
    """
    try:
        given = dict(parse_qsl(query.removeprefix("?"), keep_blank_values=True, max_num_fields=50))
    except ValueError:
        raise ValueError("The link has too many parts; its settings are not used.") from None
    names = [*CHOICES, "length", "tail", "tempo", "metre", "key", "chords", "model"]
    given = {name: value.strip() for name, value in given.items() if name in names}
    try:
        if long := [name for name, value in given.items() if len(value) > MOST_CHARACTERS]:
            raise ValueError(f"{long[0]} is longer than {MOST_CHARACTERS} characters.")
        known = _song(given)
        inputs = {name: _value(name, value) for name, value in given.items() if name in (*CHOICES, "length", "tail")}
        options = {CHOICES[name].name: value for name, value in inputs.items() if name in CHOICES}
        GenerationOptions.of(given=options)
        MixOptions.of(given={"tail": inputs.get("tail")})
        if not 0 <= inputs.get("length", 0) <= MAX_SECONDS:
            raise ValueError(f"length is {inputs['length']:g}; it must be between 0 and {MAX_SECONDS:g}.")
        if given.get("model", OFFERED[0]) not in OFFERED:
            # opening a link must not make a server fetch what its writer likes
            raise ValueError("model is none that this page offers.")
    except ValueError as error:
        raise ValueError(f"The settings of this link are not used: {error}") from error
    inputs |= {"model": given["model"]} if "model" in given else {}
    return inputs | {"tempo": known.tempo or 0}, known


def _song(given: dict[str, str]) -> LeadSheet:
    known: dict[str, Any] = {"key": given.get("key"), "chords": given.get("chords", ())}
    known["tempo"] = _number("tempo", given["tempo"], float) if "tempo" in given else None
    known["beats_per_bar"] = _number("metre", given["metre"], int) if "metre" in given else None
    sheet = LeadSheet(**known)
    if len(sheet.bars) > MOST_BARS:
        raise ValueError(f"chords has {len(sheet.bars)} bars; a link takes {MOST_BARS}.")
    return sheet


def _value(name: str, text: str) -> Any:
    option = CHOICES.get(name) or MIX_OPTIONS.get(name)
    kind = float if option is None else option.kind
    if kind is str:
        return text
    if kind is bool:
        if text not in TRUTH:
            raise ValueError(f"{name} is {text!r}; it must be 1 or 0.")
        return TRUTH[text]
    return _number(name, text, kind)


def _number(name: str, text: str, kind: type) -> Any:
    try:
        number = kind(text)
    except ValueError:
        raise ValueError(f"{name} is {text!r}; it must be a number.") from None
    # a NaN lies nowhere
    if not abs(number) < MOST_WHOLE or number > MOST.get(name, number):
        raise ValueError(f"{name} is {text!r}; such a number is not taken.")
    return number


def known_of(take: LeadSheet | None, tempo: float, linked: LeadSheet) -> LeadSheet:
    """What is known of a voice before it is listened to: of its take to a click, the tempo box, and a link."""
    if take is not None:
        return replace(take, key=take.key or linked.key, bars=linked.bars)
    return replace(linked, tempo=tempo or None, bars=linked.bars if tempo else ())
