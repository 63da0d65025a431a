# SPDX-License-Identifier: Apache-2.0
"""The one table of generation options, and that of mixing: name, type, limits and help.

`HAFMForVocalAccompaniment.generate` and `stream`, the pipeline, the endpoint, the command line and the Space take
theirs from it, so an option is added here, and where it has its effect. Nothing heavy is imported: `hafm --help` reads
it too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from numbers import Integral, Real
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from ..lead_sheet.vocabulary import ENERGIES

Options = TypeVar("Options", bound="_Options")
# an option of sampling: the stages of a model seldom agree on one value
OF_EVERY_STAGE = "in every stage; each has its own value if not given"
# loudness of the voice above the instrumental in MUSDB18's songs, in LU
MEDIAN_BALANCE = -2.5
# the largest that torch's and numpy's generators both take
MAX_SEED = 2**63 - 1
KINDS: dict[type, tuple[Any, str]] = {
    bool: (bool, "True or False"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "a text"),
}


@dataclass(frozen=True)
class Option:
    """A row of the table.

    Args:
        help: what it does, in a sentence.
        label: what a page calls it.
        least, most: its limits, inclusive.
        choices: the only values that a text may have.
        word: a text that a number may be instead.
        internal: whether it says how the machine computes, which strangers must not choose.
        streams: it needs a model of which a stage reads one of these (`lead_sheet_streams`); "stem": a separator.
        name, kind, default: of the field that has it; `_table` reads off the first two.
    """

    help: str
    label: str
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    word: str = ""
    internal: bool = False
    streams: tuple[str, ...] = ()
    name: str = ""
    kind: type = float
    default: Any = None

    @property
    def optional(self) -> bool:
        """Whether it may be left to the model."""
        return self.default is None

    def check(self, value: Any) -> None:
        """Refuses a value of another type or out of range.

        Raises:
            ValueError: naming the option, its value and what it may be.
        """
        if (value is None and self.optional) or (self.word and value == self.word):
            return
        kind, described = KINDS[self.kind]
        described += f" or {self.word!r}" if self.word else ""
        if not isinstance(value, kind) or (isinstance(value, bool) and self.kind is not bool):
            raise ValueError(f"{self.name} is {value!r}; it must be {described}.")
        if self.choices and value not in self.choices:
            raise ValueError(f"{self.name} is {value!r}; choose {' or '.join(map(repr, self.choices))}.")
        least, most = (-math.inf if self.least is None else self.least), (math.inf if self.most is None else self.most)
        # a NaN lies nowhere
        if self.kind in (int, float) and not (least <= value <= most and abs(value) < math.inf):
            low, high = (f"{limit:g}" if isinstance(limit, float) else limit for limit in (least, most))
            limits = f"{low} or more" if most == math.inf else f"between {low} and {high}"
            raise ValueError(f"{self.name} is {value}; it must be {limits}.")


def option(default: Any, help: str, label: str, **limits: Any) -> Any:
    """A field of `GenerationOptions`."""
    return field(default=default, metadata={"option": Option(help, label, default=default, **limits)})


class _Options:
    """Values of a table's options; None leaves a value to the model or to the song."""

    def __post_init__(self) -> None:
        for name, row in _table(type(self)).items():  # type: ignore[arg-type]
            value = getattr(self, name)
            if getattr(value, "ndim", None) == 0:
                # a number of numpy's or torch's
                object.__setattr__(self, name, value := value.item())
            row.check(value)

    @classmethod
    def of(cls: type[Options], options: Options | None = None, given: Mapping[str, Any] | None = None) -> Options:
        """Options with those of them replaced that are given by name; None is as if it were not given.

        Raises:
            TypeError: for a name that is not in the table.
        """
        given = {name: value for name, value in (given or {}).items() if value is not None}
        table: dict[str, Option] = _table(cls)  # type: ignore[arg-type]
        unknown = sorted(set(given) - set(table))
        if unknown:
            raise TypeError(f"There is no option {unknown[0]!r}; a generation takes {', '.join(table)}.")
        return replace(options or cls(), **given)  # type: ignore[type-var]


@dataclass(frozen=True)
class GenerationOptions(_Options):
    """What can be asked of a generation, whoever asks; None leaves a value to the model.

    Raises:
        ValueError: for a value of another type or out of range, naming the option.
    """

    num_samples: int = option(1, "Instrumentals per vocal.", "Variations", least=1, most=64)
    seed: int | None = option(None, "Same seed, same music; drawn if not given.", "Seed", least=0, most=MAX_SEED)
    guidance_scale: float | None = option(
        None, f"How strictly to follow the voice, {OF_EVERY_STAGE}.", "Guidance scale", least=0.0
    )
    temperature: float | None = option(None, f"Sampling temperature, {OF_EVERY_STAGE}.", "Temperature", least=0.01)
    top_k: int | None = option(None, f"Of the K likeliest codes, 0 for all, {OF_EVERY_STAGE}.", "Top-k", least=0)
    style: str | None = option(
        None, "Style, e.g. folk (see `hafm info`); the model's choice if not given.", "Style", streams=("style",)
    )
    energy: str | None = option(
        None,
        "How much is played; auto: by the lead sheet's sections, else by the loudness of the voice.",
        "Energy",
        choices=("auto", *ENERGIES),
        streams=("energy",),
    )
    stems: bool = option(
        False, "Also drums, bass, chords and colour, whose sum is the instrumental.", "Stems", streams=("stem",)
    )
    skip_fine: bool = option(False, "Decode the coarse codebooks only: faster, rougher.", "Skip the fine stage")
    decoding: str | None = option(
        None,
        "Decoding loop: ours, or transformers'; fast on CPU and CUDA if not given.",
        "Decoding",
        choices=("fast", "reference"),
        internal=True,
    )
    compile: bool | None = option(
        None, "Replay decoding steps as CUDA graphs: faster, NVIDIA GPUs only.", "Compile", internal=True
    )
    threads: int | None = option(
        None, "Threads of torch; chosen by the model's size if not given.", "Threads", least=1, internal=True
    )


@dataclass(frozen=True)
class MixOptions(_Options):
    """How an instrumental is mixed with the voice, and how the song ends.

    Raises:
        ValueError: for a value of another type or out of range, naming the option.
    """

    vocal_gain_db: float = option(0.0, "Gain of the voice in the mix, in dB.", "Voice", least=-96.0, most=48.0)
    instrumental_gain_db: float = option(0.0, "Gain of the instrumental, in dB.", "Band", least=-96.0, most=48.0)
    balance: float | str | None = option(
        None,
        f"Loudness of the voice above the instrumental in LU; auto: {MEDIAN_BALANCE:g}, the median of songs.",
        "Balance",
        least=-30.0,
        most=30.0,
        word="auto",
    )
    loudness: float | None = option(
        None,
        "Loudness of the mix in LUFS, e.g. -16; peaks above -1 dBTP are limited.",
        "Loudness",
        least=-40.0,
        most=-6.0,
    )
    tail: float = option(
        0.0, "Seconds that the instrumental continues after the voice, fading out.", "Ending", least=0.0, most=30.0
    )
    intro_bars: int = option(0, "Bars that the band plays before the voice.", "Intro", least=0, most=16)
    outro_bars: int = option(
        0, "Bars that the band plays after the voice, to a close on the chord of the key.", "Outro", least=0, most=16
    )
    output_rate: int | None = option(
        None,
        "Samples a second of the output; the voice's, or the model's if that is higher.",
        "Sample rate",
        least=8000,
        most=192_000,
    )


@cache
def _table(options: type[Any]) -> dict[str, Option]:
    """The rows of a class of options by name, with the types that its fields are annotated with."""
    hints = get_type_hints(options)
    rows = {}
    for each in fields(options):
        kind, *_ = [kind for kind in get_args(hints[each.name]) or (hints[each.name],) if kind is not NoneType]
        rows[each.name] = replace(each.metadata["option"], name=each.name, kind=kind)
    return rows


OPTIONS = _table(GenerationOptions)
MIX_OPTIONS = _table(MixOptions)
# what a server offers to anyone
PUBLIC_OPTIONS = {name: row for name, row in OPTIONS.items() if not row.internal}
