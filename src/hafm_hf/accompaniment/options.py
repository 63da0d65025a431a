# SPDX-License-Identifier: Apache-2.0
"""Tables of the generation options and the mix options: name, type, limits and help.

`HAFMForVocalAccompaniment.generate` and `stream`, the pipeline, the endpoint, the command line and the Space all read
these tables: a new option is added here, and where it takes effect. Nothing heavy is imported, because `hafm --help`
reads them too.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from numbers import Integral, Real
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from ..lead_sheet.vocabulary import ENERGIES

Options = TypeVar("Options", bound="_Options")
# sampling options: the best value differs between stages
OF_EVERY_STAGE = "for all stages; each stage's own default if not given"
# median loudness of the voice relative to the instrumental in MUSDB18's songs, in LU
MEDIAN_BALANCE = -2.5
# the largest seed that torch's and numpy's generators both accept
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
        label: its name in a user interface.
        least, most: its limits, inclusive.
        choices: the values that a string option accepts.
        word: a string that a number option accepts as well.
        internal: whether it controls how the machine computes, which clients of a server must not choose.
        streams: lead sheet streams, one of which a stage of the model must read; "stem" requires a separator.
        name, kind, default: those of its dataclass field; `_table` fills in the first two.
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
        """Whether it may be None, which leaves it to the model."""
        return self.default is None

    def check(self, value: Any) -> None:
        """Refuses a value of the wrong type or out of range.

        Raises:
            ValueError: naming the option, its value and the values allowed.
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
        # written so that NaN fails
        if self.kind in (int, float) and not (least <= value <= most and abs(value) < math.inf):
            low, high = (f"{limit:g}" if isinstance(limit, float) else limit for limit in (least, most))
            limits = f"{low} or more" if most == math.inf else f"between {low} and {high}"
            raise ValueError(f"{self.name} is {value}; it must be {limits}.")


def option(default: Any, help: str, label: str, **limits: Any) -> Any:
    """A dataclass field of `GenerationOptions` or `MixOptions`."""
    return field(default=default, metadata={"option": Option(help, label, default=default, **limits)})


class _Options:
    """Base class of the option dataclasses; None leaves a value to the model or to the song."""

    def __post_init__(self) -> None:
        for name, row in _table(type(self)).items():  # type: ignore[arg-type]
            value = getattr(self, name)
            if getattr(value, "ndim", None) == 0:
                # a NumPy or torch scalar
                object.__setattr__(self, name, value := value.item())
            row.check(value)

    @classmethod
    def of(cls: type[Options], options: Options | None = None, given: Mapping[str, Any] | None = None) -> Options:
        """Replaces the options that are given by name; None counts as not given.

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
    """Options of a generation, for all interfaces; None leaves a value to the model.

    Raises:
        ValueError: for a value of the wrong type or out of range, naming the option.
    """

    num_samples: int = option(1, "Instrumentals per vocal.", "Variations", least=1, most=64)
    seed: int | None = option(None, "Same seed, same music; random if not given.", "Seed", least=0, most=MAX_SEED)
    guidance_scale: float | None = option(
        None, f"How strictly to follow the voice, {OF_EVERY_STAGE}.", "Guidance scale", least=0.0
    )
    temperature: float | None = option(None, f"Sampling temperature, {OF_EVERY_STAGE}.", "Temperature", least=0.01)
    top_k: int | None = option(None, f"Sample from the K likeliest codes (0: all) {OF_EVERY_STAGE}.", "Top-k", least=0)
    style: str | None = option(
        None, "Style, e.g. folk (see `hafm info`); drawn from the seed if not given.", "Style", streams=("style",)
    )
    energy: str | None = option(
        None,
        "How busily the band plays; auto: by the lead sheet's sections, or else the loudness of the voice.",
        "Energy",
        choices=("auto", *ENERGIES),
        streams=("energy",),
    )
    stems: bool = option(
        False, "Also drums, bass, chords and pads (pads …); they sum to the whole.", "Stems", streams=("stem",)
    )
    skip_fine: bool = option(False, "Decode the coarse codebooks only: faster, rougher.", "Skip the fine stage")
    decoding: str | None = option(
        None,
        "Decoding loop: ours (fast) or transformers' (reference); fast on CPU and CUDA if not given.",
        "Decoding",
        choices=("fast", "reference"),
        internal=True,
    )
    compile: bool | None = option(
        None, "Replay decoding steps as CUDA graphs: faster, NVIDIA GPUs only.", "Compile", internal=True
    )
    threads: int | None = option(
        None, "Number of torch threads; depends on the model's size if not given.", "Threads", least=1, internal=True
    )


@dataclass(frozen=True)
class MixOptions(_Options):
    """How an instrumental is mixed with the voice, and how the song ends.

    Raises:
        ValueError: for a value of the wrong type or out of range, naming the option.
    """

    vocal_gain_db: float = option(0.0, "Gain of the voice in the mix, in dB.", "Voice", least=-96.0, most=48.0)
    instrumental_gain_db: float = option(0.0, "Gain of the band in the mix, in dB.", "Band", least=-96.0, most=48.0)
    balance: float | str | None = option(
        None,
        f"Loudness of the voice relative to the instrumental, in LU; auto: {MEDIAN_BALANCE:g}, the median of songs.",
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
        0.0, "Seconds that the band plays on after the voice, if there is no outro.", "Ending", least=0.0, most=30.0
    )
    intro_bars: int = option(
        0, "Bars that the band plays before the voice.", "Intro", least=0, most=16, streams=("beat", "bar")
    )
    outro_bars: int = option(
        0, "Bars after the voice, ending on the tonic chord.", "Outro", least=0, most=16, streams=("beat", "bar")
    )
    output_rate: int | None = option(
        None,
        "Sampling rate of the output in Hz; if not given, the voice's, or the model's if that is higher.",
        "Sample rate",
        least=8000,
        most=192_000,
    )


@cache
def _table(options: type[Any]) -> dict[str, Option]:
    """The options of a dataclass by name, with the types of its annotations."""
    hints = get_type_hints(options)
    rows = {}
    for each in fields(options):
        kind, *_ = [kind for kind in get_args(hints[each.name]) or (hints[each.name],) if kind is not NoneType]
        rows[each.name] = replace(each.metadata["option"], name=each.name, kind=kind)
    return rows


OPTIONS = _table(GenerationOptions)
MIX_OPTIONS = _table(MixOptions)
# those that clients of a server may set
PUBLIC_OPTIONS = {name: row for name, row in OPTIONS.items() if not row.internal}
