# SPDX-License-Identifier: Apache-2.0
"""Semantic tokenizer and codec together: segments of a track in, token streams that start at one instant out.

The segments of a track, which are of one length, go through both models as batches without padding.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..audio import Samples, pad_end, resample, with_channels
from ..modeling.configuration_hafm import HAFMCoarseConfig, HAFMFineConfig
from ..pretrained.loading import BUNDLED_MODEL, codec_fingerprint, tokenizer_fingerprint
from ..pretrained.redaction import first_line
from ..tokenizers.codecs import load_codec
from ..tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel
from .tokens import TokenCorpusInfo
from .tracks import HAFMCorpusError

# what the paper's coarse and fine stage generate
DEFAULT_CODEBOOKS = HAFMCoarseConfig().num_codebooks + HAFMFineConfig().num_codebooks


def torch_device(wanted: str) -> str:
    """`auto` as the device that there is; others as they are."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


@dataclass(frozen=True)
class TokenizerOptions:
    """Which models make the tokens, where and how.

    Attributes:
        semantic_tokenizer, codec (str): folders or hub ids; where empty, the parts of `model`.
        model (str): a composite, folder or hub id; the bundled hafm-tiny where empty.
        num_codebooks (int): of the codec, at most (paper: 8).
        device (str): auto, cpu or cuda.
        dtype (str): float32, bfloat16 or float16, of HuBERT and codec; distances to centroids are float32 always.
        batch_size (int): segments that go through a model at once.
    """

    semantic_tokenizer: str = ""
    codec: str = ""
    model: str = ""
    num_codebooks: int = DEFAULT_CODEBOOKS
    device: str = "auto"
    dtype: str = "float32"
    batch_size: int = 4


@dataclass(frozen=True)
class SegmentTokens:
    """Streams of one segment: int16 [T_v], [T_v] and [Q, T_a]."""

    vocal_semantic: np.ndarray
    instrumental_semantic: np.ndarray
    acoustic: np.ndarray


class Tokenizers:
    """Semantic tokenizer and codec on one device.

    Raises:
        HAFMCorpusError: a model can't be loaded, or there is no such device.
    """

    def __init__(self, options: TokenizerOptions) -> None:
        self.options, self.device = options, torch_device(options.device)
        if self.device == "cuda" and not torch.cuda.is_available():
            raise HAFMCorpusError("This machine has no cuda device that torch can use; try the device cpu.")
        try:
            where, part = _source(options, options.semantic_tokenizer, "semantic_tokenizer")
            semantic = HAFMSemanticTokenizerModel.from_pretrained(where, subfolder=part, dtype=torch.float32)
            where, part = _source(options, options.codec, "codec")
            self.semantic, self.codec = semantic.eval(), load_codec(where, subfolder=part, dtype=torch.float32)
        except (OSError, ValueError) as error:
            said = first_line(error).rstrip(".")
            raise HAFMCorpusError(f"The tokenizers can't be loaded ({said}).") from error
        codec = codec_fingerprint(self.codec.model)
        self.fingerprint = {"semantic_tokenizer": tokenizer_fingerprint(self.semantic), "codec": codec}
        dtype = getattr(torch, options.dtype)
        # the centroids stay in float32: rounded ones would be other clusters
        self.semantic.to(self.device).hubert.to(dtype)
        self.codec.model.to(device=self.device, dtype=dtype)
        config = self.semantic.config
        self.channels = self.codec.format.channels
        self.info = TokenCorpusInfo(
            semantic_frame_rate=config.frame_rate,
            acoustic_frame_rate=self.codec.format.frame_rate,
            num_clusters=config.num_clusters,
            codebook_size=self.codec.format.codebook_size,
            num_codebooks=min(options.num_codebooks, self.codec.format.num_codebooks),
            **self.fingerprint,
        )

    @torch.inference_mode()
    def encode(
        self, vocals: Sequence[Samples], instrumentals: Sequence[Samples], sampling_rate: int, seconds: float,
        seeds: Sequence[int],
    ) -> Iterator[SegmentTokens]:  # fmt: skip
        """Tokens of segments of one length.

        Args:
            vocals, instrumentals (float32 [N] each, instrumentals [N, C] of a codec of C channels): segment by
                segment, of `seconds` at `sampling_rate` Hz.
            seconds: a multiple of the common grid.
            seeds: of the noise that each vocal gets (paper, "Tokens").
        """
        for begin in range(0, len(vocals), self.options.batch_size):
            part = slice(begin, begin + self.options.batch_size)
            voices = self._batch(vocals[part], sampling_rate, self.semantic.config.sampling_rate, seconds)
            mono = [with_channels(band, 1) for band in instrumentals[part]]
            bands = self._batch(mono, sampling_rate, self.semantic.config.sampling_rate, seconds)
            sounds = self._batch(instrumentals[part], sampling_rate, self.codec.format.sampling_rate, seconds)
            streams = (
                self.semantic(voices, noise=True, seed=list(seeds[part])).ids,
                self.semantic(bands).ids,
                self.codec.encode(sounds.mT if sounds.ndim == 3 else sounds[:, None], self.info.num_codebooks),
            )
            for vocal, instrumental, acoustic in zip(
                *(stream.cpu().numpy().astype(np.int16) for stream in streams), strict=True
            ):
                yield SegmentTokens(vocal, instrumental, acoustic)

    def _batch(self, sounds: Sequence[Samples], rate: int, target_rate: int, seconds: float) -> torch.Tensor:
        """float32 [B, seconds · target_rate] of float32 [N] each; with [N, C] each, C behind it."""
        fitted = np.stack([fit_rate(each, rate, target_rate, seconds) for each in sounds])
        return torch.from_numpy(fitted).to(self.device)


def fit_rate(sound: Samples, rate: int, target_rate: int, seconds: float) -> Samples:
    """Resamples float32 [N] or [N, C] to exactly `seconds` at `target_rate` Hz, give or take a sample at the end."""
    length = round(seconds * target_rate)
    return pad_end(resample(sound, rate, target_rate)[:length], length)


def _source(options: TokenizerOptions, own: str, part: str) -> tuple[str | Path, str]:
    """Where a part is, and the subfolder there: its own place, or that of a composite."""
    return (own, "") if own else (options.model or BUNDLED_MODEL, part)
