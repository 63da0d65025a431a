# SPDX-License-Identifier: Apache-2.0
"""What the scores of following the singer look at, computed once a clip: chroma, onsets, beats, pitch, level.

Everything is measured at 16 kHz in mono. Dimensions: T frames at 100 Hz, T_c frames of
chroma at 16 Hz. Tuning is A = 440 Hz for every sound: one tuned to each recording would forgive an accompaniment
that is a quarter tone off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio import Samples, pad_end, rms_dbfs
from ..audio.librosa_loading import load_librosa
from ..lead_sheet.lead_sheet import LeadSheet
from ..listening.pitch_line import FRAME_RATE, fundamental_frequency

# Cached features of another version are not used.
FEATURES_VERSION = 4
ANALYSIS_RATE = 16_000
CHROMA_WINDOW, CHROMA_RATE = 4096, 16
PITCH_CLASSES, A4_HZ = 12, 440.0
ONSET_WINDOW, ONSET_BANDS = 512, 40
# longest distance of beats that a tempo is looked for in: 4 s
TEMPO_FRAMES = 400
# frames this far below a clip's loudest are silence, whatever its noise sounds like
CHROMA_FLOOR_DB = 60.0
SILENT_DBFS = -90.0

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Features:
    """One sound as the scores see it.

    Args:
        seconds: its length.
        chroma (float32 [12, T_c]): magnitude by pitch class, C first; columns of zeros where the sound is silent.
        onsets (float32 [T]): how much louder the bands became, in dB.
        beats (float32 [K]): seconds.
        pitch (float32 [T]): Hz of the sung note, NaN where none is sung; empty for a sound that is no voice.
        told: of a voice, the song's lead sheet where it is known.
    """

    seconds: float
    chroma: Array
    onsets: Array
    beats: Array
    pitch: Array
    told: LeadSheet | None = None

    def measured(self) -> dict[str, Any]:
        """What `extract` has measured, by name: numbers and arrays."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.default is MISSING}

    @classmethod
    def of(cls, measured: Mapping[str, Any]) -> Features:
        """The features that gave `measured`, its numbers as arrays perhaps."""
        values: dict[str, Any] = {name: x if np.ndim(x) else float(x) for name, x in measured.items()}
        return cls(**values)


def extract(samples: Samples, *, voice: bool = False) -> Features:
    """Measures one sound.

    Args:
        samples (float32 [N], at 16 kHz).
        voice: whether it is a singer, whose pitch is wanted.
    """
    onsets = onset_strength(samples)
    pitch = fundamental_frequency(samples, ANALYSIS_RATE) if voice else np.empty(0)
    return Features(
        seconds=len(samples) / ANALYSIS_RATE,
        chroma=chroma(samples),
        onsets=onsets,
        beats=beats(onsets),
        pitch=pitch.astype(np.float32),
    )


def pitch_classes(hertz: NDArray[Any]) -> NDArray[np.int64]:
    """Pitch class of each frequency (float [N]), C is 0."""
    return np.round(69 + 12 * np.log2(hertz / A4_HZ)).astype(np.int64) % PITCH_CLASSES


def chroma(samples: Samples) -> Array:
    """Magnitude by pitch class, octaves around 500 Hz counting most: float32 [12, T_c] of float32 [N] at 16 kHz."""
    librosa = load_librosa()
    hop = ANALYSIS_RATE // CHROMA_RATE
    magnitude = np.abs(librosa.stft(pad_end(samples, CHROMA_WINDOW), n_fft=CHROMA_WINDOW, hop_length=hop))
    folded = (_chroma_filters() @ magnitude)[:, : 1 + len(samples) // hop]
    total = folded.sum(axis=0)
    floor = max(total.max(initial=0.0) * 10 ** (-CHROMA_FLOOR_DB / 20), 10 ** (SILENT_DBFS / 20) * CHROMA_WINDOW / 4)
    return np.where(total >= floor, folded, 0.0).astype(np.float32)


@cache
def _chroma_filters() -> Array:
    librosa = load_librosa()
    return librosa.filters.chroma(sr=ANALYSIS_RATE, n_fft=CHROMA_WINDOW, tuning=0.0).astype(np.float32)


def onset_strength(samples: Samples) -> Array:
    """Mean rise of 40 mel bands from frame to frame in dB, of the top 80 dB: float32 [T] of float32 [N] at 16 kHz."""
    librosa = load_librosa()
    hop = ANALYSIS_RATE // FRAME_RATE
    count = 1 + len(samples) // hop
    if rms_dbfs(samples) < SILENT_DBFS:
        return np.zeros(count, np.float32)
    mel = librosa.feature.melspectrogram(
        y=pad_end(samples, ONSET_WINDOW), sr=ANALYSIS_RATE, n_fft=ONSET_WINDOW, hop_length=hop, n_mels=ONSET_BANDS
    )
    strength = librosa.onset.onset_strength(
        # told the window, librosa moves the curve by half of it, and not by half of its own, which is 50 ms more
        S=librosa.power_to_db(mel, ref=np.max, top_db=80.0),
        sr=ANALYSIS_RATE,
        hop_length=hop,
        n_fft=ONSET_WINDOW,
    )
    return strength[:count].astype(np.float32)


def beats(onsets: Array) -> Array:
    """Beats in seconds (float32 [K]) of an onset curve (float32 [T]), by librosa's dynamic programming.

    The tempo comes from one autocorrelation of the whole clip: librosa's own, one for each frame, takes ten times as
    long and tells true pairs from shuffled ones no better.
    """
    librosa = load_librosa()
    if len(onsets) < FRAME_RATE or not onsets.any():
        return np.empty(0, np.float32)
    hop = ANALYSIS_RATE // FRAME_RATE
    repeats = librosa.autocorrelate(onsets - onsets.mean(), max_size=TEMPO_FRAMES)
    tempo = librosa.feature.tempo(tg=np.maximum(repeats, 0.0)[:, None], sr=ANALYSIS_RATE, hop_length=hop)
    _, times = librosa.beat.beat_track(
        onset_envelope=onsets, sr=ANALYSIS_RATE, hop_length=hop, bpm=float(tempo[0]), units="time"
    )
    return np.asarray(times, np.float32)
