# SPDX-License-Identifier: Apache-2.0
"""Sounds as arrays, [N] or [N, C]: their channels, a constant offset, their sampling rate (soxr, high quality)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import soxr
from numpy.typing import NDArray

Samples = NDArray[np.float32]

# channels cancel each other if their mean lies at least this far below the loudest one, which is then used instead
CANCELLED_DB = 12.0
# a channel's mean above this (full scale is 1) is an offset; a smaller one may be the sound's own, since a tone of one
# second does not end where it began
LEAST_OFFSET = 0.005
# samples that are processed at a time
_BLOCK = 1 << 20


@dataclass
class ChannelLevels:
    """Levels of the channels of a sound that arrives block by block, without their constant offset.

    Attributes:
        channels: C, the number of channels.
        count: samples per channel so far.
    """

    channels: int
    count: int = 0
    # [C]: sum of each channel; [C, C]: sums of the products of each channel with each
    _sums: NDArray[np.float64] = field(init=False)
    _products: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self._sums = np.zeros(self.channels)
        self._products = np.zeros((self.channels, self.channels))

    def add(self, block: Samples) -> None:
        """Adds the next samples, float32 [samples, channels]."""
        # samples that overflow, or are not finite, are reported when they are checked
        with np.errstate(over="ignore", invalid="ignore"):
            self._sums += np.ones(len(block), dtype=np.float32) @ block
            self._products += block.T @ block
        self.count += len(block)

    def channel_instead_of_mean(self) -> int | None:
        """Index of the loudest channel if the mean of all lies over `CANCELLED_DB` below it; None to use the mean."""
        if self.channels == 1 or not self.count:
            return None
        # samples that overflow, or are not finite, are reported when they are checked
        with np.errstate(over="ignore", invalid="ignore"):
            # the channels' energies on the diagonal; the mean of all elements is the energy of the channels' mean
            covariances = self._products - np.outer(self._sums, self._sums) / self.count  # [C, C], times the count
            loudest = int(np.argmax(np.diag(covariances)))
            cancelled = covariances.mean() < covariances[loudest, loudest] * 10.0 ** (-CANCELLED_DB / 10.0)
        if cancelled:
            return loudest
        return None

    def below(self) -> float:
        """How far, in dB, the mean of the channels lies below the loudest one: 0 to 99; 99 for silence."""
        # the channels' energies on the diagonal; the mean of all elements is the energy of the channels' mean
        energies = self._products - np.outer(self._sums, self._sums) / max(self.count, 1)  # [C, C]
        # silence would divide by 0
        ratio = energies.mean() / max(float(np.diag(energies).max()), 1e-30)
        # between −99 and 0 dB: the ratio is 0 for channels that cancel each other exactly
        ratio = min(max(ratio, 10.0**-9.9), 1.0)
        return float(-10.0 * np.log10(ratio))


def channel_levels(samples: Samples) -> ChannelLevels:
    """The `ChannelLevels` of a whole sound (float32 [samples, channels])."""
    levels = ChannelLevels(samples.shape[1])
    for start in range(0, len(samples), _BLOCK):
        levels.add(samples[start : start + _BLOCK])
    return levels


def to_mono(samples: Samples) -> Samples:
    """Mixes float32 [samples, channels] down to float32 [samples].

    The result is the mean of the channels, or the loudest one if they cancel each other (`CANCELLED_DB`).
    """
    channel = channel_levels(samples).channel_instead_of_mean()
    if channel is None:
        mono = mean_of_channels(samples)
    else:
        mono = samples[:, channel]
    return np.ascontiguousarray(mono)


def mean_of_channels(samples: Samples) -> Samples:
    """The mean of float32 [samples, channels] over its channels: float32 [samples]."""
    # samples that overflow, or are not finite, are reported when they are checked
    with np.errstate(over="ignore", invalid="ignore"):
        if samples.shape[1] == 2:
            # five times as fast as the mean over an axis of two
            mean: Samples = samples[:, 0] + samples[:, 1]
            mean /= 2
            return mean
        return samples.mean(axis=1)


def without_offset(samples: Samples) -> Samples:
    """Removes the constant offset (DC) of each channel, which cannot be heard, from float32 [N] or [N, C channels].

    Samples whose offset is at most `LEAST_OFFSET` in each channel are returned as they are.
    """
    if not len(samples):
        return samples
    # samples that overflow, or are not finite, are reported when they are checked
    with np.errstate(over="ignore", invalid="ignore"):
        # column by column: ten times as fast as the mean over the first axis
        columns = in_columns(samples).T  # [C, N]
        offset = np.array([column.mean(dtype=np.float64) for column in columns])  # [C]
        # not `<=`: an offset of NaN is subtracted, too
        if not np.abs(offset).max() > LEAST_OFFSET:
            return samples
        return samples - offset.astype(np.float32).reshape(samples.shape[1:])


def with_channels(samples: Samples, channels: int) -> Samples:
    """Converts float32 [N] or [N, C], of C channels, to `channels` channels.

    A sound of more than one channel, if it has another number, becomes mono first (`to_mono`: the mean, or the loudest
    channel if they cancel each other); mono is repeated in all channels.

    Returns:
        float32 [N] for one channel, else [N, channels], which may be a read-only view.
    """
    if samples.ndim == 2 and (channels == 1 or samples.shape[1] not in (1, channels)):
        samples = to_mono(samples)
    if channels == 1:
        return samples
    return np.broadcast_to(in_columns(samples), (len(samples), channels))


def in_columns(samples: Samples) -> Samples:
    """Float32 [N] as [N, 1], and [N, C], of C channels, as it is."""
    # `reshape(N, -1)` fails for N = 0
    if samples.ndim == 1:
        return samples[:, None]
    return samples


def resample(samples: Samples, sampling_rate: int, target_rate: int) -> Samples:
    """Resamples float32 [N] or [N, C] from `sampling_rate` to `target_rate` Hz (soxr, high quality).

    Returns:
        float32 [M] or [M, C], M = round(N · target_rate / sampling_rate).
    """
    if sampling_rate == target_rate:
        return samples
    length = round(samples.shape[0] * target_rate / sampling_rate)
    resampled = soxr.resample(samples, sampling_rate, target_rate, quality="HQ")[:length]
    return pad_end(resampled, length).astype(np.float32, copy=False)


def resample_pieces(pieces: Iterable[Samples], sampling_rate: int, target_rate: int) -> Iterator[Samples]:
    """Resamples audio that arrives in pieces (float32 [n] or [n, channels]) from `sampling_rate` to `target_rate` Hz.

    Yields:
        float32 [m] or [m, channels], m any length, also 0: the resampler holds samples back until the next piece. If
        the rates are equal, the pieces as they are.
    """
    if sampling_rate == target_rate:
        yield from pieces
        return
    stream: soxr.ResampleStream | None = None
    for piece in pieces:
        if stream is None:
            channels = 1 if piece.ndim == 1 else piece.shape[1]
            stream = soxr.ResampleStream(sampling_rate, target_rate, channels, "float32", "HQ")
        yield stream.resample_chunk(piece)
    if stream is not None:
        # an empty piece, with the channels of the last one, fetches what is held back
        yield stream.resample_chunk(piece[:0], last=True)


def pad_end(samples: Samples, length: int) -> Samples:
    """Pads float32 [N] or [N, C] with silence to `length` samples; returns it as it is if it is long enough."""
    missing = length - samples.shape[0]
    if missing > 0:
        return np.pad(samples, [(0, missing)] + [(0, 0)] * (samples.ndim - 1))
    return samples
