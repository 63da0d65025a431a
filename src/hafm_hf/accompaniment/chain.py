# SPDX-License-Identifier: Apache-2.0
"""Runs the chain of stages over a batch of songs, to the end or window by window, and reports its progress.

Before it, the encoder makes what the stages read of a voice; after it, the codec decodes the codes that they write.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch

from ..listening.encoder import HAFMEncoderOutput
from ..modeling.modeling_stage import HAFMStageForCausalLM
from ..modeling.sampling import RandomNumbers
from ..modeling.windows import ROWS_AT_ONCE, SongCodes, StageRun, default_decoding
from ..tokenizers.codecs import Codec
from .options import GenerationOptions
from .parts import VOCAL_STREAM, stage_parts

# called with (stage, steps done, total steps); an exception raised in it ends the generation
Progress = Callable[[str, int, int], None]


class StageChain:
    """Runs the stages over the songs of a batch; every stage generates the codes of every song.

    Args:
        stages: the stages to run, by name and in order.
        encoder_outputs: what the stages read of each song.
        options: of which guidance scale, temperature, top-k, decoding and compile are used.
        codec: embeds the codes of independent windows, to join them where the sound changes least; without it, a
            window takes over where the previous one ends.
        kept_codes: codes that every song keeps, by the name of the stage: int64 [codebooks, frames of the stage], −1
            where codes are to be generated.
        progress: called after every step, and with the same values again during long passes.
        batch_size: largest batch of windows; for a stage whose windows are independent, that of the first batch.

    Raises:
        ValueError: the stages do not support the options.
    """

    def __init__(
        self,
        stages: Mapping[str, HAFMStageForCausalLM],
        encoder_outputs: Sequence[HAFMEncoderOutput],
        options: GenerationOptions,
        *,
        codec: Codec | None = None,
        kept_codes: Mapping[str, torch.Tensor] | None = None,
        progress: Progress | None = None,
        batch_size: int = ROWS_AT_ONCE,
    ) -> None:
        self.encoder_outputs = encoder_outputs
        self.runs: dict[str, StageRun] = {}
        self.table = stage_parts()
        # the stage that writes each stream
        self.writers = {self.table[name].writes: name for name in stages}
        # length of each stream in every song, in frames, by the stream's name
        frames = {VOCAL_STREAM: [len(encoded.tokens) for encoded in encoder_outputs]}
        decoding = options.decoding or default_decoding(stages.values())
        # of the codec's codebooks, those that the acoustic stages so far generate
        codebooks_so_far = 0
        for number, (name, stage) in enumerate(stages.items()):
            config = stage.decoding_config(
                guidance_scale=options.guidance_scale, temperature=options.temperature, top_k=options.top_k
            )
            entry = self.table[name]
            frames[entry.writes] = [stage.config.target_frames(length) for length in frames[entry.reads[0]]]
            kept = (kept_codes or {}).get(name)
            songs = [
                SongCodes(length, RandomNumbers(encoded.seed, number, encoded.variation), kept)
                for length, encoded in zip(frames[entry.writes], encoder_outputs, strict=True)
            ]
            code_vectors = None
            if codec is not None and entry.acoustic:
                code_vectors = partial(codec.code_vectors, first_codebook=codebooks_so_far)
                codebooks_so_far += stage.config.num_codebooks
            run = StageRun(
                stage, songs, config, decoding, bool(options.compile), batch_size, code_vectors=code_vectors
            )
            if progress is not None:
                run.report = counting(name, run.steps, progress)
            self.runs[name] = run

    def run(self) -> None:
        """Runs every stage to its end, one after the other."""
        for name, run in self.runs.items():
            run.run(self._conditioning(name))

    def advance(self) -> torch.Tensor:
        """Generates the next batch of windows of the last stage, and what it needs of the others, for a single song.

        Returns:
            All codes of the song that are final by now: int64 [codebooks, codec frames].
        """
        *_, last = self.runs
        self._advance(last)
        return self.codes(0)

    @property
    def finished(self) -> bool:
        """Whether every stage has reached the end of its songs."""
        return all(run.finished for run in self.runs.values())

    def codes(self, number: int) -> torch.Tensor:
        """The codec codes of a song that are final so far, by its index: int64 [codebooks, codec frames]."""
        acoustic = [self.table[name].writes for name in self.runs if self.table[name].acoustic]
        return _stacked([self.codes_of(stream, number) for stream in acoustic])

    def codes_of(self, name: str, number: int) -> torch.Tensor:
        """The codes of a song's stream that are final so far.

        Args:
            name: name of a stream that a stage reads or writes, as in `PARTS`: "vocal_semantic", "coarse" …
            number: index of the song.

        Returns:
            int64 [codebooks, frames of the stream]; a semantic stream has one codebook.
        """
        if name in self.writers:
            return self.runs[self.writers[name]].codes(number)
        return self.encoder_outputs[number].tokens[None]

    def _advance(self, name: str, stop_frame: int | None = None) -> None:
        """Continues a stage, after the stages that it reads have been continued as far as it needs; for a single song.

        Args:
            name: name of the stage.
            stop_frame: frame of the song, beyond those generated so far, at which to stop; None: the end of the next
                batch of windows.
        """
        run = self.runs[name]
        for stream in self.table[name].reads:
            if stream in self.writers:
                writer = self.runs[self.writers[stream]]
                while not writer.finished and writer.final_frames(0) < run.conditioning_needed:
                    self._advance(self.writers[stream], run.conditioning_needed)
        if not run.finished:
            run.advance(self._conditioning(name), stop_frame)

    def _conditioning(self, name: str) -> list[torch.Tensor]:
        """The conditioning of the stage called `name` as far as it exists.

        Returns:
            For each song int64 [conditioning streams, conditioning frames]: the codebooks that the stage reads, then
            its lead-sheet rows.
        """
        conditioning = []
        for number, encoded in enumerate(self.encoder_outputs):
            streams = [self.codes_of(name_of_stream, number) for name_of_stream in self.table[name].reads]
            if name in encoded.lead_sheet_rows:
                streams.append(encoded.lead_sheet_rows[name])
            conditioning.append(_stacked(streams))
        return conditioning


def _stacked(streams: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stacks streams (int64 [codebooks, frames] each), cut to the shortest: int64 [all codebooks, frames]."""
    length = min(stream.shape[1] for stream in streams)
    return torch.cat([stream[:, :length] for stream in streams])


class ProgressReports:
    """Passes the stages' progress on, and repeats the last report during other computations.

    Args:
        progress: called with (stage, steps done, total steps); an exception raised in it ends the computation.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self.progress = progress
        self.last = ("", 0, 0)

    def expect(self, stage: str, total: int) -> None:
        """Sets the report for the time before the first step: 0 of `total` steps of the first `stage` are done."""
        self.last = (stage, 0, total)

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Reports that `done` of the `total` steps of a stage are done."""
        self.last = (stage, done, total)
        self.repeat_last()

    def repeat_last(self) -> None:
        """Repeats the last report, between pieces of a computation that is not a stage's."""
        if self.progress is not None:
            self.progress(*self.last)


def counting(name: str, total: int, progress: Progress) -> Callable[[int], None]:
    """Makes a callback that counts the steps of a stage and reports them.

    Args:
        name: name of the stage.
        total: number of its steps.
        progress: called with (name, steps done, total) whenever the callback is called.

    Returns:
        The callback; its argument is the number of steps done since its last call, which may be 0.
    """
    done = 0

    def report(steps: int) -> None:
        """Adds `steps` to those done, and reports the sum."""
        nonlocal done
        done += steps
        progress(name, done, total)

    return report


def steps_of_first_stage(stages: Mapping[str, HAFMStageForCausalLM], token_counts: Sequence[int]) -> tuple[str, int]:
    """Name of the first stage, and number of steps that it takes for a batch of songs.

    Args:
        stages: the stages to run, by name and in order.
        token_counts: number of vocal semantic tokens of each song.
    """
    name, stage = next(iter(stages.items()))
    songs = [SongCodes(stage.config.target_frames(length), RandomNumbers(0)) for length in token_counts]
    # the fast and the reference loop take equally many steps, and the reference is faster to construct
    return name, StageRun(stage, songs, stage.decoding_config(), decoding="reference").steps
