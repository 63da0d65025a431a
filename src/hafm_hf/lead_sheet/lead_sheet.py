"""What a musician knows of a song besides the voice: its tempo, its beats, its chords.

Beside the path of the data, before the semantic tokenizer: what is known takes the place of what the tokenizer's beat
line and the harmony hear. Dimensions: T frames, C chords.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .beats import BEATS_PER_MINUTE, beats_passed, begins_beat, wrapped

PITCH_CLASSES = 12
# no chord, then 12 roots without and 12 with a minor third, C first
NUM_CHORDS = 2 * PITCH_CLASSES + 1
NOTE_NAMES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
# as they are usually written, above a major and above a minor third
MAJOR_ROOTS = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
MINOR_ROOTS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B")
NO_CHORD = ("", "N", "N.C.", "NC", "X")
# root, Harte's colon, quality; a bass behind a stroke changes nothing
CHORD = re.compile(r"([A-G])([#b♯♭]*):?([^/\s]*)(?:/\S+)?")
# of Harte's notation and of lead sheets: Cm7, C-7 with either minus, C°, Cø; not Cma7, but Cmadd9
MINOR_THIRD = re.compile(r"min|dim|hdim|m(?!a(?!dd|ug|lt))|[-−]|°|o(?!mit)|ø")


@dataclass(frozen=True)
class LeadSheet:
    """What is known of a song; what is left out is heard.

    Args:
        tempo: beats a minute of a take that keeps to it, sung to a click for example.
        beats: seconds of at least two beats, in order; before the first and behind the last they go on evenly.
        chords: (start s, stop s, label), in Harte's notation or a lead sheet's: "A:min7", "Am7", "Bb", "N" for none.
            Of chords that overlap the later one counts; where there is none, the chord is heard.

    Raises:
        ValueError: a tempo out of range or beside beats, beats out of order, a chord that ends before it begins,
            lasts forever or whose label is none.
    """

    tempo: float | None = None
    beats: Sequence[float] | None = None
    chords: Sequence[tuple[float, float, str]] = ()

    def __post_init__(self) -> None:
        slowest, fastest = BEATS_PER_MINUTE
        if self.tempo is not None and not slowest <= self.tempo <= fastest:
            raise ValueError(
                f"tempo is {self.tempo:g}; halve or double it: {slowest:g} to {fastest:g} beats a minute."
            )
        if self.tempo is not None and self.beats is not None:
            raise ValueError("beats say the tempo themselves; leave tempo out.")
        if self.beats is not None:
            if len(self.beats) < 2:  # noqa: PLR2004 - one beat has no length
                raise ValueError("beats are fewer than two; give the seconds of all that are known.")
            if not all(
                0 < after - before < math.inf for before, after in zip(self.beats, self.beats[1:], strict=False)
            ):
                raise ValueError("beats must be seconds that grow from one to the next.")
        for start, stop, label in self.chords:
            if not -math.inf < start < stop < math.inf:
                raise ValueError(
                    f"The chord {label} from {start:g} to {stop:g} s has no length; give finite seconds that grow."
                )
            chord_class(label)

    @classmethod
    def told(cls, known: Any) -> "LeadSheet":
        """A lead sheet as it is, or of an object that JSON can write: {"tempo", "beats", "chords"}.

        Raises:
            ValueError: it is neither, or makes no sense.
        """
        form = "lead_sheet has tempo (a number), beats (numbers), chords ([start, stop, label])."
        try:
            return known if isinstance(known, cls) else cls(**known)
        except TypeError as error:
            raise ValueError(form) from error

    @classmethod
    def heard(cls, phase: torch.Tensor, chords: torch.Tensor | None, frame_rate: int) -> "LeadSheet":
        """The lead sheet of what is heard: the beats of a line, and the likeliest chord of every beat.

        Args:
            phase (float [T]): where in the beat each frame lies.
            chords (float [T, 25], *optional*): how likely each chord is.
            frame_rate: in Hz.
        """
        wraps = torch.nonzero(begins_beat(phase))[:, 0]
        # a beat lies between the middles of two frames, where the phase would be 1
        before, after = phase[wraps].double(), phase[wraps + 1].double()
        beats = (wraps + 0.5 + (1 - before) / (1 - before + after)) / frame_rate
        found = [] if chords is None else _runs(chords.argmax(-1), frame_rate)
        return cls(beats=beats.tolist() if len(beats) > 1 else None, chords=found)

    @property
    def has_beats(self) -> bool:
        """Whether anything is known of the beat."""
        return self.tempo is not None or self.beats is not None

    def phase(self, frames: int, frame_rate: int) -> torch.Tensor | None:
        """Where in the beat the middle of each frame lies: float32 [T], 0 to 1; None without `beats`."""
        if self.beats is None:
            return None
        return wrapped(beats_passed(self.beats, (np.arange(frames) + 0.5) / frame_rate))

    def add_chords(self, heard: torch.Tensor, frame_rate: int) -> torch.Tensor:
        """Probabilities of chords (float [T, C = 25]) with the known ones in the place of what was heard."""
        known = heard.clone()
        for start, stop, label in self.chords:
            first, last = (max(round(second * frame_rate), 0) for second in (start, stop))
            known[first:last] = 0.0
            known[first:last, chord_class(label)] = 1.0
        return known


def _runs(classes: torch.Tensor, frame_rate: int) -> list[tuple[float, float, str]]:
    """Stretches of one chord (int64 [T]): start s, stop s, label."""
    labels, counts = classes.unique_consecutive(return_counts=True)
    stops = counts.cumsum(0)
    return [
        ((stop - count) / frame_rate, stop / frame_rate, chord_label(label))
        for label, count, stop in zip(labels.tolist(), counts.tolist(), stops.tolist(), strict=True)
    ]


def chord_label(chord: int) -> str:
    """How a lead sheet writes a class of chords (0 to 24): "N", "C", "Cm"."""
    mode, root = divmod(chord - 1, PITCH_CLASSES)
    if chord == 0:
        return "N"
    return MINOR_ROOTS[root] + "m" if mode else MAJOR_ROOTS[root]


def chord_class(label: str) -> int:
    """Class of a chord in Harte's notation or a lead sheet's: 0 none, then 12 roots without and 12 with a minor third.

    Raises:
        ValueError: the label is no chord.
    """
    written = label.strip() if isinstance(label, str) else None
    if written in NO_CHORD:
        return 0
    found = None if written is None else CHORD.fullmatch(written)
    if found is None:
        raise ValueError(f"{label!r} is no chord; write A:min7, Am7, Bb or N, for example.")
    letter, accidentals, quality = found.groups()
    pitch = NOTE_NAMES[letter] + sum(1 if sign in "#♯" else -1 for sign in accidentals)
    return 1 + pitch % PITCH_CLASSES + PITCH_CLASSES * bool(MINOR_THIRD.match(quality))
