# SPDX-License-Identifier: Apache-2.0
"""What happened to every file: a report for each shard, summed up in the manifest of the corpus.

A shard is finished once its report exists, as the report is written after the shard. The contents of both are
independent of time, machine and worker.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .plan import PLAN_FILE, Plan
from .tracks import SPLITS, Drop, Reason

MANIFEST_FILE = "manifest.json"
REPORT_FOLDER = "reports"


@dataclass
class TrackReport:
    """Of one track: number of segments and of those kept, its length in seconds, and the seconds kept."""

    segments: int = 0
    kept: int = 0
    seconds: float = 0.0
    kept_seconds: float = 0.0


@dataclass
class ShardReport:
    """What happened to a shard's tracks.

    `name` is the shard's file name; `tracks` are by name; `drops` are whole tracks (without start) or segments (with
    start).
    """

    name: str
    rows: int = 0
    tracks: dict[str, TrackReport] = field(default_factory=dict)
    drops: list[Drop] = field(default_factory=list)


def report_path(corpus: Path, shard: str) -> Path:
    """Path of the report on a shard (a file name, such as "train-00000.parquet") of a corpus."""
    return corpus / REPORT_FOLDER / f"{Path(shard).stem}.json"


def read_report(corpus: Path, shard: str) -> ShardReport | None:
    """The report on a shard (a file name) of a corpus; None if the shard is still to be made.

    A shard is still to be made if its report is missing, or if the report counts rows and the shard's file is missing.
    """
    path = report_path(corpus, shard)
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="ascii"))
    if content["rows"] and not (corpus / shard).is_file():
        return None
    return ShardReport(
        name=content["name"],
        rows=content["rows"],
        tracks={name: TrackReport(**values) for name, values in content["tracks"].items()},
        drops=[Drop(**{**drop, "reason": Reason(drop["reason"])}) for drop in content["drops"]],
    )


def missing_shards(corpus: Path) -> list[str]:
    """Names of shards that are planned but not made; empty without a plan, as in a corpus that was downloaded."""
    plan = corpus / PLAN_FILE
    if not plan.is_file():
        return []
    planned = json.loads(plan.read_text(encoding="utf-8"))["shards"]
    return [name for name in planned if read_report(corpus, name) is None]


def make_manifest(
    plan: Plan, reports: Sequence[ShardReport], scan_drops: Sequence[Drop], others: int, tokenizers: dict[str, Any]
) -> dict[str, Any]:
    """Accounts for every track and segment: found = kept + dropped, by reason.

    Args:
        plan: plan of the corpus.
        reports: reports of its finished shards.
        scan_drops: files that could not be used as tracks.
        others: number of files without an audio suffix.
        tokenizers: frame rates, vocabulary sizes and fingerprints.

    Returns:
        the contents of manifest.json.
    """
    tracks: dict[str, TrackReport] = {}
    drops = list(scan_drops)
    for report in reports:
        tracks |= report.tracks
        drops += report.drops
    # a dropped segment has a start, a dropped track has none
    dropped_tracks = Counter(drop.reason.value for drop in drops if drop.start is None)
    dropped_segments = Counter(drop.reason.value for drop in drops if drop.start is not None)
    # a track with all segments dropped counts once, under the reason of the first
    uncounted = {name for name, track in tracks.items() if track.segments and not track.kept}
    for drop in drops:
        if drop.track in uncounted and drop.start is not None:
            uncounted.remove(drop.track)
            dropped_tracks[drop.reason.value] += 1
    kept_tracks = sum(track.kept > 0 for track in tracks.values())
    segments = sum(track.segments for track in tracks.values())
    return {
        "options": plan.options,
        "tokenizers": tokenizers,
        "complete": len(reports) == len(plan.shards),
        "tracks": {
            "found": kept_tracks + sum(dropped_tracks.values()),
            "kept": kept_tracks,
            "dropped": dict(sorted(dropped_tracks.items())),
        },
        "segments": {
            "found": segments,
            "kept": sum(track.kept for track in tracks.values()),
            "dropped": dict(sorted(dropped_segments.items())),
        },
        "hours": {
            "found": round(sum(track.seconds for track in tracks.values()) / 3600, 4),
            "kept": round(sum(track.kept_seconds for track in tracks.values()) / 3600, 4),
        },
        "splits": {split: _count_split(split, reports) for split in SPLITS},
        "other_files": others,
        "dropped": [_drop_entry(drop) for drop in drops],
    }


def _count_split(split: str, reports: Sequence[ShardReport]) -> dict[str, Any]:
    """Numbers of kept tracks, rows, hours and shards with rows of a split ("train" …)."""
    shards = [report for report in reports if report.name.startswith(f"{split}-")]
    tracks = [track for shard in shards for track in shard.tracks.values()]
    return {
        "tracks": sum(track.kept > 0 for track in tracks),
        "rows": sum(shard.rows for shard in shards),
        "hours": round(sum(track.kept_seconds for track in tracks) / 3600, 4),
        "shards": sum(shard.rows > 0 for shard in shards),
    }


def _drop_entry(drop: Drop) -> dict[str, Any]:
    """The manifest's entry for a dropped track or segment; unknown values are left out."""
    facts = {"track": drop.track, "reason": drop.reason.value, "start": drop.start, "detail": drop.detail or None}
    return {name: value for name, value in facts.items() if value is not None}
