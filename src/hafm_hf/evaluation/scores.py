# SPDX-License-Identifier: Apache-2.0
"""The scores of following the singer, in one table: what each needs, and what fools it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .features import Features
from .harmony import chord_changes_shared, chroma_correlation, key_agreement, pitch_class_share
from .timing import beat_agreement, onset_agreement, onsets_shared
from .told import chord_agreement, told_beats, told_chords


@dataclass(frozen=True)
class Score:
    """One score.

    Args:
        name: in reports; the function's own documentation says how it is computed.
        function: of voice, reference and candidate.
        aspect: harmony or time.
        needs_reference: whether it can be had without a reference accompaniment.
        headline: whether reports lead with it. A headline score tells true pairs from shuffled ones.
        fooled_by: what gets a high value without following the singer.
    """

    name: str
    function: Callable[[Features, Features, Features], float]
    aspect: str
    needs_reference: bool
    headline: bool
    fooled_by: str


SCORES = (
    Score(
        "pitch_class_share",
        lambda voice, reference, candidate: pitch_class_share(voice, candidate),
        "harmony",
        False,
        True,
        "a sine doubling the voice, the voice itself or leaking in, a drone on the tonic",
    ),
    Score(
        "key_agreement",
        lambda voice, reference, candidate: key_agreement(voice, candidate),
        "harmony",
        False,
        True,
        "a sine doubling the voice, the voice itself, a drone on the tonic",
    ),
    Score(
        "chord_changes_shared",
        chord_changes_shared,
        "harmony",
        True,
        True,
        "as far as known, another recording of the song only",
    ),
    Score(
        "onset_agreement",
        lambda voice, reference, candidate: onset_agreement(voice, candidate),
        "time",
        False,
        True,
        "the voice itself or leaking in, a sine doubling the voice, the reference in another key",
    ),
    Score(
        "onsets_shared",
        onsets_shared,
        "time",
        True,
        True,
        "clicks at the song's own beats, the reference in another key",
    ),
    Score(
        "beat_agreement",
        lambda voice, reference, candidate: beat_agreement(reference, candidate),
        "time",
        True,
        True,
        "clicks at the song's own beats, the reference in another key",
    ),
    Score(
        "chroma_correlation",
        lambda voice, reference, candidate: chroma_correlation(reference, candidate),
        "harmony",
        True,
        False,
        "a drone on the tonic chord, the voice itself",
    ),
    Score(
        "chord_majmin",
        lambda voice, reference, candidate: chord_agreement("majmin", reference, candidate),
        "harmony",
        True,
        True,
        "a drone on the tonic chord",
    ),
    Score(
        "chord_root",
        lambda voice, reference, candidate: chord_agreement("root", reference, candidate),
        "harmony",
        True,
        True,
        "a drone on the tonic",
    ),
    Score(
        "told_beats",
        lambda voice, reference, candidate: told_beats(voice, candidate),
        "time",
        False,
        True,
        "clicks at the song's own beats, the reference in another key",
    ),
    Score(
        "told_chords",
        lambda voice, reference, candidate: told_chords(voice, candidate),
        "harmony",
        False,
        True,
        "a drone on the tonic chord",
    ),
)
SCORE_NAMES = tuple(score.name for score in SCORES)


def score_pair(voice: Features, reference: Features | None, candidate: Features) -> dict[str, float]:
    """All scores of one accompaniment with one voice; NaN where a score needs a reference and there is none."""
    nowhere = float("nan")
    return {
        score.name: nowhere if reference is None and score.needs_reference
        else score.function(voice, reference if reference is not None else voice, candidate)
        for score in SCORES
    }  # fmt: skip
