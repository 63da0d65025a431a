# SPDX-License-Identifier: Apache-2.0
"""Listeners as they are measured: in a composite on voices, and by themselves on simulated singers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hafm_hf.accompaniment.modeling_accompaniment import HAFMForVocalAccompaniment
from hafm_hf.audio import Samples
from hafm_hf.lead_sheet.bars import completed
from hafm_hf.lead_sheet.lead_sheet import BEATS_PER_MINUTE, LeadSheet
from hafm_hf.listening.beat_line import likeliest_tempo
from hafm_hf.listening.modeling_listener import HAFMListenerModel

from .references import Recording
from .scores import beyond_shuffled, chord_cells, chord_overlap, tempo_is_right
from .simulated_singer import ExactSinger, FaithfulSinger, Performance, SimulatedSinger
from .tunes import Tune

SEED, VOICE_RATE = 7, 16_000
# from one without a fault to one with all that people have
SINGERS = {"exact": ExactSinger, "faithful": FaithfulSinger, "like people": SimulatedSinger}
# edges between the bins in which it is looked at how sure a listener is
SURENESS = (0.2, 0.3, 0.4, 0.5)


@dataclass(frozen=True)
class Reliability:
    """Whether a listener is right as often as it is sure to be, of the frames of one bin.

    Attributes:
        share: of all frames in which a chord is played.
        sure: how likely it takes its chord to be, on average.
        right: how often it is.
    """

    share: float
    sure: float
    right: float


def find_composite(model: str = "", listener: str = "") -> HAFMForVocalAccompaniment:
    """The composite of a folder or hub id, the bundled one if not named, with the listener of a folder, if named."""
    composite = HAFMForVocalAccompaniment.from_pretrained(model or None)
    if listener:
        composite.listener = HAFMListenerModel.from_pretrained(listener, dtype=torch.float32).eval()
    return composite


def estimate(composite: HAFMForVocalAccompaniment, voice: Samples, known: LeadSheet | None = None) -> LeadSheet:
    """The estimate of a voice (float32 [N] at 16 kHz), with bars; what is known of the song is told."""
    sheet = composite.complete_lead_sheet(voice, VOICE_RATE, known)
    return completed(sheet, len(voice) / VOICE_RATE)


def told_tempo(tempo: float) -> LeadSheet | None:
    """A lead sheet with a tempo, halved or doubled into its range; None of NaN."""
    slowest, fastest = BEATS_PER_MINUTE
    while tempo > fastest:
        tempo /= 2
    while tempo < slowest:
        tempo *= 2
    return LeadSheet(tempo=tempo) if tempo == tempo else None


def told_beats(beats: Sequence[float]) -> LeadSheet | None:
    """A lead sheet with these beats, in seconds; None of fewer than two."""
    return LeadSheet(beats=list(beats)) if len(beats) > 1 else None


def simulated(tunes: Sequence[Tune], seconds: float, singer: str = "like people") -> list[Performance]:
    """Each tune as one of `SINGERS` sings it: near the tempo that it was played in, if that is known."""
    return [
        SINGERS[singer](np.random.default_rng([SEED, number]), own_tempo=1.0, joined=0.0).sing(tune, seconds)
        for number, tune in enumerate(tunes)
    ]


def sureness(composite: HAFMForVocalAccompaniment, recording: Recording) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the accompaniment of a recording plays a chord: how likely a composite takes its own to be, and whether
    it is the one; float32 [T] each."""
    tokenizer, listener, voice = composite.semantic_tokenizer, composite.listener, recording.voice
    assert listener is not None
    rate, sheet = tokenizer.config.frame_rate, composite.complete_lead_sheet(voice, VOICE_RATE)
    line, _ = tokenizer.listen(torch.from_numpy(voice))
    phase = sheet.phase(len(line), rate)
    if phase is None:
        return torch.zeros(0), torch.zeros(0)
    likely, chosen = listener.chords(line, phase).max(1)
    played = torch.from_numpy(chord_cells(recording.chords, len(likely) / rate, 1 / rate))
    return likely[played > 0], (chosen == played)[played > 0].float()


def reliability(sure: torch.Tensor, right: torch.Tensor) -> tuple[list[Reliability], float]:
    """The bins of `SURENESS` that there are, and by how much sureness is wrong on average (both float32 [T])."""
    bins, found = torch.bucketize(sure, torch.tensor(SURENESS)), []
    for number in bins.unique():
        there = bins == number
        found.append(Reliability(*(float(each.mean()) for each in (there.float(), sure[there], right[there]))))
    return found, sum(each.share * abs(each.sure - each.right) for each in found)


@torch.no_grad()
def simulated_scores(model: HAFMListenerModel, performances: Sequence[Performance]) -> dict[str, float]:
    """What a listener hears of simulated singers, from their pitch lines alone and told the beats.

    Returns:
        `chords`, share of the time with the right one; `beyond`, the same less what songs have in common; `tempo`,
        share of the performances with a tempo within 4 %.
    """
    model = model.float().eval()
    found: dict[str, list[float]] = {"chords": [], "tempo": []}
    heard: list[NDArray[np.int64]] = []
    for sung in performances:
        chords = model.chords(sung.line, torch.from_numpy(sung.beats % 1))
        there = sung.chords > 0
        found["chords"].append(float((chords.argmax(1).numpy() == sung.chords)[there].mean()))
        tempo = likeliest_tempo(model.tempi, model.tempo_of(sung.line))
        found["tempo"].append(float(tempo_is_right(tempo, sung.tempo)))
        heard.append(chords.argmax(1).numpy())
    names = [str(number) for number in range(len(heard))]
    found["beyond"] = beyond_shuffled(heard, [sung.chords for sung in performances], names, chord_overlap)[1]
    return {name: float(np.nanmean(values)) for name, values in found.items()}
