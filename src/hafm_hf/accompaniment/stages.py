# SPDX-License-Identifier: Apache-2.0
"""Runs the chain of stages over a batch of songs, to the end or window by window.

What the stages read of a voice is made before, by listening; the codes that they write are decoded after.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from ..modeling.configuration_hafm import STAGES
from ..modeling.generation_hafm import RandomStream
from ..modeling.modeling_hafm import HAFMStageForCausalLM
from ..modeling.windows import ROWS_AT_ONCE, SongRow, StageRun, default_decoding
from ..tokenizers.codecs import Codec
from .options import GenerationOptions

# called with (stage, steps done, total steps); an exception raised in it ends the generation
Progress = Callable[[str, int, int], None]


class ProgressReports:
    """Passes the stages' progress on, and repeats the last report during other computations.

    Args:
        progress: called with (stage, steps done, total steps); an exception raised in it ends the computation.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self.progress = progress
        # the number of steps is unknown before the voice has been heard
        self.last = (next(iter(STAGES)), 0, 1)

    def __call__(self, stage: str, done: int, total: int) -> None:
        self.last = (stage, done, total)
        self.check_stop()

    def check_stop(self) -> None:
        """Repeats the last report, between pieces of a computation that is not a stage's."""
        if self.progress is not None:
            self.progress(*self.last)


@dataclass(frozen=True)
class SongConditioning:
    """What the stages read for one accompaniment: a vocal and a sample of it.

    Args:
        vocal_semantic (int64 [T_v]): tokens of the vocal, as long as a whole number of frames of every stage.
        lead_sheet_streams (int64 [S, T_c]): by the name of the stage that reads them.
        sample: number of the accompaniment among those of its vocal, which selects its random numbers.
    """

    vocal_semantic: torch.Tensor
    lead_sheet_streams: Mapping[str, torch.Tensor] = field(default_factory=dict)
    sample: int = 0


class StageChain:
    """Runs the stages over the songs of a batch; every song is a row of every stage.

    Args:
        stages: the stages to run, by name and in order.
        songs: what they read.
        options: of which guidance scale, temperature, top-k, decoding and compile are used.
        seed: of the random numbers of all songs.
        codec: embeds the codes of independent windows, to join them where the sound changes least; without it, a
            window takes over where the previous one ends.
        kept: given codes of a stage for every song, int64 [Q, T], −1 where they are to be generated, by its name.
        progress: called after every step, and with the same values again during long passes.
        batch_size: largest batch of windows; for a stage whose windows are independent, that of the first batch.

    Raises:
        ValueError: the stages do not support the options.
    """

    def __init__(
        self,
        stages: Mapping[str, HAFMStageForCausalLM],
        songs: Sequence[SongConditioning],
        options: GenerationOptions,
        seed: int,
        *,
        codec: Codec | None = None,
        kept: Mapping[str, torch.Tensor] | None = None,
        progress: Progress | None = None,
        batch_size: int = ROWS_AT_ONCE,
    ) -> None:
        self.songs = songs
        self.runs: dict[str, StageRun] = {}
        # the stage that writes each stream
        self.writers = {STAGES[name].writes: name for name in stages}
        frames = {"vocal_semantic": [len(song.vocal_semantic) for song in songs]}
        decoding = options.decoding or default_decoding(stages.values())
        first_codebook = 0
        for number, (name, stage) in enumerate(stages.items()):
            config = stage.decoding_config(
                guidance_scale=options.guidance_scale, temperature=options.temperature, top_k=options.top_k
            )
            writes, reads = STAGES[name].writes, STAGES[name].reads[0]
            frames[writes] = [stage.config.target_frames(length) for length in frames[reads]]
            given = (kept or {}).get(name)
            rows = [
                SongRow(length, RandomStream(seed, number, song.sample), given)
                for length, song in zip(frames[writes], songs, strict=True)
            ]
            sound = None
            if codec is not None and STAGES[name].acoustic:
                sound = partial(codec.code_vectors, first_codebook=first_codebook)
                first_codebook += stage.config.num_codebooks
            run = StageRun(stage, rows, config, decoding, bool(options.compile), batch_size, sound=sound)
            if progress is not None:
                run.report = _counting(name, run.steps, progress)
            self.runs[name] = run

    def run(self) -> None:
        """Runs every stage to its end, one after the other."""
        for name, run in self.runs.items():
            run.run(self._conditioning(name))

    def advance(self) -> torch.Tensor:
        """Generates the next batch of windows of the last stage, and as much of the other stages as it needs.

        Returns:
            The codes of the first song that are final, int64 [Q, T].
        """
        *_, last = self.runs
        self._advance(last)
        return self.codes(0)

    @property
    def finished(self) -> bool:
        """Whether every stage has reached the end of its songs."""
        return all(run.finished for run in self.runs.values())

    def codes(self, song: int) -> torch.Tensor:
        """The codec codes of a song generated so far: int64 [Q, T_a]."""
        return _together([self.tokens(STAGES[name].writes, song) for name in self.runs if STAGES[name].acoustic])

    def tokens(self, stream: str, song: int) -> torch.Tensor:
        """The tokens of a song that a stage reads or writes (by the names in `STAGES`), so far: int64 [Q, T]."""
        if stream in self.writers:
            return self.runs[self.writers[stream]].codes(song)
        return self.songs[song].vocal_semantic[None]

    def _advance(self, name: str, frames: int | None = None) -> None:
        """Runs a stage on, to `frames` or to the end of its batch of windows, and those before as far as it needs."""
        run = self.runs[name]
        for stream in STAGES[name].reads:
            if stream in self.writers:
                writer = self.runs[self.writers[stream]]
                while min(writer.final_frames(song) for song in range(len(self.songs))) < run.needs:
                    self._advance(self.writers[stream], run.needs)
        if not run.finished:
            run.advance(self._conditioning(name), frames)

    def _conditioning(self, name: str) -> list[torch.Tensor]:
        """The conditioning of a stage that exists so far: int64 [K, T_c] for each row."""
        conditioning = []
        for number, song in enumerate(self.songs):
            streams = [self.tokens(read, number) for read in STAGES[name].reads]
            if name in song.lead_sheet_streams:
                streams.append(song.lead_sheet_streams[name])
            conditioning.append(_together(streams))
        return conditioning


def generate_codes(
    stages: Mapping[str, HAFMStageForCausalLM],
    songs: Sequence[SongConditioning],
    options: GenerationOptions,
    seed: int,
    *,
    codec: Codec | None = None,
    kept: Mapping[str, torch.Tensor] | None = None,
    progress: Progress | None = None,
) -> list[dict[str, torch.Tensor]]:
    """Runs the stages over a batch of songs to their end.

    Args:
        stages, songs, options, seed, codec, kept, progress: as for `StageChain`.

    Returns:
        For each song "codes" (int64 [Q, T_a], the codec's codebooks) and "instrumental_semantic" (int64 [T_v]).
    """
    chain = StageChain(stages, songs, options, seed, codec=codec, kept=kept, progress=progress)
    chain.run()
    return [
        {"codes": chain.codes(number), "instrumental_semantic": chain.tokens("instrumental_semantic", number)[0]}
        for number in range(len(songs))
    ]


def _together(streams: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stacks streams (int64 [Q, T] each), cut to the shortest."""
    length = min(stream.shape[1] for stream in streams)
    return torch.cat([stream[:, :length] for stream in streams])


def _counting(name: str, total: int, progress: Progress) -> Callable[[int], None]:
    """A callback that counts a stage's steps and reports them to `progress`."""
    done = 0

    def report(steps: int) -> None:
        nonlocal done
        done += steps
        progress(name, done, total)

    return report
