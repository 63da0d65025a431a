# SPDX-License-Identifier: Apache-2.0
"""Lead sheets of a corpus as conditioning streams of crops, in training sometimes wrong or left out.

A listener errs: it takes half of the beat for the beat, or the beat half a beat late. A stage that never met such a
sheet would follow it against the voice. So each sample's sheet is wrong with the rates of the listener, and each of
its streams, or all, are left out with rates of their own. And some samples have the voice of another song: a stage
that never met one plays the chords of the voice instead of those that it is told.
"""

import functools
import json
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..lead_sheet.lead_sheet import LEAST_BEAT_SECONDS, LeadSheet, lead_sheet_streams
from ..modeling.configuration_hafm import HAFMStageConfig

# lead sheets that are kept as they were read
SHEETS_KEPT = 4096


@dataclass(frozen=True)
class LeadSheetNoise:
    """How often a training sample's lead sheet is not the song's.

    Attributes:
        drop: probability that a stream is left out, for each of them by itself.
        drop_all: probability that all are.
        half_beat: that beats lie half a beat late.
        octave: that the tempo is doubled or halved, either as often.
        voice: that another track's voice is heard where chords are told for more than half of a crop.
    """

    drop: float = 0.0
    drop_all: float = 0.0
    half_beat: float = 0.0
    octave: float = 0.0
    voice: float = 0.0

    def disturb(self, sheet: LeadSheet, generator: np.random.Generator) -> LeadSheet:
        """The lead sheet as a listener that errs at these rates might estimate it."""
        half_beat, octave, which = generator.random(3)
        beats = np.asarray(sheet.beats or (), dtype=np.float64)
        changes: dict[str, object] = {}
        if len(beats) > 1 and half_beat < self.half_beat:
            beats = beats + 0.5 * np.diff(beats, append=2 * beats[-1] - beats[-2])
        if len(beats) > 3 and octave < self.octave:
            # the number of the beat in the bar is lost with the beat
            changes["beats_per_bar"] = None
            places = np.arange(len(beats))
            # nobody takes beats for half of them that are twice as fast as beats can be
            halved = which < 0.5 or np.diff(beats).min() < 2 * LEAST_BEAT_SECONDS
            beats = beats[::2] if halved else np.interp(np.arange(0, len(beats) - 0.5, 0.5), places, beats)
        if len(beats):
            changes["beats"] = beats.tolist()
        return replace(sheet, **changes)  # type: ignore[arg-type]

    def omit(self, streams: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
        """Streams (int64 [S, T]) with some or all of them unknown."""
        every, *each = generator.random(1 + len(streams))
        omitted = (np.array(each) < self.drop) | (every < self.drop_all)
        return streams.masked_fill(torch.from_numpy(omitted)[:, None], 0)


def crop_streams(
    text: str, config: HAFMStageConfig, start: float, frames: int, noise: LeadSheetNoise | None = None,
    generator: np.random.Generator | None = None,
) -> torch.Tensor:  # fmt: skip
    """Streams of a lead sheet that a stage reads, in one crop.

    Args:
        text: the excerpt's lead sheet in JSON; nothing is known where it is empty.
        config: of the stage; of a style that it does not know there is none.
        start: of the crop in the excerpt, in s.
        frames: of the crop's conditioning.
        noise, generator: of a training sample; without one of them the lead sheet is as it is.

    Returns:
        int64 [S, T].
    """
    sheet = _parsed(text, tuple(config.styles))
    if noise is not None and generator is not None:
        sheet = noise.disturb(sheet, generator)
    names, rate = list(config.lead_sheet_streams), config.conditioning_frame_rate
    streams = lead_sheet_streams(sheet.moved(-start), names, frames, rate, config.styles)
    return streams if noise is None or generator is None else noise.omit(streams, generator)


@functools.lru_cache(SHEETS_KEPT)
def _parsed(text: str, styles: tuple[str, ...]) -> LeadSheet:
    sheet = LeadSheet.told(json.loads(text)) if text else LeadSheet()
    if isinstance(sheet.style, str):
        return sheet if sheet.style in styles else replace(sheet, style=None)
    return replace(sheet, style=[span for span in sheet.style or () if span[2] in styles] or None)
