# SPDX-License-Identifier: Apache-2.0
"""The vocals of a folder or of a Parquet file: where each lies, how long it is, and its sound.

A Parquet file has a column of sound as `datasets` writes it, a struct of `bytes` and `path`. Every vocal is decoded
once when it is found, so that bad ones are known before anything is generated.

What is known of a song may lie beside its vocal: NAME_lead_sheet.json, NAME_beats.txt and NAME_chords.lab, as
`hafm lead-sheet` writes them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from .. import audio
from ..accompaniment.inputs import COLUMN_NAMES
from ..corpus.tracks import SCAN_THREADS, HAFMCorpusError, TrackError, display_name, find_audio, hash_files
from ..lead_sheet.files import FORMATS, read_lead_sheet
from ..lead_sheet.known import known_lead_sheet
from ..lead_sheet.lead_sheet import LeadSheet

if TYPE_CHECKING:
    import pyarrow.parquet as pq

PARQUET_SUFFIX = ".parquet"
SHEET, BEATS, CHORDS = FORMATS["json"] + FORMATS["lab"]
Stamp = list[int]


class HAFMBatchError(ValueError):
    """A batch that can't be made or gone on with; the message is one sentence that says what to do."""


@dataclass(frozen=True)
class Vocal:
    """One vocal.

    Attributes:
        key (str): its path below the folder, or its row in the Parquet file.
        name (str): its path below the folder without suffix; of a row the name of the file that it was.
        seconds (float): how long it is, or what is used of it.
        content_hash (str): SHA-256 of its bytes, and of its lead sheet's.
        stamp (list): size in bytes and modification time in ns of its files, to know unchanged ones again.
        lead_sheet (bool): whether there are files of its lead sheet beside it.
    """

    key: str
    name: str
    seconds: float
    content_hash: str
    stamp: Stamp
    lead_sheet: bool = False


def is_parquet(source: Path) -> bool:
    """Whether the vocals are rows of a file."""
    return source.suffix == PARQUET_SUFFIX


def find_vocals(
    source: Path, column: str, seconds: float | None, known: dict[str, Vocal]
) -> Iterator[Vocal | tuple[str, str]]:
    """Every vocal of a folder or a Parquet file, and (key, sentence) for each that can't be one.

    Args:
        source: folder, searched to its depths, or Parquet file.
        column: of the Parquet file; found if empty.
        seconds: use only this much from the start of each.
        known: vocals by key of an earlier look, which are not read again while their stamp is the same.

    Raises:
        HAFMBatchError: there is no such folder or file, or no column of sound in it.
    """
    if is_parquet(source):
        return _find_rows(source, column, seconds, known)
    return _find_files(source, seconds, known)


def read_vocal(source: Path, column: str, key: str) -> str | bytes:
    """A vocal as `audio.read_audio` takes it: path or bytes.

    Raises:
        HAFMAudioError: the Parquet file has no such row, or nothing in it.
    """
    if not is_parquet(source):
        return str(source / key)
    import pyarrow.parquet as pq

    with pq.ParquetFile(source) as file:
        row = int(key)
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if row < count:
                for number, content in enumerate(_rows(file, sound_column(file, column), [group])):
                    if number == row:
                        return _sound(source, key, content)
            row -= count
    raise audio.HAFMAudioError(f"{source.name} has no row {key} any more.")


def own_lead_sheet(source: Path, key: str, tempo: float | None = None) -> LeadSheet | None:
    """What the files beside a vocal of a folder know of its song; None where there are none.

    Args:
        source: the folder.
        key: of the vocal.
        tempo: of all songs; beats of a song's own go before.

    Raises:
        ValueError: naming the file, and its line.
    """
    sheet, beats, chords = (source / file if file else None for file in _sheet_files(source, key).values())
    if is_parquet(source) or (sheet, beats, chords) == (None, None, None):
        return None
    known = LeadSheet() if sheet is None else read_lead_sheet(sheet)
    if beats is not None:
        # what the whole has is another count of beats
        known = replace(known, tempo=None, beats_per_bar=None, downbeat=0)
    own = known_lead_sheet(known, beats=beats, chords=None if chords is None else str(chords))
    assert own is not None
    return own if tempo is None or own.has_beats else replace(own, tempo=tempo)


def _sheet_files(source: Path, key: str) -> dict[str, str]:
    """Files of a vocal's lead sheet, by what stands behind its name; empty where there is none."""
    name = os.path.splitext(key)[0]
    return {suffix: name + suffix if (source / (name + suffix)).is_file() else "" for suffix in (SHEET, BEATS, CHORDS)}


def sound_column(file: pq.ParquetFile, wanted: str) -> str:
    """The column of sound.

    Raises:
        HAFMBatchError: there is none, or several of which none is called vocal, vocals or audio.
    """
    import pyarrow as pa

    fields = [field for field in file.schema_arrow if pa.types.is_struct(field.type)]
    found = [field.name for field in fields if {"bytes", "path"} <= {part.name for part in field.type}]
    if wanted in found:
        return wanted
    chosen = [] if wanted else [name for name in COLUMN_NAMES if name in found][:1] or found
    if len(chosen) == 1:
        return chosen[0]
    there = ", ".join(found) or "none"
    asked = f"is no column {wanted} of sound" if wanted else "are no or several columns of sound"
    raise HAFMBatchError(f"There {asked} (bytes and path, as datasets writes it; there: {there}); name one: --column.")


def stamp_of(path: Path) -> Stamp:
    """Size in bytes and modification time in ns."""
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns]


def _find_files(source: Path, seconds: float | None, known: dict[str, Vocal]) -> Iterator[Vocal | tuple[str, str]]:
    try:
        paths, drops, _ = find_audio(source)
    except HAFMCorpusError as error:
        raise HAFMBatchError(str(error)) from error
    for drop in drops:
        yield drop.track, f"{drop.track}: {drop.reason.value}; fix or remove it."

    def look(key: str) -> Vocal | tuple[str, str]:
        try:
            files = {"vocal": key, **{suffix: file for suffix, file in _sheet_files(source, key).items() if file}}
            stamp = [part for file in files.values() for part in stamp_of(source / file)]
            if key in known and known[key].stamp == stamp:
                return known[key]
            length = _length(str(source / key), seconds, display_name(key))
            told = own_lead_sheet(source, key) is not None
            return Vocal(key, os.path.splitext(key)[0], length, hash_files(source, files), stamp, told)
        except (ValueError, TrackError) as error:
            return key, str(error)
        except OSError as error:
            return key, f"{display_name(key)} can't be read: {error.strerror}."

    with ThreadPoolExecutor(SCAN_THREADS) as pool:
        yield from pool.map(look, paths)


def _find_rows(
    source: Path, column: str, seconds: float | None, known: dict[str, Vocal]
) -> Iterator[Vocal | tuple[str, str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        stamp = stamp_of(source)
        with pq.ParquetFile(source) as file:
            chosen = sound_column(file, column)
            if len(known) == file.metadata.num_rows and all(vocal.stamp == stamp for vocal in known.values()):
                yield from known.values()
            else:
                yield from _rows_as_vocals(source, file, chosen, seconds, stamp)
    except (OSError, pa.ArrowException) as error:
        raise HAFMBatchError(f"{source} can't be read as Parquet: {str(error).splitlines()[0]}.") from error


def _rows_as_vocals(
    source: Path, file: pq.ParquetFile, column: str, seconds: float | None, stamp: Stamp
) -> Iterator[Vocal | tuple[str, str]]:
    for number, content in enumerate(_rows(file, column)):
        key = str(number)
        try:
            sound = _sound(source, key, content)
            path = PurePosixPath((content or {}).get("path") or f"{source.stem}_{number:06d}")
            # a path may be absolute, or of another machine: only its last part is a name
            name = display_name(path.stem)
            length = _length(sound, seconds, f"row {key} ({display_name(path.name)})")
            data = sound if isinstance(sound, bytes) else Path(sound).read_bytes()
            yield Vocal(key, name, length, hashlib.sha256(data).hexdigest(), stamp)
        except (audio.HAFMAudioError, OSError) as error:
            yield key, f"{source.name}: {error}"


def _length(sound: str | bytes, seconds: float | None, name: str) -> float:
    """Seconds that are used of a vocal, decoded once: a bad one must not be planned beside good ones."""
    samples, rate = audio.read_audio(sound, seconds=seconds, name=name)
    return len(samples) / rate


def _rows(file: pq.ParquetFile, column: str, groups: list[int] | None = None) -> Iterator[dict[str, Any] | None]:
    """The contents of a column, one at a time: its rows may hold whole songs."""
    for batch in file.iter_batches(batch_size=1, row_groups=groups, columns=[column]):
        yield batch.column(0)[0].as_py()


def _sound(source: Path, key: str, content: dict[str, Any] | None) -> str | bytes:
    if content and content.get("bytes"):
        return bytes(content["bytes"])
    if content and content.get("path"):
        return str(source.parent / content["path"])
    raise audio.HAFMAudioError(f"row {key} holds neither bytes nor a path.")
