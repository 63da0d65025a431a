# SPDX-License-Identifier: Apache-2.0
"""Evaluates listeners: in a composite on recorded voices, and by themselves on simulated singers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from hafm_hf.accompaniment.modeling_accompaniment import HAFMForVocalAccompaniment
from hafm_hf.audio import Samples
from hafm_hf.lead_sheet.bars import with_bars_throughout
from hafm_hf.lead_sheet.lead_sheet import BEATS_PER_MINUTE, LeadSheet
from hafm_hf.listening.modeling_listener import HAFMListenerModel
from hafm_hf.tokenizers.beat_tracker import likeliest_tempo
from hafm_hf.tokenizers.pitch_contour import PitchContour

from .references import Recording
from .scores import beyond_shuffled, chord_cells, chord_overlap, tempo_is_right
from .simulated_singer import ExactSinger, FaithfulSinger, Performance, SimulatedSinger
from .tunes import Tune

SEED = 7
VOICE_RATE = 16_000
# length in seconds of the beginning of a song whose chords are given by `given_opening`
OPENING = 10.0
# simulated singers by name, from an exact one to one with all human errors
SINGERS = {"exact": ExactSinger, "faithful": FaithfulSinger, "like people": SimulatedSinger}
# edges between the confidence bins of `reliability`
SURENESS = (0.2, 0.3, 0.4, 0.5)


@dataclass(frozen=True)
class Reliability:
    """Calibration of a listener in one confidence bin.

    Attributes:
        share: share of all frames with a chord that are in the bin.
        sure: mean probability that the listener gives to its likeliest chord.
        right: share of the bin's frames in which that chord is right.
    """

    share: float
    sure: float
    right: float


def find_composite(model: str = "", listener: str = "") -> HAFMForVocalAccompaniment:
    """Loads a composite model, optionally with another listener.

    Args:
        model: folder or hub id; empty: the bundled model.
        listener: folder or hub id; empty: the model's own.
    """
    composite = HAFMForVocalAccompaniment.from_pretrained(model or None)
    if listener:
        composite.listener = HAFMListenerModel.from_pretrained(listener, dtype=torch.float32).eval()
    return composite


def estimate(composite: HAFMForVocalAccompaniment, voice: Samples, known: LeadSheet | None = None) -> LeadSheet:
    """Estimates the lead sheet of a song, with bars throughout.

    Args:
        composite: with a listener.
        voice (float32 [N] at 16 kHz): the song's vocal.
        known: what is known of the song; None: nothing.
    """
    sheet = composite.complete_lead_sheet(voice, VOICE_RATE, known)
    return with_bars_throughout(sheet, len(voice) / VOICE_RATE)


def given_tempo(tempo: float) -> LeadSheet | None:
    """A lead sheet with a tempo (beats a minute), halved or doubled into the valid range; None for 0 and NaN."""
    if not (np.isfinite(tempo) and tempo > 0):
        return None
    slowest, fastest = BEATS_PER_MINUTE
    while tempo > fastest:
        tempo /= 2
    while tempo < slowest:
        tempo *= 2
    return LeadSheet(tempo=tempo)


def given_beats(beats: Sequence[float]) -> LeadSheet | None:
    """A lead sheet with beats, in seconds; None if there are fewer than two."""
    return LeadSheet(beats=list(beats)) if len(beats) > 1 else None


def given_opening(recordings: Sequence[Recording]) -> tuple[list[Recording], list[LeadSheet | None]]:
    """Splits the chords of recordings into those to give, of the first `OPENING` seconds, and those to score.

    Recordings of less than twice that length are left out.

    Returns:
        The recordings, with chords to score after the opening only, and for each a lead sheet with the chords of the
        opening.
    """
    scored: list[Recording] = []
    sheets: list[LeadSheet | None] = []
    for recording in recordings:
        if recording.seconds < 2 * OPENING:
            continue
        opening = [(start, min(stop, OPENING), label) for start, stop, label in recording.chords if start < OPENING]
        later = [(max(start, OPENING), stop, label) for start, stop, label in recording.chords if stop > OPENING]
        # chords labelled X are not scored
        scored.append(replace(recording, chords=[(0.0, OPENING, "X"), *later]))
        sheets.append(LeadSheet(chords=opening))
    return scored, sheets


def simulated(tunes: Sequence[Tune], seconds: float, singer: str = "like people") -> list[Performance]:
    """Performances of tunes by a simulated singer, near their original tempo if that is known.

    Args:
        tunes: what to sing.
        seconds: length of a performance, which is shorter if its tune is.
        singer: one of `SINGERS`.
    """
    performances = []
    for index, tune in enumerate(tunes):
        rng = np.random.default_rng([SEED, index])
        # one continuous part of the song
        performances.append(SINGERS[singer](rng, own_tempo=1.0, joined=0.0).sing(tune, seconds))
    return performances


def sureness(composite: HAFMForVocalAccompaniment, recording: Recording) -> tuple[torch.Tensor, torch.Tensor]:
    """How sure a composite's listener is of the chords in a recording, and whether it is right.

    Args:
        composite: with a listener.
        recording: with the true chords.

    Returns:
        For each frame in which the accompaniment plays a chord, the probability that the listener gives to its
        likeliest chord, and whether that is the true one (1 or 0): float32 [frames] each. Empty if no beat is found.
    """
    tokenizer = composite.semantic_tokenizer
    listener = composite.listener
    voice = recording.voice
    assert listener is not None
    rate = tokenizer.config.frame_rate
    sheet = composite.complete_lead_sheet(voice, VOICE_RATE)
    (vocal,) = composite.feature_extractor().vocals(voice, VOICE_RATE)
    contour = composite.encoder.hear(vocal).contour
    phase = sheet.beat_phase(len(contour), rate)
    if phase is None:
        return torch.zeros(0), torch.zeros(0)
    probability, chord = listener.chord_probabilities(contour, phase).max(1)
    true = torch.from_numpy(chord_cells(recording.chords, len(probability) / rate, cell_seconds=1 / rate))
    has_chord = true > 0
    return probability[has_chord], (chord == true)[has_chord].float()


def reliability(sure: torch.Tensor, right: torch.Tensor) -> tuple[list[Reliability], float]:
    """Calibration of a listener, from the results of `sureness`.

    Args:
        sure (float32 [frames]): probability that the listener gives to its likeliest chord.
        right (float32 [frames]): 1 if that is the true chord, else 0.

    Returns:
        The calibration in each confidence bin that has frames (between the edges `SURENESS`), and the expected
        calibration error, from 0 to 1: the mean distance of `sure` and `right`, weighted by the bins' shares.
    """
    bins = torch.bucketize(sure, torch.tensor(SURENESS))
    reliabilities = []
    error = 0.0
    for index in bins.unique():
        inside = bins == index
        share = float(inside.float().mean())
        mean_sure = float(sure[inside].mean())
        mean_right = float(right[inside].mean())
        reliabilities.append(Reliability(share, mean_sure, mean_right))
        error += share * abs(mean_sure - mean_right)
    return reliabilities, error


def unheard(contour: PitchContour, ear_size: int) -> PitchContour:
    """The pitch contour of a simulated singer as a listener's input; features of its ear, if it has one, are 0.

    An ear is a pretrained network whose features of the voice a listener reads; there is no voice to hear here.

    Args:
        contour: as simulated, without these features.
        ear_size: number of the features; 0 if the listener has no ear.
    """
    if not ear_size:
        return contour
    return replace(contour, ear_features=np.zeros((len(contour), ear_size), np.float16))


@torch.no_grad()
def simulated_scores(model: HAFMListenerModel, performances: Sequence[Performance]) -> dict[str, float]:
    """Scores a listener on simulated singers: chords, given the true beats, and tempo, given none.

    Args:
        model: the listener; put into float32 and evaluation mode.
        performances: of at least two songs.

    Returns:
        `chords`: share of frames with the right chord; `beyond`: the same minus the agreement with other songs'
        chords; `tempo`: share of performances whose tempo is estimated within 4 %.
    """
    model = model.float().eval()
    scores: dict[str, list[float]] = {"chords": [], "tempo": []}
    estimated: list[NDArray[np.int64]] = []
    for sung in performances:
        contour = unheard(sung.contour, model.config.ear_size)
        chords = model.chord_probabilities(contour, torch.from_numpy(sung.beats % 1)).argmax(1).numpy()
        labelled = sung.chords > 0
        scores["chords"].append(float((chords == sung.chords)[labelled].mean()))
        tempo = likeliest_tempo(model.tempi, model.tempo_logits_of(contour))
        scores["tempo"].append(float(tempo_is_right(tempo, sung.tempo)))
        estimated.append(chords)
    # each performance is a song of its own
    names = [str(index) for index in range(len(estimated))]
    true = [sung.chords for sung in performances]
    _, scores["beyond"] = beyond_shuffled(estimated, true, names, chord_overlap)
    return {name: float(np.nanmean(values)) for name, values in scores.items()}
