# SPDX-License-Identifier: Apache-2.0
"""Channels: their number, their mean, and a constant offset in them. Shapes: [N] or [N, C]."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

# the louder channel is used where the mean of all lies this far below it
CANCELLED_DB = 12.0
# a smaller mean may be that of the sound: a tone of one second does not end where it began
LEAST_OFFSET = 0.005
_BLOCK = 1 << 20


@dataclass
class ChannelLevels:
    """Levels of the channels of a sound that arrives block by block, without their constant offset."""

    channels: int
    count: int = 0
    _sums: NDArray[np.float64] = field(init=False)
    # sums of the products of each channel with each
    _products: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self._sums = np.zeros(self.channels)
        self._products = np.zeros((self.channels, self.channels))

    def add(self, block: Samples) -> None:
        """Adds the next samples, float32 [n, C]."""
        # samples that overflow, or are not finite, are reported when they are checked
        with np.errstate(over="ignore", invalid="ignore"):
            self._sums += np.ones(len(block), dtype=np.float32) @ block
            self._products += block.T @ block
        self.count += len(block)

    def channel_instead_of_mean(self) -> int | None:
        """The channel to use instead of the mean: the loudest if the mean lies 12 dB below it, else None."""
        if self.channels == 1 or not self.count:
            return None
        # as in `add`
        with np.errstate(over="ignore", invalid="ignore"):
            powers = self._products - np.outer(self._sums, self._sums) / self.count
            loudest = int(np.argmax(np.diag(powers)))
            cancelled = powers.mean() < powers[loudest, loudest] * 10.0 ** (-CANCELLED_DB / 10.0)
        return loudest if cancelled else None

    def below(self) -> float:
        """How far, in dB, the mean of the channels lies below the loudest one; at most 99."""
        powers = self._products - np.outer(self._sums, self._sums) / max(self.count, 1)
        ratio = powers.mean() / max(float(np.diag(powers).max()), 1e-30)
        return float(-10.0 * np.log10(min(max(ratio, 10.0**-9.9), 1.0)))


def channel_levels(samples: Samples) -> ChannelLevels:
    """Levels of the channels of float32 [N, C]."""
    levels = ChannelLevels(samples.shape[1])
    for start in range(0, len(samples), _BLOCK):
        levels.add(samples[start : start + _BLOCK])
    return levels


def to_mono(samples: Samples) -> Samples:
    """The mean of the channels of float32 [N, C], or the loudest of channels that cancel each other: float32 [N]."""
    channel = channel_levels(samples).channel_instead_of_mean()
    if channel is None:
        mono = mean_of_channels(samples)
    else:
        mono = samples[:, channel]
    return np.ascontiguousarray(mono)


def mean_of_channels(samples: Samples) -> Samples:
    """The mean of float32 [N, C] over its channels: float32 [N]."""
    # samples that overflow, or are not finite, are reported when they are checked
    with np.errstate(over="ignore", invalid="ignore"):
        if samples.shape[1] == 2:
            # five times as fast as the mean over an axis of two
            mean: Samples = samples[:, 0] + samples[:, 1]
            mean /= 2
            return mean
        return samples.mean(axis=1)


def without_offset(samples: Samples) -> Samples:
    """Float32 [N] or [N, C] without a constant offset (DC) of its channels, which cannot be heard."""
    if not len(samples):
        return samples
    # samples that overflow, or are not finite, are reported when they are checked
    with np.errstate(over="ignore", invalid="ignore"):
        # column by column: ten times as fast as the mean over the first axis
        columns = samples.reshape(len(samples), -1).T
        offset = np.array([column.mean(dtype=np.float64) for column in columns])
        # so written, NaN passes
        if not np.abs(offset).max() > LEAST_OFFSET:
            return samples
        return samples - offset.astype(np.float32).reshape(samples.shape[1:])


def with_channels(samples: Samples, channels: int) -> Samples:
    """Converts float32 [N] or [N, C] to [N] for one channel, else [N, channels]; other counts are averaged first.

    Where channels cancel each other, their mean is the loudest of them (`to_mono`).
    """
    if samples.ndim == 2 and (channels == 1 or samples.shape[1] not in (1, channels)):
        samples = to_mono(samples)
    if channels == 1:
        return samples
    return np.broadcast_to(samples.reshape(len(samples), -1), (len(samples), channels))
