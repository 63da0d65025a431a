# SPDX-License-Identifier: Apache-2.0
"""A corpus's lead sheets as rows that condition crops, at random corrupted or dropped in training.

A row holds one kind of information, such as beats or chords, as a number for each conditioning frame.

In generation, the listener (a network that estimates lead sheets from vocals) makes mistakes: it estimates the tempo
an octave off, or the beats half a beat late. A stage that never saw such a lead sheet in training would follow it
against the vocal. So each sample's lead sheet is corrupted at the listener's error rates, and single rows, or all of
them, are dropped at random. Some samples also get the vocal of another song: a stage that never saw one plays the
chords implied by the vocal rather than those given.
"""

import functools
import json
from dataclasses import replace

import numpy as np
import torch

from ..lead_sheet.lead_sheet import LEAST_BEAT_SECONDS, LeadSheet, rows_by_frame
from ..modeling.configuration_stage import HAFMStageConfig
from .arguments import CorruptionArguments

# number of parsed lead sheets to cache
SHEETS_KEPT = 4096


def misheard(sheet: LeadSheet, corruption: CorruptionArguments, generator: np.random.Generator) -> LeadSheet:
    """The lead sheet as a listener might estimate it: beats half a beat late, the tempo doubled or halved.

    Args:
        sheet: the song's, left unchanged.
        corruption: probabilities of either mistake.
        generator: for the draws.
    """
    # all three, whatever the sheet: later draws of the generator do not depend on it
    half_beat_draw, octave_draw, halving_draw = generator.random(3)
    beats = np.asarray(sheet.beats or (), dtype=np.float64)
    changes: dict[str, object] = {}
    if len(beats) > 1 and half_beat_draw < corruption.lead_sheet_half_beat:
        # the last beat is as long as the one before
        beats = beats + 0.5 * np.diff(beats, append=2 * beats[-1] - beats[-2])
    if len(beats) > 3 and octave_draw < corruption.lead_sheet_octave:
        # positions in the bar are meaningless at another tempo
        changes["beats_per_bar"] = None
        # beats too fast to be doubled are halved: no listener estimates a faster tempo
        if halving_draw < 0.5 or np.diff(beats).min() < 2 * LEAST_BEAT_SECONDS:
            beats = beats[::2]
        else:
            half_beats = np.arange(0, len(beats) - 0.5, 0.5)
            beats = np.interp(half_beats, np.arange(len(beats)), beats)
    if len(beats):
        changes["beats"] = beats.tolist()
    return replace(sheet, **changes)  # type: ignore[arg-type]


def with_rows_dropped(
    rows: torch.Tensor, corruption: CorruptionArguments, generator: np.random.Generator
) -> torch.Tensor:
    """Drops some or all of a lead sheet's rows, that is, sets them to 0 (unknown).

    Args:
        rows (int64 [rows, frames]): one row for each kind of information, such as beats or chords.
        corruption: probabilities of dropping each row, and all of them.
        generator: for the draws.

    Returns:
        A copy, int64 [rows, frames].
    """
    draw_for_all, *draws = generator.random(1 + len(rows))
    dropped = np.array(draws) < corruption.lead_sheet_dropout
    dropped |= draw_for_all < corruption.lead_sheet_dropout_all
    return rows.masked_fill(torch.from_numpy(dropped)[:, None], 0)


def crop_rows(
    text: str,
    config: HAFMStageConfig,
    start: float,
    frames: int,
    corruption: CorruptionArguments | None = None,
    generator: np.random.Generator | None = None,
) -> torch.Tensor:
    """The rows of a lead sheet that a stage reads, frame by frame, for one crop.

    Args:
        text: lead sheet, as JSON, of the excerpt that the crop is from; if empty, all rows are unknown.
        config: the stage's; styles that it does not list are ignored.
        start: start of the crop within the excerpt, in seconds.
        frames: number of conditioning frames.
        corruption, generator: for a training sample, the probabilities of mistakes and the random numbers that decide
            on them; unless both are given, the lead sheet is left unchanged.

    Returns:
        int64 [rows, frames], the rows named in `config.lead_sheet_streams`, in their order.
    """
    sheet = _parsed(text, tuple(config.styles))
    names = list(config.lead_sheet_streams)
    rate = config.conditioning_frame_rate
    if corruption is None or generator is None:
        return rows_by_frame(sheet.moved(-start), names, frames, rate, config.styles)
    sheet = misheard(sheet, corruption, generator)
    rows = rows_by_frame(sheet.moved(-start), names, frames, rate, config.styles)
    return with_rows_dropped(rows, corruption, generator)


@functools.lru_cache(SHEETS_KEPT)
def _parsed(text: str, styles: tuple[str, ...]) -> LeadSheet:
    """A lead sheet from JSON, of whose styles only those in `styles` are kept; empty for an empty text.

    A sheet's style is one name, a list of spans (start, stop, name), or None.
    """
    if text:
        sheet = LeadSheet.given(json.loads(text))
    else:
        sheet = LeadSheet()
    if isinstance(sheet.style, str):
        if sheet.style in styles:
            return sheet
        return replace(sheet, style=None)
    spans = [span for span in sheet.style or () if span[2] in styles]
    return replace(sheet, style=spans or None)
