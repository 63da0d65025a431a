# SPDX-License-Identifier: Apache-2.0
"""The run of a batch of songs: the stages chained over windows, whole or window by window.

Between the windows of one stage (`decoding.windows`) and the composite, which hands over voices and progress,
and puts the codec behind.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ..lead_sheet.lead_sheet import LeadSheet
from ..lead_sheet.streams import with_stem
from ..lead_sheet.vocabulary import STEMS
from ..modeling.heartbeat import Progress
from ..modeling.modeling_hafm import HAFMStageForCausalLM
from ..modeling.sampling import RandomStream
from ..modeling.stage_table import STAGES
from ..modeling.windows import ROWS_AT_ONCE, DecodingOptions, SongRow, StageRun, independent_windows

# what codes of a stage (int64 [T, Q]) sound like: float32 [T, D]
Sound = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Voice:
    """What the stages are told of a vocal.

    Args:
        tokens (int64 [T_v]): vocal semantic tokens, of the whole song.
        streams: of the song's lead sheet (int64 [S, T_c]), by the name of the stage that reads them.
        lead_sheet: of the song, as far as it is known.
    """

    tokens: torch.Tensor
    streams: Mapping[str, torch.Tensor] = field(default_factory=dict)
    lead_sheet: LeadSheet | None = None


class SongRun:
    """The stages' way through the songs of a batch; every (vocal, sample) is a song, samples innermost.

    A song is one row of the semantic stage, whose tokens are those of the whole band, and a row a stem of the others.

    Args:
        stages: the stages to run, by name and in their order.
        units: length of each vocal; a unit is a whole number of frames of every stage.
        units_per_second: see above.
        options: how to decode.
        seed: of every row's random numbers.
        num_samples: songs a vocal.
        stems: what the acoustic stages play, of `STEMS`.
        sounds: what codes of a stage sound like, by its name; without it windows join where one of them ends.
        kept: flat tokens of a stage that are given (int64 [n] a row of a song, −1 elsewhere), by its name.
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
        stems: Sequence[str] = STEMS[:1],
        sounds: Mapping[str, Sound] | None = None,
        kept: Mapping[str, Sequence[torch.Tensor]] | None = None,
        progress: Progress | None = None,
        at_once: int = ROWS_AT_ONCE,
    ) -> None:
        self.num_samples, self.stems = num_samples, tuple(stems)
        self.runs: dict[str, StageRun] = {}
        self.voices: list[Voice] = []
        for number, (name, stage) in enumerate(stages.items()):
            given = (kept or {}).get(name)
            rows = [
                SongRow(
                    length,
                    RandomStream(seed, number, sample, STEMS.index(stem)),
                    None if given is None else given[place],
                )
                for length in units
                for sample in range(num_samples)
                for place, stem in enumerate(self.played(name))
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
        self.voices = [voice for voice in voices for _ in range(self.num_samples)]

    def played(self, name: str) -> tuple[str, ...]:
        """What a stage plays, a row each."""
        return self.stems if STAGES[name].acoustic else STEMS[:1]

    def run(self) -> None:
        """Takes every stage to its end, one after the other."""
        for name, stage in self.runs.items():
            stage.run(self._conditioning(name))

    def advance(self) -> torch.Tensor:
        """Takes the latest stage that can go on a batch of windows further.

        Returns:
            The codes of the first song that are final, int64 [P, Q, T].
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

    def codes(self, song: int) -> torch.Tensor:
        """The codec's codes of a song so far, as far as all P of its stems are there: int64 [P, Q, T_a]."""
        streams = [STAGES[name].writes for name in self._acoustic()]
        found = [_together([self.stream(each, song, part) for each in streams]) for part in range(len(self.stems))]
        length = min(codes.shape[1] for codes in found)
        return torch.stack([codes[:, :length] for codes in found])

    def stream(self, name: str, song: int, part: int = 0) -> torch.Tensor:
        """What there is of a stream of tokens of a song, of one of the stems where it has them: int64 [Q, T]."""
        if name == "vocal_semantic":
            return self.voices[song].tokens[None]
        (stage,) = [stage for stage in self.runs if STAGES[stage].writes == name]
        return self.runs[stage].codes(self._row(stage, song, part))

    def borders(self, song: int) -> tuple[float, ...]:
        """Seconds at which a window of an acoustic stage takes over from the one before."""
        found: set[float] = set()
        for name in self._acoustic():
            rows = [self.runs[name].rows[self._row(name, song, part)] for part in range(len(self.stems))]
            rate = self.runs[name].stage.config.frame_rate
            found |= {frame / rate for row in rows for frame in row.borders}
        return tuple(sorted(found))

    def _acoustic(self) -> list[str]:
        return [name for name in self.runs if STAGES[name].acoustic]

    def _row(self, name: str, song: int, part: int) -> int:
        """The row of a stage that plays a song's stem, or its whole band where it knows nothing else."""
        parts = len(self.played(name))
        return song * parts + min(part, parts - 1)

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
        names = list(self.runs[name].stage.config.lead_sheet_streams)
        for song, voice in enumerate(self.voices):
            for part, stem in enumerate(self.played(name)):
                streams = [self.stream(each, song, part) for each in STAGES[name].reads]
                if name in voice.streams:
                    streams.append(with_stem(voice.streams[name], names, stem))
                conditioning.append(_together(streams))
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
