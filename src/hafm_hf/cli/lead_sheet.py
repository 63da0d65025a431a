"""`hafm lead-sheet`: what a model hears of a song, in files that can be mended; and reading such files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from .. import audio
from .console import HAFMCommandError, loading, stderr, stdout

if TYPE_CHECKING:
    from ..lead_sheet.lead_sheet import LeadSheet

T = TypeVar("T")


def lead_sheet(
    vocal: Annotated[str, typer.Argument(metavar="VOCAL", help="A recording of singing: path or URL.")],
    model: Annotated[str | None, typer.Option(help="Folder or hub id; the bundled hafm-tiny if not given.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the files.", file_okay=False)] = Path("."),
    seconds: Annotated[float | None, typer.Option(min=0.01, help="Use only the start.")] = None,
    tempo: Annotated[float | None, typer.Option(help="Beats a minute, if they are known.")] = None,
) -> None:
    """Writes the beats and chords that a model hears: NAME_beats.txt and NAME_chords.lab.

    Mended, they go into hafm accompany with --beats and --chords.
    """
    known = read_lead_sheet(tempo, None, None)
    samples, rate = audio.read_audio(vocal, seconds=seconds)
    if audio.is_silent(samples):
        stderr.print(f"{audio.source_name(vocal)} is silent; its beats and chords follow nothing.", markup=False)
    with loading(model):
        from ..accompaniment.modeling_accompaniment import HAFMForVocalAccompaniment

        composite = HAFMForVocalAccompaniment.from_pretrained(model)
    try:
        heard = composite.hear_lead_sheet(samples, rate, 0, known)
    except ValueError as error:
        raise HAFMCommandError(str(error)) from error
    beats = list(heard.beats or ())
    if beats:
        heard_tempo = 60 * (len(beats) - 1) / (beats[-1] - beats[0])
        stdout.print(f"{len(beats)} beats, {heard_tempo:.1f} a minute", markup=False)
    if heard.chords:
        stdout.print(f"chords: {' '.join(label for *_, label in heard.chords)}", markup=False)
    stem = Path(audio.source_name(vocal)).stem
    files = {
        f"{stem}_beats.txt": [f"{second:.3f}" for second in beats],
        f"{stem}_chords.lab": [f"{start:.3f}\t{stop:.3f}\t{label}" for start, stop, label in heard.chords],
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, lines in files.items():
        if not lines:
            continue
        (out / name).write_text("".join(f"{line}\n" for line in lines))
        stdout.print(f"wrote {out / name}", markup=False)


def read_lead_sheet(tempo: float | None, beats: Path | None, chords: Path | None) -> LeadSheet | None:
    """The lead sheet of the options of those names; None where none is given.

    A file of beats has the seconds of one first in each line, one of chords has start, stop and label; what follows is
    left out, as are empty lines and those that begin with #. Fields are separated by blanks, tabs or commas.

    Raises:
        typer.BadParameter: a file that cannot be read, naming its line, or a lead sheet that makes no sense.
    """
    if tempo is None and beats is None and chords is None:
        return None
    from ..lead_sheet.lead_sheet import LeadSheet

    def check_beats(found: list[float]) -> None:
        LeadSheet(beats=found[-2:] if len(found) > 1 else None)

    def check_chords(found: list[tuple[float, float, str]]) -> None:
        LeadSheet(chords=found[-1:])

    try:
        return LeadSheet(
            tempo,
            None if beats is None else _read(beats, 1, "seconds", lambda fields: float(fields[0]), check_beats),
            () if chords is None else _read(chords, 3, "START STOP LABEL", _chord, check_chords),
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _chord(fields: list[str]) -> tuple[float, float, str]:
    start, stop, label = fields
    return float(start), float(stop), label


def _read(
    path: Path, count: int, wanted: str, parse: Callable[[list[str]], T], check: Callable[[list[T]], None]
) -> list[T]:
    """What the first `count` fields of each line say.

    Args:
        path: a text file.
        count: fields of a line that count.
        wanted: what a line should be, for errors.
        parse: of the fields of a line.
        check: of all lines up to one; what it raises is told of that line.

    Raises:
        ValueError: naming the file, and its line if it can be read.
    """
    found: list[T] = []
    for number, line in enumerate(_text(path, wanted).splitlines(), start=1):
        fields = line.replace(",", " ").split()[:count]
        if not fields or fields[0].startswith("#"):
            continue
        try:
            found.append(parse(fields))
        except ValueError:
            raise ValueError(f"{path}, line {number}: {line.strip()[:40]!r} is not {wanted}.") from None
        try:
            check(found)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
    return found


def _text(path: Path, wanted: str) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text file; give one with {wanted} in each line.") from error
