# SPDX-License-Identifier: Apache-2.0
"""The options of a generation and of a mix: fields with limits and help, from which all interfaces take them.

`HAFMForVocalAccompaniment.generate` and `stream`, the pipeline, the endpoint, the command line and the Space read
these classes: a new option is added here, as a flag of `hafm accompany`, and where it takes effect. Nothing heavy is
imported, because `hafm --help` reads them too.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from typing import Any, TypeVar

from ..lead_sheet.vocabulary import AUTO_STYLE, ENERGIES

Options = TypeVar("Options", "GenerationOptions", "MixOptions")
# sampling options: the best value differs between stages
OF_EVERY_STAGE = "for all stages; each stage's own default if not given"
# median loudness of the voice relative to the instrumental in MUSDB18's songs, in LU
MEDIAN_BALANCE = -2.5
# the largest seed that torch's and numpy's generators both accept
MAX_SEED = 2**63 - 1

# by the type of an option, the type of value that it accepts, and that type in words
KINDS: dict[type, tuple[type, str]] = {
    bool: (bool, "True or False"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "a text"),
}


@dataclass(frozen=True)
class Option:
    """An option, as the metadata of its field.

    Args:
        kind: type of its value; a float option accepts integers, too.
        help: what it does, in a sentence.
        label: its name in a user interface.
        default: its value if it is not given; None leaves it to the model or to the song.
        least, most: limits of a number, inclusive; None: no limit.
        choices: the values that a string option accepts; empty: any.
        word: a string that a number option accepts in place of a number, such as "auto"; empty: none.
        internal: whether it controls how the machine computes, which clients of a server must not choose.
        needs_one_of: what the model must have one of: lead-sheet rows that a stage reads ("beat" …), or "stem" for a
            separator; empty: the option suits any model.
    """

    kind: type
    help: str
    label: str
    default: Any = None
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    word: str = ""
    internal: bool = False
    needs_one_of: tuple[str, ...] = ()

    def check(self, name: str, value: Any) -> None:
        """Refuses a value of the wrong type or out of range.

        Args:
            name: name of the option, for the message.
            value: the value; None, for "not given", is accepted if the default leaves it open.

        Raises:
            ValueError: naming the option, its value and the values allowed.
        """
        # a style that is None is as open as "auto"
        if value is None and self.default in (None, AUTO_STYLE):
            return
        # such as "auto", which is accepted in place of a number
        if self.word and value == self.word:
            return
        self._check_type(name, value)
        if self.choices and value not in self.choices:
            raise ValueError(f"{name} is {value!r}; choose {' or '.join(map(repr, self.choices))}.")
        if self.kind in (int, float):
            self._check_limits(name, value)

    def _check_type(self, name: str, value: Any) -> None:
        """Raises ValueError unless the value of the option called `name` is of its type."""
        accepted, wanted = KINDS[self.kind]
        if self.word:
            wanted += f" or {self.word!r}"
        # for Python True is also an integer, but nobody means a number by it
        bool_for_number = isinstance(value, bool) and self.kind is not bool
        if not isinstance(value, accepted) or bool_for_number:
            raise ValueError(f"{name} is {value!r}; it must be {wanted}.")

    def _check_limits(self, name: str, value: Any) -> None:
        """Raises ValueError if the number given for the option called `name` is out of range or infinite."""
        least = -math.inf if self.least is None else self.least
        most = math.inf if self.most is None else self.most
        # written so that NaN fails
        if least <= value <= most and abs(value) < math.inf:
            return
        # 30 rather than 30.0
        low = f"{least:g}" if isinstance(least, float) else least
        high = f"{most:g}" if isinstance(most, float) else most
        limits = f"between {low} and {high}"
        if most == math.inf:
            limits = f"{low} or more"
        raise ValueError(f"{name} is {value}; it must be {limits}.")


def option(default: Any, kind: type, help: str, label: str, **limits: Any) -> Any:
    """A dataclass field of `GenerationOptions` or `MixOptions`.

    The arguments are the fields of `Option`; `limits` are those that have a default, from `least` on.
    """
    return field(default=default, metadata={"option": Option(kind, help, label, default, **limits)})


@dataclass(frozen=True)
class GenerationOptions:
    """Options of a generation, for all interfaces; None leaves a value to the model.

    Raises:
        ValueError: for a value of the wrong type or out of range, naming the option.
    """

    num_samples: int = option(1, int, "Instrumentals per vocal.", "Variations", least=1, most=64)
    seed: int | None = option(None, int, "Same seed, same music; random if not given.", "Seed", least=0, most=MAX_SEED)
    guidance_scale: float | None = option(
        None, float, f"How strictly to follow the voice, {OF_EVERY_STAGE}.", "Guidance scale", least=0.0
    )
    temperature: float | None = option(
        None, float, f"Sampling temperature, {OF_EVERY_STAGE}.", "Temperature", least=0.01
    )
    top_k: int | None = option(
        None, int, f"Sample from the K likeliest codes (0: all) {OF_EVERY_STAGE}.", "Top-k", least=0
    )
    style: str | None = option(
        AUTO_STYLE,
        str,
        "Style, e.g. folk (see `hafm info`); auto: drawn by the seed among those that suit metre, tempo and density.",
        "Style",
        needs_one_of=("style",),
    )
    energy: str | None = option(
        None,
        str,
        "How busily the band plays; auto: by the lead sheet's sections, or else the loudness of the voice.",
        "Energy",
        choices=("auto", *ENERGIES),
        needs_one_of=("energy",),
    )
    stems: bool = option(
        False,
        bool,
        "Also drums, bass, chords and pads (pads …); they sum to the whole.",
        "Stems",
        needs_one_of=("stem",),
    )
    skip_fine: bool = option(False, bool, "Decode the coarse codebooks only: faster, rougher.", "Skip the fine stage")
    decoding: str | None = option(
        None,
        str,
        "Decoding loop: ours (fast) or transformers' (reference); fast on CPU and CUDA if not given.",
        "Decoding",
        choices=("fast", "reference"),
        internal=True,
    )
    compile: bool | None = option(
        None, bool, "Replay decoding steps as CUDA graphs: faster, NVIDIA GPUs only.", "Compile", internal=True
    )
    threads: int | None = option(
        None,
        int,
        "Number of torch threads; depends on the model's size if not given.",
        "Threads",
        least=1,
        internal=True,
    )

    def __post_init__(self) -> None:
        """Refuses invalid values."""
        check_values(self)

    @classmethod
    def of(
        cls, options: "GenerationOptions | None" = None, given: Mapping[str, Any] | None = None
    ) -> "GenerationOptions":
        """A copy of `options`, the defaults if None, in which those `given` by name are replaced.

        A given value of None counts as not given.

        Raises:
            TypeError: there is no option of that name.
            ValueError: for an invalid value.
        """
        return with_values(cls() if options is None else options, given or {})


@dataclass(frozen=True)
class MixOptions:
    """How an instrumental is mixed with the voice, how the song begins and ends, and the rate of the output.

    Raises:
        ValueError: for a value of the wrong type or out of range, naming the option.
    """

    vocal_gain_db: float = option(0.0, float, "Gain of the voice in the mix, in dB.", "Voice", least=-96.0, most=48.0)
    instrumental_gain_db: float = option(
        0.0, float, "Gain of the band in the mix, in dB.", "Band", least=-96.0, most=48.0
    )
    balance: float | str | None = option(
        None,
        float,
        f"Loudness of the voice relative to the instrumental, in LU; auto: {MEDIAN_BALANCE:g}, the median of songs.",
        "Balance",
        least=-30.0,
        most=30.0,
        word="auto",
    )
    loudness: float | None = option(
        None,
        float,
        "Loudness of the mix in LUFS, e.g. -16; peaks above -1 dBTP are limited.",
        "Loudness",
        least=-40.0,
        most=-6.0,
    )
    tail: float = option(
        0.0,
        float,
        "Seconds that the band plays on after the voice, if there is no outro.",
        "Ending",
        least=0.0,
        most=30.0,
    )
    intro_bars: int = option(
        0, int, "Bars that the band plays before the voice.", "Intro", least=0, most=16, needs_one_of=("beat", "bar")
    )
    outro_bars: int = option(
        0,
        int,
        "Bars after the voice, ending on the tonic chord.",
        "Outro",
        least=0,
        most=16,
        needs_one_of=("beat", "bar"),
    )
    output_rate: int | None = option(
        None,
        int,
        "Sampling rate of the output in Hz; if not given, the voice's, or the model's if that is higher.",
        "Sample rate",
        least=8000,
        most=192_000,
    )

    def __post_init__(self) -> None:
        """Refuses invalid values."""
        check_values(self)

    @classmethod
    def of(cls, options: "MixOptions | None" = None, given: Mapping[str, Any] | None = None) -> "MixOptions":
        """A copy of `options`, the defaults if None, in which those `given` by name are replaced.

        A given value of None counts as not given.

        Raises:
            TypeError: there is no option of that name.
            ValueError: for an invalid value.
        """
        return with_values(cls() if options is None else options, given or {})


def options_by_name(options: type[GenerationOptions] | type[MixOptions]) -> dict[str, Option]:
    """The `Option` of each field of a class of options, by the field's name."""
    return {field.name: field.metadata["option"] for field in fields(options)}


def check_values(options: GenerationOptions | MixOptions) -> None:
    """Refuses invalid values, and turns NumPy and torch scalars among the fields of `options` into numbers, in place.

    Raises:
        ValueError: naming the option.
    """
    for name, option in options_by_name(type(options)).items():
        value = getattr(options, name)
        if getattr(value, "ndim", None) == 0:
            value = value.item()
            # the class is frozen
            object.__setattr__(options, name, value)
        option.check(name, value)


def with_values(options: Options, given: Mapping[str, Any]) -> Options:
    """A copy of `options` in which those given by name are replaced; None counts as not given.

    Raises:
        TypeError: there is no option of that name.
        ValueError: for an invalid value.
    """
    names = list(options_by_name(type(options)))
    given = {name: value for name, value in given.items() if value is not None}
    if unknown := sorted(set(given) - set(names)):
        raise TypeError(f"There is no option {unknown[0]!r}; a generation takes {', '.join(names)}.")
    if not given:
        return options
    return replace(options, **given)
