# SPDX-License-Identifier: Apache-2.0
"""The feature extractor, whose `prepare` converts a vocal to the model's input: mono at 16 kHz.

The pipeline calls `prepare` with the mean of the channels, and keeps the original vocal for the mix. Shapes: B batch,
N samples, C channels.

`audio.read_audio` reads files, URLs and bytes; this class is saved next to a model's weights
(preprocessor_config.json), so that the sampling rate and the accepted lengths travel with them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from numbers import Real
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, SequenceFeatureExtractor

from . import files
from .errors import HAFMAudioError
from .levels import turned_up
from .samples import Samples, resample, without_offset

# sampling rate of HuBERT, and so of the semantic tokenizer, in Hz
LISTENING_RATE = 16_000
# advice in error messages on sound with several channels
MIX_DOWN = "average channels first, vocal.mean(axis), or let the feature extractor do it"


@dataclass(frozen=True)
class PreparedVocal:
    """A vocal as the model's input.

    Args:
        samples (float32 [N]): mono, at the rate of the feature extractor.
        duration: exact length of the recording in seconds, for an accompaniment of the same length to the sample;
            `samples` are rounded to whole samples at a lower rate.
    """

    samples: np.ndarray
    duration: Fraction


class HAFMFeatureExtractor(SequenceFeatureExtractor):
    r"""Brings vocals to mono float32 at the semantic tokenizer's sampling rate and pads them to one length.

    Args:
        sampling_rate (`int`): Sampling rate of the output in Hz, that of the semantic tokenizer. Models saved by early
            versions name their codec's rate here; composite and pipeline correct it.
        min_seconds (`float`): Shortest vocal that is accepted.
        max_seconds (`float`): Longest vocal that is accepted.
        padding_value (`float`): Value that pads the shorter vocals of a batch.

    Raises:
        HAFMAudioError: an unsupported sampling rate, contradictory length limits, or padding on the left.
    """

    model_input_names = ["input_values", "padding_mask"]

    def __init__(
        self,
        feature_size: int = 1,
        sampling_rate: int = LISTENING_RATE,
        padding_value: float = 0.0,
        min_seconds: float = files.MIN_SECONDS,
        max_seconds: float = files.MAX_SECONDS,
        **kwargs: Any,
    ) -> None:
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        files.check_sampling_rate(sampling_rate, "the feature extractor")
        if self.padding_side != "right":
            raise HAFMAudioError(f"padding_side is {self.padding_side!r}; vocals are padded on the right.")
        if not 0.0 <= min_seconds <= max_seconds:
            raise HAFMAudioError(f"The feature extractor needs 0 <= {min_seconds} <= {max_seconds} seconds.")
        # lets AutoFeatureExtractor find the class, in the file of that name, before hafm_hf has been imported
        self.auto_map = {"AutoFeatureExtractor": f"hafm_auto.{type(self).__name__}"}
        self.min_seconds = min_seconds
        self.max_seconds = max_seconds

    def __call__(
        self, raw_speech: Any, sampling_rate: int | None = None, return_tensors: str | None = "pt", padding: Any = True
    ) -> BatchFeature:
        """Prepares one vocal or a list of them for `HAFMForVocalAccompaniment.generate`.

        Args:
            raw_speech (array or tensor [N], [N, C] or [C, N], a list of N floats, or a list of arrays): one vocal, or
                a list or column of several; integers are scaled by the range of their type, channels are averaged.
            sampling_rate (int, Hz): rate of `raw_speech`.
            return_tensors: "pt" or "np".
            padding: True or "longest", which mean the same; no other strategy is supported.

        Returns:
            BatchFeature with input_values (float32 [B, N], padded on the right), padding_mask (bool [B, N], True on
            samples of the vocal), and the length of each vocal before it was resampled: original_lengths (int64 [B],
            in samples) and original_rates (int64 [B], in Hz).

        Raises:
            HAFMAudioError: not samples, too short or long, not finite, no or an unsupported rate, or other padding.
        """
        if padding not in (True, "longest"):
            raise HAFMAudioError(f"padding is {padding!r}; vocals can only be padded to the longest, by True.")
        vocals = [raw_speech]
        if are_several(raw_speech) and len(raw_speech):
            vocals = list(raw_speech)
        if len(vocals) == 1:
            names = ["the vocal"]
        else:
            names = [f"the vocal number {i + 1}" for i in range(len(vocals))]
        limits: dict[str, Any] = {"min_seconds": self.min_seconds, "max_seconds": self.max_seconds}
        checked = []
        for vocal, name in zip(vocals, names, strict=True):
            samples, rate = files.check_sound(vocal, sampling_rate, name=name, **limits)
            checked.append(samples)
        # `rate` is the same for all
        return self._batch(checked, rate, return_tensors)

    def _batch(self, vocals: list[Samples], rate: int, return_tensors: str | None) -> BatchFeature:
        """The result of `__call__` for vocals that have already been checked.

        Args:
            vocals (float32 [N] each): mono.
            rate: of the vocals, in Hz.
            return_tensors: "pt", "np", or None for NumPy arrays as they are.
        """
        prepared = [self.prepare(samples, rate).samples for samples in vocals]
        lengths = np.array([len(samples) for samples in prepared])
        mask = np.arange(lengths.max()) < lengths[:, None]  # [B, N]
        if len(prepared) == 1:
            # writable, as tensors need it, but copied only if it must be: a vocal may last an hour
            values = np.require(prepared[0][None], requirements="W")
        else:
            values = np.full(mask.shape, self.padding_value, dtype=np.float32)
            values[mask] = np.concatenate(prepared)
        originals = {
            "original_lengths": np.array([len(samples) for samples in vocals]),
            "original_rates": np.full(len(vocals), rate),
        }
        features = BatchFeature({"input_values": values, "padding_mask": mask, **originals})
        if return_tensors is None:
            return features
        return features.convert_to_tensors(return_tensors)

    def prepare(self, samples: Samples, rate: int) -> PreparedVocal:
        """Converts a mono vocal (float32 [N] at `rate` Hz) that has already been checked to the model's input.

        Its DC offset is removed, it is turned up if it is quiet (`quiet_gain_db`), and resampled to the extractor's
        rate. For pitch and beats, `tokenizers.pitch_contour` turns a copy up further.
        """
        audible = turned_up(without_offset(samples), rate)
        return PreparedVocal(resample(audible, rate, self.sampling_rate), Fraction(len(samples), rate))

    def vocals(self, vocals: Any, sampling_rate: Any, padding_mask: Any = None) -> list[PreparedVocal]:
        """Like `__call__`, without padding, and for vocals of any length.

        Args:
            vocals: [B, N], [B, 1, N] or [N], or a list of [N] or [1, N]; tensors or arrays, of floats or integers.
            sampling_rate (Hz): of the vocals.
            padding_mask: of the same shape as the vocals, 0 where a vocal is padding; None if there is no padding.

        Raises:
            ValueError: there is no vocal, or one has several channels or no samples, the mask has another shape, or as
                for `audio.to_samples`.
            HAFMAudioError: no or an unsupported rate.
        """
        rows = _mono_vocals(vocals, padding_mask)
        rate = files.check_sampling_rate(sampling_rate)
        return [self.prepare(row, rate) for row in rows]

    def unpadded(
        self, input_values: Any, padding_mask: Any = None, original_lengths: Any = None, original_rates: Any = None
    ) -> list[PreparedVocal]:
        """The vocals of a batch that `__call__` has returned; the arguments are named like its results.

        Args:
            input_values (float [B, N], [B, 1, N] or [N]): checked mono vocals at the extractor's rate, padded.
            padding_mask: as many values, 0 or False where a vocal is padding; None if there is no padding.
            original_lengths, original_rates ([B]): samples of each vocal before it was resampled, and their rate in
                Hz; without them, a vocal is as long as its `input_values`.

        Raises:
            ValueError: the arguments do not fit each other, or `input_values` are at the rate of another extractor.
        """
        values = torch.as_tensor(input_values).float().cpu()
        if values.ndim == 1:
            values = values[None]
        if values.ndim == 3 and values.shape[1] == 1:
            values = values[:, 0]
        if values.ndim != 2:
            raise ValueError(
                f"input_values has shape {list(values.shape)}; give [B, N], as the feature extractor does."
            )
        if padding_mask is None:
            mask = torch.ones(values.shape)
        else:
            mask = torch.as_tensor(padding_mask).cpu()
        if mask.numel() != values.numel():
            raise ValueError(f"padding_mask has shape {list(mask.shape)}; input_values has {list(values.shape)}.")
        mask = mask.reshape(values.shape).bool()
        # no copy unless there is padding: a vocal may last an hour
        rows = [row if inside.all() else row[inside] for row, inside in zip(values, mask, strict=True)]
        if original_lengths is None or original_rates is None:
            return [PreparedVocal(row.numpy(), Fraction(len(row), self.sampling_rate)) for row in rows]
        lengths = torch.as_tensor(original_lengths).tolist()
        rates = torch.as_tensor(original_rates).tolist()
        vocals = []
        for row, length, rate in zip(rows, lengths, rates, strict=True):
            duration = Fraction(length, rate)
            # resampling rounds to a whole sample
            if abs(len(row) - duration * self.sampling_rate) > 1:
                raise ValueError(
                    f"input_values are at {round(len(row) / duration)} Hz, but this model listens at "
                    f"{self.sampling_rate} Hz; make them with its own extractor, model.feature_extractor()."
                )
            vocals.append(PreparedVocal(row.numpy(), duration))
        return vocals


def are_several(vocals: Any) -> bool:
    """Whether this is a collection of vocals (a list, or a column or rows of `datasets`) rather than a single one."""
    sequence = hasattr(vocals, "__getitem__") and hasattr(vocals, "__len__") and not hasattr(vocals, "__array__")
    if not sequence or isinstance(vocals, (str, bytes, bytearray, Mapping)):
        return False
    if len(vocals) == 0:
        return True
    # a sequence of numbers is a single vocal
    first_is_number = isinstance(vocals[0], Real) or getattr(vocals[0], "ndim", None) == 0
    return not first_is_number


def _mono_vocals(vocals: Any, padding_mask: Any = None) -> list[np.ndarray]:
    """Returns each vocal as float32 [N] on the CPU, without padding.

    Args:
        vocals: [B, N], [B, 1, N] or [N], or a list of [N] or [1, N]; tensors or arrays, of floats or integers.
        padding_mask: of the same shape, 0 where a vocal is padding; None if there is no padding.

    Raises:
        ValueError: as for `HAFMFeatureExtractor.vocals`.
    """
    files.check_is_array(vocals)
    shape: Sequence[int] = getattr(vocals, "shape", ())
    if len(shape) == 2 and shape[1] <= files.MAX_CHANNELS < shape[0]:
        raise ValueError(f"vocals have shape {list(shape)}, samples by channels rather than a batch; {MIX_DOWN}.")
    vocals = _as_list(vocals)
    masks = [None] * len(vocals)
    if padding_mask is not None:
        masks = _as_list(padding_mask)
    if len(masks) != len(vocals):
        raise ValueError(f"padding_mask has {len(masks)} rows for {len(vocals)} vocals; give one row per vocal.")
    if not len(vocals):
        raise ValueError("There is no vocal; the batch is empty.")
    return list(map(_mono_vocal, vocals, masks))


def instrumental_channels_first(sound: Any, channels: int) -> np.ndarray:
    """Returns an instrumental as float32 [channels, N] on the CPU; mono is copied to all channels.

    Args:
        sound: [N], [1, N] or [channels, N]; a tensor or an array, integers scaled by the range of their type.
        channels: number of channels of the result.

    Raises:
        ValueError: another number of channels, or as for `audio.to_samples`.
    """
    # `to_samples` puts channels last
    waveform = np.atleast_2d(files.to_samples(sound, name="An instrumental", mono=False).T)
    if waveform.shape[0] not in (1, channels):
        raise ValueError(f"An instrumental has shape {list(np.shape(sound))}; give [N] or [{channels}, N].")
    if len(waveform) < channels:
        waveform = np.repeat(waveform, channels, axis=0)
    return waveform


def _as_list(values: Any) -> Any:
    """A single vocal or mask (an array or tensor [N]) as a list of one; a batch, or a list, as it is."""
    if isinstance(values, torch.Tensor | np.ndarray) and values.ndim <= 1:
        return [values]
    return values


def _mono_vocal(vocal: Any, mask: Any) -> np.ndarray:
    """One vocal as float32 [n] on the CPU, without padding.

    Args:
        vocal: [N] or [1, N]; a tensor or an array, integers scaled by the range of their type.
        mask: as many values, 0 where the vocal is padding; None if there is no padding.

    Raises:
        ValueError: several channels, no samples, or a mask of another length.
    """
    row = files.to_samples(vocal, name="A vocal", mono=False)
    # `to_samples` puts channels last
    if row.shape[1:] == (1,):
        row = row[:, 0]
    if row.ndim != 1:
        expected = "give mono ones: [B, N], [B, 1, N], [N], or a list of [N]"
        raise ValueError(f"A vocal has shape {list(np.shape(vocal))}; {expected}; {MIX_DOWN}.")
    if mask is not None:
        inside = torch.as_tensor(mask).flatten().bool().cpu().numpy()
        if len(inside) != len(row):
            raise ValueError(
                f"padding_mask has {len(inside)} values for a vocal of {len(row)} samples; give one each."
            )
        # no copy unless there is padding: a vocal may last an hour
        if not inside.all():
            row = row[inside]
    if not len(row):
        raise ValueError("The vocal is empty; HAFM needs samples to accompany.")
    return row
