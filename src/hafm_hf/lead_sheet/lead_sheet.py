# SPDX-License-Identifier: Apache-2.0
"""The lead sheet: what is known about a song besides the vocal (beats, bars, chords, key, sections, style).

By default, beats (by the tokenizer's rhythm network), chords (by the listener) and the key (from the chords) are
estimated from the vocal, and a style that suits them is drawn; metre and sections stay unknown unless they are given
or asked for. The user may give or correct any part. The stages are conditioned on the lead sheet through rows, called
streams in config files: one small integer per frame for each kind of information, 0 where unknown; a stage's
configuration names those that it reads (`lead_sheet_streams`).
"""

import math
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .chord_symbols import read_chord
from .chords import NUM_CHORD_CLASSES, chord_class, chord_label
from .spelling import key_label, spelled
from .vocabulary import ENERGIES as ENERGIES
from .vocabulary import METRES as METRES

# slowest and fastest tempo of a lead sheet
BEATS_PER_MINUTE = (55.0, 185.0)
# an estimated chord that reaches no further than this into a gap is left out
LEAST_OVERLAP_SECONDS = 1e-3
# about a bar: shorter gaps between chords are not filled with estimates
BAR_SECONDS = 2.0
# given beats closer together than this are refused
LEAST_BEAT_SECONDS = 0.1
# separates words; those in C7(b9,#11) are inside parentheses
OUTER_COMMA = re.compile(r",(?![^(]*\))")
# in seconds: no song lasts longer than a day
LATEST_BEAT = 86_400.0
# in a bar of chords: a beat on which the chord before goes on
HELD = "/"
# signs at the beginning and the end of a repeat
REPEAT = "𝄆"
REPEAT_END = "𝄇"
# repeat signs as they are typed, and what replaces them: an end and a beginning, a beginning, an end
REPEATS = {
    r":\|[|\s]*:": f" {REPEAT_END} | {REPEAT} ",
    r"\|[|\s]*:": f"| {REPEAT} ",
    r":[|\s]*\|": f" {REPEAT_END} |",
}
# start s, stop s, label
Span = tuple[float, float, str]
Array = NDArray[np.float64]
# the value of lead-sheet rows where nothing is known
UNKNOWN = 0
# equal parts of a beat; a multiple of 3 and 4, for triplets and sixteenths
BEAT_SLICES = 12
# most styles that a model can have
MAX_STYLES = 15
# number of values of each lead-sheet row, 0 (unknown) included; in the order of `vocabulary.LEAD_SHEET_ROWS`
ROW_SIZES = {
    "chord": 1 + NUM_CHORD_CLASSES,
    "beat": 1 + BEAT_SLICES,
    # the number of the beat in a bar of three and of four
    "bar": 1 + sum(METRES),
    "energy": 1 + len(ENERGIES),
    "style": 1 + MAX_STYLES,
}


@dataclass(frozen=True)
class LeadSheet:
    """What is known about a song; every field is optional.

    Args:
        tempo: constant tempo in beats a minute, such as that of a take recorded to a click.
        beats: times of at least two beats in seconds, in order; extrapolated evenly on both sides.
        chords: (start s, stop s, label), in Harte's or lead-sheet notation: "A:min7", "Am7", "Bb", "N" for no chord.
            Where chords overlap, the later one counts. Or a string for `bars`: "C | Am | F | G"; % repeats a bar,
            |: and :| what is between them, and / is a beat on which the last chord goes on ("C / / G").
        beats_per_bar: 3 or 4 quarters.
        downbeat: index in `beats`, from 0, of a beat that begins a bar; the other bars follow from `beats_per_bar`.
            The property `downbeats` has the times of all of them.
        key: "A:min" or "C:maj"; "Am", "A minor" and "C" are converted to this notation.
        sections: (start s, stop s, energy), energy one of "sparse", "normal", "full".
        style: name of one of the model's styles, or (start s, stop s, name) where it changes; if missing, drawn from
            the seed, a different one for each sample.
        form: (start s, stop s, name) of verse, chorus and so on, for display only; no stage reads them.
        estimated: names of the fields that were estimated from the vocal, or drawn; the others were given.
        bars: chords by the bar, repeated to the end of the song; several chords in a bar ("C F") share it evenly. The
            first bar begins at the downbeat or, with only a tempo, at the beat nearest to the start of the vocal.
            `chords` take precedence over `bars`.

    Raises:
        ValueError: a field of the wrong type, a tempo out of range or given with beats, unordered beats, a span that
            is infinite or empty, an invalid chord or key, an unknown energy, metre or field, or bars without a beat.
    """

    tempo: float | None = None
    beats: Sequence[float] | None = None
    chords: Sequence[Span] = ()
    beats_per_bar: int | None = None
    downbeat: int = 0
    key: str | None = None
    sections: Sequence[Span] = ()
    style: str | Sequence[Span] | None = None
    form: Sequence[Span] = ()
    estimated: Sequence[str] = ()
    bars: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Converts what was given to plain types and one notation, and raises ValueError for what is invalid."""
        # `object.__setattr__`: the class is frozen
        for field in fields(self):
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))
        if isinstance(self.chords, str):
            object.__setattr__(self, "bars", _as_bars(self.chords))
            object.__setattr__(self, "chords", ())
        object.__setattr__(self, "bars", tuple(self.bars or ()))
        for name in ("chords", "sections", "style", "form"):
            if not isinstance(spans := getattr(self, name), str | None):
                object.__setattr__(self, name, _as_spans(name, spans))
        self._check_beats()
        self._check_bars()
        all_spans = {"chord": self.chords, "section": self.sections, "style": self.styles, "form": self.form}
        for name, spans in all_spans.items():
            # so written, NaN is refused as well
            for start, stop, label in spans:
                if not -math.inf < start < stop < math.inf:
                    span = f"from {start:g} to {stop:g} s"
                    raise ValueError(f"The {name} {label} {span} is invalid; give finite times, start before stop.")
        for *_, label in self.chords:
            read_chord(label)
        for *_, energy in self.sections:
            if energy not in ENERGIES:
                raise ValueError(f"A section is {energy!r}; choose from {', '.join(ENERGIES)}.")
        if self.key is not None:
            object.__setattr__(self, "key", key_label(self.key))
        names = {field.name for field in fields(self)} - {"estimated", "downbeat"}
        if unknown := sorted(set(self.estimated) - names):
            raise ValueError(f"A lead sheet has no field {unknown[0]!r}; it has {', '.join(sorted(names))}.")

    def _check_bars(self) -> None:
        """Raises ValueError for bars of chords that cannot be counted or placed."""
        if self.bars and not self.has_beats:
            raise ValueError("Chords by the bar need a beat to count bars by; give a tempo or beats as well.")
        for number, label in enumerate(self.bars, start=1):
            chords = label.split()
            if not chords:
                raise ValueError(f"Bar {number} of the chords is empty; write N for no chord.")
            if number == 1 and chords[0] == HELD:
                raise ValueError("Bar 1 of the chords begins with /, which holds a chord; begin with a chord.")
            for chord in chords:
                if chord != HELD:
                    read_chord(chord)
            metre = self.beats_per_bar
            # chords with / are counted in beats, which must divide the bar evenly; without a metre this is checked
            # when the bars are placed
            divides_bar = not metre or metre % len(chords) == 0 or len(chords) % metre == 0
            if HELD in chords and not divides_bar:
                raise ValueError(f"Bar {number} of the chords, {label!r}, has {len(chords)} beats instead of {metre}.")

    def _check_beats(self) -> None:
        """Raises ValueError for an invalid tempo, beats, metre or downbeat."""
        slowest, fastest = BEATS_PER_MINUTE
        if self.tempo is not None and not isinstance(self.tempo, Real):
            raise ValueError(f"tempo is {self.tempo!r}; it must be a number of beats a minute.")
        if self.tempo is not None and not slowest <= self.tempo <= fastest:
            raise ValueError(f"tempo is {self.tempo:g}; halve or double it: {slowest:g} to {fastest:g} BPM.")
        if self.tempo is not None and self.beats is not None:
            raise ValueError("beats already determine the tempo; leave tempo out.")
        if self.beats is not None:
            is_list = isinstance(self.beats, Iterable) and not isinstance(self.beats, str)
            if not is_list or not all(isinstance(beat, Real) for beat in self.beats):
                raise ValueError(f"beats are {reprlib.repr(self.beats)}; they must be numbers, in seconds.")
            if len(self.beats) < 2:
                raise ValueError("beats has fewer than two times; give two or more.")
            # each beat and the next
            pairs = list(pairwise(self.beats))
            if not all(-LATEST_BEAT < before < after < LATEST_BEAT for before, after in pairs):
                raise ValueError("beats must be increasing times in seconds, within a day.")
            too_close = [beat for beat, after in pairs if after - beat < LEAST_BEAT_SECONDS]
            # estimated beats are accepted: the user could not correct them
            if too_close and "beats" not in self.estimated:
                raise ValueError(
                    f"At {too_close[0]:.2f} s beats lie less than {LEAST_BEAT_SECONDS:g} s apart; "
                    "halve the tempo or leave one out."
                )
        if self.beats_per_bar is not None and self.beats_per_bar not in METRES:
            raise ValueError(f"beats_per_bar is {self.beats_per_bar}; it must be 3 or 4.")
        if not isinstance(self.downbeat, int):
            raise ValueError(f"downbeat is {self.downbeat!r}; it must be the number of a beat.")

    @classmethod
    def given(cls, value: Any) -> "LeadSheet":
        """The lead sheet that a caller gave: as it is, or made from a dict of its fields, such as one read from JSON.

        Raises:
            ValueError: it is neither, or is invalid.
        """
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise ValueError(
                'lead_sheet must be a LeadSheet or a dict such as {"tempo": 96, "chords": [[0, 2.5, "C"]]}.'
            )
        names = [field.name for field in fields(cls)]
        if unknown := [str(name) for name in value if name not in names]:
            raise ValueError(f"lead_sheet has no {unknown[0]!r}; its fields are {', '.join(names)}.")
        try:
            return cls(**value)
        except (TypeError, AttributeError) as error:
            raise ValueError(
                "A lead_sheet has tempo (a number), beats (numbers), chords and sections ([start, stop, label] each)."
            ) from error

    @classmethod
    def from_estimates(cls, phase: torch.Tensor, chords: torch.Tensor | None, frame_rate: int) -> "LeadSheet":
        """Makes a lead sheet from estimates: the beats of a beat track, and the likeliest chord of each frame.

        Args:
            phase (float [frames]): beat phase at the middle of each frame, from 0 at a beat to 1 at the next.
            chords (float [frames, 25], *optional*): probability of each chord (class 0 to 24, see `chord_label`).
            frame_rate: in Hz.

        Returns:
            A lead sheet with `beats` if there are two or more, and `chords`, both listed as estimated.
        """
        # frames between whose middle and that of the next a beat begins
        wraps = torch.nonzero(begins_beat(phase))[:, 0]
        # interpolates between these two middles to where the phase reaches 1
        phase_before = phase[wraps].double()
        phase_after = phase[wraps + 1].double()
        fractions = (1 - phase_before) / (1 - phase_before + phase_after)
        beats = (wraps + 0.5 + fractions) / frame_rate
        estimates: dict[str, Any] = {}
        if len(beats) > 1:
            estimates["beats"] = beats.tolist()
        if chords is not None and len(chords):
            runs = _runs(chords.argmax(-1), frame_rate)
            estimates["chords"] = [(start, stop, chord_label(chord)) for start, stop, chord in runs]
        return cls(**estimates, estimated=list(estimates))

    def to_dict(self) -> dict[str, Any]:
        """The fields that differ from the defaults, as a JSON-serialisable dict; `LeadSheet.given` reads it."""
        empty = LeadSheet()
        return {name: value for name, value in asdict(self).items() if value not in (getattr(empty, name), [], ())}

    def moved(self, seconds: float) -> "LeadSheet":
        """The lead sheet with all times moved later by `seconds`."""
        changes: dict[str, Any] = {}
        if self.beats is not None:
            changes["beats"] = [beat + seconds for beat in self.beats]
        all_spans = {"chords": self.chords, "sections": self.sections, "style": self.styles, "form": self.form}
        for name, spans in all_spans.items():
            # a style that holds for the whole song is not a span
            if spans:
                changes[name] = [(start + seconds, stop + seconds, label) for start, stop, label in spans]
        return replace(self, **changes)

    def completed_by(self, estimate: "LeadSheet") -> "LeadSheet":
        """A copy whose missing fields are taken from `estimate`; tempo, beats and downbeat are only taken together.

        Fields that were taken are listed as estimated if `estimate` lists them so.
        """
        names = [name for name in ("chords", "key", "sections", "style") if not getattr(self, name)]
        if not self.has_beats:
            names += ["tempo", "beats", "downbeat"]
        if not self.has_beats and not self.beats_per_bar:
            names += ["beats_per_bar"]
        missing = {name: getattr(estimate, name) for name in names}
        estimated = {*self.estimated, *(set(estimate.estimated) & missing.keys())}
        return replace(self, **missing, estimated=sorted(estimated))

    def chord_gaps(self, seconds: float) -> list[tuple[float, float]]:
        """Gaps between known chords, about a bar or longer, in a song of `seconds`: (start s, stop s).

        A gap after the last chord stops at infinity, since chords are estimated to the end of the song, wherever that
        is. Without chords there is one gap, which begins at 0.
        """
        gaps = []
        end = 0.0
        for start, stop, _ in sorted(self.chords):
            if start - end >= BAR_SECONDS:
                gaps.append((end, start))
            end = max(end, stop)
        if not self.chords or seconds - end >= BAR_SECONDS:
            gaps.append((end, math.inf))
        return gaps

    def with_chords_in_gaps(self, estimate: "LeadSheet", gaps: Sequence[tuple[float, float]]) -> "LeadSheet":
        """This lead sheet with the chords of an estimate added, cut to `gaps` ((start s, stop s) each)."""
        between = []
        for first, last in gaps:
            for start, stop, label in estimate.chords:
                if last - start > LEAST_OVERLAP_SECONDS and stop - first > LEAST_OVERLAP_SECONDS:
                    between.append((max(start, first), min(stop, last), label))
        return replace(self, chords=sorted((*between, *self.chords), key=lambda span: span[0]))

    def spelled(self, key: str | None) -> "LeadSheet":
        """The lead sheet with estimated chords spelled as in a key ("A:min"); given ones stay as they are written."""
        if "chords" not in self.estimated:
            return self
        return replace(self, chords=[(start, stop, spelled(label, key)) for start, stop, label in self.chords])

    @property
    def has_beats(self) -> bool:
        """Whether tempo or beats are known."""
        return self.tempo is not None or self.beats is not None

    @property
    def downbeats(self) -> Sequence[float]:
        """Times in seconds of all beats that begin a bar; empty if beats or metre are unknown.

        They are every `beats_per_bar`th of `beats`, counted from the index `downbeat` both ways.
        """
        metre = self.beats_per_bar
        if metre is None:
            return ()
        return [second for index, second in enumerate(self.beats or ()) if (index - self.downbeat) % metre == 0]

    @property
    def styles(self) -> Sequence[Span]:
        """Styles given as spans; empty if one style holds for the whole song."""
        if self.style is None or isinstance(self.style, str):
            return ()
        return self.style

    def with_bars_placed(self, phase: torch.Tensor, frame_rate: int) -> "LeadSheet":
        """Converts `bars` to timed `chords`.

        Args:
            phase (float [frames]): beat phase at the middle of each frame of the song, 0 to 1; used only if there are
                no `beats`.
            frame_rate: in Hz.

        Returns:
            A lead sheet without `bars` but with `chords`, `beats_per_bar` (4 unless known) and `downbeat`.
        """
        if not self.bars:
            return self
        if self.beats_per_bar is None:
            # so that the bars are checked against the metre in which they are counted
            return replace(self, beats_per_bar=METRES[-1]).with_bars_placed(phase, frame_rate)
        # number of beats passed at each frame since `beats[0]`; at `first_downbeat` the first bar begins
        passed = self.beats_passed(len(phase), frame_rate)
        first_downbeat = self.downbeat
        downbeat = first_downbeat
        metre = self.beats_per_bar
        if passed is None:
            # counted by the phase from the beat before the first frame; bar 0 begins at the beat nearest to that frame
            counted = phase.to(torch.float64, copy=True)
            counted[1:] += begins_beat(phase).cumsum(0)
            passed = counted.numpy()
            first_downbeat = round(float(passed[0]))
            # as an index in the beats of `from_estimates`, which lists none before the middle of the first frame
            downbeat = (first_downbeat - int(np.floor(passed[0])) - 1) % metre

        # the bar of the song that each frame is in, and the part of that bar: its chords share a bar evenly
        bars = [label.split() for label in self.bars]
        parts_of_bars = np.array([len(labels) for labels in bars])
        most_parts = int(parts_of_bars.max())
        bar_positions = (passed - first_downbeat) / metre
        bar_of_frame = np.floor(bar_positions).astype(int)
        position_in_bar = bar_positions - bar_of_frame
        part_of_frame = np.floor(position_in_bar * parts_of_bars[bar_of_frame % len(bars)]).astype(int)

        # bar and part are packed into one integer, so that a run of frames has one of each
        packed_frames = torch.from_numpy(bar_of_frame * most_parts + part_of_frame)
        chords: list[Span] = []
        for start, stop, packed in _runs(packed_frames, frame_rate):
            bar, part = divmod(packed, most_parts)
            label = bars[bar % len(bars)][part]
            # before the first bar
            if bar < 0:
                continue
            if label != HELD:
                chords.append((start, stop, label))
            elif chords:
                begun, _, held = chords[-1]
                chords[-1] = (begun, stop, held)
        # where chords overlap, the later one in the list counts: those given with times
        return replace(self, bars=(), chords=(*chords, *self.chords), downbeat=downbeat, beats_per_bar=metre)

    def beat_phase(self, frames: int, frame_rate: int) -> torch.Tensor | None:
        """Beat phase at the middle of each frame (`frame_rate` in Hz), from 0 at a beat to 1 at the next.

        Returns:
            float32 [frames]; None without `beats`.
        """
        passed = self.beats_passed(frames, frame_rate)
        if passed is None:
            return None
        return wrapped(passed)

    def beats_passed(self, frames: int, frame_rate: int) -> np.ndarray | None:
        """Number of beats, with fractions, since `beats[0]` at the middle of each frame (`frame_rate` in Hz).

        Returns:
            float64 [frames]; None without `beats`.
        """
        if self.beats is None:
            return None
        return beats_passed(self.beats, (np.arange(frames) + 0.5) / frame_rate)


def _plain(value: Any) -> Any:
    """A field's value with arrays, tensors and their scalars converted to JSON-serialisable Python types."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, range):
        return list(value)
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    return value


def _as_spans(name: str, spans: Any) -> tuple[Span, ...]:
    """Spans that a user has given for the field `name`, as tuples.

    Raises:
        ValueError: one is not [start s, stop s, label].
    """
    # a value that is no sequence is refused below as an invalid span
    if not isinstance(spans, Iterable):
        spans = [spans]
    for span in spans:
        has_three_parts = isinstance(span, Sequence) and not isinstance(span, str) and len(span) == 3
        if not has_three_parts or not all(isinstance(second, Real) for second in span[:2]):
            way_out = ""
            if name == "chords":
                way_out = "; chords without times are a string, by the bar: 'C | G'"
            raise ValueError(f"{name} must be [start s, stop s, label] each, not {span!r}{way_out}.")
    return tuple(tuple(span) for span in spans)


def _as_bars(text: str) -> list[str]:
    """The chords of each bar from a chart in which bars end at | and at line breaks; repeats are written out.

    "C | Am / % |: F G :|" becomes ["C", "Am / %", "F G", "F G"]; % alone repeats the bar before.

    Raises:
        ValueError: it is unclear where bars end, or a repeat does not end.
    """
    signs = OUTER_COMMA.sub(" ", text)
    for pattern, sign in REPEATS.items():
        signs = re.sub(pattern, sign, signs)
    lines = [line.strip("| \t") for line in signs.splitlines()]
    written = " | ".join(filter(None, lines))
    if "|" not in written:
        # each chord, with the / that follow it
        chords = re.findall(rf"[^\s{REPEAT}{REPEAT_END}]\S*(?:\s+{HELD}(?!\S))*", written)
        if len(chords) > 1:
            raise ValueError(f"chords are {text!r}; say where bars end: {' | '.join(chords)!r}.")
    bars: list[str] = []
    # where a repeat begins: at its sign, else after the last repeat
    repeat_start = 0
    open_repeat = False
    for bar in map(str.strip, written.split("|")):
        if bar.startswith(REPEAT):
            repeat_start = len(bars)
            open_repeat = True
        chords_of_bar = bar.removeprefix(REPEAT).removesuffix(REPEAT_END).strip()
        if chords_of_bar == "%" and bars:
            # as in the bar before
            chords_of_bar = bars[-1]
        bars.append(chords_of_bar)
        if bar.endswith(REPEAT_END):
            bars += bars[repeat_start:]
            repeat_start = len(bars)
            open_repeat = False
    if open_repeat:
        raise ValueError("A repeat of the chords begins with |: and does not end; write :| after its last bar.")
    return bars


def _runs(values: torch.Tensor, frame_rate: int) -> list[tuple[float, float, int]]:
    """Runs of equal values (int64 [frames], at `frame_rate` Hz): (start s, stop s, value) each."""
    run_values, counts = values.unique_consecutive(return_counts=True)
    stops = counts.cumsum(0)
    return [
        ((stop - count) / frame_rate, stop / frame_rate, value)
        for value, count, stop in zip(run_values.tolist(), counts.tolist(), stops.tolist(), strict=True)
    ]


def rows_by_frame(
    sheet: LeadSheet, names: Sequence[str], frames: int, frame_rate: int, styles: Sequence[str] = ()
) -> torch.Tensor:
    """Converts a lead sheet to rows of integers, one integer for each frame, which condition the stages.

    Args:
        sheet: the lead sheet.
        names: the rows to make, by the names in `ROW_SIZES`, in the order of the result.
        frames, frame_rate (Hz): number of frames of the result, and their rate.
        styles: names of the model's styles, in order.

    Returns:
        int64 [rows, frames], each row from 0 (unknown) to below its size in `ROW_SIZES`.

    Raises:
        ValueError: an unknown name or style.
    """
    if unknown := [name for name in names if name not in ROW_SIZES]:
        raise ValueError(f"There is no lead-sheet row {unknown[0]!r}; choose from {', '.join(ROW_SIZES)}.")
    # number of beats passed at each frame, [frames]
    passed = sheet.beats_passed(frames, frame_rate)
    rows = np.full((len(names), frames), UNKNOWN, dtype=np.int64)
    for row, name in zip(rows, names, strict=True):
        if name == "chord":
            _fill(row, [(start, stop, chord_class(label)) for start, stop, label in sheet.chords], frame_rate)
        elif name == "energy":
            spans = [(start, stop, ENERGIES.index(label)) for start, stop, label in sheet.sections]
            _fill(row, spans, frame_rate)
        elif name == "style":
            style_spans = sheet.styles
            if isinstance(sheet.style, str):
                style_spans = [(0.0, frames / frame_rate, sheet.style)]
            spans = [(start, stop, index_of_style(label, styles)) for start, stop, label in style_spans]
            _fill(row, spans, frame_rate)
        elif name == "beat" and passed is not None:
            # which of the equal parts of its beat a frame is in
            row[:] = 1 + np.floor(passed % 1 * BEAT_SLICES).astype(np.int64).clip(0, BEAT_SLICES - 1)
        elif name == "bar" and passed is not None and sheet.beats_per_bar is not None:
            # the beat's number in the bar: first those of bars of three, then those of bars of four
            offset = sum(metre for metre in METRES if metre < sheet.beats_per_bar)
            row[:] = 1 + offset + (np.floor(passed).astype(np.int64) - sheet.downbeat) % sheet.beats_per_bar
    return torch.from_numpy(rows)


def index_of_style(style: str, styles: Sequence[str]) -> int:
    """Index of a style among those of a model; raises ValueError if it is not one of them."""
    if style not in styles:
        raise ValueError(f"This model has no style {style!r}; it has {', '.join(styles) or 'none'}.")
    return styles.index(style)


def _fill(row: np.ndarray, spans: Sequence[tuple[float, float, int]], frame_rate: int) -> None:
    """Writes spans (start s, stop s, index) into a row (int64 [frames], in place) as 1 + index: 0 means unknown."""
    for start, stop, index in spans:
        row[max(round(start * frame_rate), 0) : max(round(stop * frame_rate), 0)] = 1 + index


def wrapped(passed: Array) -> torch.Tensor:
    """Beat phases (float32 [frames], in [0, 1)): the fractions of numbers of beats passed (float64 [frames])."""
    # values just below 1 round to 1 in float32
    return torch.from_numpy((passed % 1).astype(np.float32)) % 1


def beats_passed(beats: Sequence[float] | Array, times: Array) -> Array:
    """Number of beats, with fractions, that have passed at each time.

    Args:
        beats: times of at least two beats in seconds, in order; extrapolated evenly before and after.
        times (float64 [times]): in seconds.

    Returns:
        float64 [times], 0 at the first beat, negative before it.
    """
    times_of_beats = np.asarray(beats, dtype=np.float64)
    # index of the beat before each time, but never the last, so that there is one after it
    before = np.clip(np.searchsorted(times_of_beats, times, side="right") - 1, 0, len(times_of_beats) - 2)
    return before + (times - times_of_beats[before]) / (times_of_beats[before + 1] - times_of_beats[before])


def seconds_at(beats: Sequence[float] | Array, passed: float) -> float:
    """Time in seconds at which `passed` beats, with fractions, have passed since the first of `beats` (times in s).

    The inverse of `beats_passed`: beats go on evenly before the first and after the last.
    """
    times_of_beats = np.asarray(beats, dtype=np.float64)
    # index of the beat before that time, but never the last, so that there is one after it
    before = min(max(math.floor(passed), 0), len(times_of_beats) - 2)
    return float(times_of_beats[before] + (passed - before) * (times_of_beats[before + 1] - times_of_beats[before]))


def begins_beat(phase: torch.Tensor) -> torch.Tensor:
    """Whether a beat begins between each frame and the next, where the phase (float [frames]) falls from 1 to 0.

    Returns:
        bool [frames − 1].
    """
    return phase.diff() < -0.5


def phase_vectors(phase: torch.Tensor) -> torch.Tensor:
    """Cosine and sine of the beat phase (float [..., frames], 0 to 1) and of twice that phase.

    Returns:
        float32 [..., frames, 4].
    """
    angle = 2 * math.pi * phase.float()
    return torch.stack([angle.cos(), angle.sin(), (2 * angle).cos(), (2 * angle).sin()], dim=-1)
