# SPDX-License-Identifier: Apache-2.0
"""A run's output folder: atomically written checkpoints, the best and the final stage, and metrics.jsonl."""

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
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from ..atomic_files import replace_folder, replacing
from ..corpus.locks import LOCK_FILE
from ..pretrained.redaction import first_line

logger = logging.get_logger(__name__)
PROGRESS = "progress.json"
METRICS = "metrics.jsonl"
RUN = "run.json"


@dataclass
class RunProgress:
    """Progress of a run, saved with every checkpoint.

    Attributes:
        step (int): optimiser steps done; together with the seed, it determines the position in the data.
        seconds (float): training time so far, including validation and earlier sessions.
        warm_up_end (float): fraction of the run that had passed when warm-up ended.
        best (float): lowest validation loss so far, in nats.
        skipped (int): steps that left the weights unchanged because the gradient was not finite.
    """

    step: int = 0
    seconds: float = 0.0
    warm_up_end: float = 0.0
    best: float = math.inf
    skipped: int = 0


class RunFolder:
    """Reads and writes the output folder of a run.

    Methods that save or load have to be called by every process of the run.

    Args:
        path: the folder.
        accelerator: the run's; only the main process writes, except for per-process state in checkpoints.
        keep: number of newest checkpoints to keep.
    """

    def __init__(self, path: Path, accelerator: Accelerator, keep: int) -> None:
        self.path = path
        self.accelerator = accelerator
        self.keep = keep

    def require_shared(self) -> None:
        """Creates the folder and a lock file on the main process, and checks that all processes see the file.

        With a folder for each machine, some processes would resume a run that others start over.

        Raises:
            ValueError: on every process, when any of them does not see the file.
        """
        if self.accelerator.is_main_process:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / LOCK_FILE).touch()
        self.accelerator.wait_for_everyone()
        sees_file = (self.path / LOCK_FILE).is_file()
        # a machine's name and what it sees, from every process
        answers = gather_object([(platform.node(), sees_file)])
        blind = sorted({machine for machine, seen in answers if not seen})
        if blind:
            raise ValueError(
                f"Processes of the run (on {', '.join(blind)}) do not see the main process's {self.path}: name an "
                "--output_dir on a disk that all machines share."
            )

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints of the run, oldest first."""
        complete = [path.parent for path in self.path.glob(f"checkpoint-*/{PROGRESS}")]
        return sorted(path for path in complete if path.suffix != ".part")

    def save_checkpoint(self, progress: RunProgress) -> None:
        """Saves everything needed to resume, and deletes all but the `keep` newest checkpoints.

        Every process writes its own state, the main process everything else.

        Args:
            progress: of the run, saved with the accelerator's state; its step names the checkpoint.

        Raises:
            OSError: when it can't be written; earlier checkpoints stay intact.
        """
        folder = self.path / f"checkpoint-{progress.step:07d}"
        temporary = folder.with_name(folder.name + ".part")
        if self.accelerator.is_main_process:
            # left by an earlier attempt
            shutil.rmtree(temporary, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        _whole_or_nothing(lambda: self.accelerator.save_state(str(temporary)), temporary)
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            # last, as this file marks a checkpoint as complete
            _whole_or_nothing(
                lambda: (temporary / PROGRESS).write_text(json.dumps(asdict(progress)), encoding="utf-8"), temporary
            )
            replace_folder(temporary, folder)
            for old in self.checkpoints()[: -self.keep]:
                _delete_checkpoint(old)

    def save_stage(self, model: PreTrainedModel, name: str) -> None:
        """Saves a stage as the subfolder `name` ("best", "final"), atomically, for `from_pretrained` to load.

        Only the main process writes, but every process has to call this; the others may return before it has finished.

        Args:
            model: the stage, without distributed or compiled wrappers and with adapters merged.
            name: of the subfolder.

        Raises:
            OSError: when it can't be written; a stage saved there before stays intact.
        """
        folder = self.path / name
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            temporary = folder.with_name(name + ".part")
            shutil.rmtree(temporary, ignore_errors=True)
            _whole_or_nothing(lambda: model.save_pretrained(temporary), temporary)
            replace_folder(temporary, folder)

    def load_checkpoint(self, named: str, config: PreTrainedConfig) -> RunProgress:
        """Resumes from a checkpoint, whose state the accelerator loads, or starts from scratch.

        Every process has to call this. Checkpoints and metrics of later steps are deleted; when starting from scratch,
        all of them and the best stage.

        Args:
            named: "auto" for the newest checkpoint that can be loaded, if there is one, "none" to start from scratch,
                or a checkpoint's folder.
            config: the stage's configuration.

        Returns:
            The run's progress.

        Raises:
            FileNotFoundError: when a named checkpoint is missing or incomplete.
            ValueError: when it belongs to another stage or optimizer, or to other tokenizers or styles than `config`.
        """
        found: list[Path] = []
        if named == "auto":
            found = self.checkpoints()
        elif named != "none":
            found = [Path(named)]
        progress = RunProgress()
        if found:
            # the newest
            folder = found[-1]
            if not all(gather_object([(folder / PROGRESS).is_file()])):
                raise FileNotFoundError(
                    f"{folder} is not a complete checkpoint on every machine of the run: {PROGRESS} is missing."
                )
            run_file = folder.parent / RUN
            old_config: dict[str, Any] = {}
            if run_file.is_file():
                old_config = json.loads(run_file.read_text(encoding="utf-8"))["config"]
            # the state would load with other tokenizers or styles, too, but its weights mean something else
            for name in ("tokenizers", "styles"):
                if name in old_config and old_config[name] != getattr(config, name):
                    raise ValueError(f"{folder} has other {name}: name another --output_dir, or --resume none.")
            folder = self._load_newest(found)
            # accumulation starts afresh: the checkpoint may have been saved with another number of micro-batches
            self.accelerator.step = 0
            progress = RunProgress(**json.loads((folder / PROGRESS).read_text(encoding="utf-8")))
            logger.info("Resumed from %s at step %d.", folder, progress.step)
        # delete nothing before all processes have loaded their state
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self._delete_after(progress.step if found else -1)
        return progress

    def _load_newest(self, folders: list[Path]) -> Path:
        """Loads the last of these checkpoints that can be loaded on every process, and returns its folder.

        Raises:
            ValueError: none can be; says why the last one can't.
        """
        why: Exception | None = None
        for folder in reversed(folders):
            error: Exception | None = None
            try:
                self.accelerator.load_state(str(folder))
            # a file that was cut off by a power failure raises whatever its reader raises
            except Exception as caught:
                error = caught
            if all(gather_object([error is None])):
                return folder
            error = error or RuntimeError("another process could not load it")
            why = why or error
            logger.warning("%s can't be loaded: %s", folder, first_line(error))
        assert why is not None
        raise ValueError(
            f"{folders[-1]} is not a checkpoint of this stage and optimizer ({first_line(why)}): name "
            "another --output_dir, or start over with --resume none."
        ) from why

    def _delete_after(self, step: int) -> None:
        """Deletes checkpoints and metrics of steps after `step`; if it is negative, all of them and the best stage."""
        for path in self.checkpoints():
            if json.loads((path / PROGRESS).read_text(encoding="utf-8"))["step"] > step:
                _delete_checkpoint(path)
        if step < 0:
            shutil.rmtree(self.path / "best", ignore_errors=True)
        log = self.path / METRICS
        if log.is_file():
            lines = []
            if step >= 0:
                # without the last one if a killed process has left it half written
                lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
            kept = [line for line in lines if json.loads(line)["step"] <= step]
            with replacing(log) as file:
                file.writelines(f"{line}\n".encode() for line in kept)

    def write_run(self, facts: dict[str, Any]) -> None:
        """Writes `facts`, the arguments and configuration of this session, to run.json; on the main process only."""
        if self.accelerator.is_main_process:
            (self.path / RUN).write_text(json.dumps(facts, indent=2, default=str) + "\n", encoding="utf-8")

    def write_metrics(self, line: dict[str, Any]) -> None:
        """Appends metrics by name, and their step, as a line to metrics.jsonl; on the main process only."""
        if self.accelerator.is_main_process:
            with open(self.path / METRICS, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def _delete_checkpoint(folder: Path) -> None:
    """Deletes a checkpoint; it is incomplete from the first moment on, wherever the process is killed."""
    (folder / PROGRESS).unlink()
    shutil.rmtree(folder)


def _whole_or_nothing(write: Callable[[], object], temporary: Path) -> None:
    """Calls `write`, which fills the folder `temporary`; if it fails, removes the folder and raises OSError."""
    try:
        write()
    except Exception as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise OSError(
            f"{temporary.with_suffix('')} can't be written ({first_line(error)}): free some disk space or name "
            "another output_dir; what was saved before is intact."
        ) from error
