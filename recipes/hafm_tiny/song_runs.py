# SPDX-License-Identifier: Apache-2.0
"""A resumable training run on rendered songs, shared by the recipes of the codec and the semantic tokenizer."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers.utils import logging

from .song_pool import SongPool
from .state import load_state, save_state

logger = logging.get_logger(__name__)


@dataclass
class SongRunArguments:
    """Input and output folders, minutes between two saves, steps between two log lines, and CPU threads."""

    corpus: str = field(default="", metadata={"help": "output folder of recipes/build_song_corpus.py"})
    out: str = field(default="", metadata={"help": "folder for the state to resume from, the log and the model"})
    max_hours: float = field(default=12.0, metadata={"help": "hours of songs to load into memory"})
    save_minutes: float = 3.0
    log_every: int = field(default=50, metadata={"help": "steps between two lines of metrics.jsonl"})
    threads: int = 1

    def __post_init__(self) -> None:
        """Sets the number of threads of the process."""
        torch.set_num_threads(self.threads)

    @property
    def device(self) -> torch.device:
        """A GPU if there is one, else the CPU."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def load_songs(
        self,
        split: str,
        sampling_rate: int,
        max_hours: float | None = None,
        stems: bool = False,
        stereo_rate: int | None = None,
    ) -> SongPool:
        """Loads the finished songs of a split into memory.

        Args:
            split: "train", "validation" or "test".
            sampling_rate: in Hz, to which the songs are resampled.
            max_hours: hours of songs to load; None: `self.max_hours`.
            stems: whether to load the stems, too.
            stereo_rate: in Hz, to which the instrumental in stereo is resampled; None: it is not loaded.

        Raises:
            ValueError: corpus or output folder are not given.
        """
        # the output folder, too: a run without one must fail before hours of songs are loaded
        for name in ("corpus", "out"):
            if not getattr(self, name):
                raise ValueError(f"--{name} is required.")
        hours = self.max_hours if max_hours is None else max_hours
        pool = SongPool(Path(self.corpus), split, sampling_rate, hours, stems, stereo_rate)
        pool.refresh()
        return pool


class SongTrainer(Protocol):
    """The interface of `SpectralTrainer` and `SemanticTrainer`."""

    step: int
    pool: SongPool

    def train_step(self) -> dict[str, float]:
        """Takes one step and returns its metrics."""

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume at the next step."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict()`."""


def resume(trainer: SongTrainer, run: SongRunArguments) -> bool:
    """Loads the state that an earlier run saved as OUT/state.pt, if there is one.

    Args:
        trainer: the trainer to load it into.
        run: folders of the run.

    Returns:
        Whether there is such a state.
    """
    state = Path(run.out) / "state.pt"
    if state.exists():
        trainer.load_state_dict(load_state(state, run.device))
        logger.info("resumed at step %d", trainer.step)
    return state.exists()


def train_on_songs(
    trainer: SongTrainer, steps: int, run: SongRunArguments, save_model: Callable[[Path], None]
) -> None:
    """Trains up to step `steps`; writes metrics.jsonl, saves the state regularly, and loads newly rendered songs.

    Args:
        trainer: new or resumed.
        steps: total number of steps.
        run: folders and intervals.
        save_model: called with the output folder, in a subfolder of which it saves the model.
    """
    out = Path(run.out)

    def save() -> None:
        """Saves the state and the model."""
        save_state(out / "state.pt", trainer.state_dict())
        save_model(out)

    logger.info("%d songs, %.2f h", len(trainer.pool.songs), trainer.pool.hours)
    # the speed is measured from time `since` and step `first` on; the state was saved at time `saved`
    since = saved = time.monotonic()
    first = trainer.step
    window: dict[str, list[float]] = {}  # metrics of the steps since the last log line
    while trainer.step < steps:
        for name, value in trainer.train_step().items():
            window.setdefault(name, []).append(value)
        if trainer.step % run.log_every == 0:
            means = {name: sum(values) / len(values) for name, values in window.items()}
            rate = (trainer.step - first) / (time.monotonic() - since)
            line = {"step": trainer.step, "steps_per_second": rate, **means}
            write_line(out / "metrics.jsonl", line)
            since = time.monotonic()
            first = trainer.step
            window = {}
        if time.monotonic() - saved > 60 * run.save_minutes:
            save()
            trainer.pool.refresh()
            # the time of saving and loading does not count
            saved = since = time.monotonic()
            first = trainer.step
            logger.info("saved at step %d; %.2f h of songs", trainer.step, trainer.pool.hours)
    save()


def write_line(path: Path, line: dict[str, Any]) -> None:
    """Appends a JSON object to a file and logs it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write(json.dumps(line) + "\n")
    logger.info("%s", {name: round(value, 5) if isinstance(value, float) else value for name, value in line.items()})
