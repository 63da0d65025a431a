# SPDX-License-Identifier: Apache-2.0
"""A run's folder: checkpoints that are whole or absent, the best and the finished stage, and metrics.jsonl."""

import json
import math
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers import PreTrainedModel
from transformers.utils import logging

from ..atomic_files import replace_folder, replacing
from ..corpus.locks import LOCK_FILE
from ..pretrained.redaction import first_line

logger = logging.get_logger(__name__)
PROGRESS, METRICS, RUN = "progress.json", "metrics.jsonl", "run.json"


@dataclass
class RunProgress:
    """Where a run stands; saved with every checkpoint.

    Attributes:
        step (int): optimiser steps done; with the seed it is the position in the data.
        seconds (float): training time so far, validation and earlier sessions included.
        warm_up_end (float): fraction of the run that had passed when warm-up ended.
        best (float): lowest validation loss so far, in nats.
        skipped (int): steps whose gradient was not finite, so that the weights stayed as they were.
    """

    step: int = 0
    seconds: float = 0.0
    warm_up_end: float = 0.0
    best: float = math.inf
    skipped: int = 0


class RunFolder:
    """Writes and reads what a run leaves behind.

    Args:
        path: the folder.
        accelerator: of the run; the main process writes what is not its own of every process.
        keep: newest checkpoints that stay.
    """

    def __init__(self, path: Path, accelerator: Accelerator, keep: int) -> None:
        self.path, self.accelerator, self.keep = path, accelerator, keep

    def require_shared(self) -> None:
        """Makes sure that all processes see the main one's lock: else some would begin where others go on.

        Raises:
            ValueError: on every process, when one of them does not see it.
        """
        if self.accelerator.is_main_process:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / LOCK_FILE).touch()
        self.accelerator.wait_for_everyone()
        sees = (self.path / LOCK_FILE).is_file()
        blind = sorted({place for place, seen in gather_object([(platform.node(), sees)]) if not seen})
        if blind:
            raise ValueError(
                f"Processes of the run (on {', '.join(blind)}) do not see the main process's {self.path}: name an "
                "--output_dir on a disk that all machines share."
            )

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints of the run, oldest first."""
        found = [path.parent for path in self.path.glob(f"checkpoint-*/{PROGRESS}")]
        return sorted(path for path in found if path.suffix != ".part")

    def save_checkpoint(self, progress: RunProgress) -> None:
        """Saves everything that resuming needs, and drops the oldest checkpoints.

        Raises:
            OSError: when it can't be written; earlier checkpoints are as they were.
        """
        folder = self.path / f"checkpoint-{progress.step:07d}"
        temporary = folder.with_name(folder.name + ".part")
        if self.accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        _whole_or_nothing(lambda: self.accelerator.save_state(str(temporary)), temporary)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            _whole_or_nothing(lambda: (temporary / PROGRESS).write_text(json.dumps(asdict(progress))), temporary)
            replace_folder(temporary, folder)
            for old in self.checkpoints()[: -self.keep]:
                shutil.rmtree(old)

    def save_stage(self, model: PreTrainedModel, name: str) -> None:
        """Saves a stage under `name` as `from_pretrained` reads it, complete or not at all.

        Raises:
            OSError: when it can't be written; what was there before is as it was.
        """
        folder = self.path / name
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            temporary = folder.with_name(name + ".part")
            shutil.rmtree(temporary, ignore_errors=True)
            _whole_or_nothing(lambda: model.save_pretrained(temporary), temporary)
            replace_folder(temporary, folder)

    def load_checkpoint(self, named: str) -> RunProgress:
        """Continues from the newest checkpoint ("auto"), from a named one, or from nothing ("none").

        What the folder holds of later steps, or of an earlier run, is dropped: checkpoints, metrics, and
        of the latter the best stage.

        Returns:
            where the run stands.

        Raises:
            FileNotFoundError: when a named checkpoint is missing or incomplete.
            ValueError: when it is one of another stage or optimizer.
        """
        found = {"auto": self.checkpoints(), "none": []}.get(named, [Path(named)])
        progress = RunProgress()
        if found:
            folder = found[-1]
            if not all(gather_object([(folder / PROGRESS).is_file()])):
                raise FileNotFoundError(
                    f"{folder} is no complete checkpoint on every machine of the run: {PROGRESS} is missing."
                )
            try:
                self.accelerator.load_state(str(folder))
            except (RuntimeError, ValueError) as error:
                raise ValueError(
                    f"{folder} is not a checkpoint of this stage and optimizer ({first_line(error)}): name "
                    "another --output_dir, or begin anew with --resume none."
                ) from error
            # micro-batches of the next step of the optimizer that are done: none, however many it may now have
            self.accelerator.step = 0
            progress = RunProgress(**json.loads((folder / PROGRESS).read_text()))
            logger.info("Resumed from %s at step %d.", folder, progress.step)
        # not before all processes have read what is there
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self._drop_behind(progress.step if found else -1)
        return progress

    def _drop_behind(self, step: int) -> None:
        """Drops checkpoints and lines of metrics of later steps."""
        for path in self.checkpoints():
            if json.loads((path / PROGRESS).read_text())["step"] > step:
                shutil.rmtree(path)
        if step < 0:
            shutil.rmtree(self.path / "best", ignore_errors=True)
        log = self.path / METRICS
        if log.is_file():
            # a killed process may have left the last line half written
            lines = [line for line in log.read_text().splitlines() if line.endswith("}")] if step >= 0 else []
            with replacing(log) as file:
                file.writelines(f"{line}\n".encode() for line in lines if json.loads(line)["step"] <= step)

    def write_run(self, facts: dict[str, Any]) -> None:
        """Writes run.json, what this session of the run was asked for, on the main process."""
        if self.accelerator.is_main_process:
            (self.path / RUN).write_text(json.dumps(facts, indent=2, default=str) + "\n")

    def write_metrics(self, line: dict[str, Any]) -> None:
        """Appends a line to metrics.jsonl, on the main process."""
        if self.accelerator.is_main_process:
            with open(self.path / METRICS, "a") as file:
                file.write(json.dumps(line) + "\n")


def _whole_or_nothing(write: Callable[[], object], temporary: Path) -> None:
    """Calls `write`; whatever goes wrong becomes an OSError that says so, and `temporary` is removed."""
    try:
        write()
    except Exception as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise OSError(
            f"{temporary.with_suffix('')} can't be written ({first_line(error)}): free some disk space or name "
            "another output_dir; what was saved before is intact."
        ) from error
