# SPDX-License-Identifier: Apache-2.0
"""Finds a place for each of a set of foreign weights, by layer, shape and, only where these leave a choice, by words.

Off the path of the data; `convert` uses it. It knows nothing of HAFM: slots come in, matches go out.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Slot:
    """A place for one weight.

    Args:
        name: our parameter.
        shape: of the weight that goes there.
        index: row of a stacked parameter, if it is one.
        layer: layer that it belongs to, if any.
        words: words of a key that speak for this parameter.
        own_words: words that speak for this row of it.
    """

    name: str
    shape: Shape
    index: int | None = None
    layer: int | None = None
    words: frozenset[str] = frozenset()
    own_words: frozenset[str] = frozenset()

    @property
    def label(self) -> str:
        """The name that a mapping file uses: `heads.weight[2]`."""
        return self.name if self.index is None else f"{self.name}[{self.index}]"

    @property
    def family(self) -> str:
        """What is one thing in each layer or codebook: the name, its layer left open."""
        return self.name if self.layer is None else self.name.replace(f".{self.layer}.", ".*.", 1)


@dataclass(frozen=True)
class Match:
    """Which slot a key got, and why; no slot for keys that a mapping file leaves out."""

    key: str
    shape: Shape
    slot: Slot | None
    reason: str


def match_structure(
    shapes: Mapping[str, Shape], slots: Sequence[Slot], num_layers: int, given: Mapping[str, str | None]
) -> tuple[list[Match], list[str]]:
    """Matches every key with a slot, or says why that cannot be done.

    Args:
        shapes: foreign keys and the shapes of their weights.
        slots: all places.
        num_layers: number of layers that slots speak of.
        given: what a mapping file says: a slot's label, or None to leave the key out. It comes before anything else.

    Returns:
        Matches, sorted by slot, and problems; only without problems is every slot filled once and every key used.
    """
    matches, problems = _match_given(shapes, slots, given)
    taken = {match.slot for match in matches}
    free = [slot for slot in slots if slot not in taken]
    layers = _layers_of([key for key in shapes if key not in given], shapes, free, num_layers)
    groups: dict[Any, tuple[list[Slot], list[str]]] = defaultdict(lambda: ([], []))
    for slot in free:
        groups[slot.layer, slot.shape][0].append(slot)
    for key in shapes:
        if key not in given:
            groups[layers.get(key), shapes[key]][1].append(key)
    for group_slots, group_keys in groups.values():
        found, wrong = _match_group(group_slots, group_keys, shapes)
        matches += found
        problems += wrong
    place = {slot: number for number, slot in enumerate(slots)}
    return sorted(matches, key=lambda match: place[match.slot] if match.slot else len(place)), problems


def key_words(key: str) -> frozenset[str]:
    """Words of a key in lower case, and neighbours joined: {"norm", "1", "norm1"} of "Norm_1"."""
    parts = [part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", key)]
    return frozenset(parts) | {first + second for first, second in zip(parts, parts[1:], strict=False)}


def _match_given(
    shapes: Mapping[str, Shape], slots: Sequence[Slot], given: Mapping[str, str | None]
) -> tuple[list[Match], list[str]]:
    by_label = {slot.label: slot for slot in slots}
    matches, problems, used = [], [], set()
    for key, label in given.items():
        slot = None if label is None else by_label.get(label)
        if key not in shapes:
            problems.append(f"The mapping names {key}, which the checkpoint does not hold.")
        elif label is not None and slot is None:
            problems.append(f"The mapping names {label}, which is no place of this stage.")
        elif slot is not None and slot.shape != shapes[key]:
            problems.append(f"The mapping puts {key} {shapes[key]} into {slot.label} {slot.shape}.")
        elif slot in used:
            problems.append(f"The mapping fills {label} twice.")
        else:
            used.update({slot} - {None})
            matches.append(Match(key, shapes[key], slot, "mapping" if slot else "left out by the mapping"))
    return matches, problems


def _layers_of(
    keys: Sequence[str], shapes: Mapping[str, Shape], slots: Sequence[Slot], num_layers: int
) -> dict[str, int]:
    """Layers of the keys that exist once a layer: their leftmost number with as many values as there are layers."""
    layer_shapes = {slot.shape for slot in slots if slot.layer is not None}
    families = _families([key for key in keys if shapes[key] in layer_shapes], shapes)
    layers: dict[str, int] = {}
    for key in keys:
        for template, number in _templates(key):
            numbers = sorted(families.get((template, shapes[key]), {}))
            if len(numbers) == num_layers and number in numbers:
                layers[key] = numbers.index(number)
                break
    return layers


def _families(keys: Sequence[str], shapes: Mapping[str, Shape]) -> dict[tuple[str, Shape], dict[int, str]]:
    """Keys that differ in one number: {(key with the number left open, shape): {number: key}}."""
    families: dict[tuple[str, Shape], dict[int, str]] = defaultdict(dict)
    for key in keys:
        for template, number in _templates(key):
            families[template, shapes[key]][number] = key
    return families


def _templates(key: str) -> list[tuple[str, int]]:
    return [(f"{key[: found.start()]}*{key[found.end() :]}", int(found.group())) for found in re.finditer(r"\d+", key)]


def _match_group(slots: list[Slot], keys: list[str], shapes: Mapping[str, Shape]) -> tuple[list[Match], list[str]]:
    """Slots and keys of one layer and one shape."""
    if not slots:
        return [], [f"Nothing has the shape of {key} {shapes[key]}: it is left over." for key in keys]
    if len(slots) != len(keys):
        where, what = ", ".join(slot.label for slot in slots), ", ".join(keys) or "nothing"
        return [], [f"{len(slots)} of shape {slots[0].shape} are wanted ({where}), but there is {what}."]
    families: dict[str, list[Slot]] = defaultdict(list)
    for slot in slots:
        families[slot.family].append(slot)
    claims, problem = _claim(keys, {name: members[0].words for name, members in families.items()}, families)
    if problem:
        return [], [problem]
    matches, problems = [], []
    for name, members in families.items():
        ordered, reason = _order(members, [key for key, (family, _) in claims.items() if family == name], shapes)
        if ordered is None:
            problems.append(f"Which of {', '.join(k for k, (f, _) in claims.items() if f == name)} is {reason}")
            continue
        for slot, key in zip(members, ordered, strict=True):
            why = ", ".join(filter(None, ("layer" if slot.layer is not None else "", "shape", claims[key][1], reason)))
            matches.append(Match(key, shapes[key], slot, why))
    return matches, problems


def _claim(
    keys: Sequence[str], words: Mapping[str, frozenset[str]], families: Mapping[str, Sequence[Slot]]
) -> tuple[dict[str, tuple[str, str]], str]:
    """For each key its family and why, or what is wrong."""
    if len(families) == 1:
        return {key: (next(iter(families)), "") for key in keys}, ""
    # what all keys say tells none of them apart
    said = {key: key_words(key) for key in keys}
    common = frozenset.intersection(*said.values())
    claims: dict[str, tuple[str, str]] = {}
    for key in keys:
        spoken = {name: (said[key] - common) & words[name] for name in families}
        best = _most_specific({name: found for name, found in spoken.items() if found})
        if len(best) > 1:
            return {}, f"{key} speaks for {' and for '.join(best)}: ambiguous."
        if best:
            claims[key] = best[0], f'"{min(spoken[best[0]])}"'
    silent = [key for key in keys if key not in claims]
    empty = [name for name in families if name not in {family for family, _ in claims.values()}]
    if silent and len(empty) == 1:
        claims |= dict.fromkeys(silent, (empty[0], "the only one left"))
    elif silent:
        return {}, f"{', '.join(silent)} may be any of {', '.join(families)}: ambiguous."
    for name, members in families.items():
        count = sum(family == name for family, _ in claims.values())
        if count != len(members):
            return {}, f"{count} keys speak for {name}, which has {len(members)} places, among {', '.join(keys)}."
    return claims, ""


def _most_specific(spoken: Mapping[str, frozenset[str]]) -> list[str]:
    """Families that a key speaks for, less those whose words are parts of another's (attention, postattention)."""

    def outdone(name: str) -> bool:
        others = [word for other, words in spoken.items() if other != name for word in words - spoken[name]]
        return all(any(word in other for other in others) for word in spoken[name])

    return [name for name in spoken if not outdone(name)] or list(spoken)


def _order(members: Sequence[Slot], keys: Sequence[str], shapes: Mapping[str, Shape]) -> tuple[list[str] | None, str]:
    """Keys in the order of their slots, and why; or None and what cannot be told."""
    if len(members) == 1:
        return list(keys), ""
    numbered = [family for family in _families(keys, shapes).values() if len(family) == len(members)]
    runs = [family for family in numbered if max(family) - min(family) == len(members) - 1]
    if len(runs) == 1:
        return [key for _, key in sorted(runs[0].items())], "number"
    if all(slot.own_words for slot in members) and not runs:
        spoken = [[key for key in keys if key_words(key) & slot.own_words] for slot in members]
        if all(len(found) == 1 for found in spoken) and len({found[0] for found in spoken}) == len(members):
            return [found[0] for found in spoken], "word"
    return None, f"{', '.join(slot.label for slot in members)} cannot be told: ambiguous."
