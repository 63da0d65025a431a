# SPDX-License-Identifier: Apache-2.0
"""Which track goes into which shard: decided once, written down, and only ever added to.

A shard is made by one task from the tracks that the plan gives it, so its bytes don't depend on who makes it, when, or
beside which others. The options that decide contents stand in the plan too: others are refused, never mixed in.
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
    """Options that decide contents, every track by name, and the names of the tracks of each shard."""

    options: dict[str, Any]
    tracks: dict[str, Track] = field(default_factory=dict)
    shards: dict[str, list[str]] = field(default_factory=dict)


def load_plan(corpus: Path, options: dict[str, Any]) -> Plan:
    """The plan of a corpus, an empty one for a new folder.

    Raises:
        HAFMCorpusError: it was made with other options, or by another version.
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
    """Refuses options that would make other contents than those that a folder was begun with.

    Raises:
        HAFMCorpusError: naming what differs.
    """
    # through JSON, so that tuples and lists are one
    now = json.loads(json.dumps(now))
    was, will_be = _given(before), _given(now)
    changed = [
        f"{key} was {before.get(key)!r} and is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if was.get(key) != will_be.get(key)
    ]
    if changed:
        raise HAFMCorpusError(
            f"{folder} was begun with other options ({'; '.join(changed)}); use those again or choose another folder."
        )


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Options without those that are off: other versions may not know them."""
    inner = {name: _given(value) if isinstance(value, dict) else value for name, value in options.items()}
    return {name: value for name, value in inner.items() if not (value is None or value is False or value == "")}


def extend_plan(plan: Plan, tracks: Sequence[Track], tracks_per_shard: int) -> None:
    """Gives tracks that are new shards of their own; the shards that are planned stay as they are."""
    for split in SPLITS:
        new = [track for track in tracks if track.split == split and track.name not in plan.tracks]
        # in a fixed random order, so that a corpus cut short anywhere is as varied as the whole
        new.sort(key=lambda track: hashlib.sha256(f"order/{track.content_hash}".encode()).digest())
        first = sum(name.startswith(f"{split}-") for name in plan.shards)
        for number, begin in enumerate(range(0, len(new), tracks_per_shard), start=first):
            members = new[begin : begin + tracks_per_shard]
            plan.shards[f"{split}-{number:05d}.parquet"] = [track.name for track in members]
            plan.tracks.update({track.name: track for track in members})


def save_plan(corpus: Path, plan: Plan) -> None:
    """Writes the plan, whole or not at all."""
    tracks = {}
    for name, track in plan.tracks.items():
        tracks[name] = dataclasses.asdict(track)
        del tracks[name]["name"]
    content = {"format": PLAN_FORMAT, "options": plan.options, "shards": plan.shards, "tracks": tracks}
    write_json(corpus / PLAN_FILE, content)
