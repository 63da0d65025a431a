# SPDX-License-Identifier: Apache-2.0
"""A lead sheet as conditioning streams: one small number a frame for each thing that is known of a song.

A stage's configuration names the streams that it reads; 0 stands for what is not known, in every stream. Dimensions:
S streams, T frames.
"""

from collections.abc import Sequence

import numpy as np
import torch

from .chords import NUM_CHORD_CLASSES, chord_index
from .lead_sheet import ENERGIES, METRES, LeadSheet
from .vocabulary import LINE_UPS

UNKNOWN = 0
# equal parts of a beat; thirds and quarters of it begin with one
BEAT_PARTS = 12
# a model has names for so many styles at most
MAX_STYLES = 15
STREAM_SIZES = {
    "chord": 1 + NUM_CHORD_CLASSES,
    "beat": 1 + BEAT_PARTS,
    # the number of the beat in a bar of three and of four
    "bar": 1 + sum(METRES),
    "energy": 1 + len(ENERGIES),
    "style": 1 + MAX_STYLES,
    "line_up": 1 + len(LINE_UPS),
}


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
        elif name == "line_up" and sheet.line_up is not None:
            row[:] = sheet.line_up
        elif name == "beat" and passed is not None:
            row[:] = 1 + np.floor(passed % 1 * BEAT_PARTS).astype(np.int64).clip(0, BEAT_PARTS - 1)
        elif name == "bar" and passed is not None and sheet.beats_per_bar is not None:
            before = sum(metre for metre in METRES if metre < sheet.beats_per_bar)
            row[:] = 1 + before + (np.floor(passed).astype(np.int64) - sheet.downbeat) % sheet.beats_per_bar
    return torch.from_numpy(streams)


def place_of(style: str, styles: Sequence[str]) -> int:
    """Where a style stands among those that a model knows; raises ValueError if it does not know it."""
    if style not in styles:
        raise ValueError(f"This model has no style {style!r}; it has {', '.join(styles) or 'none'}.")
    return list(styles).index(style)


def _fill(row: np.ndarray, spans: Sequence[tuple[float, float, int]], frame_rate: int) -> None:
    """Writes the numbers of spans (start s, stop s, number) into a stream, where 0 is kept for what is not known."""
    for start, stop, number in spans:
        row[max(round(start * frame_rate), 0) : max(round(stop * frame_rate), 0)] = 1 + number
