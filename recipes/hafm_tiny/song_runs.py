# SPDX-License-Identifier: Apache-2.0
"""A training run over rendered songs, which the recipes of the codec and of the semantic tokenizer share."""

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
    """Where songs come from and results go, and how often."""

    corpus: str = field(default="", metadata={"help": "folder that recipes/build_song_corpus.py writes"})
    out: str = field(default="", metadata={"help": "folder for the state to resume from, the log and the model"})
    max_hours: float = field(default=12.0, metadata={"help": "of songs held in memory"})
    save_minutes: float = 3.0
    log_every: int = field(default=50, metadata={"help": "steps between two lines of metrics.jsonl"})
    threads: int = 1

    def __post_init__(self) -> None:
        """Sets what holds for the whole process."""
        torch.set_num_threads(self.threads)

    @property
    def device(self) -> torch.device:
        """A GPU where there is one."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def songs(self, split: str, sampling_rate: int, max_hours: float | None = None, stems: bool = False) -> SongPool:
        """The songs of a split that are finished, in memory.

        Raises:
            ValueError: when corpus or output folder are not named.
        """
        for name in ("corpus", "out"):
            if not getattr(self, name):
                raise ValueError(f"Name the folder --{name}.")
        hours = self.max_hours if max_hours is None else max_hours
        pool = SongPool(Path(self.corpus), split, sampling_rate, hours, stems)
        pool.refresh()
        return pool


class SongTrainer(Protocol):
    """What takes steps: `SpectralTrainer`, `SemanticTrainer`."""

    step: int
    pool: SongPool

    def train_step(self) -> dict[str, float]:
        """Takes one step and returns its metrics."""

    def state_dict(self) -> dict[str, Any]:
        """All that a later process needs to take the very next step."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict()`."""


def resume(trainer: SongTrainer, run: SongRunArguments) -> bool:
    """Continues from RUN/state.pt if there is one; whether there was."""
    state = Path(run.out) / "state.pt"
    if state.exists():
        trainer.load_state_dict(load_state(state, run.device))
        logger.info("resumed at step %d", trainer.step)
    return state.exists()


def train_on_songs(
    trainer: SongTrainer, steps: int, run: SongRunArguments, save_model: Callable[[Path], None]
) -> None:
    """Trains to the last step, with metrics.jsonl, the state every few minutes, and new songs as they are rendered.

    Args:
        trainer: at whatever step it is.
        steps: the last one.
        run: folders and intervals.
        save_model: writes the model as an ordinary folder inside the folder that it is given.
    """
    out = Path(run.out)

    def save() -> None:
        save_state(out / "state.pt", trainer.state_dict())
        save_model(out)

    logger.info("%d songs, %.2f h", len(trainer.pool.songs), trainer.pool.hours)
    since = saved = time.monotonic()
    window: dict[str, list[float]] = {}
    while trainer.step < steps:
        for name, value in trainer.train_step().items():
            window.setdefault(name, []).append(value)
        if trainer.step % run.log_every == 0:
            means = {name: sum(values) / len(values) for name, values in window.items()}
            line = {"step": trainer.step, "steps_per_second": run.log_every / (time.monotonic() - since), **means}
            write_line(out / "metrics.jsonl", line)
            since, window = time.monotonic(), {}
        if time.monotonic() - saved > 60 * run.save_minutes:
            save()
            trainer.pool.refresh()
            saved = since = time.monotonic()
            logger.info("saved at step %d; %.2f h of songs", trainer.step, trainer.pool.hours)
    save()


def write_line(path: Path, line: dict[str, Any]) -> None:
    """Appends one JSON object to a file, and shows it in the log."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write(json.dumps(line) + "\n")
    logger.info("%s", {name: round(value, 5) if isinstance(value, float) else value for name, value in line.items()})
