# SPDX-License-Identifier: Apache-2.0
"""What a musician knows of a song besides the voice: beats, bars, chords, key, sections, style.

The listener fills it in from the voice, the user may give or correct any part, and the stages are conditioned on it:
on streams of one small number a frame for each thing that is known, 0 for what is not. A stage's configuration names
the streams that it reads. Dimensions: T frames, C chords, S streams.
"""

import math
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import accumulate, pairwise
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .chords import NUM_CHORD_CLASSES, chord_class, chord_index, chord_label, key_label
from .vocabulary import ENERGIES as ENERGIES

METRES = (3, 4)
# of a tempo
BEATS_PER_MINUTE = (55.0, 185.0)
# of a bar, about: the shortest stretch without chords that is estimated
BAR_SECONDS = 2.0
# two taps that are nearer are one
LEAST_BEAT_SECONDS = 0.1
# no song lasts longer than a day
LATEST_BEAT = 86_400.0
Span = tuple[float, float, str]
Array = NDArray[np.float64]
UNKNOWN = 0
# equal parts of a beat; thirds and quarters of it begin with one
BEAT_SLICES = 12
# a model has names for so many styles at most
MAX_STYLES = 15
STREAM_SIZES = {
    "chord": 1 + NUM_CHORD_CLASSES,
    "beat": 1 + BEAT_SLICES,
    # the number of the beat in a bar of three and of four
    "bar": 1 + sum(METRES),
    "energy": 1 + len(ENERGIES),
    "style": 1 + MAX_STYLES,
}


@dataclass(frozen=True)
class LeadSheet:
    """What is known of a song; every part is optional.

    Args:
        tempo: beats a minute of a take that keeps to it, sung to a click for example.
        beats: seconds of at least two beats, in order; before the first and behind the last they go on evenly.
        chords: (start s, stop s, label), in Harte's notation or a lead sheet's: "A:min7", "Am7", "Bb", "N" for none.
            Of chords that overlap the later one counts. Or a text, the `bars`: "C | Am | F | G"; % repeats a bar.
        beats_per_bar: 3 or 4 quarters.
        downbeat: which of the beats begins a bar, counted from 0; bars before and behind it follow from the metre.
        key: "A:min" or "C:maj"; "Am", "A minor" and "C" are written so.
        sections: (start s, stop s, energy), energy one of "sparse", "normal", "full".
        style: of the band, by a name that the model knows, or (start s, stop s, name) where it changes; drawn from the
            seed where nothing is said, another one for each sample.
        form: (start s, stop s, name) of verse, chorus and the like, for people; no stage reads them.
        estimated: names of the parts that were estimated from the voice, or drawn; the others were given.
        bars: one entry a bar, repeated to the end of the song; several chords in one ("C F") share the bar evenly. The
            first begins at the downbeat, or of a tempo alone at the beat nearest to the start of the voice. Where
            `chords` overlap them, `chords` count.

    Raises:
        ValueError: a part of another kind, a tempo out of range or beside beats, beats out of order, a span without an
            end or a length, a label that is no chord or key, an unknown energy, metre or part, bars without a beat.
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
        for each in fields(self):
            object.__setattr__(self, each.name, _plain(getattr(self, each.name)))
        if isinstance(self.chords, str):
            # bars end at | and with lines
            lines = [line.strip("| \t") for line in self.chords.replace(",", " ").splitlines()]
            words = (written := " | ".join(filter(None, lines))).split()
            if len(words) > 1 and "|" not in written:
                raise ValueError(f"chords are {self.chords!r}; say where bars end: {' | '.join(words)!r}.")
            bars = accumulate(map(str.strip, written.split("|")), lambda last, bar: last if bar == "%" else bar)
            object.__setattr__(self, "bars", bars)
            object.__setattr__(self, "chords", ())
        object.__setattr__(self, "bars", tuple(self.bars or ()))
        for name in ("chords", "sections", "style", "form"):
            if not isinstance(spans := getattr(self, name), str | None):
                object.__setattr__(self, name, _as_spans(name, spans))
        self._check_beats()
        self._check_bars()
        kinds = {"chord": self.chords, "section": self.sections, "style": self.styles, "form": self.form}
        for kind, spans in kinds.items():
            for start, stop, label in spans:
                if not -math.inf < start < stop < math.inf:
                    span = f"from {start:g} to {stop:g} s"
                    raise ValueError(f"The {kind} {label} {span} has no length; give finite seconds, the end later.")
        for *_, label in self.chords:
            chord_class(label)
        for *_, energy in self.sections:
            if energy not in ENERGIES:
                raise ValueError(f"A section is {energy!r}; choose from {', '.join(ENERGIES)}.")
        if self.key is not None:
            object.__setattr__(self, "key", key_label(self.key))
        names = {field.name for field in fields(self)} - {"estimated", "downbeat"}
        if unknown := sorted(set(self.estimated) - names):
            raise ValueError(f"{unknown[0]!r} is no part of a lead sheet; its parts are {', '.join(sorted(names))}.")

    def _check_bars(self) -> None:
        if self.bars and not self.has_beats:
            raise ValueError("Chords by the bar need to know where bars are; give a tempo or beats as well.")
        for number, label in enumerate(self.bars, start=1):
            if not label:
                raise ValueError(f"Bar {number} of the chords is empty; write N where there is none.")
            for chord in label.split():
                chord_class(chord)

    def _check_beats(self) -> None:
        slowest, fastest = BEATS_PER_MINUTE
        if self.tempo is not None and not isinstance(self.tempo, Real):
            raise ValueError(f"tempo is {self.tempo!r}; it must be a number of beats a minute.")
        if self.tempo is not None and not slowest <= self.tempo <= fastest:
            raise ValueError(f"tempo is {self.tempo:g}; halve or double it: {slowest:g} to {fastest:g} BPM.")
        if self.tempo is not None and self.beats is not None:
            raise ValueError("beats say the tempo themselves; leave tempo out.")
        if self.beats is not None:
            numbers = isinstance(self.beats, Iterable) and not isinstance(self.beats, str)
            if not numbers or not all(isinstance(beat, Real) for beat in self.beats):
                raise ValueError(f"beats are {reprlib.repr(self.beats)}; they must be numbers of seconds.")
            if len(self.beats) < 2:
                raise ValueError("beats has fewer than two times; give all beats that you know.")
            pairs = list(pairwise(self.beats))
            if not all(-LATEST_BEAT < before < after < LATEST_BEAT for before, after in pairs):
                raise ValueError("beats must be seconds that grow from one to the next, within a day.")
            near = [beat for beat, after in pairs if after - beat < LEAST_BEAT_SECONDS]
            # what is estimated needs no mending by whoever asked for it
            if near and "beats" not in self.estimated:
                apart = f"{LEAST_BEAT_SECONDS:g} s apart"
                raise ValueError(f"At {near[0]:.2f} s beats lie less than {apart}; halve the tempo or leave one out.")
        if self.beats_per_bar is not None and self.beats_per_bar not in METRES:
            raise ValueError(f"beats_per_bar is {self.beats_per_bar}; it must be 3 or 4.")
        if not isinstance(self.downbeat, int):
            raise ValueError(f"downbeat is {self.downbeat!r}; it must be the number of a beat.")

    @classmethod
    def told(cls, known: Any) -> "LeadSheet":
        """A lead sheet as it is, or of an object that JSON can write, with this class's parts.

        Raises:
            ValueError: it is neither, or makes no sense.
        """
        if isinstance(known, cls):
            return known
        if not isinstance(known, Mapping):
            raise ValueError('lead_sheet is a LeadSheet or a dict such as {"tempo": 96, "chords": [[0, 2.5, "C"]]}.')
        names = [field.name for field in fields(cls)]
        if unknown := [str(name) for name in known if name not in names]:
            raise ValueError(f"lead_sheet has no {unknown[0]!r}; its parts are {', '.join(names)}.")
        try:
            return cls(**known)
        except (TypeError, AttributeError) as error:
            raise ValueError(
                "lead_sheet has tempo (a number), beats (numbers), chords and sections ([start, stop, label] each)."
            ) from error

    @classmethod
    def from_estimates(cls, phase: torch.Tensor, chords: torch.Tensor | None, frame_rate: int) -> "LeadSheet":
        """The lead sheet of an estimate: the beats of a line, and the likeliest chord of every beat.

        Args:
            phase (float [T]): where in the beat each frame lies.
            chords (float [T, 25], *optional*): how likely each chord is.
            frame_rate: in Hz.
        """
        wraps = torch.nonzero(begins_beat(phase))[:, 0]
        # a beat lies between the middles of two frames, where the phase would be 1
        before, after = phase[wraps].double(), phase[wraps + 1].double()
        beats = (wraps + 0.5 + (1 - before) / (1 - before + after)) / frame_rate
        runs = [] if chords is None else _runs(chords.argmax(-1), frame_rate)
        found = [(start, stop, chord_label(chord)) for start, stop, chord in runs]
        estimated = [name for name, there in (("beats", len(beats) > 1), ("chords", found)) if there]
        return cls(beats=beats.tolist() if len(beats) > 1 else None, chords=found, estimated=estimated)

    def to_dict(self) -> dict[str, Any]:
        """The parts that are known, as JSON can write them; `LeadSheet.told` reads it again."""
        empty = LeadSheet()
        return {name: value for name, value in asdict(self).items() if value not in (getattr(empty, name), [], ())}

    def moved(self, seconds: float) -> "LeadSheet":
        """The lead sheet of a song that begins so many seconds later."""
        spans: dict[str, Any] = {
            name: [(start + seconds, stop + seconds, label) for start, stop, label in value]
            for name in ("chords", "sections", "style", "form")
            if (value := self.styles if name == "style" else getattr(self, name))
        }
        beats = None if self.beats is None else [beat + seconds for beat in self.beats]
        return replace(self, beats=beats, **spans)

    def completed_by(self, estimate: "LeadSheet") -> "LeadSheet":
        """This lead sheet with the parts that it lacks from another; what is known of the beat stays together."""
        names = [name for name in ("chords", "key", "sections", "style") if not getattr(self, name)]
        names += [] if self.has_beats else ["tempo", "beats", "downbeat"]
        names += [] if self.has_beats or self.beats_per_bar else ["beats_per_bar"]
        missing = {name: getattr(estimate, name) for name in names}
        estimated = {*self.estimated, *(set(estimate.estimated) & missing.keys())}
        return replace(self, **missing, estimated=sorted(estimated))

    def chord_gaps(self, seconds: float) -> list[tuple[float, float]]:
        """Stretches of a song of so many seconds, of a bar at least, of which no chord is known: (start s, stop s)."""
        gaps, end = [], 0.0
        for start, stop, _ in sorted(self.chords):
            gaps += [(end, start)] if start - end >= BAR_SECONDS else []
            end = max(end, stop)
        return [*gaps, (end, math.inf)] if not self.chords or seconds - end >= BAR_SECONDS else gaps

    def with_chords_in_gaps(self, estimate: "LeadSheet", gaps: Sequence[tuple[float, float]]) -> "LeadSheet":
        """This lead sheet, with an estimate's chords in `gaps`."""
        between = [
            (max(start, first), min(stop, last), label)
            for first, last in gaps
            for start, stop, label in estimate.chords
            if start < last and stop > first
        ]
        return replace(self, chords=sorted((*between, *self.chords), key=lambda span: span[0]))

    @property
    def has_beats(self) -> bool:
        """Whether anything is known of the beat."""
        return self.tempo is not None or self.beats is not None

    @property
    def downbeats(self) -> Sequence[float]:
        """Seconds of the beats that begin a bar, where bars are known."""
        metre = self.beats_per_bar
        return () if metre is None else [b for n, b in enumerate(self.beats or ()) if (n - self.downbeat) % metre == 0]

    @property
    def styles(self) -> Sequence[Span]:
        """Styles as spans; one that holds for the whole song has none."""
        return () if self.style is None or isinstance(self.style, str) else self.style

    def with_bars_placed(self, phase: torch.Tensor, frame_rate: int) -> "LeadSheet":
        """This lead sheet with its `bars` among the `chords`.

        Args:
            phase (float [T]): where in the beat the middle of each frame of the song lies.
            frame_rate: in Hz.
        """
        if not self.bars:
            return self
        passed, first, downbeat = self.beats_passed(len(phase), frame_rate), self.downbeat, self.downbeat
        if passed is None:
            # counted from the beat of the first frame
            counted = phase.double()
            counted[1:] += begins_beat(phase).cumsum(0)
            passed = counted.numpy()
            first = round(float(passed[0]))
            # a beat at the very first frame is not listed
            downbeat = (first - int(np.floor(passed[0])) - 1) % (self.beats_per_bar or 1)
        bars = [label.split() for label in self.bars]
        shares = np.array([len(labels) for labels in bars])
        places = (passed - first) / (self.beats_per_bar or METRES[-1])
        numbers = np.floor(places).astype(int)
        parts = np.floor((places - numbers) * shares[numbers % len(bars)]).astype(int)
        spans = _runs(torch.from_numpy(numbers * shares.max() + parts), frame_rate)
        placed = [(start, stop, *divmod(index, int(shares.max()))) for start, stop, index in spans]
        chords = [(start, stop, bars[bar % len(bars)][part]) for start, stop, bar, part in placed if bar >= 0]
        return replace(self, bars=(), chords=(*chords, *self.chords), downbeat=downbeat)

    def phase(self, frames: int, frame_rate: int) -> torch.Tensor | None:
        """Where in the beat the middle of each frame lies: float32 [T], 0 to 1; None without `beats`."""
        passed = self.beats_passed(frames, frame_rate)
        return None if passed is None else wrapped(passed)

    def beats_passed(self, frames: int, frame_rate: int) -> np.ndarray | None:
        """Beats since `beats[0]` at the middle of each frame: float64 [T]; None without `beats`."""
        if self.beats is None:
            return None
        return beats_passed(self.beats, (np.arange(frames) + 0.5) / frame_rate)


def _plain(value: Any) -> Any:
    """A part with arrays, tensors and their numbers as Python's own, which JSON can write."""
    if hasattr(value, "tolist"):
        return value.tolist()
    kind = list if isinstance(value, range) else type(value)
    return kind(map(_plain, value)) if kind in (list, tuple) else value


def _as_spans(name: str, spans: Any) -> tuple[Span, ...]:
    """Spans of a part, each as a tuple.

    Raises:
        ValueError: one is none.
    """
    for span in spans if isinstance(spans, Iterable) else [spans]:
        times = () if isinstance(span, str) or not isinstance(span, Sequence) or len(span) != 3 else span[:2]
        if not times or not all(isinstance(second, Real) for second in times):
            raise ValueError(
                f"{name} are [start s, stop s, label] each, and {span!r} is none"
                + ("; chords without times are a text, by the bar: 'C | G'." if name == "chords" else ".")
            )
    return tuple(tuple(span) for span in spans)


def _runs(values: torch.Tensor, frame_rate: int) -> list[tuple[float, float, int]]:
    """Stretches of one value (int64 [T]): start s, stop s, value."""
    found, counts = values.unique_consecutive(return_counts=True)
    stops = counts.cumsum(0)
    return [
        ((stop - count) / frame_rate, stop / frame_rate, value)
        for value, count, stop in zip(found.tolist(), counts.tolist(), stops.tolist(), strict=True)
    ]


def lead_sheet_streams(
    sheet: LeadSheet, names: Sequence[str], frames: int, frame_rate: int, styles: Sequence[str] = ()
) -> torch.Tensor:
    """The streams of a song.

    Args:
        sheet: what is known of it.
        names: of the streams, in the order of the result.
        frames, frame_rate (Hz): of the result.
        styles: names that the model knows, in their order.

    Returns:
        int64 [S, T], below `STREAM_SIZES`; 0 where nothing is known.

    Raises:
        ValueError: an unknown stream or style.
    """
    if unknown := [name for name in names if name not in STREAM_SIZES]:
        raise ValueError(f"There is no stream {unknown[0]!r}; choose from {', '.join(STREAM_SIZES)}.")
    passed = sheet.beats_passed(frames, frame_rate)
    streams = np.full((len(names), frames), UNKNOWN, dtype=np.int64)
    for row, name in zip(streams, names, strict=True):
        if name == "chord":
            _fill(row, [(start, stop, chord_index(label)) for start, stop, label in sheet.chords], frame_rate)
        elif name == "energy":
            spans = [(start, stop, ENERGIES.index(label)) for start, stop, label in sheet.sections]
            _fill(row, spans, frame_rate)
        elif name == "style":
            whole = [(0.0, frames / frame_rate, sheet.style)] if isinstance(sheet.style, str) else sheet.styles
            _fill(row, [(start, stop, place_of(label, styles)) for start, stop, label in whole], frame_rate)
        elif name == "beat" and passed is not None:
            row[:] = 1 + np.floor(passed % 1 * BEAT_SLICES).astype(np.int64).clip(0, BEAT_SLICES - 1)
        elif name == "bar" and passed is not None and sheet.beats_per_bar is not None:
            before = sum(metre for metre in METRES if metre < sheet.beats_per_bar)
            row[:] = 1 + before + (np.floor(passed).astype(np.int64) - sheet.downbeat) % sheet.beats_per_bar
    return torch.from_numpy(streams)


def place_of(style: str, styles: Sequence[str]) -> int:
    """Where a style stands among those that a model knows; raises ValueError if it does not know it."""
    if style not in styles:
        raise ValueError(f"This model has no style {style!r}; it has {', '.join(styles) or 'none'}.")
    return styles.index(style)


def _fill(row: np.ndarray, spans: Sequence[tuple[float, float, int]], frame_rate: int) -> None:
    """Writes the numbers of spans (start s, stop s, number) into a stream, where 0 is kept for what is not known."""
    for start, stop, number in spans:
        row[max(round(start * frame_rate), 0) : max(round(stop * frame_rate), 0)] = 1 + number


def wrapped(passed: Array) -> torch.Tensor:
    """Beats that have passed (float64 [T]) as places in the beat: float32 [T], 0 up to but not 1."""
    # what is nearly 1 rounds to 1 in float32
    return torch.from_numpy((passed % 1).astype(np.float32)) % 1


def beats_passed(beats: Sequence[float] | Array, times: Array) -> Array:
    """How many beats have passed at each instant, with shares of beats.

    Args:
        beats: seconds of at least two, in order; before the first and behind the last they go on evenly.
        times (float64 [T]): seconds.

    Returns:
        float64 [T], 0 at the first beat.
    """
    known = np.asarray(beats, dtype=np.float64)
    before = np.clip(np.searchsorted(known, times, side="right") - 1, 0, len(known) - 2)
    return before + (times - known[before]) / (known[before + 1] - known[before])


def seconds_at(beats: Sequence[float] | Array, passed: float) -> float:
    """The second at which so many beats have passed since the first; the inverse of `beats_passed`."""
    known = np.asarray(beats, dtype=np.float64)
    before = min(max(math.floor(passed), 0), len(known) - 2)
    return float(known[before] + (passed - before) * (known[before + 1] - known[before]))


def begins_beat(phase: torch.Tensor) -> torch.Tensor:
    """Whether a beat begins between each frame and the next, where the phase (float [T]) wraps: bool [T − 1]."""
    return phase.diff() < -0.5


def beat_points(phase: torch.Tensor) -> torch.Tensor:
    """Cosine and sine of the beat's phase (float [T], 0..1) and of twice that phase: float32 [T, 4]."""
    angle = 2 * math.pi * phase.float()
    return torch.stack([angle.cos(), angle.sin(), (2 * angle).cos(), (2 * angle).sin()], dim=-1)
