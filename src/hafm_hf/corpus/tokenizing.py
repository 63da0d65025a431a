# SPDX-License-Identifier: Apache-2.0
"""Semantic tokenizer and codec together: segments of a track in, time-aligned token streams out.

The segments of a track have equal length, so both models process them in batches without padding.
Dimensions: B segments of a batch, N samples, C channels, T_v semantic frames, T_a codec frames, Q codebooks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import CONFIG_NAME

from ..audio import Samples, pad_end, resample, with_channels
from ..audio.feature_extraction_hafm import PreparedVocal
from ..listening.encoder import HAFMVocalEncoder
from ..listening.modeling_listener import HAFMListenerModel
from ..modeling.configuration_stage import HAFMCoarseConfig, HAFMFineConfig
from ..pretrained.loading import BUNDLED_MODEL, codec_fingerprint, find_file, tokenizer_fingerprint
from ..pretrained.redaction import first_line
from ..tokenizers.codecs import load_codec
from ..tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel
from .tokens import TokenCorpusInfo
from .tracks import HAFMCorpusError

# the codebooks that the paper's coarse and fine stages generate
DEFAULT_CODEBOOKS = HAFMCoarseConfig().num_codebooks + HAFMFineConfig().num_codebooks


def torch_device(wanted: str) -> str:
    """Resolves "auto" to "cuda" if available, else "cpu"; other names are returned unchanged."""
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class TokenizerOptions:
    """Which models make the tokens, and how they run.

    Attributes:
        semantic_tokenizer, codec (str): folders or hub ids; if empty, the parts of `model`.
        model (str): folder or hub id of a composite model; the bundled hafm-tiny if empty.
        num_codebooks (int): maximum number of the codec's codebooks (paper: 8).
        device (str): auto, cpu or cuda.
        dtype (str): float32, bfloat16 or float16, for HuBERT and codec; distances to centroids are always float32.
        batch_size (int): segments per batch.
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
    """Token streams of one segment.

    Args:
        vocal_semantic, instrumental_semantic (int16 [T_v]): semantic tokens of T_v frames.
        acoustic (int16 [Q, T_a]): codes of the instrumental, Q codebooks of T_a codec frames.
    """

    vocal_semantic: np.ndarray
    instrumental_semantic: np.ndarray
    acoustic: np.ndarray


class Tokenizers:
    """Semantic tokenizer and codec on one device.

    Args:
        options: which models, and how they run.

    Raises:
        HAFMCorpusError: a model can't be loaded, or the device is not available.
    """

    def __init__(self, options: TokenizerOptions) -> None:
        self.options = options
        self.device = torch_device(options.device)
        if self.device == "cuda" and not torch.cuda.is_available():
            raise HAFMCorpusError("This machine has no cuda device that torch can use; try the device cpu.")
        try:
            where, part = _source(options, options.semantic_tokenizer, "semantic_tokenizer")
            semantic = HAFMSemanticTokenizerModel.from_pretrained(where, subfolder=part, dtype=torch.float32)
            listener, ear = _listening_parts(options)
            where, part = _source(options, options.codec, "codec")
            self.semantic = semantic.eval()
            self.codec = load_codec(where, subfolder=part, dtype=torch.float32)
        except (OSError, ValueError) as error:
            reason = first_line(error).rstrip(".")
            raise HAFMCorpusError(
                f"The tokenizers can't be loaded ({reason}); name their folders or hub ids."
            ) from error
        codec = codec_fingerprint(self.codec.model)
        self.fingerprint = {"semantic_tokenizer": tokenizer_fingerprint(self.semantic), "codec": codec}
        dtype = getattr(torch, options.dtype)
        # the centroids stay in float32: rounding them would change the clusters
        self.semantic.to(self.device).hubert.to(dtype)
        self.codec.model.to(device=self.device, dtype=dtype)
        for network in (listener, ear):
            if network is not None:
                network.eval().to(self.device)
        self.encoder = HAFMVocalEncoder(self.semantic, listener, ear)
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
        """Tokenises segments of equal length.

        Args:
            vocals, instrumentals (float32 [N] each; instrumentals [N, channels] if the codec has several): one per
                segment, `seconds` long at `sampling_rate` Hz.
            sampling_rate: in Hz.
            seconds: length of the segments, a multiple of the common grid of both frame rates.
            seeds: one per segment, for the noise added to its vocal (paper, "Tokens").

        Yields:
            The tokens of each segment, in order.
        """
        semantic_rate = self.semantic.config.sampling_rate
        for begin in range(0, len(vocals), self.options.batch_size):
            batch = slice(begin, begin + self.options.batch_size)
            voices = self._batch(vocals[batch], sampling_rate, semantic_rate, seconds)  # [B, N]
            mono = [with_channels(band, 1) for band in instrumentals[batch]]
            bands = self._batch(mono, sampling_rate, semantic_rate, seconds)  # [B, N]
            sounds = self._batch(instrumentals[batch], sampling_rate, self.codec.format.sampling_rate, seconds)
            channels_first = sounds.mT if sounds.ndim == 3 else sounds[:, None]  # [B, C, N]
            streams = (
                self.semantic(voices, vocal=True, seed=list(seeds[batch]), beat_phase=self._beat_phases(voices)).ids,
                self.semantic(bands).ids,
                self.codec.encode(channels_first, self.info.num_codebooks),
            )
            # ids are below 2¹⁵
            arrays = [stream.cpu().numpy().astype(np.int16) for stream in streams]
            for vocal, instrumental, acoustic in zip(*arrays, strict=True):
                yield SegmentTokens(vocal, instrumental, acoustic)

    def _beat_phases(self, voices: torch.Tensor) -> torch.Tensor | None:
        """Beat phases of vocals, as the tokenizer gets them in generation.

        Args:
            voices (float32 [B, N] at the semantic tokenizer's sampling rate): the vocals.

        Returns:
            float [B, semantic frames]; None if the tokenizer tracks no beats.
        """
        rate = self.semantic.config.sampling_rate
        phases = []
        for voice in voices.cpu().numpy():
            beat_phase = self.encoder.tracked_beat_phase(PreparedVocal(voice, Fraction(len(voice), rate)))
            if beat_phase is None:
                return None
            phases.append(beat_phase.cpu())
        return torch.stack(phases)

    def _batch(self, sounds: Sequence[Samples], rate: int, target_rate: int, seconds: float) -> torch.Tensor:
        """Resamples sounds of `seconds` from `rate` to `target_rate` Hz and stacks them on the device.

        Args:
            sounds: float32 [N] or [N, channels] each.
            rate, target_rate: in Hz.
            seconds: length of the result; sounds are trimmed or zero-padded to it.

        Returns:
            float32 [B, seconds · target_rate], or [B, seconds · target_rate, channels].
        """
        fitted = np.stack([fit_rate(sound, rate, target_rate, seconds) for sound in sounds])
        return torch.from_numpy(fitted).to(self.device)


def fit_rate(sound: Samples, rate: int, target_rate: int, seconds: float) -> Samples:
    """Resamples float32 [N] or [N, channels] from `rate` to `target_rate` Hz, trimmed or zero-padded to `seconds`."""
    length = round(seconds * target_rate)
    return pad_end(resample(sound, rate, target_rate)[:length], length)


def _listening_parts(
    options: TokenizerOptions,
) -> tuple[HAFMListenerModel | None, HAFMSemanticTokenizerModel | None]:
    """Listener and ear of the composite whose tokenizer is used, so that beats are tracked as in generation.

    The listener is a network that estimates chords and tempo from the pitch contour, the ear a pretrained network
    whose features it reads as well. Each is None if the composite has none; both are if the tokenizer is not a
    composite's.
    """
    if options.semantic_tokenizer:
        return None, None
    where = options.model or BUNDLED_MODEL
    parts: dict[str, Any] = {"listener": None, "ear": None}
    for name, model_class in (("listener", HAFMListenerModel), ("ear", HAFMSemanticTokenizerModel)):
        if find_file(where, CONFIG_NAME, {"subfolder": name}) is not None:
            parts[name] = model_class.from_pretrained(where, subfolder=name, dtype=torch.float32)
    return parts["listener"], parts["ear"]


def _source(options: TokenizerOptions, separate: str, part: str) -> tuple[str | Path, str]:
    """Where to load a part from: a folder or hub id, and the subfolder in it ("" for none).

    Args:
        options: name the composite model.
        separate: folder or hub id of the part alone, which takes precedence; empty for the composite's.
        part: "semantic_tokenizer" or "codec".
    """
    if separate:
        return separate, ""
    return options.model or BUNDLED_MODEL, part
