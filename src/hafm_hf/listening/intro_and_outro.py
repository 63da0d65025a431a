# SPDX-License-Identifier: Apache-2.0
"""Intro and outro: the length and the chords of the bars that the band plays before and after the voice."""

import math
from dataclasses import dataclass, replace

import numpy as np

from ..audio import Samples
from ..lead_sheet.bars import USUAL_METRE, with_bars_throughout
from ..lead_sheet.lead_sheet import LeadSheet, Span, beats_passed, seconds_at

# the last chord dies away within this time
RING_SECONDS = 2.5
# silence before the first beat, so that its attack is not cut off
LEAD_SECONDS = 0.1
# a voice that enters after this fraction of a bar sings a pickup to the next
PICKUP = 0.5
# relative to the loudest sample, in dB: the voice begins at the first sample above this level
ONSET_DB = -30.0
# in bars: a shorter piece of a chord is a rounding error of its boundary
LEAST_BARS = 0.05


@dataclass(frozen=True)
class IntroAndOutro:
    """Silence around a vocal for the band to fill, in seconds; nothing by default.

    Args:
        sheet: lead sheet of the longer song, as far as it is known.
        before: silence before the vocal.
        after: silence after it.
        fade: length of the fade-out at the end.
    """

    sheet: LeadSheet
    before: float = 0.0
    after: float = 0.0
    fade: float = 0.0

    def with_tail(self, seconds: float, tail: float) -> "IntroAndOutro":
        """Adds `tail` seconds after a vocal that is `seconds` long; its last chord is held through them."""
        end = self.before + seconds
        return replace(self, after=tail, fade=tail, sheet=_held(_until(self.sheet, end), end, end + tail))


def _until(sheet: LeadSheet, end: float) -> LeadSheet:
    """Drops the chords after a time in seconds; a chord that sounds then ends there."""
    return replace(
        sheet, chords=[(start, min(stop, end), label) for start, stop, label in sheet.chords if start < end]
    )


def _held(sheet: LeadSheet, end: float, until: float) -> LeadSheet:
    """Extends the chord that sounds at the `end` of a vocal `until` a later time, both in seconds."""
    if until <= end:
        return sheet
    spans = []
    for start, stop, label in sheet.chords:
        # a chord that ends just before the vocal does is its last one, too
        if stop > end - LEAD_SECONDS:
            stop = max(stop, until)
        spans.append((start, stop, label))
    return replace(sheet, chords=spans)


def add_bars(sheet: LeadSheet, vocal: Samples, rate: int, intro: int, outro: int) -> IntroAndOutro:
    """Makes room for an intro and an outro.

    The intro repeats the chords of the first bars, the outro those of the last bars; it ends with the tonic chord, if
    the key is known, on the first beat of a bar.

    Args:
        sheet: lead sheet of the vocal, given and estimated.
        vocal (float32 [N]): mono.
        rate (Hz): sampling rate of the vocal.
        intro, outro: number of bars, 0 for none.

    Returns:
        The silence, and the lead sheet of the longer song: its beats cover intro and outro, and `form` names both.
    """
    seconds = len(vocal) / rate
    whole = with_bars_throughout(sheet, seconds)
    beats = list(whole.beats or ())
    metre = whole.beats_per_bar or USUAL_METRE

    # bars are counted from the first downbeat; before it their numbers are negative
    def bar_at(second: float) -> float:
        """Number of bars, with fractions, that have passed at a time in seconds."""
        return float(beats_passed(beats, np.array([second]))[0] - whole.downbeat) / metre

    def start_of(bar: float) -> float:
        """Time in seconds at which so many bars have passed."""
        return seconds_at(beats, whole.downbeat + bar * metre)

    def copied(bar: int, source: int) -> list[Span]:
        """The chords of the bar `source`, moved to the bar `bar`: (start s, stop s, label) each."""
        spans = []
        for start, stop, label in whole.chords:
            first = max(bar_at(start), source)
            last = min(bar_at(stop), source + 1)
            if last - first > LEAST_BARS:
                spans.append((start_of(first + bar - source), start_of(last + bar - source), label))
        return spans

    # the voice's first bar
    level = np.abs(vocal)
    onset = int(np.argmax(level >= level.max() * 10 ** (ONSET_DB / 20)))
    onset_seconds = onset / rate
    first_bar = math.floor(bar_at(onset_seconds) + PICKUP)
    if intro:
        # until the voice begins, the intro's chords count; a recording may begin in the middle of a chord
        begin = min(start_of(first_bar), onset_seconds)
        opening = start_of(first_bar - intro)
        spans = []
        for start, stop, label in whole.chords:
            if opening <= start < max(begin, LEAD_SECONDS):
                start = begin
            if start < stop:
                spans.append((start, stop, label))
        whole = replace(whole, chords=spans)

    # the bar after the voice's last; a last note that spills less than a beat into a bar does not use up that bar
    end_bar = max(math.ceil(bar_at(seconds) - 1 / metre), first_bar + 1)
    if outro:
        # the chord of a last, incomplete bar lasts to the end of that bar
        whole = _until(_held(whole, seconds, start_of(end_bar)), start_of(end_bar))
    num_bars = end_bar - first_bar
    # the song's last bar has only the final chord, which rings
    last_bar = end_bar + outro - 1
    finish = start_of(last_bar) + RING_SECONDS

    # the voice's bars are repeated if intro or outro has more of them
    chords = list(whole.chords)
    for number in range(intro):
        chords += copied(first_bar - intro + number, first_bar + number % num_bars)
    for number in range(outro - 1):
        chords += copied(end_bar + number, first_bar + (number - outro + 1) % num_bars)
    if outro and whole.key:
        # a key's name is also that of its tonic chord
        chords.append((start_of(last_bar), finish, whole.key))

    # the sheet of an earlier song names both already
    form = [span for span in whole.form if span[2] not in ("Intro", "Outro")]
    if intro:
        form += [(start_of(first_bar - intro), start_of(first_bar), "Intro")]
    if outro:
        form += [(start_of(end_bar), finish, "Outro")]

    before = 0.0
    if intro:
        before = max(LEAD_SECONDS - start_of(first_bar - intro), 0.0)
    after = 0.0
    fade = 0.0
    if outro:
        after = finish - seconds
        fade = RING_SECONDS
    longer = replace(whole, chords=sorted(chords), form=sorted(form)).moved(before)
    return IntroAndOutro(with_bars_throughout(longer, before + seconds + after), before, after, fade)
