# SPDX-License-Identifier: Apache-2.0
"""Which vocals are generated together, and what their files are called: decided once, written down, only added to.

Rows of one batch share matrix products, and products of another shape may round otherwise. So who is in a batch is
planned from the vocals alone, never from workers or from what is finished; then every file has the same bytes whoever
makes it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..atomic_files import write_json
from ..corpus.plan import PLAN_FILE, changed_options
from .vocals import HAFMBatchError, Vocal

PLAN_FORMAT = 1
PARTS = ("instrumental", "mix")
# a batch costs what its longest vocal does: none is shorter than this share of it
LEAST_SHARE = 0.75
# the sound of a batch is held at once
LONGEST_BATCH_SECONDS = 3600.0
# file systems take 255 bytes; the rest is for what stands behind a name
LONGEST_NAME_BYTES = 200


@dataclass
class BatchPlan:
    """Options that decide contents, vocals by key, the name of each one's files, and the keys of each batch."""

    options: dict[str, Any]
    vocals: dict[str, Vocal] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    batches: list[list[str]] = field(default_factory=list)


def load_plan(out: Path) -> BatchPlan | None:
    """The plan of a folder of results; None for a new one.

    Raises:
        HAFMBatchError: the folder holds the plan of something else.
    """
    path = out / PLAN_FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="ascii"))
        if content["batch_format"] != PLAN_FORMAT:
            raise KeyError("batch_format")
    except (KeyError, TypeError, ValueError) as error:
        raise HAFMBatchError(f"{path} is no plan of this version of hafm accompany; choose another folder.") from error
    vocals = {key: Vocal(key=key, **values) for key, values in content["vocals"].items()}
    return BatchPlan(content["options"], vocals, content["names"], content["batches"])


def save_plan(out: Path, plan: BatchPlan) -> None:
    """Writes the plan, whole or not at all."""
    vocals = {key: dataclasses.asdict(vocal) for key, vocal in plan.vocals.items()}
    for values in vocals.values():
        del values["key"]
    content = {"batch_format": PLAN_FORMAT, "options": plan.options, "names": plan.names, "batches": plan.batches}
    write_json(out / PLAN_FILE, {**content, "vocals": vocals})


def check_same_options(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raises HAFMBatchError where options that decide contents have changed."""
    if changed := changed_options(before, now):
        raise HAFMBatchError(
            f"{out} was begun with other options ({'; '.join(changed)}); use those again or choose another folder."
        )


def extend_plan(plan: BatchPlan, found: Sequence[Vocal], batch_size: int) -> list[str]:
    """Plans vocals that are new or have another content than before.

    Returns:
        Keys of vocals whose content has changed, so that their files are no longer right.
    """
    changed = [
        vocal.key
        for vocal in found
        if vocal.key in plan.vocals and plan.vocals[vocal.key].content_hash != vocal.content_hash
    ]
    plan.batches = [left for batch in plan.batches if (left := [key for key in batch if key not in changed])]
    new = [vocal for vocal in found if vocal.key not in plan.vocals or vocal.key in changed]
    plan.vocals.update({vocal.key: vocal for vocal in found})
    for vocal in new:
        if vocal.key not in plan.names:
            plan.names[vocal.key] = _free_name(vocal, set(plan.names.values()))
    # the longest first, so that no worker is left alone with them at the end
    new.sort(key=lambda vocal: (-vocal.seconds, vocal.key))
    batch: list[Vocal] = []
    for vocal in new:
        together = sum(each.seconds for each in batch) + vocal.seconds
        short = batch and vocal.seconds < LEAST_SHARE * batch[0].seconds
        # one that has a lead sheet of its own goes alone
        apart = batch and (vocal.lead_sheet or batch[0].lead_sheet)
        if batch and (len(batch) == batch_size or short or apart or together > LONGEST_BATCH_SECONDS):
            plan.batches.append([each.key for each in batch])
            batch = []
        batch.append(vocal)
    if batch:
        plan.batches.append([each.key for each in batch])
    return changed


def files_of(
    out: Path, name: str, samples: int, file_format: str, parts: Sequence[str] = PARTS
) -> list[dict[str, Path]]:
    """Path of each part of each sample of a vocal."""
    songs = [name] if samples == 1 else [f"{name}_{number}" for number in range(1, samples + 1)]
    return [{part: out / f"{song}_{part}.{file_format}" for part in parts} for song in songs]


def _free_name(vocal: Vocal, taken: set[str]) -> str:
    """A vocal's name; where another has it, with the suffix of its file, or a number, behind it."""
    suffix = os.path.splitext(vocal.key)[1].lstrip(".")
    folder, last = os.path.split(vocal.name)
    name = os.path.join(folder, os.fsdecode(os.fsencode(last)[:LONGEST_NAME_BYTES]))
    return next(name for name in _names(name, suffix) if name not in taken)


def _names(name: str, suffix: str) -> Iterator[str]:
    yield name
    if suffix:
        yield f"{name}_{suffix}"
    number = 2
    while True:
        yield f"{name}_{number}"
        number += 1
