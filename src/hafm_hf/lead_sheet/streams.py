# SPDX-License-Identifier: Apache-2.0
"""A lead sheet as conditioning streams: one small number a frame for each thing that is known of a song.

Between the lead sheet and the stages on the path of the data. A stage's configuration names the streams that it
reads; 0 stands for what is not known, in every stream. Dimensions: S streams, T frames.
"""

from collections.abc import Sequence

import numpy as np
import torch

from .chords import NUM_CHORD_CLASSES, chord_index
from .lead_sheet import ENERGIES, METRES, LeadSheet, Span
from .vocabulary import STEMS as STEMS

UNKNOWN = 0
# equal parts of a beat; thirds and quarters of it begin with one
BEAT_PARTS = 12
# with the names of a model's styles in the place of these, which are only counted
MAX_STYLES = 15
STREAM_SIZES = {
    "chord": 1 + NUM_CHORD_CLASSES,
    "beat": 1 + BEAT_PARTS,
    # the number of the beat in a bar of three and of four
    "bar": 1 + sum(METRES),
    "energy": 1 + len(ENERGIES),
    "style": 1 + MAX_STYLES,
    "stem": 1 + len(STEMS),
}


def lead_sheet_streams(
    sheet: LeadSheet,
    names: Sequence[str],
    frames: int,
    frame_rate: int,
    styles: Sequence[str] = (),
    stem: str | None = None,
) -> torch.Tensor:
    """The streams of a song.

    Args:
        sheet: what is known of it.
        names: of the streams, in the order of the result.
        frames, frame_rate (Hz): of the result.
        styles: names that the model knows, in their order.
        stem: which part of the band is meant, one of `STEMS`.

    Returns:
        int64 [S, T], below `STREAM_SIZES`; 0 where nothing is known.

    Raises:
        ValueError: an unknown stream, style or stem.
    """
    if unknown := [name for name in names if name not in STREAM_SIZES]:
        raise ValueError(f"There is no stream {unknown[0]!r}; choose from {', '.join(STREAM_SIZES)}.")
    passed = sheet.beats_passed(frames, frame_rate)
    streams = np.full((len(names), frames), UNKNOWN, dtype=np.int64)
    for row, name in zip(streams, names, strict=True):
        if name == "chord":
            _fill(row, [(start, stop, 1 + chord_index(label)) for start, stop, label in sheet.chords], frame_rate)
        elif name == "energy":
            spans = [(start, stop, 1 + ENERGIES.index(label)) for start, stop, label in sheet.sections]
            _fill(row, spans, frame_rate)
        elif name == "style":
            _fill(row, _style_spans(sheet, styles, frames / frame_rate), frame_rate)
        elif name == "stem" and stem is not None:
            row[:] = 1 + place_of(stem, STEMS, "stem")
        elif name == "beat" and passed is not None:
            row[:] = 1 + np.floor(passed % 1 * BEAT_PARTS).astype(np.int64).clip(0, BEAT_PARTS - 1)
        elif name == "bar" and passed is not None and sheet.beats_per_bar is not None:
            before = sum(metre for metre in METRES if metre < sheet.beats_per_bar)
            row[:] = 1 + before + (np.floor(passed).astype(np.int64) - sheet.downbeat) % sheet.beats_per_bar
    return torch.from_numpy(streams)


def with_stem(streams: torch.Tensor, names: Sequence[str], stem: str) -> torch.Tensor:
    """Streams (int64 [S, T]) of `names` that ask for another stem, where there is a stream for it."""
    if "stem" not in names:
        return streams
    rows = torch.tensor([name == "stem" for name in names], device=streams.device)
    return streams.masked_fill(rows[:, None], 1 + place_of(stem, STEMS, "stem"))


def _fill(row: np.ndarray, spans: Sequence[tuple[float, float, int]], frame_rate: int) -> None:
    for start, stop, value in spans:
        row[max(round(start * frame_rate), 0) : max(round(stop * frame_rate), 0)] = value


def _style_spans(sheet: LeadSheet, styles: Sequence[str], seconds: float) -> list[tuple[float, float, int]]:
    spans: Sequence[Span] = [(0.0, seconds, sheet.style)] if isinstance(sheet.style, str) else sheet.styles
    return [(start, stop, 1 + place_of(name, styles, "style")) for start, stop, name in spans]


def place_of(name: str, known: Sequence[str], kind: str) -> int:
    """Where a style or stem (`kind`) stands among those that a model knows; raises ValueError if it does not."""
    if name not in known:
        raise ValueError(f"This model has no {kind} {name!r}; it has {', '.join(known) or 'none'}.")
    return list(known).index(name)
