# SPDX-License-Identifier: Apache-2.0
"""Listeners as they are measured: in a composite on voices, and by themselves on simulated singers."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from hafm_hf.accompaniment.modeling_accompaniment import HAFMForVocalAccompaniment
from hafm_hf.audio import Samples
from hafm_hf.lead_sheet.bars import completed
from hafm_hf.lead_sheet.lead_sheet import BEATS_PER_MINUTE, LeadSheet
from hafm_hf.listening.beat_line import likeliest_tempo
from hafm_hf.listening.modeling_listener import HAFMListenerModel

from .scores import beyond_shuffled, chord_overlap, tempo_is_right
from .simulated_singer import ExactSinger, FaithfulSinger, Performance, SimulatedSinger
from .tunes import Tune

SEED, VOICE_RATE = 7, 16_000
# from one without a fault to one with all that people have
SINGERS = {"exact": ExactSinger, "faithful": FaithfulSinger, "like people": SimulatedSinger}


def find_composite(model: str = "", listener: str = "") -> HAFMForVocalAccompaniment:
    """The composite of a folder or hub id, the bundled one if not named, with the listener of a folder, if named."""
    composite = HAFMForVocalAccompaniment.from_pretrained(model or None)
    if listener:
        composite.listener = HAFMListenerModel.from_pretrained(listener, dtype=torch.float32).eval()
    return composite


def estimate(composite: HAFMForVocalAccompaniment, voice: Samples, known: LeadSheet | None = None) -> LeadSheet:
    """The estimate of a voice (float32 [N] at 16 kHz), with bars; what is known of the song is told."""
    sheet = composite.complete_lead_sheet(voice, VOICE_RATE, seed=SEED, lead_sheet=known)
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


@torch.no_grad()
def simulated_scores(model: HAFMListenerModel, performances: Sequence[Performance]) -> dict[str, float]:
    """What a listener hears of simulated singers, from their pitch lines alone and told the beats.

    Returns:
        `chords`, share of the time with the right one; `beyond`, the same less what songs have in common; `key` and
        `tempo`, share of the performances with the right key, and with a tempo within 4 %.
    """
    model = model.float().eval()
    found: dict[str, list[float]] = {"chords": [], "key": [], "tempo": []}
    heard: list[NDArray[np.int64]] = []
    for sung in performances:
        chords, key = model.chords(sung.line, None, torch.from_numpy(sung.beats % 1))
        there = sung.chords > 0
        found["chords"].append(float((chords.argmax(1).numpy() == sung.chords)[there].mean()))
        found["key"].append(float(int(key.argmax()) == sung.key))
        tempo = likeliest_tempo(model.tempi, model.tempo_of(sung.line))
        found["tempo"].append(float(tempo_is_right(tempo, sung.tempo)))
        heard.append(chords.argmax(1).numpy())
    names = [str(number) for number in range(len(heard))]
    found["beyond"] = beyond_shuffled(heard, [sung.chords for sung in performances], names, chord_overlap)[1]
    return {name: float(np.nanmean(values)) for name, values in found.items()}
