"""The three stages chained over a batch of songs, whole or window by window, and what of an old instrumental is kept.

Between the windows of one stage and the composite, which adds the tokenizer before it and the codec behind it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..audio import resample
from ..codec import as_codec
from ..decoding.windows import ROWS_AT_ONCE, DecodingOptions, SongRow, StageRun, independent_windows
from ..jobs.heartbeat import Progress
from ..lead_sheet.lead_sheet import LeadSheet
from ..stages.sampling import FREE, RandomStream

if TYPE_CHECKING:
    from .modeling_accompaniment import HAFMForVocalAccompaniment

STAGES = ("semantic", "coarse", "fine")
# a fade this short hides the join between what is kept and what is generated
CROSS_FADE_SECONDS = 0.02

Span = tuple[float, float]


class SongRun:
    """The stages' way through the songs of a batch; every (vocal, sample) is a row, samples innermost.

    Args:
        model: the composite.
        vocals (list of float32 [N]): mono.
        rate (Hz): of the vocals.
        seed: of the noise on the vocals and of every row's random numbers.
        num_samples: rows a vocal.
        options: how to decode.
        skip_fine: whether the fine stage is left out.
        kept: what of an existing instrumental is kept, if anything.
        progress: called with (stage, steps done, steps in all).
        at_once: rows that are generated side by side, at first where a stage's windows are independent.
        lead_sheet: what is known of the one vocal.
    """

    def __init__(
        self,
        model: HAFMForVocalAccompaniment,
        vocals: Sequence[np.ndarray],
        rate: int,
        seed: int,
        num_samples: int,
        options: DecodingOptions,
        skip_fine: bool = False,
        kept: KeptInstrumental | None = None,
        progress: Progress | None = None,
        at_once: int = ROWS_AT_ONCE,
        lead_sheet: LeadSheet | None = None,
    ) -> None:
        seconds = [len(vocal) / rate for vocal in vocals for _ in range(num_samples)]
        self.runs: dict[str, StageRun] = {}
        for number, name in enumerate(STAGES[:-1] if skip_fine else STAGES):
            rows = [
                SongRow(
                    math.ceil(round(each * model.units_per_second, 6)),
                    RandomStream(seed, number, row % num_samples),
                    None if kept is None else kept.given(name),
                )
                for row, each in enumerate(seconds)
            ]
            unit = 1 / model.units_per_second
            stage = getattr(model, name)
            run = StageRun(
                stage, rows, unit, options, independent_windows(stage), at_once, sound=_sound_of(model, name)
            )
            run.report = _reporter(name, run.steps, progress)
            self.runs[name] = run
        if progress is not None:
            # the vocals are listened to before the first step
            progress(STAGES[0], 0, self.runs[STAGES[0]].steps)
        voices = [model.tokenize_vocal(vocal, rate, seed, lead_sheet)[0] for vocal in vocals]
        self.vocal_semantic = [voice for voice in voices for _ in range(num_samples)]
        for voice, vocal_semantic in enumerate(voices):
            for name, guidance in model.song_guidance(vocal_semantic, lead_sheet).items():
                for row in self.runs[name].rows[voice * num_samples : (voice + 1) * num_samples]:
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
        return self._codes(0)

    @property
    def finished(self) -> bool:
        """Whether every stage has reached the end of its songs."""
        return all(run.needs is None for run in self.runs.values())

    def tokens(self, row: int) -> dict[str, torch.Tensor]:
        """A row so far: "vocal_semantic" and "instrumental_semantic" (int64 [T_v]), "codes" (int64 [Q, T_a])."""
        semantic = self.runs["semantic"].codes(row)[0]
        return {
            "vocal_semantic": self.vocal_semantic[row],
            "instrumental_semantic": semantic,
            "codes": self._codes(row),
        }

    def borders(self, row: int) -> tuple[float, ...]:
        """Seconds at which a window of the coarse or the fine stage takes over from the one before."""
        runs = [run for name, run in self.runs.items() if name != "semantic"]
        return tuple(sorted({frame / run.stage.config.frame_rate for run in runs for frame in run.rows[row].borders}))

    def _codes(self, row: int) -> torch.Tensor:
        codes = [run.codes(row) for name, run in self.runs.items() if name != "semantic"]
        length = min(part.shape[1] for part in codes)
        return torch.cat([part[:, :length] for part in codes])

    def _units_before(self, name: str) -> int:
        """Units that the stage before has finished."""
        if name == "semantic":
            return max(row.units for row in self.runs[name].rows)
        before = self.runs[STAGES[STAGES.index(name) - 1]]
        return min(before.final_units(row) for row in range(len(before.rows)))

    def _conditioning(self, name: str) -> list[torch.Tensor]:
        """What a stage is conditioned on so far: int64 [K, T_c] for each row."""
        if name == "semantic":
            return [voice[None] for voice in self.vocal_semantic]
        if name == "fine":
            return [self.runs["coarse"].codes(row) for row in range(len(self.vocal_semantic))]
        semantic = [self.runs["semantic"].codes(row)[0] for row in range(len(self.vocal_semantic))]
        return [torch.stack([v[: len(s)], s]) for v, s in zip(self.vocal_semantic, semantic, strict=True)]


def _sound_of(model: HAFMForVocalAccompaniment, stage: str) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """What a stage's codes sound like, by the codec's vectors; None for the semantic stage, whose tokens are none."""
    if stage == "semantic":
        return None
    first = model.coarse.config.num_codebooks if stage == "fine" else 0
    return partial(as_codec(model.codec).code_vectors, first_codebook=first)


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


def _joined(spans: Sequence[Span]) -> list[Span]:
    """Spans (start, stop in seconds) in order, those that touch or overlap as one: no cross-fade goes between them."""
    joined: list[Span] = []
    for start, stop in sorted(spans):
        if joined and start <= joined[-1][1] + 1e-6:
            joined[-1] = (joined[-1][0], max(joined[-1][1], stop))
        else:
            joined.append((start, stop))
    return joined


class KeptInstrumental:
    """Spans of an existing instrumental as tokens for the stages, and as the audio that is heard.

    Args:
        model: the composite, whose tokenizer and codec hear it.
        audio (float32 [C, N]): the instrumental in the codec's channels; it may end before the vocal does.
        rate (Hz): of it and of the vocal.
        vocal_samples: length of the vocal.
        spans: what to keep, as (start, stop) in seconds.

    Raises:
        ValueError: if nothing is to be kept, or a span does not lie within the instrumental.
    """

    def __init__(
        self, model: HAFMForVocalAccompaniment, audio: np.ndarray, rate: int, vocal_samples: int, spans: Sequence[Span]
    ) -> None:
        seconds = audio.shape[1] / rate
        if not spans:
            raise ValueError("Say which spans of the instrumental to keep, in seconds: keep=[(0.0, 12.5)].")
        for start, stop in spans:
            if not (0 <= start < min(stop, seconds) and stop <= seconds + 1e-3):
                raise ValueError(
                    f"The span {start} to {stop} s does not lie within the instrumental of {seconds:.2f} s."
                )
            if start >= vocal_samples / rate:
                raise ValueError(f"The span {start} to {stop} s begins when the vocal has ended; leave it out.")
        self.spans, self.rate = _joined([(start, min(stop, seconds)) for start, stop in spans]), model.sampling_rate
        self.audio = torch.from_numpy(np.stack([resample(channel, rate, self.rate) for channel in audio]))
        units = math.ceil(round(vocal_samples / rate * model.units_per_second, 6))
        kept = torch.zeros(units, dtype=torch.bool)
        for start, stop in self.spans:
            # only whole units are kept as tokens, so that nothing new is generated from half a frame
            kept[math.ceil(start * model.units_per_second - 1e-6) : int(stop * model.units_per_second + 1e-6)] = True
        streams = self._tokens(model, units)
        self.flat = {}
        for name, tokens in streams.items():
            per_unit = tokens.shape[0] * tokens.shape[1] // units
            flat = tokens.t().flatten().cpu()
            self.flat[name] = torch.where(kept.repeat_interleave(per_unit), flat, FREE)

    def _tokens(self, model: HAFMForVocalAccompaniment, units: int) -> dict[str, torch.Tensor]:
        """Targets of the stages, int64 [Q, T], for the length of the vocal."""
        heard = torch.zeros(len(self.audio), units * self.rate // model.units_per_second)
        length = min(self.audio.shape[1], heard.shape[1])
        heard[:, :length] = self.audio[:, :length]
        tokenizer = model.semantic_tokenizer
        waveform = torch.from_numpy(resample(heard.mean(0).numpy(), self.rate, tokenizer.config.sampling_rate))
        semantic = tokenizer.encode(waveform.to(tokenizer.device))
        coarse = model.coarse.config.num_codebooks
        codebooks = coarse + model.fine.config.num_codebooks
        codes = as_codec(model.codec).encode(heard[None].to(model.codec.device), codebooks)[0]
        return {"semantic": semantic[None], "coarse": codes[:coarse], "fine": codes[coarse:]}

    def given(self, stage: str) -> torch.Tensor:
        """Flat tokens of a stage's target (int64 [n]), −1 where they are to be generated."""
        return self.flat[stage]

    def splice(self, generated: torch.Tensor) -> torch.Tensor:
        """The generated audio (float32 [C, N]) with what is kept as it was, cross-faded at the joins."""
        result = generated.clone()
        length = min(result.shape[1], self.audio.shape[1])
        for start, stop in self.spans:
            first, last = (
                round(start * self.rate),
                min(round(stop * self.rate), length),
            )
            fade = min(round(CROSS_FADE_SECONDS * self.rate), (last - first) // 2)
            gain = torch.ones(last - first)
            slope = torch.linspace(0, 1, fade + 2)[1:-1]
            if first > 0:
                gain[:fade] = slope
            if last < result.shape[1]:
                gain[len(gain) - fade :] = slope.flip(0)
            result[:, first:last] = gain * self.audio[:, first:last] + (1 - gain) * result[:, first:last]
        return result
