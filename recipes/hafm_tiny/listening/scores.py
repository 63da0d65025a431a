# SPDX-License-Identifier: Apache-2.0
"""Scores of estimated lead sheets against references: chords, key, beats and tempo, based on mir_eval.

The agreement of estimates with other songs is subtracted, so that 0 is chance. Chords are compared in time cells of
CELL_SECONDS. Dimensions: T time cells.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hafm_hf.evaluation.statistics import Interval, bootstrap_mean
from hafm_hf.evaluation.timing import OCTAVES, beat_f_measure, tempo_is_right, tempo_of
from hafm_hf.lead_sheet.chords import root_and_quality, triad_class
from hafm_hf.lead_sheet.lead_sheet import LeadSheet, Span

from .references import Recording

# chord classes of time cells (`majmin`), and times of beats in seconds
Cells = NDArray[np.int64]
Beats = NDArray[np.float64]
CELL_SECONDS = 0.05
# number of other songs' recordings that each estimate is compared with
CONTROLS = 40
# constant lags in seconds that are tried for scores that forgive a lag
LAGS = np.arange(-0.2, 0.2001, 0.02)
# seconds after the last beat up to which beats are compared, so that it counts
AFTER_LAST_BEAT = 0.1


@dataclass(frozen=True)
class ListeningScores:
    """Means over recordings; an Interval is a mean with its confidence interval.

    Attributes:
        chords: chord overlap with the recording's reference minus that with other songs' references.
        chords_matched: the former alone.
        key: mir_eval's weighted score.
        beats: F-measure of beats with the recording's reference minus that with other songs' references.
        beats_matched: the former alone.
        beats_lag_forgiven: like `beats`, but each F-measure with the constant lag of `LAGS` that makes it highest.
        tempo: share of tempi within 4 % of the reference.
        tempo_octaves: the same, where half and double the tempo count as right.
    """

    chords: Interval
    chords_matched: float
    key: Interval
    beats: Interval
    beats_matched: float
    beats_lag_forgiven: Interval
    tempo: float
    tempo_octaves: float


def score(sheets: Sequence[LeadSheet], recordings: Sequence[Recording]) -> ListeningScores:
    """Scores estimated lead sheets.

    Args:
        sheets: one for each recording, in the same order.
        recordings: with the references.

    Raises:
        ValueError: the recordings are of fewer than two songs.
    """
    songs = [recording.song for recording in recordings]
    if len(set(songs)) < 2:
        raise ValueError(f"Scores are matched minus shuffled songs, so they need two songs; there is only {songs}.")

    # of each recording: chords in cells, beats from 0 s on, the key's score, and estimated and true tempo
    estimated_chords = []
    estimated_beats = []
    key_scores = []
    tempos = []
    for sheet, recording in zip(sheets, recordings, strict=True):
        estimated_chords.append(chord_cells(sheet.chords, recording.seconds))
        beats = np.array([beat for beat in sheet.beats or () if beat >= 0])
        estimated_beats.append(beats)
        key_scores.append(key_score(sheet.key, recording.key))
        tempos.append((tempo_of(beats), recording.tempo))
    true_chords = [chord_cells(recording.chords, recording.seconds) for recording in recordings]
    true_beats = [np.asarray(recording.beats) for recording in recordings]

    # agreement with the recording's reference, and the same minus that with other songs'
    chords_matched, chords = beyond_shuffled(estimated_chords, true_chords, songs, chord_overlap)
    beats_matched, beats_beyond = beyond_shuffled(estimated_beats, true_beats, songs, _f_measure)
    _, beats_with_lag = beyond_shuffled(estimated_beats, true_beats, songs, _f_measure_with_lag)
    return ListeningScores(
        chords=bootstrap_mean(chords, songs),
        chords_matched=float(np.nanmean(chords_matched)),
        key=bootstrap_mean(key_scores, songs),
        beats=bootstrap_mean(beats_beyond, songs),
        beats_matched=float(np.nanmean(beats_matched)),
        beats_lag_forgiven=bootstrap_mean(beats_with_lag, songs),
        tempo=float(np.mean([tempo_is_right(*pair) for pair in tempos])),
        tempo_octaves=float(np.mean([tempo_is_right(*pair, OCTAVES) for pair in tempos])),
    )


def key_score(estimated: str | None, known: str | None) -> float:
    """mir_eval's weighted score of an estimated key: 1 equal, 0.5 a fifth off, 0.3 relative, 0.2 parallel, else 0.

    Args:
        estimated: such as "A:min"; None scores 0.
        known: the reference; None scores NaN.
    """
    import mir_eval

    if known is None:
        return float("nan")
    if estimated is None:
        return 0.0
    names = [key.replace(":maj", " major").replace(":min", " minor") for key in (known, estimated)]
    return float(mir_eval.key.weighted_score(*names))


def chord_overlap(estimated: Cells, reference: Cells) -> float:
    """Share of cells with the same chord class, up to the end of the shorter sequence.

    Args:
        estimated (int64 [cells]): classes (`majmin`).
        reference (int64 [cells]): likewise; cells of class -1 are ignored.

    Returns:
        From 0 to 1; NaN if all cells are ignored.
    """
    length = min(len(estimated), len(reference))
    counted = reference[:length] >= 0
    if counted.any():
        return float((estimated[:length] == reference[:length])[counted].mean())
    return float("nan")


def chord_cells(chords: Sequence[Span], seconds: float, cell_seconds: float = CELL_SECONDS) -> Cells:
    """Class of the chord in each time cell of a song (`majmin`): int64 [cells], 0 where there is none.

    Args:
        chords: the song's (start and end in seconds, label).
        seconds: length of the song.
        cell_seconds: length of a cell.
    """
    # 1e-6: in floats, a whole number of cells may come out a little too small
    cells = np.full(int(seconds / cell_seconds + 1e-6), 0, np.int64)
    for start, stop, label in chords:
        cells[round(start / cell_seconds) : round(stop / cell_seconds)] = majmin(label)
    return cells


@cache
def majmin(label: str) -> int:
    """Class of a chord: 0 for none, 1 to 12 major, 13 to 24 minor; -1 for chords that mir_eval's majmin ignores."""
    import mir_eval

    root_quality = root_and_quality(label)
    if root_quality is None:
        return -1 if label == "X" else 0
    try:
        _, tones, _ = mir_eval.chord.encode(label)
    except mir_eval.chord.InvalidChordException:
        # not in Harte's notation, but as in lead sheets, such as Am7
        return triad_class(label)
    # tones from the root up to the fifth of major and minor triads, and what is added to the class of the root
    offsets: dict[tuple[int, ...], int] = {(1, 0, 0, 0, 1, 0, 0, 1): 0, (1, 0, 0, 1, 0, 0, 0, 1): 12}
    offset = offsets.get(tuple(int(tone) for tone in tones[:8]))
    if offset is None:
        return -1
    root = root_quality[0]
    return 1 + root + offset


def _f_measure(estimated: Beats, reference: Beats) -> float:
    """F-measure of beats, up to the end of the shorter sequence; NaN without a reference, 0 without an estimate.

    Args:
        estimated (float64 [beats]): in seconds.
        reference (float64 [beats]): in seconds.
    """
    if not len(reference):
        return float("nan")
    if not len(estimated):
        return 0.0
    end = min(estimated[-1], reference[-1]) + AFTER_LAST_BEAT
    return beat_f_measure(reference[reference < end], estimated[estimated < end])


def _f_measure_with_lag(estimated: Beats, reference: Beats) -> float:
    """`_f_measure` of beats (in seconds) with the constant lag of `LAGS` that makes it highest."""
    return max(_f_measure(estimated + lag, reference) for lag in LAGS)


def beyond_shuffled(
    estimated: Sequence[NDArray[Any]],
    references: Sequence[NDArray[Any]],
    songs: Sequence[str],
    agree: Callable[[NDArray[Any], NDArray[Any]], float],
) -> tuple[list[float], list[float]]:
    """Compares estimates with their own references and, as a control, with those of other songs.

    Args:
        estimated: an estimate for each recording.
        references: references of the same recordings, in the same order.
        songs: name of each recording's song; there must be two different ones.
        agree: returns the agreement of an estimate (first) with a reference.

    Returns:
        For each recording, the agreement with its own reference, and the same minus the mean agreement with
        references of other songs (up to `CONTROLS`).
    """
    matched = [agree(*pair) for pair in zip(estimated, references, strict=True)]
    rng = np.random.default_rng(0)
    beyond = []
    for index, estimate in enumerate(estimated):
        others = [other for other, song in enumerate(songs) if song != songs[index]]
        drawn = rng.choice(others, min(len(others), CONTROLS), replace=False)
        control = float(np.nanmean([agree(estimate, references[other]) for other in drawn]))
        beyond.append(matched[index] - control)
    return matched, beyond
