# SPDX-License-Identifier: Apache-2.0
"""Token shards: the Parquet format between audio and training.

A row is one excerpt of one track, with all of its streams (T_v semantic frames, T_a codec frames, Q codebooks) cut at
the same start and end:

| column | type | content |
|---|---|---|
| `track` | string | name of the track; excerpts of one track share it |
| `start`, `duration` | float32 | seconds, multiples of the common grid of both frame rates |
| `vocal_semantic`, `instrumental_semantic` | List(int16) [T_v] | semantic tokens |
| `acoustic` | List(List(int16)) [Q][T_a] | codec codes of the instrumental |
| `source`, `licence` | string | collection that the track is from, and its licence; empty if unknown |
| `split` | string | train, validation or test; the same for all rows of a track |
| `tempo`, `key` | float32, string | BPM and a key such as `F#:min`, from labels.json; NaN and empty if unknown |
| `content_hash` | string | SHA-256 over the bytes of the track's files |
| `lead_sheet` | string | JSON of `LeadSheet.to_dict`, in seconds from the start of the excerpt; or empty |

The schema's metadata (key `hafm`) has frame rates and vocabularies as JSON, so that a stage can reject a corpus that
does not match it.
"""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..atomic_files import replacing

METADATA_KEY = b"hafm"
# rows per Parquet row group
ROW_GROUP_SIZE = 64
SCHEMA = pa.schema(
    [
        ("track", pa.string()),
        ("start", pa.float32()),
        ("duration", pa.float32()),
        ("vocal_semantic", pa.list_(pa.int16())),
        ("instrumental_semantic", pa.list_(pa.int16())),
        ("acoustic", pa.list_(pa.list_(pa.int16()))),
        ("source", pa.string()),
        ("licence", pa.string()),
        ("split", pa.string()),
        ("tempo", pa.float32()),
        ("key", pa.string()),
        ("content_hash", pa.string()),
        ("lead_sheet", pa.string()),
    ]
)


@dataclass(frozen=True)
class TokenCorpusInfo:
    """Frame rates and vocabularies of a corpus's tokens.

    Args:
        semantic_frame_rate, acoustic_frame_rate: in Hz.
        num_clusters: number of semantic tokens.
        codebook_size, num_codebooks: of the codec; all codebooks have the same size.
        semantic_tokenizer, codec: fingerprints of the weights that made the tokens; empty if not recorded.
    """

    semantic_frame_rate: int
    acoustic_frame_rate: int
    num_clusters: int
    codebook_size: int
    num_codebooks: int
    semantic_tokenizer: str = ""
    codec: str = ""

    @property
    def grid(self) -> Fraction:
        """Spacing in seconds of the instants that are frame boundaries in every stream (1/25 s for 50 and 75 Hz)."""
        return Fraction(1, math.gcd(self.semantic_frame_rate, self.acoustic_frame_rate))


@dataclass(frozen=True)
class TokenExcerpt:
    """One row of a shard.

    Attributes:
        track (str): name of the track.
        start, duration (float): seconds, on the common grid.
        vocal_semantic, instrumental_semantic (int16 [T_v]): semantic tokens of T_v frames.
        acoustic (int16 [Q, T_a]): codes of the instrumental, Q codebooks of T_a codec frames.
        source, licence, split, key, content_hash, lead_sheet (str), tempo (float): see the module's docstring.
    """

    track: str
    start: float
    duration: float
    vocal_semantic: np.ndarray
    instrumental_semantic: np.ndarray
    acoustic: np.ndarray
    source: str = ""
    licence: str = ""
    split: str = ""
    tempo: float = math.nan
    key: str = ""
    content_hash: str = ""
    lead_sheet: str = ""


def excerpt_bounds(duration: float, longest: float, shortest: float, grid: Fraction) -> list[tuple[float, float]]:
    """Cuts a track into as few equal excerpts as `longest` allows.

    Args:
        duration (float): length of the track in seconds.
        longest, shortest (float): limits of the excerpts' length in seconds.
        grid (Fraction): seconds; every start and length is a multiple of it.

    Returns:
        Start and length of each excerpt in seconds; none if they would be shorter than `shortest`.
    """
    # length of the track in whole cells of the grid; the denominator undoes float's rounding
    cells = math.floor(Fraction(duration).limit_denominator(10**6) / grid)
    count = max(1, math.ceil(cells / math.floor(Fraction(longest) / grid)))
    # of an excerpt, in cells
    length = cells // count
    if length * grid < shortest or length == 0:
        return []
    return [(float(index * length * grid), float(length * grid)) for index in range(count)]


def write_shard(path: str | os.PathLike[str], excerpts: Iterable[TokenExcerpt], info: TokenCorpusInfo) -> int:
    """Writes one Parquet shard under a temporary name, syncs it to disk and renames it; returns the number of rows.

    Equal excerpts give equal bytes: the file does not record when or where it was written.

    Raises:
        OSError: it can't be written; no partial file remains.
    """
    # `acoustic` as a list: Arrow takes arrays of one dimension only
    rows = [vars(row) | {"acoustic": list(row.acoustic)} for row in excerpts]
    schema = SCHEMA.with_metadata({METADATA_KEY: json.dumps(asdict(info)).encode()})
    table = pa.Table.from_pylist(rows, schema=schema)
    with replacing(path) as file:
        pq.write_table(table, file, row_group_size=ROW_GROUP_SIZE)
    return len(rows)


def shard_paths(folder: str | os.PathLike[str], split: str) -> list[Path]:
    """Shards of a split that exist, in order; raises FileNotFoundError if there are none."""
    paths = sorted(Path(folder).glob(f"{split}-*.parquet"))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no {split}-*.parquet; `hafm prepare` writes them.")
    return paths


def read_info(path: str | os.PathLike[str]) -> TokenCorpusInfo:
    """Reads frame rates and vocabularies from a shard's metadata; raises ValueError if there are none."""
    metadata = pq.read_schema(path).metadata or {}
    if METADATA_KEY not in metadata:
        raise ValueError(f"{path} is not a token shard: '{METADATA_KEY.decode()}' is missing; see hafm prepare.")
    return TokenCorpusInfo(**json.loads(metadata[METADATA_KEY]))
