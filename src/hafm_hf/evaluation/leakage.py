# SPDX-License-Identifier: Apache-2.0
"""The leak guard: how much of an accompaniment is the voice itself, as it stands beside every score of the voice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..audio import Samples
from ..audio.librosa_loading import load_librosa

WINDOW, HOP = 1024, 512
# frames of the voice that an accompaniment's frame may be made of: the same and the one before (64 ms at 16 kHz)
TAPS = 2
FLOOR_DB = -60.0
# unrelated voices stay below this; a report marks what is above it
SUSPICIOUS_DB = -8.0

Array = NDArray[np.complex64]


def voice_leak_db(voice: Samples, candidate: Samples) -> float:
    """Voice-coherent energy in an accompaniment, in dB of the accompaniment's energy.

    In each frequency band the accompaniment is predicted from the voice by a filter of 2 frames; what the same filter
    length explains from the voice taken at another time (half the clip away) is chance and is taken off. 0 dB: all of
    it is the voice, however filtered; −60 dB is the lowest value given.

    Args:
        voice, candidate (float32 [N], at 16 kHz; the longer is cut).
    """
    size = min(len(voice), len(candidate))
    if size < WINDOW * 4:
        return FLOOR_DB
    sung, played = _spectrum(voice[:size]), _spectrum(candidate[:size])
    total = float((np.abs(played) ** 2).sum())
    if total < 1e-8:
        return FLOOR_DB
    elsewhere = np.roll(sung, sung.shape[1] // 2, axis=1)
    share = (_explained(sung, played) - _explained(elsewhere, played)) / total
    return max(10.0 * float(np.log10(max(share, 1e-9))), FLOOR_DB)


def _spectrum(samples: Samples) -> Array:
    librosa = load_librosa()
    return np.asarray(librosa.stft(samples, n_fft=WINDOW, hop_length=HOP), np.complex64)


def _explained(source: Array, target: Array) -> float:
    """Energy of `target` (complex [F, T]) that a filter of TAPS frames in each band explains from `source`."""
    delayed = np.stack([np.pad(source, ((0, 0), (tap, 0)))[:, : source.shape[1]] for tap in range(TAPS)], axis=1)
    gram = delayed @ delayed.conj().transpose(0, 2, 1)
    load = np.trace(gram, axis1=1, axis2=2).real / TAPS
    gram += (1e-4 * load + 1e-9)[:, None, None] * np.eye(TAPS)
    cross = delayed @ target.conj()[:, :, None]
    return float((cross.conj().transpose(0, 2, 1) @ np.linalg.solve(gram, cross)).real.sum())
