# SPDX-License-Identifier: Apache-2.0
"""Accompanies all vocals of a folder or a Parquet file; may be killed at any moment and started again.

It plans once, has the batches made that are not there, and tells of each vocal what became of it.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..accompaniment.options import MIX_OPTIONS, OPTIONS
from ..corpus.engines import HAFMJobError, run_on
from ..corpus.plan import locked
from ..corpus.tracks import HAFMCorpusError, TrackError, hash_files
from ..pretrained.loading import model_source
from .accompanying import Batch, Outcome, WorkerOptions, accompany_batch
from .plan import BatchPlan, check_same_options, extend_plan, load_plan, save_plan
from .vocals import HAFMBatchError, Vocal, find_vocals, is_parquet

DEFAULT_BATCH_SIZE = 8
# where things lie is not what they hold
NOT_CONTENT = ("source", "out", "model", "column", "parameters")
# what it means not to name a parameter of the pipeline
DEFAULTS = {name: option.default for name, option in {**OPTIONS, **MIX_OPTIONS}.items() if option.default is not None}

Progress = Callable[[int, int, Outcome], None]


@dataclass(frozen=True)
class BatchOptions:
    """All that `accompany_all` is asked for.

    Attributes:
        worker (WorkerOptions): what decides what a file holds; a seed of None is drawn, and kept for a later run.
        batch_size (int): vocals that are generated together; belongs to the contents, up to rounding.
        engine, workers, address: as for `jobs.engines.run_on`; they don't change a byte.
    """

    worker: WorkerOptions
    batch_size: int = DEFAULT_BATCH_SIZE
    engine: str = "local"
    workers: int = 1
    address: str = ""


def accompany_all(options: BatchOptions, progress: Progress | None = None) -> list[Outcome]:
    """Makes what is missing of the accompaniments of all vocals.

    Args:
        options: what to do.
        progress: called with vocals done, vocals in all, and what became of the last one.

    Returns:
        what became of every vocal, in the order of their keys.

    Raises:
        HAFMBatchError: one sentence that says what to do; what was finished is kept.
    """
    worker = options.worker
    source, out = Path(worker.source).resolve(), Path(worker.out).resolve()
    if not (source.is_file() if is_parquet(source) else source.is_dir()):
        raise HAFMBatchError(f"{source} does not exist; name a folder of vocals or a Parquet file.")
    if out.is_relative_to(source):
        raise HAFMBatchError(f"{out} is inside {source}; choose a folder outside of it.")
    worker = dataclasses.replace(worker, source=str(source), out=str(out))
    outcomes: dict[str, Outcome] = {}
    try:
        with locked(out):
            plan, bad = make_plan(dataclasses.replace(options, worker=worker))
            parameters = {**worker.parameters, "seed": plan.options["seed"]}
            worker = dataclasses.replace(worker, parameters=parameters)

            def tell(outcome: Outcome) -> None:
                if outcome.key in outcomes:
                    # finished before, and made again beside one that was not
                    return
                outcomes[outcome.key] = outcome
                if progress is not None:
                    progress(len(outcomes), len(plan.vocals) + len(bad), outcome)

            for outcome in [*bad, *_finished(plan, worker)]:
                tell(outcome)
            jobs = _jobs(plan, set(outcomes))
            needs = {"threads": worker.threads, "gpus": int(worker.device.startswith("cuda"))}
            for made in run_on(
                options.engine, accompany_batch, worker, jobs, options.workers, options.address, **needs
            ):
                for outcome in made:
                    tell(outcome)
    except (HAFMCorpusError, HAFMJobError) as error:
        raise HAFMBatchError(str(error)) from error
    except OSError as error:
        raise HAFMBatchError(f"{out} can't be written: {error.strerror or error}.") from error
    return [outcomes[key] for key in sorted(outcomes)]


def make_plan(options: BatchOptions) -> tuple[BatchPlan, list[Outcome]]:
    """Looks for vocals and brings the plan up to date: the plan, and those that can't be used."""
    source, out = Path(options.worker.source), Path(options.worker.out)
    before = load_plan(out)
    content = content_options(options, before)
    plan = before or BatchPlan(content)
    check_same_options(out, plan.options, content)
    found, bad = [], []
    for entry in find_vocals(source, options.worker.column, options.worker.seconds, plan.vocals):
        if isinstance(entry, Vocal):
            found.append(entry)
        else:
            bad.append(Outcome(entry[0], error=entry[1]))
    if not found and not bad:
        raise HAFMBatchError(f"{source} holds no vocals; name a folder with audio files, or a Parquet file with rows.")
    # a vocal that has become unreadable is reported once
    for outcome in bad:
        plan.vocals.pop(outcome.key, None)
    plan.batches = [left for batch in plan.batches if (left := [key for key in batch if key in plan.vocals])]
    for key in extend_plan(plan, found, options.batch_size):
        for paths in options.worker.files_of(plan.names[key]):
            for path in paths.values():
                path.unlink(missing_ok=True)
    save_plan(out, plan)
    return plan, bad


def content_options(options: BatchOptions, before: BatchPlan | None) -> dict[str, Any]:
    """What decides the bytes of the files: the options, the weights that they stand for, and a seed."""
    content = {key: value for key, value in dataclasses.asdict(options.worker).items() if key not in NOT_CONTENT}
    content |= DEFAULTS | {key: value for key, value in options.worker.parameters.items() if value is not None}
    if "seed" not in content:
        content["seed"] = secrets.randbits(31) if before is None else before.options["seed"]
    return {**content, "weights": model_fingerprint(options.worker.model), "batch_size": options.batch_size}


def model_fingerprint(model: str) -> str:
    """SHA-256 over the configurations and weights of a model: folder or hub id, the bundled hafm-tiny if empty.

    Raises:
        HAFMBatchError: there is no such model.
    """
    try:
        folder = Path(model_source(model or None))
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            folder = Path(snapshot_download(model))
        files = [path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors")]
        names = [str(path.relative_to(folder)) for path in files]
        return hash_files(folder, {name: name for name in names})
    except (OSError, ValueError, TrackError) as error:
        raise HAFMBatchError(
            f"The model {model!r} cannot be loaded ({str(error).splitlines()[0]}); name a folder that save_pretrained "
            "wrote, or the id of a hub repository."
        ) from error


def _finished(plan: BatchPlan, worker: WorkerOptions) -> list[Outcome]:
    """Vocals all of whose files are there; each came there whole."""
    finished = []
    for key in plan.vocals:
        files = worker.files_of(plan.names[key])
        if all(path.exists() for paths in files for path in paths.values()):
            made = tuple({part: str(path) for part, path in paths.items()} for paths in files)
            finished.append(Outcome(key, made, seed=plan.options["seed"]))
    return finished


def _jobs(plan: BatchPlan, done: set[str]) -> list[Batch]:
    """Batches with anything left to do, each whole: what a vocal becomes belongs to the shape of its batch."""
    unfinished = [batch for batch in plan.batches if not done.issuperset(batch)]
    return [Batch(tuple((key, plan.names[key]) for key in batch)) for batch in unfinished]
