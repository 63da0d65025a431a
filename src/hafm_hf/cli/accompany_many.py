# SPDX-License-Identifier: Apache-2.0
"""`hafm accompany FOLDER` and `hafm accompany FILE.parquet`: what is printed while a batch is made, and at its end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import soundfile
import typer

from .console import HAFMCommandError, progress_bars, report_error, require_packages, stderr, stdout
from .request import Request, torch_device

if TYPE_CHECKING:
    from ..batch.accompanying import Outcome


def is_many(vocal: str) -> bool:
    """Whether an argument names many vocals: a folder, or a Parquet file."""
    return Path(vocal).is_dir() or Path(vocal).suffix == ".parquet"


def accompany_folder(
    request: Request, source: str, engine: str, workers: int, address: str, batch_size: int, column: str
) -> None:
    """Accompanies all vocals of a folder or Parquet file; exit code 1 if there is a bad one.

    Raises:
        HAFMCommandError: nothing could be done; the message says what to do.
    """
    from ..batch.accompanying import WorkerOptions
    from ..batch.run import BatchOptions, accompany_all
    from ..batch.vocals import HAFMBatchError, is_parquet

    if is_parquet(Path(source)):
        require_packages("pyarrow")
    parameters = {key: value for key, value in request.parameters.items() if value is not None}
    seconds = parameters.pop("seconds", None)
    worker = WorkerOptions(
        source=source,
        out=str(request.out),
        column=column,
        model=request.model or "",
        device=torch_device(request.device),
        dtype=request.dtype.value,
        # one if not told: several workers on a machine would fight over its cores
        threads=parameters.get("threads", 1),
        seconds=seconds,
        file_format=request.file_format,
        parameters=parameters,
    )
    with progress_bars(quiet=request.as_json) as bars:
        task = bars.add_task("looking for vocals", total=None)

        def advance(done: int, total: int, outcome: Outcome) -> None:
            bars.update(task, description="vocals", completed=done, total=total)
            if request.as_json:
                for line in described(outcome):
                    typer.echo(json.dumps(line))

        try:
            outcomes = accompany_all(BatchOptions(worker, batch_size, engine, workers, address), advance)
        except HAFMBatchError as error:
            raise HAFMCommandError(str(error)) from error
        except KeyboardInterrupt:
            stderr.print("stopped; what is finished is kept, and the same command continues.", markup=False)
            raise
    failed = [outcome for outcome in outcomes if outcome.error]
    for outcome in failed:
        report_error(HAFMCommandError(outcome.error))
    if not request.as_json:
        left = f", {len(failed)} left out" if failed else ""
        stdout.print(f"{len(outcomes) - len(failed)} vocals accompanied in {request.out}{left}", markup=False)
    raise typer.Exit(1 if failed else 0)


def described(outcome: Outcome) -> list[dict[str, Any]]:
    """An outcome as it is printed as JSON: a line for each sample, or one that says why there are none."""
    if outcome.error:
        return [{"vocal": outcome.key, "error": outcome.error}]
    lines = []
    for number, files in enumerate(outcome.files, start=1):
        written = soundfile.info(files["instrumental"])
        rate = written.samplerate
        lines.append(song_line(outcome.key, number, files, rate, written.frames / rate, outcome.seed))
    return lines


def song_line(
    vocal: str, sample: int, files: Mapping[str, str], rate: int, seconds: float, seed: int
) -> dict[str, Any]:
    """What `--json` prints of a song, whether its vocal came by itself or in a folder."""
    return {"vocal": vocal, "sample": sample, **files, "sampling_rate": rate, "seconds": seconds, "seed": seed}
