# SPDX-License-Identifier: Apache-2.0
"""Bars that the band plays before the voice begins and after it has ended: how long they last, and to which chords."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ..audio import Samples
from ..lead_sheet.bars import USUAL_METRE, completed
from ..lead_sheet.lead_sheet import LeadSheet, Span, beats_passed, seconds_at

# the last chord dies away within them
RING_SECONDS = 2.5
# silence before the first beat, so that its attack is whole
LEAD_SECONDS = 0.1
# a voice that begins later in a bar than this share of it sings a pickup
PICKUP = 0.5
# dB below the loudest sample: the voice begins with what is louder
ONSET_DB = -30.0
# of a bar: less of a chord is a rounding of its end
LEAST_BARS = 0.05


@dataclass(frozen=True)
class Ends:
    """Silence around a vocal for the band to fill, in seconds.

    Args:
        before: in front of the vocal.
        after: behind it.
        fade: how much of the end fades out.
        sheet: what is known of the longer song.
    """

    before: float = 0.0
    after: float = 0.0
    fade: float = 0.0
    sheet: LeadSheet | None = None

    def with_tail(self, seconds: float, tail: float) -> Ends:
        """The same with `tail` seconds behind a vocal of so many, through which its last chord is held."""
        end = self.before + seconds
        return replace(self, after=tail, fade=tail, sheet=self.sheet and _held(self.sheet, end, end + tail))


def _held(sheet: LeadSheet, end: float, until: float) -> LeadSheet:
    """A lead sheet whose chord at the `end` of a vocal sounds on, all in seconds."""
    spans = [(a, max(b, until) if b > end - LEAD_SECONDS else b, label) for a, b, label in sheet.chords]
    return replace(sheet, chords=spans) if until > end else sheet


def add_bars(sheet: LeadSheet, vocal: Samples, rate: int, intro: int, outro: int) -> Ends:
    """The ends of a song with so many bars before the voice and after it.

    The intro has the chords of the first bars; the outro those of the last, and ends on the first beat of a bar with
    the chord of the key.

    Args:
        sheet: of the vocal, with what was given and estimated.
        vocal (float32 [N]): mono.
        rate (Hz): of it.
        intro, outro: bars, 0 for none.

    Returns:
        the silence, and the lead sheet of the longer song: its beats go on through both ends, and `form` names them.
    """
    seconds = len(vocal) / rate
    whole = completed(sheet, seconds)
    beats, metre = list(whole.beats or ()), whole.beats_per_bar or USUAL_METRE

    def bar_at(second: float) -> float:
        return float(beats_passed(beats, np.array([second]))[0] - whole.downbeat) / metre

    def start_of(bar: float) -> float:
        return seconds_at(beats, whole.downbeat + bar * metre)

    def copied(bar: int, source: int) -> list[Span]:
        """The chords of a bar, in another one."""
        inside = [(max(bar_at(a), source), min(bar_at(b), source + 1), label) for a, b, label in whole.chords]
        moved = ((a + bar - source, b + bar - source, label) for a, b, label in inside if b - a > LEAST_BARS)
        return [(start_of(a), start_of(b), label) for a, b, label in moved]

    level = np.abs(vocal)
    onset = int(np.argmax(level >= level.max() * 10 ** (ONSET_DB / 20)))
    first = math.floor(bar_at(onset / rate) + PICKUP)
    if intro:
        # a recording that begins inside a bar cuts its chord
        begin = start_of(first)
        spans = [(min(a, begin) if a < LEAD_SECONDS else a, b, label) for a, b, label in whole.chords]
        whole = replace(whole, chords=spans)
    # a last note may ring on into the bar that it ends in
    end = max(math.ceil(bar_at(seconds) - 1 / metre), first + 1)
    if outro:
        # nor does one that ends inside a bar
        whole = _held(whole, seconds, start_of(end))
    count = end - first
    finish = start_of(end + outro - 1) + RING_SECONDS
    chords = [span for n in range(intro) for span in copied(first - intro + n, first + n % count)]
    chords += [span for n in range(outro - 1) for span in copied(end + n, first + (n - outro + 1) % count)]
    if outro and whole.key:
        chords.append((start_of(end + outro - 1), finish, whole.key))
    form = [(start_of(first - intro), start_of(first), "Intro")] if intro else []
    form += [(start_of(end), finish, "Outro")] if outro else []
    before = max(LEAD_SECONDS - start_of(first - intro), 0.0) if intro else 0.0
    after = finish - seconds if outro else 0.0
    longer = replace(whole, chords=sorted((*whole.chords, *chords)), form=(*whole.form, *form)).moved(before)
    return Ends(before, after, RING_SECONDS if outro else 0.0, completed(longer, before + seconds + after))
