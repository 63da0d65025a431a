# SPDX-License-Identifier: Apache-2.0
"""Loudness, tempo and key of a segment: what retrieval compares and later conditioning may use.

Estimates for sorting, not labels: rendered songs bring their own. Chroma and spectrogram are transformers', loudness
is pyloudnorm's; librosa would bring a compiler that every worker would wait for.
"""

import functools
from dataclasses import dataclass

import numpy as np
from transformers.audio_utils import chroma_filter_bank, spectrogram, window_function

from ..audio import Samples, is_silent, loudness
from ..audio.analysis import key_fit, tempo

PITCH_NAMES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
CHROMA_WINDOW_SECONDS = 0.34


@dataclass(frozen=True)
class SegmentFeatures:
    """Integrated loudness in LUFS, tempo in beats a minute, key such as `F#:min`; NaN and empty where unknown."""

    loudness: float
    tempo: float
    key: str


def segment_features(samples: Samples, sampling_rate: int) -> SegmentFeatures:
    """Measures an instrumental (float32 [N] at `sampling_rate` Hz)."""
    if is_silent(samples):
        return SegmentFeatures(float("nan"), float("nan"), "")
    return SegmentFeatures(
        loudness(samples, sampling_rate), tempo(samples, sampling_rate), key_of(chroma(samples, sampling_rate))
    )


@functools.cache
def _chroma_filters(size: int, sampling_rate: int) -> np.ndarray:
    return chroma_filter_bank(size, len(PITCH_NAMES), sampling_rate)


def chroma(samples: Samples, sampling_rate: int) -> np.ndarray:
    """How loud each pitch class is on average, from C upwards: float64 [12] of float32 [N]."""
    size = 1 << round(CHROMA_WINDOW_SECONDS * sampling_rate).bit_length() - 1
    padded = np.pad(samples, (0, max(0, size - len(samples))))
    window = window_function(size, "hann")
    frames = spectrogram(padded, window, size, size // 2, power=1.0, center=False)
    return (_chroma_filters(size, sampling_rate) @ frames).mean(axis=1)


def key_of(histogram: np.ndarray) -> str:
    """The key, such as `F#:min`, whose profile a histogram of pitch classes (float [12]) correlates with best."""
    mode, tonic = divmod(int(key_fit(histogram).argmax()), len(PITCH_NAMES))
    return f"{PITCH_NAMES[tonic]}:{('maj', 'min')[mode]}"
