# SPDX-License-Identifier: Apache-2.0
"""All scores of how well an accompaniment follows the singer: what each needs, and what fools it."""

from collections.abc import Callable
from dataclasses import dataclass

from .features import Features
from .harmony import chord_changes_shared, followed_chords, key_agreement, pitch_class_share
from .timing import beat_agreement, followed_beats, onset_agreement, onsets_shared, tempo_agreement


@dataclass(frozen=True)
class Score:
    """One score.

    Args:
        name: name in reports; see the function's docstring for the definition.
        function: computes the score from the features of voice, reference and candidate.
        aspect: harmony or time.
        needs_reference: whether it compares with a reference accompaniment; if not, `function` ignores the reference.
        fooled_by: what gets a high value without following the singer.
    """

    name: str
    function: Callable[[Features, Features, Features], float]
    aspect: str
    needs_reference: bool
    fooled_by: str


DOUBLED_VOICE = "a sine doubling the voice, the voice itself, a drone on the tonic"
VOICE_ITSELF = "the voice itself or leaking in, a sine doubling the voice, the reference in another key"
DRONE = "a drone on the tonic chord, the voice itself"
SONGS_BEATS = "clicks at the song's own beats, the reference in another key"
# v, r, c: voice, reference, candidate
SCORES = (
    Score("pitch_class_share", lambda v, _, c: pitch_class_share(v, c), "harmony", False, DOUBLED_VOICE),
    Score("key_agreement", lambda v, _, c: key_agreement(v, c), "harmony", False, DOUBLED_VOICE),
    Score("chord_changes_shared", chord_changes_shared, "harmony", True, "other recordings of the song only"),
    Score("onset_agreement", lambda v, _, c: onset_agreement(v, c), "time", False, VOICE_ITSELF),
    Score("onsets_shared", onsets_shared, "time", True, SONGS_BEATS),
    Score("beat_agreement", lambda _, r, c: beat_agreement(r, c), "time", True, SONGS_BEATS),
    Score("beat_agreement_octaves", lambda _, r, c: beat_agreement(r, c, True), "time", True, SONGS_BEATS),
    Score("tempo_agreement", lambda _, r, c: tempo_agreement(r, c), "time", True, SONGS_BEATS),
    Score("tempo_agreement_octaves", lambda _, r, c: tempo_agreement(r, c, True), "time", True, SONGS_BEATS),
    Score("followed_beats", lambda v, _, c: followed_beats(v, c), "time", False, SONGS_BEATS),
    Score("followed_chords", lambda v, _, c: followed_chords(v, c), "harmony", False, DRONE),
)
SCORE_NAMES = tuple(score.name for score in SCORES)


def score_pair(voice: Features, reference: Features | None, candidate: Features) -> dict[str, float]:
    """All scores of one accompaniment (`candidate`) with one voice, by name.

    NaN if a score needs a reference and there is none, or if it is not defined for these sounds.
    """
    scores = {}
    for score in SCORES:
        if reference is not None:
            scores[score.name] = score.function(voice, reference, candidate)
        elif score.needs_reference:
            scores[score.name] = float("nan")
        else:
            # the function ignores its second argument
            scores[score.name] = score.function(voice, voice, candidate)
    return scores
