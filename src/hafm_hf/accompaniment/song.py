# SPDX-License-Identifier: Apache-2.0
"""Runs the chain of stages over a batch of songs, to the end or window by window.

`modeling.windows` runs one stage over a song; the composite passes in the conditioning, the progress callback and the
spans of an existing instrumental to keep, and decodes the codes.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..listening.encoder import HAFMEncoderOutput
from ..modeling.generation_hafm import RandomStream
from ..modeling.modeling_hafm import HAFMStageForCausalLM
from ..modeling.windows import ROWS_AT_ONCE, DecodingOptions, SongRow, StageRun, independent_windows
from ..tokenizers.codecs import as_codec
from .parts import stage_parts

# the codec's embeddings of a stage's codes: int64 [T, Q] → float32 [T, D]
CodeVectors = Callable[[torch.Tensor], torch.Tensor]
# called with (stage, steps done, total steps); an exception raised in it ends the generation
Progress = Callable[[str, int, int], None]
# a third of what people perceive as instantaneous; the layer being computed when it is over may take the rest
HEARTBEAT_SECONDS = 0.03
# matrices of at least this many elements (4 MB in float32) take longer to read than threads take to synchronise
THREADED_MATRIX = 1 << 20
_threads_lock = threading.Lock()
# for each thread inside a `torch_threads` block, torch's thread count before it
_inside: dict[int, int] = {}


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Sets torch's number of threads inside the block and restores it afterwards; None changes nothing."""
    me = threading.get_ident()
    with _threads_lock:
        nested = me in _inside
        # a thread that enters while another is inside would otherwise save that one's setting as the original
        before = torch.get_num_threads() if nested or not _inside else next(iter(_inside.values()))
        _inside.setdefault(me, before)
        torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        with _threads_lock:
            torch.set_num_threads(before)
            if not nested:
                del _inside[me]


def suitable_threads(models: Iterable[nn.Module]) -> int | None:
    """1 for models on the CPU whose matrices are all small; None to keep torch's own number of threads.

    Threads synchronise after every matrix product. Where products take microseconds a second thread gains little, and
    if another process competes for its core, a step takes three times as long. OMP_NUM_THREADS takes precedence.
    """
    parameters = [parameter for model in models for parameter in model.parameters()]
    if os.environ.get("OMP_NUM_THREADS") or any(parameter.device.type != "cpu" for parameter in parameters):
        return None
    # output heads and embedding tables hold one matrix per codebook
    largest = max((each.shape[-2] * each.shape[-1] for each in parameters if each.ndim > 1), default=0)
    return 1 if largest < THREADED_MATRIX else None


class Heartbeat:
    """Passes progress reports on, and repeats the last one between layers during long computations.

    A context manager that can be entered repeatedly; it repeats reports inside the block only.

    Args:
        model: model whose layers, the members of its module lists, get a forward pre-hook.
        progress: called with (stage, steps done, total steps); an exception in it ends the computation. None: no-op.
    """

    def __init__(self, model: nn.Module, progress: Progress | None) -> None:
        self.model, self.progress = model, progress
        self.last = ("semantic", 0, 1)
        self.handles: list[Any] = []

    @property
    def report(self) -> Progress | None:
        """The callback to report (stage, steps done, total steps) to; None if there is no `progress`."""
        return None if self.progress is None else self._report

    def __enter__(self) -> "Heartbeat":
        self.reported = time.perf_counter()
        self.thread = threading.get_ident()
        if self.progress is not None:
            lists = (module for module in self.model.modules() if isinstance(module, nn.ModuleList))
            layers = {layer for members in lists for layer in members}
            self.handles = [layer.register_forward_pre_hook(self._repeat) for layer in layers]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles = []

    def _report(self, stage: str, done: int, total: int) -> None:
        assert self.progress is not None
        self.last, self.reported = (stage, done, total), time.perf_counter()
        self.progress(stage, done, total)

    def _repeat(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        # other threads may use the model at the same time; their computations must not be reported or ended here
        if threading.get_ident() == self.thread and time.perf_counter() - self.reported >= HEARTBEAT_SECONDS:
            self._report(*self.last)


class SongRun:
    """Runs the stages over the songs of a batch; every (vocal, sample) is a song and a row of every stage.

    Args:
        stages: the stages to run, by name and in order.
        units: length of each vocal; a unit is a whole number of frames of every stage.
        units_per_second: number of units in a second.
        options: decoding options.
        seed: seed of the random numbers of all songs.
        num_samples: songs per vocal; they are adjacent rows.
        sounds: the codec's embedding of each stage's codes, by name, to join windows where they differ least; without
            it, a window takes over where the previous one ends.
        kept: given tokens of a stage for every song, flat (int64 [n], −1 where they are to be generated), by its name.
        progress: called with (stage, steps done, total steps).
        at_once: batch size; for a stage whose windows are independent, that of the first batch.
    """

    def __init__(
        self,
        stages: Mapping[str, HAFMStageForCausalLM],
        units: Sequence[int],
        units_per_second: int,
        options: DecodingOptions,
        seed: int = 0,
        num_samples: int = 1,
        sounds: Mapping[str, CodeVectors] | None = None,
        kept: Mapping[str, torch.Tensor] | None = None,
        progress: Progress | None = None,
        at_once: int = ROWS_AT_ONCE,
    ) -> None:
        self.num_samples = num_samples
        self.voices: list[HAFMEncoderOutput] = []
        self.runs: dict[str, StageRun] = {}
        for number, (name, stage) in enumerate(stages.items()):
            given = (kept or {}).get(name)
            rows = [
                SongRow(length, RandomStream(seed, number, sample), given)
                for length in units
                for sample in range(num_samples)
            ]
            alone, sound = independent_windows(stage), (sounds or {}).get(name)
            run = StageRun(stage, rows, 1 / units_per_second, options, alone, at_once, sound=sound)
            run.report = _reporter(name, run.steps, progress)
            self.runs[name] = run
        if progress is not None:
            # the vocals are tokenised before the first step
            first = next(iter(self.runs))
            progress(first, 0, self.runs[first].steps)

    def run(self) -> None:
        """Runs every stage to its end, one after the other."""
        for name, stage in self.runs.items():
            stage.run(self._conditioning(name))

    def advance(self) -> torch.Tensor:
        """Advances the last stage in the chain that has enough input; the final one by a whole batch of windows.

        Returns:
            The codes of the first song that are final, int64 [Q, T].
        """
        *_, last = self.runs
        for name in reversed(self.runs):
            stage = self.runs[name]
            if stage.needs is not None and stage.needs <= self._units_before(name):
                conditioning = self._conditioning(name)
                stage.advance(conditioning)
                while name == last and stage.parts is not None:
                    stage.advance(conditioning)
                break
        return self.codes(0)

    @property
    def finished(self) -> bool:
        """Whether every stage has reached the end of its songs."""
        return all(run.needs is None for run in self.runs.values())

    def codes(self, song: int) -> torch.Tensor:
        """The codec codes of a song generated so far: int64 [Q, T_a]."""
        return _together(
            [self.stream(stage_parts()[name].writes, song) for name in self.runs if stage_parts()[name].acoustic]
        )

    def stream(self, name: str, song: int) -> torch.Tensor:
        """The tokens of a song's stream that exist so far: int64 [Q, T]."""
        if name == "vocal_semantic":
            return self.voices[song].tokens[None]
        (stage,) = [stage for stage in self.runs if stage_parts()[stage].writes == name]
        return self.runs[stage].codes(song)

    def _units_before(self, name: str) -> int:
        """Number of units that the previous stage has finished; all of the song for the first stage."""
        order = list(self.runs)
        if name == order[0]:
            return max(row.units for row in self.runs[name].rows)
        before = self.runs[order[order.index(name) - 1]]
        return min(before.final_units(row) for row in range(len(before.rows)))

    def _conditioning(self, name: str) -> list[torch.Tensor]:
        """The conditioning of a stage that exists so far: int64 [K, T_c] for each row."""
        conditioning = []
        for song, voice in enumerate(self.voices):
            streams = [self.stream(each, song) for each in stage_parts()[name].reads]
            streams += [voice.streams[name]] if name in voice.streams else []
            conditioning.append(_together(streams))
        return conditioning


def _together(streams: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stacks streams (int64 [Q, T] each), cut to the shortest."""
    length = min(stream.shape[1] for stream in streams)
    return torch.cat([stream[:, :length] for stream in streams])


def _reporter(name: str, total: int, progress: Progress | None) -> Callable[[int], None] | None:
    """A callback that counts a stage's steps and reports them to `progress`; None without one."""
    if progress is None:
        return None
    done = 0

    def report(steps: int) -> None:
        nonlocal done
        done += steps
        progress(name, done, total)

    return report


def sounds_of(stages: Mapping[str, HAFMStageForCausalLM], codec: PreTrainedModel) -> dict[str, CodeVectors]:
    """Functions that embed each acoustic stage's codes as the codec does, so that sounds can be compared."""
    sounds: dict[str, CodeVectors] = {}
    first = 0
    for name, stage in stages.items():
        if stage_parts()[name].acoustic:
            sounds[name] = partial(as_codec(codec).code_vectors, first_codebook=first)
            first += stage.config.num_codebooks
    return sounds
