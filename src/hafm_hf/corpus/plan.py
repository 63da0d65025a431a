# SPDX-License-Identifier: Apache-2.0
"""Assigns tracks to shards: decided once, saved, and only ever extended.

A shard is made by one task from the tracks that the plan assigns to it, so its bytes depend neither on the worker or
the time nor on other shards. The plan also records the options that affect contents; different ones are rejected.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..atomic_files import write_json
from .tracks import SPLITS, HAFMCorpusError, Track

PLAN_FILE = "plan.json"
PLAN_FORMAT = 2


@dataclass
class Plan:
    """Options that affect contents, every track by name, and the names of each shard's tracks."""

    options: dict[str, Any]
    tracks: dict[str, Track] = field(default_factory=dict)
    shards: dict[str, list[str]] = field(default_factory=dict)


def load_plan(corpus: Path, options: dict[str, Any]) -> Plan:
    """Loads the plan of a corpus; an empty one for a new folder.

    Raises:
        HAFMCorpusError: the plan was made with other options or by another version, or shards have no plan.
    """
    path = corpus / PLAN_FILE
    if not path.is_file():
        if any(corpus.glob("*.parquet")):
            raise HAFMCorpusError(f"{corpus} holds shards but no {PLAN_FILE}; choose another folder.")
        return Plan(options)
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.get("format") != PLAN_FORMAT:
        raise HAFMCorpusError(f"{corpus} was made by another version of hafm prepare; choose another folder.")
    check_same_options(corpus, content["options"], options)
    tracks = {name: Track(name=name, **values) for name, values in content["tracks"].items()}
    return Plan(content["options"], tracks, content["shards"])


def check_same_options(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Rejects options that differ from those a folder was begun with and affect its contents.

    Args:
        folder: the folder, for the message.
        before, now: options by name, as saved in the folder's plan, and as given now.

    Raises:
        HAFMCorpusError: naming the options that differ.
    """
    # through JSON, so that tuples equal lists
    now = json.loads(json.dumps(now))
    set_before = _without_unset(before)
    set_now = _without_unset(now)
    changed = [
        f"{key} was {before.get(key)!r} and is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if set_before.get(key) != set_now.get(key)
    ]
    if changed:
        raise HAFMCorpusError(
            f"{folder} was begun with other options ({'; '.join(changed)}); use those again or choose another folder."
        )


def _without_unset(options: dict[str, Any]) -> dict[str, Any]:
    """Options, also nested ones, without those that are None, False or "", which older plans may lack."""
    kept: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, dict):
            kept[name] = _without_unset(value)
        # unlike False, 0 is kept
        elif not (value is None or value is False or value == ""):
            kept[name] = value
    return kept


def extend_plan(plan: Plan, tracks: Sequence[Track], tracks_per_shard: int) -> None:
    """Assigns the tracks that `plan` lacks to new shards, in place; existing shards stay unchanged.

    Each new shard has `tracks_per_shard` tracks of one split; the last one of a split may have fewer.
    """
    for split in SPLITS:
        new = [track for track in tracks if track.split == split and track.name not in plan.tracks]
        # in a fixed random order, so that the first shards are as varied as all of them
        new.sort(key=lambda track: hashlib.sha256(f"order/{track.content_hash}".encode()).digest())
        shards_before = sum(name.startswith(f"{split}-") for name in plan.shards)
        for index, begin in enumerate(range(0, len(new), tracks_per_shard), start=shards_before):
            members = new[begin : begin + tracks_per_shard]
            plan.shards[f"{split}-{index:05d}.parquet"] = [track.name for track in members]
            plan.tracks.update({track.name: track for track in members})


def save_plan(corpus: Path, plan: Plan) -> None:
    """Writes the plan of a corpus atomically to its folder."""
    tracks = {}
    for name, track in plan.tracks.items():
        tracks[name] = dataclasses.asdict(track)
        # the name is the key
        del tracks[name]["name"]
    content = {"format": PLAN_FORMAT, "options": plan.options, "shards": plan.shards, "tracks": tracks}
    write_json(corpus / PLAN_FILE, content)
