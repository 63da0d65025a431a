# SPDX-License-Identifier: Apache-2.0
"""Progress of a generation: what a caller is told, and how it can end the generation."""

from collections.abc import Callable, Mapping, Sequence

from ..modeling.generation_stage import RandomNumbers
from ..modeling.modeling_stage import HAFMStageForCausalLM
from ..modeling.windows import SongRow, StageRun

# called with (stage, steps done, total steps); an exception raised in it ends the generation
Progress = Callable[[str, int, int], None]


class ProgressReports:
    """Passes the stages' progress on, and repeats the last report during other computations.

    Args:
        progress: called with (stage, steps done, total steps); an exception raised in it ends the computation.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self.progress = progress
        self.last = ("", 0, 0)

    def expect(self, stage: str, total: int) -> None:
        """Sets what is reported while the vocals are listened to: no step of the first stage, of `total`."""
        self.last = (stage, 0, total)

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.last = (stage, done, total)
        self.check_stop()

    def check_stop(self) -> None:
        """Repeats the last report, between pieces of a computation that is not a stage's."""
        if self.progress is not None:
            self.progress(*self.last)


def counting(name: str, total: int, progress: Progress) -> Callable[[int], None]:
    """A callback that counts the steps of a stage and reports them.

    Args:
        name: of the stage.
        total: number of its steps.
        progress: called with (name, steps done, total) whenever the callback is.

    Returns:
        A function of the number of steps that have been done since its last call, which may be 0.
    """
    done = 0

    def report(steps: int) -> None:
        nonlocal done
        done += steps
        progress(name, done, total)

    return report


def steps_of_first_stage(stages: Mapping[str, HAFMStageForCausalLM], tokens: Sequence[int]) -> tuple[str, int]:
    """The name of the first stage, and its number of steps for a batch of songs.

    Args:
        stages: the stages to run, by name and in order.
        tokens: number of vocal semantic tokens of each song.
    """
    name, stage = next(iter(stages.items()))
    rows = [SongRow(stage.config.target_frames(length), RandomNumbers(0)) for length in tokens]
    # either loop takes the same steps; this one is prepared faster
    return name, StageRun(stage, rows, stage.decoding_config(), decoding="reference").steps
