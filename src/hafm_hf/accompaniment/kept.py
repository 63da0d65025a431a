# SPDX-License-Identifier: Apache-2.0
"""The spans of an existing instrumental to keep: as tokens for the stages, and as audio.

Beside `song`, which generates the rest: it is handed the flat tokens, and its audio is cross-faded with what is kept.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from ..audio import resample
from ..modeling.sampling import FREE
from ..tokenizers.codecs import as_codec
from ..tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel

# a fade this short hides the join between what is kept and what is generated
CROSS_FADE_SECONDS = 0.02

Span = tuple[float, float]


class KeptInstrumental:
    """Spans of an existing instrumental, on the grid of a song's units.

    Args:
        audio (float32 [P, C, N]): P stems of the instrumental, or the whole as one, in the codec's channels; it may
            end before the vocal does.
        rate (Hz): of it.
        spans: what to keep, as (start, stop) in seconds.
        vocal_seconds: length of the vocal.
        output_rate (Hz): of what is generated.

    Attributes:
        flat (dict[str, list of int64 [n]]): flat tokens of a stage's target by the stage's name, for each stem that it
            plays, −1 where they are to be generated; empty before `tokenize`.

    Raises:
        ValueError: if nothing is to be kept, or a span does not lie within the instrumental.
    """

    def __init__(
        self, audio: np.ndarray, rate: int, spans: Sequence[Span], vocal_seconds: float, output_rate: int
    ) -> None:
        seconds = audio.shape[2] / rate
        if not spans:
            raise ValueError("Say which spans of the instrumental to keep, in seconds: keep=[(0.0, 12.5)].")
        for start, stop in spans:
            if not (0 <= start < min(stop, seconds) and stop <= seconds + 1e-3):
                raise ValueError(
                    f"The span {start} to {stop} s does not lie within the instrumental of {seconds:.2f} s."
                )
            if start >= vocal_seconds:
                raise ValueError(f"The span {start} to {stop} s begins when the vocal has ended; leave it out.")
        self.spans = _joined([(start, min(stop, seconds)) for start, stop in spans])
        self.rate = output_rate
        channels = [resample(channel, rate, self.rate) for part in audio for channel in part]
        self.audio = torch.from_numpy(np.stack(channels)).unflatten(0, audio.shape[:2])
        self.flat: dict[str, list[torch.Tensor]] = {}

    def tokenize(
        self,
        tokenizer: HAFMSemanticTokenizerModel,
        codec: PreTrainedModel,
        codebooks: dict[str, int],
        units: int,
        units_per_second: int,
        together: bool = False,
    ) -> None:
        """Makes the stages' tokens of what is kept.

        Args:
            tokenizer: makes those of the semantic stage.
            codec: makes those of the others.
            codebooks: of each stage that generates the codec's codes, by name and in their order.
            units: length of the vocal.
            units_per_second: units a second; only whole ones are kept, so that nothing new is generated from half a
                frame.
            together: whether the stages play the stems' sum as one.
        """
        kept = torch.zeros(units, dtype=torch.bool)
        for start, stop in self.spans:
            kept[math.ceil(start * units_per_second - 1e-6) : int(stop * units_per_second + 1e-6)] = True
        kept_audio = torch.zeros(*self.audio.shape[:2], units * self.rate // units_per_second)
        length = min(self.audio.shape[2], kept_audio.shape[2])
        kept_audio[..., :length] = self.audio[..., :length]
        whole = kept_audio.sum(0).mean(0).numpy()
        waveform = torch.from_numpy(resample(whole, self.rate, tokenizer.config.sampling_rate))
        streams = {"semantic": [tokenizer.encode(waveform.to(tokenizer.device))[None]]}
        streams |= {name: [] for name in codebooks}
        for part in kept_audio.sum(0, keepdim=True) if together else kept_audio:
            codes = as_codec(codec).encode(part[None].to(codec.device), sum(codebooks.values()))[0]
            for name, tokens in zip(codebooks, codes.split(list(codebooks.values())), strict=True):
                streams[name].append(tokens)
        for name, parts in streams.items():
            flat = torch.stack([tokens.t().flatten().cpu() for tokens in parts])
            known = torch.where(kept.repeat_interleave(flat.shape[1] // units), flat, FREE)
            self.flat[name] = list(known)

    def splice(self, generated: torch.Tensor, part: int = 0) -> torch.Tensor:
        """The generated audio (float32 [C, N]) of a stem with what is kept as it was, cross-faded at the joins."""
        result, audio = generated.clone(), self.audio[part]
        length = min(result.shape[1], audio.shape[1])
        for start, stop in self.spans:
            first, last = round(start * self.rate), min(round(stop * self.rate), length)
            fade = min(round(CROSS_FADE_SECONDS * self.rate), (last - first) // 2)
            gain = torch.ones(last - first)
            slope = torch.linspace(0, 1, fade + 2)[1:-1]
            if first > 0:
                gain[:fade] = slope
            if last < result.shape[1]:
                gain[len(gain) - fade :] = slope.flip(0)
            result[:, first:last] = gain * audio[:, first:last] + (1 - gain) * result[:, first:last]
        return result


def _joined(spans: Sequence[Span]) -> list[Span]:
    """Spans (start, stop in seconds) in order, those that touch or overlap as one: no cross-fade goes between them."""
    joined: list[Span] = []
    for start, stop in sorted(spans):
        if joined and start <= joined[-1][1] + 1e-6:
            joined[-1] = (joined[-1][0], max(joined[-1][1], stop))
        else:
            joined.append((start, stop))
    return joined
