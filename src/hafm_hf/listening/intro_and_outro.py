# SPDX-License-Identifier: Apache-2.0
"""Intro and outro: the length and the chords of the bars that the band plays before and after the voice."""

import math
from dataclasses import dataclass, replace

import numpy as np

from ..audio import Samples
from ..lead_sheet.bars import USUAL_METRE, with_bars_throughout
from ..lead_sheet.lead_sheet import LeadSheet, Span, beats_passed, seconds_at

# seconds within which the last chord dies away
RING_SECONDS = 2.5
# seconds of silence before the first beat, so that its attack is not cut off
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
        """Adds `tail` seconds of fade-out after a vocal that is `seconds` long; its last chord is held."""
        end = self.before + seconds
        sheet = _with_last_chord_held(_without_chords_after(self.sheet, end), end, end + tail)
        return replace(self, after=tail, fade=tail, sheet=sheet)


def _without_chords_after(sheet: LeadSheet, end: float) -> LeadSheet:
    """The lead sheet without the chords after a time in seconds; a chord that sounds then ends there."""
    chords = [(start, min(stop, end), label) for start, stop, label in sheet.chords if start < end]
    return replace(sheet, chords=chords)


def _with_last_chord_held(sheet: LeadSheet, end: float, until: float) -> LeadSheet:
    """The lead sheet with the chord at the `end` of the vocal held `until` a later time, both in seconds."""
    if until <= end:
        return sheet
    spans = []
    for start, stop, label in sheet.chords:
        # a chord that ends just before the vocal does is also its last chord
        if stop > end - LEAD_SECONDS:
            stop = max(stop, until)
        spans.append((start, stop, label))
    return replace(sheet, chords=spans)


def add_bars(sheet: LeadSheet, vocal: Samples, rate: int, intro: int, outro: int) -> IntroAndOutro:
    """Makes room for an intro and an outro.

    The intro repeats the chords of the first bars, the outro those of the last bars. The outro ends with the tonic
    chord, if the key is known, on the first beat of a bar.

    Args:
        sheet: lead sheet of the vocal, given and estimated.
        vocal (float32 [N]): mono.
        rate (Hz): sampling rate of the vocal.
        intro, outro: number of bars, 0 for none.

    Returns:
        The silence to add before and after the vocal, the fade-out, and the lead sheet of the longer song: its beats
        cover intro and outro, and its `form` names both.
    """
    seconds = len(vocal) / rate
    whole = with_bars_throughout(sheet, seconds)
    beats = list(whole.beats or ())
    metre = whole.beats_per_bar or USUAL_METRE

    # bar 0 begins at the downbeat of the lead sheet; bars before it have negative numbers
    def bar_at(second: float) -> float:
        """Position in bars, with fractions, of a time in seconds."""
        return float(beats_passed(beats, np.array([second]))[0] - whole.downbeat) / metre

    def start_of(bar: float) -> float:
        """Time in seconds of a position in bars, the inverse of `bar_at`."""
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
    magnitudes = np.abs(vocal)
    onset = int(np.argmax(magnitudes >= magnitudes.max() * 10 ** (ONSET_DB / 20)))  # in samples
    onset_seconds = onset / rate
    first_bar = math.floor(bar_at(onset_seconds) + PICKUP)
    if intro:
        # the intro gets chords of its own, so one that starts in it, or with the recording, is moved to its end
        intro_end = min(start_of(first_bar), onset_seconds)
        intro_start = start_of(first_bar - intro)
        spans = []
        for start, stop, label in whole.chords:
            if intro_start <= start < max(intro_end, LEAD_SECONDS):
                start = intro_end
            if start < stop:
                spans.append((start, stop, label))
        whole = replace(whole, chords=spans)

    # the bar after the voice's last; a bar into which the voice reaches by less than a beat does not count
    end_bar = max(math.ceil(bar_at(seconds) - 1 / metre), first_bar + 1)
    if outro:
        # the chord of a last, incomplete bar lasts to the end of that bar
        whole = _with_last_chord_held(whole, seconds, start_of(end_bar))
        whole = _without_chords_after(whole, start_of(end_bar))
    num_bars = end_bar - first_bar
    # the song's last bar has only the final chord, which rings
    last_bar = end_bar + outro - 1
    song_end = start_of(last_bar) + RING_SECONDS

    # an intro or outro of more bars than the voice has repeats the voice's bars from the start, or back from the end
    chords = list(whole.chords)
    for number in range(intro):
        chords += copied(first_bar - intro + number, first_bar + number % num_bars)
    for number in range(outro - 1):
        # −1 is the voice's last bar
        bar_from_end = number - (outro - 1)
        chords += copied(end_bar + number, first_bar + bar_from_end % num_bars)
    if outro and whole.key:
        # a key's name is also that of its tonic chord
        chords.append((start_of(last_bar), song_end, whole.key))

    # a lead sheet returned with an earlier song names both already
    form = [span for span in whole.form if span[2] not in ("Intro", "Outro")]
    if intro:
        form += [(start_of(first_bar - intro), start_of(first_bar), "Intro")]
    if outro:
        form += [(start_of(end_bar), song_end, "Outro")]

    before = 0.0
    if intro:
        before = max(LEAD_SECONDS - start_of(first_bar - intro), 0.0)
    after = 0.0
    fade = 0.0
    if outro:
        after = song_end - seconds
        fade = RING_SECONDS
    longer = replace(whole, chords=sorted(chords), form=sorted(form)).moved(before)
    return IntroAndOutro(with_bars_throughout(longer, before + seconds + after), before, after, fade)
