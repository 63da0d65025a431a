# SPDX-License-Identifier: Apache-2.0
"""Spans of an existing instrumental that a new one keeps: their tokens for the stages, and their audio."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..audio import paste, resample
from ..modeling.codebook_patterns import FREE
from ..modeling.configuration_hafm import STAGES
from ..tokenizers.codecs import as_codec
from ..tokenizers.stopping import CheckStop


class KeptInstrumental:
    """Spans of an existing instrumental to keep.

    Args:
        audio (float32 [C, N]): the instrumental, with as many channels as the codec; may be shorter than the vocal.
        rate (Hz): sampling rate of `audio`.
        spans: the spans to keep, as (start, stop) in seconds.
        vocal_seconds: length of the vocal.

    Raises:
        ValueError: if there are no spans, or one lies outside the instrumental or begins after the vocal has ended.
    """

    def __init__(
        self, audio: np.ndarray, rate: int, spans: Sequence[tuple[float, float]], vocal_seconds: float
    ) -> None:
        seconds = audio.shape[1] / rate
        try:
            spans = [(float(start), float(stop)) for start, stop in spans]
        except (TypeError, ValueError):
            raise ValueError(f"keep is {spans!r}; give start and stop of each span in seconds.") from None
        if not spans:
            raise ValueError("Say which spans of the instrumental to keep, in seconds: keep=[(0.0, 12.5)].")
        for start, stop in spans:
            if not (0 <= start < min(stop, seconds) and stop <= seconds + 1e-3):
                raise ValueError(f"The span {start} to {stop} s is not within the instrumental of {seconds:.2f} s.")
            if start >= vocal_seconds:
                raise ValueError(f"The span {start} to {stop} s begins after the vocal has ended; leave it out.")
        self.spans = _joined([(start, min(stop, seconds)) for start, stop in spans])
        self.audio = audio
        self.rate = rate

    def at_rate(self, rate: int) -> torch.Tensor:
        """Resamples the whole instrumental to `rate` (Hz): float32 [C, N]."""
        return torch.from_numpy(np.stack([resample(channel, self.rate, rate) for channel in self.audio]))

    def tokens(self, model: Any, units: int, check_stop: CheckStop | None = None) -> dict[str, torch.Tensor]:
        """Tokenises the kept spans for each stage.

        Args:
            model (`HAFMForVocalAccompaniment`): the model, whose tokenizer and codec make the tokens.
            units: length of the vocal. Only units that lie entirely within a span are kept.
            check_stop: called between pieces of the work.

        Returns:
            Codes (int64 [Q, T]) by the name of the stage, −1 where they are to be generated.
        """
        rate = model.sampling_rate
        tokenizer = model.semantic_tokenizer
        kept = torch.zeros(units, dtype=torch.bool)
        for start, stop in self.spans:
            first = math.ceil(start * model.units_per_second - 1e-6)
            kept[first : int(stop * model.units_per_second + 1e-6)] = True
        audio = torch.zeros(len(self.audio), units * rate // model.units_per_second)
        found = self.at_rate(rate)
        length = min(audio.shape[1], found.shape[1])
        audio[:, :length] = found[:, :length]
        waveform = torch.from_numpy(resample(audio.mean(0).numpy(), rate, tokenizer.config.sampling_rate))
        codebooks = {name: stage.config.num_codebooks for name, stage in model.stages.items() if STAGES[name].acoustic}
        codes = as_codec(model.codec).encode(audio[None].to(model.codec.device), sum(codebooks.values()), check_stop)[
            0
        ]
        streams = {"semantic": tokenizer.encode(waveform.to(tokenizer.device), check_stop=check_stop)[None]}
        streams |= dict(zip(codebooks, codes.split(list(codebooks.values())), strict=True))
        return {
            name: torch.where(kept.repeat_interleave(tokens.shape[1] // units), tokens.cpu(), FREE)
            for name, tokens in streams.items()
        }

    def splice(self, generated: torch.Tensor, rate: int) -> torch.Tensor:
        """Pastes the kept spans into generated audio (float32 [C, N] at `rate` Hz), cross-faded at the joins."""
        band, audio = generated.t().numpy(), self.at_rate(rate).t().numpy()
        for start, stop in self.spans:
            band = paste(band, audio, rate, round(start * rate), min(round(stop * rate), len(band), len(audio)))
        return torch.from_numpy(band).t().contiguous()


def _joined(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Sorts spans (start, stop in seconds) and merges those that touch or overlap: they need no cross-fade."""
    joined: list[tuple[float, float]] = []
    for start, stop in sorted(spans):
        if joined and start <= joined[-1][1] + 1e-6:
            joined[-1] = (joined[-1][0], max(joined[-1][1], stop))
        else:
            joined.append((start, stop))
    return joined
