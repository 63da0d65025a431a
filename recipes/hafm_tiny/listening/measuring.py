# SPDX-License-Identifier: Apache-2.0
"""Listeners as they are measured: of a composite, or by themselves, on voices and on simulated singers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hafm_hf.accompaniment.modeling_accompaniment import HAFMForVocalAccompaniment
from hafm_hf.audio import Samples
from hafm_hf.evaluation.timing import beat_f_measure
from hafm_hf.lead_sheet.bars import completed
from hafm_hf.lead_sheet.beats import BEATS_PER_MINUTE
from hafm_hf.lead_sheet.chords import chord_class, chord_label
from hafm_hf.lead_sheet.lead_sheet import LeadSheet

from .decoding import decode, hear, track_beats
from .modeling_listener import HAFMListenerModel
from .pitch_line import LINE_RATE, PitchLine, pitch_line
from .scores import tempo_is_right
from .simulated_singer import Performance, SimulatedSinger
from .tunes import Tune

SEED, VOICE_RATE, TOLD_BARS = 7, 16_000, 4


@dataclass(frozen=True)
class MeasuredListener:
    """What is measured: a listener, beside the beats of a composite's tokenizer, or a composite alone.

    Attributes:
        listener (HAFMListenerModel, *optional*): hears pitch lines.
        composite (HAFMForVocalAccompaniment, *optional*): hears by itself where there is no listener.
    """

    listener: HAFMListenerModel | None = None
    composite: HAFMForVocalAccompaniment | None = None

    def of_voice(self, voice: Samples) -> LeadSheet:
        """The estimate of a voice (float32 [N] at 16 kHz)."""
        if self.listener is not None:
            return self.of_line(pitch_line(voice, VOICE_RATE), None, self._places(voice))
        assert self.composite is not None
        sheet = self.composite.estimate_lead_sheet(voice, VOICE_RATE, seed=SEED)
        return completed(sheet, len(voice) / VOICE_RATE)

    def of_line(
        self, line: PitchLine, known: LeadSheet | None = None, places: torch.Tensor | None = None
    ) -> LeadSheet:
        """The estimate of a pitch line; `places` (float [T, 4]) are beats that something else hears."""
        assert self.listener is not None
        heard = hear(self.listener, line)
        return decode(heard, track_beats(heard, known, places), known)[0]

    @torch.no_grad()
    def _places(self, voice: Samples) -> torch.Tensor | None:
        tokenizer = None if self.composite is None else self.composite.semantic_tokenizer
        if tokenizer is None or not tokenizer.config.rhythm_channels or tokenizer.config.frame_rate != LINE_RATE:
            return None
        return tokenizer.rhythm.place(tokenizer.describe(torch.from_numpy(voice))[None])[0]


def find_listener(model: str = "", listener: str = "") -> MeasuredListener:
    """The composite of a folder or hub id, the bundled one if not named, and the listener of a folder, if named."""
    composite = HAFMForVocalAccompaniment.from_pretrained(model or None)
    if not listener:
        return MeasuredListener(composite=composite)
    return MeasuredListener(HAFMListenerModel.from_pretrained(listener, dtype=torch.float32).eval(), composite)


def simulated(tunes: Sequence[Tune], seconds: float) -> list[Performance]:
    """Each tune as it is sung when listeners are measured: near the tempo that it was played in, if that is known."""
    return [
        SimulatedSinger(np.random.default_rng([SEED, number]), own_tempo=1.0, joined=0.0).sing(tune, seconds)
        for number, tune in enumerate(tunes)
    ]


def simulated_scores(
    model: HAFMListenerModel, tunes: Sequence[Tune], seconds: float, tell: str = ""
) -> dict[str, float]:
    """Scores (`performance_scores`) of what a listener hears of simulated singers.

    Args:
        model: the listener.
        tunes: one performance each.
        seconds: of each tune.
        tell: what is told: nothing, "tempo", or "chords", of the first four bars.
    """
    performances, measured = simulated(tunes, seconds), MeasuredListener(model.float().eval())
    sheets = [measured.of_line(each.line, told_of(each, tell)) for each in performances]
    return performance_scores(sheets, performances)


def told_of(sung: Performance, tell: str) -> LeadSheet | None:
    """What is told of a performance (see `simulated_scores`)."""
    if tell == "tempo":
        return LeadSheet(tempo=float(np.clip(sung.tempo, *BEATS_PER_MINUTE)))
    if tell == "chords":
        last = int(np.searchsorted(sung.beats, sung.beats[0] + TOLD_BARS * 4))
        spans, start = [], 0
        for at in [*(np.flatnonzero(np.diff(sung.chords[:last])) + 1), last]:
            spans.append((start / LINE_RATE, at / LINE_RATE, chord_label(int(sung.chords[start]))))
            start = at
        return LeadSheet(chords=[span for span in spans if span[0] < span[1]])
    return None


def performance_scores(sheets: Sequence[LeadSheet], performances: Sequence[Performance]) -> dict[str, float]:
    """Share of the time with the right chord, F of beats, share of the tempi within 4 %, means over performances."""
    found: dict[str, list[float]] = {"chords": [], "beats": [], "tempo": [], "key": []}
    for sheet, sung in zip(sheets, performances, strict=True):
        frames = np.zeros(len(sung.chords), np.int64)
        for start, stop, label in sheet.chords:
            frames[round(start * LINE_RATE) : round(stop * LINE_RATE)] = chord_class(label)
        known = sung.chords > 0
        found["chords"].append(float((frames == sung.chords)[known].mean()))
        wanted = beat_seconds(sung)
        found["beats"].append(beat_f_measure(wanted, np.asarray(sheet.beats or (), np.float64)))
        tempo = 60 / float(np.median(np.diff(sheet.beats))) if sheet.beats else float("nan")
        found["tempo"].append(float(tempo_is_right(tempo, sung.tempo)))
        key = None if sheet.key is None else chord_class(sheet.key) - 1
        found["key"].append(float(key == sung.key))
    return {name: float(np.nanmean(values)) for name, values in found.items()}


def beat_seconds(sung: Performance) -> np.ndarray:
    """Where beats lie, float64 [K] seconds."""
    whole = np.floor(sung.beats)
    at = np.flatnonzero(np.diff(whole) > 0)
    share = (whole[at + 1] - sung.beats[at]) / (sung.beats[at + 1] - sung.beats[at])
    return (at + 0.5 + share) / LINE_RATE
