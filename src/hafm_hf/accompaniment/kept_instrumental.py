# SPDX-License-Identifier: Apache-2.0
"""Spans of an existing instrumental that a new one keeps: their tokens for the stages, and their audio.

Dimensions: N samples, C channels.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ..audio import in_columns, paste, resample, with_channels
from ..modeling.codebook_patterns import FREE
from ..modeling.modeling_stage import HAFMStageForCausalLM
from ..stopping import CheckStop
from ..tokenizers.codecs import Codec
from ..tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel
from . import parts

# (start s, stop s) each
Spans = Sequence[tuple[float, float]]


class KeptInstrumental:
    """Spans of an existing instrumental to keep.

    Args:
        audio (float32 [channels, N]): the instrumental, with as many channels as the codec plays; may be shorter than
            the song.
        rate (Hz): sampling rate of `audio`.
        spans: the spans to keep, as (start, stop) in seconds.
        song_seconds: length of the song.

    Raises:
        ValueError: if there are no spans, or one lies outside the instrumental or begins after the song has ended.
    """

    def __init__(self, audio: np.ndarray, rate: int, spans: Spans, song_seconds: float) -> None:
        seconds = audio.shape[1] / rate
        try:
            spans = [(float(start), float(stop)) for start, stop in spans]
        except (TypeError, ValueError):
            raise ValueError(f"keep is {spans!r}; give start and stop of each span in seconds.") from None
        if not spans:
            raise ValueError("Say which spans of the instrumental to keep, in seconds: keep=[(0.0, 12.5)].")
        for start, stop in spans:
            # a millisecond of tolerance for a stop that was rounded up
            if not (0 <= start < min(stop, seconds) and stop <= seconds + 1e-3):
                raise ValueError(f"The span {start} to {stop} s is not within the instrumental of {seconds:.2f} s.")
            if start >= song_seconds:
                raise ValueError(f"The span {start} to {stop} s begins after the vocal has ended; leave it out.")
        self.spans = _joined([(start, min(stop, seconds)) for start, stop in spans])
        self.audio = audio
        self.rate = rate

    def tokens(
        self,
        semantic_tokenizer: HAFMSemanticTokenizerModel,
        codec: Codec,
        stages: Mapping[str, HAFMStageForCausalLM],
        frames: int,
        frame_rate: int,
        check_stop: CheckStop | None = None,
    ) -> dict[str, torch.Tensor]:
        """Tokenises the kept spans for each stage.

        Args:
            semantic_tokenizer, codec: the parts that make the tokens.
            stages: the stages that generate such tokens, by name.
            frames: length of the song in frames at `frame_rate`; only those that lie entirely in a span are kept.
            frame_rate (Hz): rate at which frames of all stages begin together.
            check_stop: called between pieces of the work; an exception that it raises ends it.

        Returns:
            By the name of the stage: int64 [codebooks of the stage, frames of the stage], −1 where it is to generate.
        """
        # whether each frame is kept
        inside = torch.zeros(frames, dtype=torch.bool)
        for start, stop in self.spans:
            # 1e-6: a boundary between two frames stays there in spite of rounding
            inside[math.ceil(start * frame_rate - 1e-6) : int(stop * frame_rate + 1e-6)] = True

        rate = codec.format.sampling_rate
        channels = codec.format.channels
        # as long as the song, float32 [channels, N]
        audio = torch.zeros(channels, frames * rate // frame_rate)
        # what the codec reads may have other channels than what it plays
        instrumental = with_channels(self.audio.T, channels).reshape(-1, channels).T
        resampled = _resampled(instrumental, self.rate, rate)[:, : audio.shape[1]]
        audio[:, : resampled.shape[1]] = resampled
        mono = resample(audio.mean(0).numpy(), rate, semantic_tokenizer.config.sampling_rate)
        waveform = torch.from_numpy(mono).to(semantic_tokenizer.device)
        semantic = semantic_tokenizer.encode(waveform, check_stop=check_stop)

        table = parts.stage_parts()
        codebooks = {name: stage.config.num_codebooks for name, stage in stages.items() if table[name].acoustic}
        codes = codec.encode(audio[None].to(codec.model.device), sum(codebooks.values()), check_stop)[0]
        # by stage, int64 [codebooks, frames of the stage]
        tokens = {"semantic": semantic[None]}
        tokens |= dict(zip(codebooks, codes.split(list(codebooks.values())), strict=True))
        kept = {}
        for name, stage_tokens in tokens.items():
            # at the stage's frame rate, a multiple of `frame_rate`
            inside_by_frame = inside.repeat_interleave(stage_tokens.shape[1] // frames)
            kept[name] = torch.where(inside_by_frame, stage_tokens.cpu(), FREE)
        return kept

    def paste_into(self, instrumental: np.ndarray, rate: int) -> np.ndarray:
        """Pastes the kept spans into an instrumental, cross-faded at the joins.

        Args:
            instrumental (float32 [N], or [N, C] with C channels): the generated instrumental.
            rate: its sampling rate in Hz.

        Returns:
            A new array of the same shape.
        """
        pasted = in_columns(instrumental)  # [N, C]
        audio = _resampled(self.audio, self.rate, rate).t().numpy()
        for start, stop in self.spans:
            stop_sample = min(round(stop * rate), len(instrumental), len(audio))
            pasted = paste(pasted, audio, rate, round(start * rate), stop_sample)
        return pasted.reshape(instrumental.shape)


def _resampled(audio: np.ndarray, rate: int, wanted: int) -> torch.Tensor:
    """Resamples an instrumental (float32 [channels, N] at `rate` Hz) to `wanted` Hz, channel by channel."""
    return torch.from_numpy(np.stack([resample(channel, rate, wanted) for channel in audio]))


def _joined(spans: Spans) -> list[tuple[float, float]]:
    """Sorts spans (start, stop in seconds) and merges those that touch or overlap: they need no cross-fade."""
    joined: list[tuple[float, float]] = []
    for start, stop in sorted(spans):
        # 1e-6 s: spans that touch may be apart by rounding
        if joined and start <= joined[-1][1] + 1e-6:
            joined[-1] = (joined[-1][0], max(joined[-1][1], stop))
        else:
            joined.append((start, stop))
    return joined
