# SPDX-License-Identifier: Apache-2.0
"""Sampling rates: resampling whole sounds and sounds in pieces (soxr, high quality)."""

from collections.abc import Iterable, Iterator

import numpy as np
import soxr

from .channels import Samples


def resample(samples: Samples, sampling_rate: int, target_rate: int) -> Samples:
    """Resamples float32 [N] or [N, C] from `sampling_rate` to `target_rate` Hz (soxr, high quality).

    Returns:
        float32 [round(N * target_rate / sampling_rate)], or as long with C channels.
    """
    if sampling_rate == target_rate:
        return samples
    length = round(samples.shape[0] * target_rate / sampling_rate)
    resampled = soxr.resample(samples, sampling_rate, target_rate, quality="HQ")[:length]
    return pad_end(resampled, length).astype(np.float32, copy=False)


def resample_pieces(pieces: Iterable[Samples], sampling_rate: int, target_rate: int) -> Iterator[Samples]:
    """Resamples audio that arrives in pieces (float32 [n] or [n, C]) from `sampling_rate` to `target_rate` Hz.

    Yields:
        float32 [m] or [m, C], m any length, also 0: the resampler holds back what it needs of the next piece. Equal
        rates pass the pieces on as they are.
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
        # an empty piece, of the last one's shape, fetches what is held back
        yield stream.resample_chunk(piece[:0], last=True)


def pad_end(samples: Samples, length: int) -> Samples:
    """Pads float32 [N] or [N, C] with silence to `length` samples; returns it as it is if it is long enough."""
    missing = length - samples.shape[0]
    if missing > 0:
        return np.pad(samples, [(0, missing)] + [(0, 0)] * (samples.ndim - 1))
    return samples
