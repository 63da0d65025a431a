# SPDX-License-Identifier: Apache-2.0
"""What a worker does: one batch of vocals through the pipeline, and its files onto the disk, each whole or not."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import transformers
from transformers.utils import logging

from .. import audio
from ..lead_sheet.vocabulary import STEMS
from ..modeling.threads import torch_threads
from ..pretrained.loading import model_source
from .plan import PARTS, files_of
from .vocals import HAFMBatchError, own_lead_sheet, read_vocal

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class WorkerOptions:
    """What all batches share; goes to the workers, so that it holds nothing but names and numbers.

    Attributes:
        source, out (str): vocals and results, as the workers find them.
        column (str): of a Parquet file; found if empty.
        model (str): folder or hub id; the bundled hafm-tiny if empty.
        device, dtype (str): as for `pipeline()`.
        threads (int): of torch in a worker.
        seconds (float, *optional*): use only the start of each vocal.
        file_format (str): of the results, one of `audio.FILE_FORMATS`.
        parameters (dict): what the pipeline is called with.
    """

    source: str
    out: str
    column: str = ""
    model: str = ""
    device: str = "cpu"
    dtype: str = "auto"
    threads: int = 1
    seconds: float | None = None
    file_format: str = "wav"
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """Instrumentals a vocal."""
        return self.parameters.get("num_samples") or 1

    def files_of(self, name: str) -> list[dict[str, Path]]:
        """Path of each part of each sample of a vocal whose files are called so."""
        parts = (*PARTS, *(STEMS[1:] if self.parameters.get("stems") else ()))
        return files_of(Path(self.out), name, self.samples, self.file_format, parts)


@dataclass(frozen=True)
class Batch:
    """Vocals that are generated together: (key, name of its files) of each."""

    members: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Outcome:
    """What became of a vocal.

    Attributes:
        key (str): of the vocal.
        files (tuple): for each sample the path of each part, such as "mix".
        error (str): why there are none; empty if there are.
        seed (int): of the batch's random numbers.
    """

    key: str
    files: tuple[dict[str, str], ...] = ()
    error: str = ""
    seed: int = 0


@lru_cache(maxsize=1)
def worker_pipeline(model: str, device: str, dtype: str) -> Any:
    """The one model of this process."""
    import torch

    from ..registration import register

    register()
    logging.disable_progress_bar()
    return transformers.pipeline(
        "vocal-accompaniment",
        model=str(model_source(model or None)),
        device=device,
        dtype=getattr(torch, dtype, "auto"),
    )


def accompany_batch(options: WorkerOptions, batch: Batch) -> list[Outcome]:
    """Reads, generates and writes the vocals of a batch; a bad one is left out and told.

    Raises:
        HAFMBatchError: the results can't be written.
    """
    outcomes, sounds, parameters = [], {}, dict(options.parameters)
    for key, _ in batch.members:
        try:
            source = read_vocal(Path(options.source), options.column, key)
            samples, rate = audio.read_audio(source, seconds=options.seconds, name=_shown(options, key), mono=False)
            if own := own_lead_sheet(Path(options.source), key, parameters.get("tempo")):
                # it is alone in its batch
                parameters |= {"lead_sheet": own, "tempo": None}
            sounds[key] = {"array": samples, "sampling_rate": rate, "path": key}
        except ValueError as error:
            outcomes.append(Outcome(key, error=str(error)))
    if not sounds:
        return outcomes
    try:
        with torch_threads(options.threads):
            pipeline = worker_pipeline(options.model, options.device, options.dtype)
            songs = pipeline(list(sounds.values()), batch_size=len(sounds), **parameters)
    except Exception as error:
        logger.warning("a batch failed", exc_info=error)
        said = (str(error).splitlines() or [""])[0].rstrip(".")
        reason = f"can't be accompanied ({type(error).__name__}: {said})."
        return outcomes + [Outcome(key, error=f"{_shown(options, key)} {reason}") for key in sounds]
    made = dict(zip(sounds, songs, strict=True))
    return outcomes + [
        Outcome(key, write_songs(options, name, made[key]), seed=options.parameters["seed"])
        for key, name in batch.members
        if key in made
    ]


def write_songs(options: WorkerOptions, name: str, songs: Any) -> tuple[dict[str, str], ...]:
    """Writes the files of a vocal that are not there yet; the path of each part of each sample.

    Raises:
        HAFMBatchError: they can't be written.
    """
    found = options.files_of(name)
    for song, paths in zip(songs if isinstance(songs, list) else [songs], found, strict=True):
        sounds = {**song.get("stems", {}), "instrumental": song["audio"], "mix": song["mix"]}
        for part, path in paths.items():
            if path.exists():
                continue
            try:
                audio.write_audio(path, sounds[part], song["sampling_rate"])
            except audio.HAFMAudioError as error:
                raise HAFMBatchError(
                    f"{str(error).rstrip('.')}; what is finished is kept, run the same command again."
                ) from error
    return tuple({part: str(path) for part, path in paths.items()} for paths in found)


def _shown(options: WorkerOptions, key: str) -> str:
    """What errors call a vocal."""
    source = Path(options.source)
    return key if source.is_dir() else f"row {key} of {source.name}"
