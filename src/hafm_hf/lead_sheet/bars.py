# SPDX-License-Identifier: Apache-2.0
"""A lead sheet divided into bars, from which chord charts, MIDI and MusicXML are written; the key that fits chords.

Positions are in quarter notes from the beginning of the song.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .chord_symbols import PITCH_CLASSES
from .chords import IN_KEY, NUM_TRIADS, key_fit, pitch_classes, triad_class
from .lead_sheet import LEAST_BEAT_SECONDS, LeadSheet, beats_passed
from .metre import song_metre
from .spelling import key_name
from .vocabulary import METRES, USUAL_METRE

# defaults where nothing is known
USUAL_TEMPO = 120.0
# in beats: chord changes of a chart are rounded to it
GRID = 0.5
# less time than this before the first beat is negligible
LEAST_LEAD_IN_SECONDS = 0.05
# constants of `chord_prior`: factor of its log probabilities
PRIOR_WEIGHT = 0.5
# seconds for which the key's chords are assumed to sound, in addition to the known ones
PRIOR_SECONDS = 20.0
# nats by which a chord with all notes in the key is likelier than one with none
IN_KEY_WEIGHT = 5.0
# nats by which a key that the known chords fit perfectly (a correlation of 1) is likelier than one with a fit of 0
KEY_SHARPNESS = 8.0
# times in seconds
Instants = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class Bar:
    """A bar.

    Args:
        number: from 1; 0 for a pickup.
        start, length: in quarters; `start` is counted from the beginning of the song.
        chords: (position, label) each, in quarters from the start of the bar; the first, at 0, may be held over from
            the bar before.
    """

    number: int
    start: int
    length: int
    chords: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Chart:
    """A song in bars.

    Args:
        sheet: with beats throughout the song, metre, downbeat and, if there are chords, a key.
        lead_in: number of quarters that fill the time before the first beat.
        bars: from the beginning to the end of the song.
    """

    sheet: LeadSheet
    lead_in: int
    bars: Sequence[Bar]

    @property
    def beats(self) -> Sequence[float]:
        """Beat times in seconds."""
        return self.sheet.beats or ()

    @property
    def metre(self) -> int:
        """Quarters per bar."""
        return self.sheet.beats_per_bar or USUAL_METRE

    @property
    def tempo(self) -> float:
        """Median tempo in beats a minute."""
        return float(60 / np.median(np.diff(self.beats)))

    def quarters(self, second: float) -> float:
        """Position in quarters, from the beginning of the song, of a time in seconds; at least 0."""
        first = self.beats[0]
        # the quarters of the lead-in share its time evenly
        if second < first and self.lead_in:
            return max(second / first, 0.0) * self.lead_in
        return max(self.lead_in + float(beats_passed(self.beats, np.array([second]))[0]), 0.0)


def with_bars_throughout(
    sheet: LeadSheet,
    seconds: float,
    metre: int | None = None,
    key: str | None = None,
    notes: Sequence[Sequence[float]] = (),
) -> LeadSheet:
    """Completes a lead sheet with beats throughout a song of `seconds`, bars and key, estimated where unknown.

    The metre is estimated from where chords change and notes begin (`song_metre`); bars begin where most chords do.
    The key is the one that fits the chords best (Krumhansl and Kessler 1982), and estimated chords are spelled in it.

    Args:
        sheet: what is known; without tempo and beats it gets 120 beats a minute.
        seconds: length of the song.
        metre: 3 or 4, if known; it overrides the lead sheet's.
        key: such as "A:min", if known; it overrides the lead sheet's.
        notes: of the melody (start s, stop s, …), if known; the metre is estimated from them as well.

    Returns:
        The lead sheet with `beats` instead of a tempo, `beats_per_bar`, `downbeat` and, if there are chords, `key`;
        metre and key that were estimated here are listed in `estimated`.

    Raises:
        ValueError: an unsupported metre, or an invalid key.
    """
    if sheet.beats is None:
        given_beats = [0.0, 60 / (sheet.tempo or USUAL_TEMPO)]
    else:
        given_beats = list(sheet.beats)
    # beats go on evenly, at the distance of the first two and of the last two; 1e-6 lets one fall on either end of the
    # song although the division rounds
    first_period = max(given_beats[1] - given_beats[0], LEAST_BEAT_SECONDS)
    num_before = int(max(given_beats[0], 0.0) / first_period + 1e-6)
    beats_before = [given_beats[0] - number * first_period for number in range(num_before, 0, -1)]
    last_period = max(given_beats[-1] - given_beats[-2], LEAST_BEAT_SECONDS)
    num_after = max(int((seconds - given_beats[-1]) / last_period + 1e-6), 0)
    beats_after = [given_beats[-1] + number * last_period for number in range(1, num_after + 1)]

    estimated = set(sheet.estimated)
    completed = replace(sheet, tempo=None, beats=[*beats_before, *given_beats, *beats_after])
    is_overridden = metre not in (None, sheet.beats_per_bar)
    if sheet.beats_per_bar is None or is_overridden:
        if not metre:
            estimated |= {"beats_per_bar"}
        metre = metre or song_metre(replace(completed, beats_per_bar=None), notes)
        completed = replace(completed, beats_per_bar=metre, downbeat=_likeliest_downbeat(completed, metre))
    else:
        # the beats added in front move its index
        completed = replace(completed, downbeat=(sheet.downbeat + num_before) % sheet.beats_per_bar)

    if key or completed.key is None:
        if completed.chords and not key:
            estimated |= {"key"}
        completed = replace(completed, key=key or likeliest_key(completed))
    return replace(completed, estimated=sorted(estimated)).spelled(completed.key)


def on_the_beat(sheet: LeadSheet, seconds: float) -> LeadSheet:
    """A lead sheet with all chord changes moved to the nearest beat, or to the start or end of the song.

    Args:
        sheet: has beats.
        seconds: length of the song.

    Returns:
        The lead sheet without the chords of which nothing is left.
    """
    beats = np.asarray(sheet.beats)
    edges = np.array([0.0, *beats[(beats > 0.0) & (beats < seconds)], seconds])
    chords = []
    for start, stop, label in sheet.chords:
        first = float(edges[np.abs(edges - start).argmin()])
        last = float(edges[np.abs(edges - stop).argmin()])
        if first < last:
            chords.append((first, last, label))
    return replace(sheet, chords=chords)


def bars_from_downbeats(beats: Instants, downbeats: Instants) -> dict[str, int]:
    """The fields of a lead sheet that say where bars begin, from times of beats and of downbeats in seconds.

    Returns:
        "beats_per_bar" (3 or 4) and "downbeat" (index of a beat); empty if there are fewer than two beats or two
        downbeats, or if bars have another number of beats.
    """
    if len(beats) < 2 or len(downbeats) < 2:
        return {}
    nearest = np.abs(np.asarray(beats)[:, None] - np.asarray(downbeats)[None]).argmin(axis=0)  # beat of each downbeat
    metre = int(np.median(np.diff(nearest)))
    if metre not in METRES:
        return {}
    return {"beats_per_bar": metre, "downbeat": int(nearest[0])}


def _likeliest_downbeat(sheet: LeadSheet, metre: int) -> int:
    """Index of the beat (0 to metre − 1) such that most chords begin on it or a whole number of bars later."""
    # the first chord begins with the song, on whichever beat that is
    starts = np.array([start for start, *_ in sheet.chords[1:]])
    if not len(starts) or sheet.beats is None:
        return 0
    # index of the beat nearest to each start, modulo the bar
    positions = np.round(beats_passed(sheet.beats, starts)).astype(int) % metre
    return int(np.bincount(positions, minlength=metre).argmax())


def likeliest_key(sheet: LeadSheet) -> str | None:
    """The key ("A:min") that fits the chords best, their notes weighted by duration; None without chords."""
    profile = note_seconds(sheet)
    if not profile.any():
        return None
    return key_name(int(key_fit(profile).argmax()))


def chord_prior(sheet: LeadSheet) -> NDArray[np.float64]:
    """How likely a song's known chords and key make each triad in the rest of it.

    A triad's share of the known chords' time, smoothed by a prior of triads whose notes are in the key. A key that was
    itself estimated does not count; without a given one, all keys count as far as they fit the chords.

    Returns:
        float64 [25]: weighted log probabilities, relative to uniform ones; 0 for no chord, and for all triads if
        neither chords nor a key are known.
    """
    seconds = np.zeros(NUM_TRIADS)
    profile = note_seconds(sheet)
    for start, stop, label in sheet.chords:
        seconds[triad_class(label)] += stop - start
    key = None if "key" in sheet.estimated else sheet.key
    if key is None and not profile.any():
        return np.zeros(NUM_TRIADS)
    # weight of each key, float64 [24 keys]
    if key is None:
        key_weights = np.exp(KEY_SHARPNESS * key_fit(profile))
    else:
        # keys are numbered as their tonic triads are, which follow "no chord"
        key_weights = np.eye(len(IN_KEY))[triad_class(key) - 1]
    in_key = np.exp(IN_KEY_WEIGHT * (key_weights / key_weights.sum()) @ IN_KEY)  # [24 triads]
    prior_seconds = PRIOR_SECONDS * in_key / in_key.sum()
    shares = (seconds[1:] + prior_seconds) / (seconds[1:].sum() + PRIOR_SECONDS)
    # times the number of triads: relative to a uniform probability
    return np.array([0.0, *PRIOR_WEIGHT * np.log(len(shares) * shares)])


def note_seconds(sheet: LeadSheet) -> NDArray[np.float64]:
    """Seconds for which the chords of a lead sheet contain each pitch class: float64 [12], from C."""
    profile = np.zeros(PITCH_CLASSES)
    for start, stop, label in sheet.chords:
        profile[list(pitch_classes(label))] += stop - start
    return profile


def chart(sheet: LeadSheet, seconds: float) -> Chart:
    """The chart of a song of `seconds`: its lead sheet, completed if need be, divided into bars.

    Chord changes are rounded to the nearest half beat; if two chords then begin together, the later one counts.
    """
    if not (sheet.beats and sheet.beats_per_bar):
        sheet = with_bars_throughout(sheet, seconds)
    beats = sheet.beats or ()
    metre = sheet.beats_per_bar or USUAL_METRE
    period = beats[1] - beats[0]
    lead_in = 0
    if beats[0] > LEAST_LEAD_IN_SECONDS:
        # the time before the first beat gets quarters of its own
        lead_in = max(round(beats[0] / period), 1)
    without_bars = Chart(sheet, lead_in, ())
    changes = _chord_changes(without_bars)
    # length of the song in whole quarters; less than half of the grid beyond a quarter does not begin another
    end = without_bars.quarters(seconds) - GRID / 2
    length = max(math.ceil(max([end, *changes], default=0.0)), 1)

    # where each bar begins; a pickup, shorter than the others, has the number 0
    pickup = (lead_in + sheet.downbeat) % metre
    starts = list(range(pickup, length, metre))
    first_number = 1
    if pickup:
        starts = [0, *starts]
        first_number = 0
    bars = []
    last_chord = "N"
    for number, start in enumerate(starts, start=first_number):
        size = metre
        if number == 0:
            size = pickup
        # the chord of the bar before goes on, unless another begins with the bar
        chords = {0.0: last_chord}
        for position, label in changes.items():
            if start <= position < start + size:
                chords[position - start] = label
        last_chord = list(chords.values())[-1]
        bars.append(Bar(number, start, size, tuple(chords.items())))
    return Chart(sheet, lead_in, bars)


def _chord_changes(song: Chart) -> dict[float, str]:
    """The chord changes of a song: label of the new chord ("N" for none) by its position.

    Positions are in order, in quarters from the beginning of the song, rounded to `GRID`.
    """

    def rounded(second: float) -> float:
        """Position in quarters, on the grid, of a time in seconds."""
        return max(round(song.quarters(second) / GRID) * GRID, 0.0)

    # the chord from each position on; where chords overlap, the later one counts
    chord_at: dict[float, str] = {}
    for start, stop, label in song.sheet.chords:
        first = rounded(start)
        last = rounded(stop)
        if last <= first:
            continue
        # what was to sound at its end goes on after it
        earlier = [position for position in chord_at if position <= last]
        chord_after = "N"
        if earlier:
            chord_after = chord_at[max(earlier)]
        chord_at = {position: name for position, name in chord_at.items() if not first <= position < last}
        chord_at |= {first: label, last: chord_after}
    changes = {}
    chord_before = "N"
    for position in sorted(chord_at):
        if chord_at[position] != chord_before:
            changes[position] = chord_at[position]
        chord_before = chord_at[position]
    return changes
