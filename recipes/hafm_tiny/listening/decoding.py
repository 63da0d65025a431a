# SPDX-License-Identifier: Apache-2.0
"""From what a listener hears in each cell to a lead sheet: one tempo, beats, bars, and a chord for each beat.

Behind `modeling_listener` on the path of the data. Beats come first: evidence of the listener, and of the rhythm
network in the tokenizer where there is one, speaks for lines of beats, and the distribution of the tempo for their
slope. Chords change on beats, rarely and rather where bars begin; bars begin where the listener hears them and where
chords change. What is known of a song is kept. Dimensions: T frames at 50 Hz, N beats.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hafm_hf.lead_sheet.beats import BEATS_PER_MINUTE, beat_points
from hafm_hf.lead_sheet.chords import MAJOR_ROOTS, MINOR_ROOTS, NUM_CHORDS, PITCH_CLASSES, chord_label
from hafm_hf.lead_sheet.lead_sheet import METRES, LeadSheet, Span
from hafm_hf.listening.beat_line import HAFMBeatLine

from .modeling_listener import BEAT_PARTS, HAFMListenerModel
from .pitch_line import LINE_RATE, PitchLine

Array = NDArray[np.float64]
# how much the listener's beats, the tokenizer's and the listener's tempo weigh. Neighbouring frames say the same thing
# of seconds of singing, so that what they say together counts much less than were they independent
LISTENER_WEIGHT, TOKENIZER_WEIGHT, TEMPO_WEIGHT = 1.0, 0.1, 3.0
# share by which a beat may be longer or shorter than those of the steady tempo of the song
TEMPO_RANGE = 0.2
# how much a beat's mean log-probability of a chord counts against the cost of a change, on a beat and at a bar line
CHORD_WEIGHT, CHANGE_COST, BAR_COST = 2.0, 1.5, 0.75
# a band that plays nothing is no accompaniment: what "no chord" costs a cell
NO_CHORD_COST = 1.0
# what a change of chord says of a bar line beside the listener's bars, and by how much bars of four are likelier
CHANGE_VOTE, FOUR_BONUS = 1.0, 0.1


@dataclass(frozen=True)
class Heard:
    """What a listener hears of a song, as probabilities.

    Attributes:
        places (float64 [T, 4]): where in the beat each frame lies, as points of the unit disc and of twice the angle.
        bars (float64 [T]): log-odds that a frame lies in the first beat of a bar.
        chords (float64 [T, 25]): log-probability of each triad.
        key (float64 [24]), tempo (float64 [K]): log-probability; `tempi` are the latter's, beats a minute.
    """

    places: Array
    bars: Array
    chords: Array
    key: Array
    tempo: Array
    tempi: Array


def hear(model: HAFMListenerModel, line: PitchLine) -> Heard:
    """What a listener hears in a pitch line."""
    output, config, frames = model.hear(line), model.config, len(line)
    assert output.beats is not None and output.bars is not None and output.chords is not None
    assert output.key is not None and output.tempo is not None
    parts = (np.arange(BEAT_PARTS) + 0.5) * (2 * np.pi / BEAT_PARTS)
    points = np.stack([np.cos(parts), np.sin(parts), np.cos(2 * parts), np.sin(2 * parts)], axis=1)
    cells = np.arange(frames) // config.harmony_frames
    return Heard(
        _between(_numpy(output.beats[0].softmax(-1)) @ points, config.time_frames, frames),
        _between(_numpy(output.bars[0])[:, None], config.time_frames, frames)[:, 0],
        _numpy(output.chords[0].log_softmax(-1))[cells],
        _numpy(output.key[0].log_softmax(-1)),
        _numpy(output.tempo[0].log_softmax(-1)),
        _numpy(model.tempi),
    )


def decode(heard: Heard, phase: torch.Tensor, known: LeadSheet | None = None) -> tuple[LeadSheet, dict[str, float]]:
    """The likeliest lead sheet.

    Args:
        heard: of a song.
        phase (float [T]): where in the beat each frame lies (`track_beats`).
        known: what is known of it: chords and metre are kept.

    Returns:
        beats, bars, chords and key; and how sure beats, chords and key are, 0 to 1.
    """
    sheet, frames = known or LeadSheet(), len(heard.bars)
    found = LeadSheet.from_estimates(phase, None, LINE_RATE)
    # what lies before the first beat and behind the last has chords as well
    inner = np.asarray(found.beats or (), np.float64)
    edges = np.concatenate([[0.0], inner[(inner > 0) & (inner < frames / LINE_RATE)], [frames / LINE_RATE]])
    scores = _mean_between(_with_known(heard.chords, sheet), edges)
    metre, first = find_bars(heard, scores, edges, sheet.beats_per_bar)
    bars = (np.arange(len(scores)) - 1 - first) % metre == 0
    heights = CHORD_WEIGHT * scores - NO_CHORD_COST * (np.arange(NUM_CHORDS) == 0)
    chords = likeliest_chords(heights, np.where(bars, BAR_COST, CHANGE_COST))
    key = int(heard.key.argmax())
    estimated: dict[str, Any] = {"chords": _spans(chords, edges), "key": key_name(key)}
    sure = {
        "chords": float(np.exp(scores[np.arange(len(chords)), chords]) @ np.diff(edges) / edges[-1]),
        "key": float(np.exp(heard.key[key])),
    }
    if found.beats is not None:
        estimated |= {"beats": found.beats, "beats_per_bar": metre}
        on_line = (heard.places[:, :2] * beat_points(phase).numpy()[:, :2]).sum(axis=1)
        sure |= {"beats": float(on_line.mean().clip(0, 1))}
    confidence = {name: round(value, 3) for name, value in sure.items()}
    downbeat = first * ("beats" in estimated)
    return LeadSheet(**estimated, downbeat=downbeat, estimated=sorted(estimated)), confidence


def key_name(key: int) -> str:
    """How a lead sheet writes a key: 0 to 11 are major from C, 12 to 23 minor."""
    minor, tonic = divmod(key, PITCH_CLASSES)
    return f"{(MINOR_ROOTS if minor else MAJOR_ROOTS)[tonic]}:{('maj', 'min')[minor]}"


def track_beats(heard: Heard, known: LeadSheet | None = None, places: torch.Tensor | None = None) -> torch.Tensor:
    """Where in the beat each frame lies: first the likeliest steady tempo, then a line around it.

    Args:
        heard: of a song.
        known: whose beats or tempo are kept.
        places (float [T, 4], *optional*): what else speaks for beats (`HAFMRhythmNetwork.place`), at 50 Hz.

    Returns:
        float32 [T], 0 to 1.
    """
    sheet = known or LeadSheet()
    told, tempo = sheet.phase(len(heard.places), LINE_RATE), sheet.tempo
    if told is not None:
        return told
    evidence = LISTENER_WEIGHT * heard.places
    if places is not None:
        count = min(len(places), len(evidence))
        evidence[:count] += TOKENIZER_WEIGHT * places[:count].double().cpu().numpy()
    spoken = torch.from_numpy(evidence)
    if tempo is not None or len(evidence) < 2:
        return HAFMBeatLine(LINE_RATE).follow(spoken, tempo)
    whole = HAFMBeatLine(LINE_RATE, prior=lambda tempi: TEMPO_WEIGHT * np.interp(tempi, heard.tempi, heard.tempo))
    likeliest = float(np.diff(whole.steady(evidence)[:2])[0]) * 60 * LINE_RATE
    slowest, fastest = (float(np.clip(likeliest * (1 + by), *BEATS_PER_MINUTE)) for by in (-TEMPO_RANGE, TEMPO_RANGE))
    return HAFMBeatLine(LINE_RATE, (slowest, fastest), whole.tempo_prior).follow(spoken)


def find_bars(heard: Heard, scores: Array, edges: Array, metre: int | None = None) -> tuple[int, int]:
    """Beats of a bar, 3 or 4, and which of the inner edges begins one.

    Args:
        heard: of the song.
        scores (float64 [N, 25]): log-probability of chords between edges (float64 [N + 1], s).
        metre: where it is known.
    """
    begins = _mean_between(heard.bars[:, None], edges)[1:, 0]
    if not len(begins):
        return metre or METRES[-1], 0
    chords = np.exp(scores)
    changes = 0.5 * np.abs(np.diff(chords, axis=0)).sum(axis=1)
    votes = begins + CHANGE_VOTE * (changes - changes.mean())
    # each bar's beginning against the mean of all beats, so that metres can be compared
    best = {
        (each, first): float(votes[first::each].mean() - votes.mean()) * np.sqrt(1 / (each - 1))
        + FOUR_BONUS * (each == METRES[-1])
        for each in METRES
        if metre in (None, each)
        for first in range(min(each, len(votes)))
    }
    return max(best, key=best.__getitem__)


def likeliest_chords(scores: Array, costs: Array) -> NDArray[np.int64]:
    """The path of chords that scores best: int64 [N] of scores (float64 [N, 25]) and what a change costs there [N]."""
    best, before = scores[0], np.zeros(scores.shape, np.int64)
    for at in range(1, len(scores)):
        top = int(best.argmax())
        changes = best[top] - costs[at] > best
        before[at] = np.where(changes, top, np.arange(scores.shape[1]))
        best = np.where(changes, best[top] - costs[at], best) + scores[at]
    path = [int(best.argmax())]
    for at in range(len(scores) - 1, 0, -1):
        path.append(int(before[at, path[-1]]))
    return np.array(path[::-1], np.int64)


def _spans(chords: NDArray[np.int64], edges: Array) -> list[Span]:
    """Stretches of one chord (int64 [N]) between edges (float64 [N + 1], s)."""
    runs = [(chord, list(run)) for chord, run in itertools.groupby(range(len(chords)), chords.__getitem__)]
    return [(float(edges[run[0]]), float(edges[run[-1] + 1]), chord_label(int(chord))) for chord, run in runs]


def _with_known(chords: Array, sheet: LeadSheet) -> Array:
    """Log-probabilities of chords with certainty where they are known."""
    if not sheet.chords:
        return chords.copy()
    known = sheet.add_chords(torch.from_numpy(np.exp(chords)), LINE_RATE).numpy()
    return np.log(np.maximum(known, 1e-6))


def _mean_between(values: Array, edges: Array) -> Array:
    """Means of values (float64 [T, K]) between edges (float64 [N + 1], s): float64 [N, K]."""
    places = np.clip(np.round(edges * LINE_RATE).astype(int), 0, len(values) - 1)
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
    lengths = np.maximum(places[1:], places[:-1] + 1) - places[:-1]
    means: Array = (sums[places[:-1] + lengths] - sums[places[:-1]]) / lengths[:, None]
    return means


def _between(values: Array, each: int, frames: int) -> Array:
    """Values of cells ([C, K], of `each` frames) at the middles of frames: [T, K]."""
    at = (np.arange(frames) + 0.5) / each - 0.5
    known = np.arange(len(values))
    return np.stack([np.interp(at, known, column) for column in values.T], axis=1)


def _numpy(values: torch.Tensor) -> Array:
    return values.double().cpu().numpy()
