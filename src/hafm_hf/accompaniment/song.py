"""The run of a batch of songs: the stages chained over windows, whole or window by window.

Between the windows of one stage (`decoding.windows`) and the composite, which hands over voices, guidance and
progress, and puts the codec behind.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ..decoding.windows import ROWS_AT_ONCE, DecodingOptions, SongRow, StageRun, independent_windows
from ..jobs.heartbeat import Progress
from ..stage_table import STAGES
from ..stages.guidance import SongGuidance
from ..stages.modeling_hafm import HAFMStageForCausalLM
from ..stages.sampling import RandomStream

# what codes of a stage (int64 [T, Q]) sound like: float32 [T, D]
Sound = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Voice:
    """What the stages are told of a vocal.

    Args:
        tokens (int64 [T_v]): vocal semantic tokens, of the whole song.
        guidance: what the song says of the tokens to come, by the name of the stage that is guided.
        lead_sheet: streams of the song's lead sheet (int64 [S, T_c]), by the name of the stage that reads them.
    """

    tokens: torch.Tensor
    guidance: Mapping[str, SongGuidance] = field(default_factory=dict)
    lead_sheet: Mapping[str, torch.Tensor] = field(default_factory=dict)


class SongRun:
    """The stages' way through the songs of a batch; every (vocal, sample) is a row, samples innermost.

    Args:
        stages: the stages to run, by name and in their order.
        units: length of each vocal; a unit is a whole number of frames of every stage.
        units_per_second: see above.
        options: how to decode.
        seed: of every row's random numbers.
        num_samples: rows a vocal.
        sounds: what codes of a stage sound like, by its name; without it windows join where one of them ends.
        kept: flat tokens of a stage that are given (int64 [n], −1 elsewhere), by its name.
        progress: called with (stage, steps done, steps in all).
        at_once: rows that are generated side by side, at first where a stage's windows are independent.
    """

    def __init__(
        self,
        stages: Mapping[str, HAFMStageForCausalLM],
        units: Sequence[int],
        units_per_second: int,
        options: DecodingOptions,
        seed: int = 0,
        num_samples: int = 1,
        sounds: Mapping[str, Sound] | None = None,
        kept: Mapping[str, torch.Tensor] | None = None,
        progress: Progress | None = None,
        at_once: int = ROWS_AT_ONCE,
    ) -> None:
        self.num_samples = num_samples
        self.runs: dict[str, StageRun] = {}
        self.vocal_semantic: list[torch.Tensor] = []
        self.lead_sheets: list[Mapping[str, torch.Tensor]] = []
        for number, (name, stage) in enumerate(stages.items()):
            rows = [
                SongRow(length, RandomStream(seed, number, sample), (kept or {}).get(name))
                for length in units
                for sample in range(num_samples)
            ]
            sound = (sounds or {}).get(name)
            run = StageRun(
                stage, rows, 1 / units_per_second, options, independent_windows(stage), at_once, sound=sound
            )
            run.report = _reporter(name, run.steps, progress)
            self.runs[name] = run
        if progress is not None:
            # the vocals are listened to before the first step
            first = next(iter(self.runs))
            progress(first, 0, self.runs[first].steps)

    def listen(self, voices: Sequence[Voice]) -> None:
        """Takes the voice of each vocal, which must be there before the stages run."""
        self.vocal_semantic = [voice.tokens for voice in voices for _ in range(self.num_samples)]
        self.lead_sheets = [voice.lead_sheet for voice in voices for _ in range(self.num_samples)]
        for number, voice in enumerate(voices):
            for name, guidance in voice.guidance.items():
                for row in self.runs[name].rows[number * self.num_samples : (number + 1) * self.num_samples]:
                    row.guidance = guidance

    def run(self) -> None:
        """Takes every stage to its end, one after the other."""
        for name, stage in self.runs.items():
            stage.run(self._conditioning(name))

    def advance(self) -> torch.Tensor:
        """Takes the latest stage that can go on a batch of windows further.

        Returns:
            The codes of the first row that are final, int64 [Q, T].
        """
        for name in reversed(self.runs):
            stage = self.runs[name]
            if stage.needs is not None and stage.needs <= self._units_before(name):
                stage.advance(self._conditioning(name))
                break
        return self.codes(0)

    @property
    def finished(self) -> bool:
        """Whether every stage has reached the end of its songs."""
        return all(run.needs is None for run in self.runs.values())

    def codes(self, row: int) -> torch.Tensor:
        """The codec's codes of a row so far: int64 [Q, T_a]."""
        return _together([run.codes(row) for run in self._acoustic()])

    def stream(self, name: str, row: int) -> torch.Tensor:
        """What there is of a stream of tokens of a row so far: int64 [Q, T]."""
        if name == "vocal_semantic":
            return self.vocal_semantic[row][None]
        (run,) = [run for stage, run in self.runs.items() if STAGES[stage].writes == name]
        return run.codes(row)

    def borders(self, row: int) -> tuple[float, ...]:
        """Seconds at which a window of an acoustic stage takes over from the one before."""
        runs = self._acoustic()
        return tuple(sorted({frame / run.stage.config.frame_rate for run in runs for frame in run.rows[row].borders}))

    def _acoustic(self) -> list[StageRun]:
        return [run for name, run in self.runs.items() if STAGES[name].acoustic]

    def _units_before(self, name: str) -> int:
        """Units that the stage before has finished; all of the song for the first."""
        order = list(self.runs)
        if name == order[0]:
            return max(row.units for row in self.runs[name].rows)
        before = self.runs[order[order.index(name) - 1]]
        return min(before.final_units(row) for row in range(len(before.rows)))

    def _conditioning(self, name: str) -> list[torch.Tensor]:
        """What a stage is conditioned on so far: int64 [K, T_c] for each row."""
        conditioning = []
        for row, known in enumerate(self.lead_sheets):
            streams = [self.stream(each, row) for each in STAGES[name].reads]
            conditioning.append(_together([*streams, *([known[name]] if name in known else [])]))
        return conditioning


def _together(streams: Sequence[torch.Tensor]) -> torch.Tensor:
    """Streams (int64 [Q, T] each) one upon the other, as far as all of them go."""
    length = min(stream.shape[1] for stream in streams)
    return torch.cat([stream[:, :length] for stream in streams])


def _reporter(name: str, total: int, progress: Progress | None) -> Callable[[int], None] | None:
    """Counts the steps of a stage and passes the count on."""
    if progress is None:
        return None
    done = 0

    def report(steps: int) -> None:
        nonlocal done
        done += steps
        progress(name, done, total)

    return report
