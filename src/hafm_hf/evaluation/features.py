# SPDX-License-Identifier: Apache-2.0
"""Features that the scores are computed from, extracted once per clip: chroma, onsets, beats and pitch.

Everything is measured at 16 kHz in mono. The tuning is A = 440 Hz for every sound: estimating it for each recording
would forgive an accompaniment a quarter tone off.

Dimensions: N samples, T frames at 100 Hz, T_c chroma frames at 16 Hz, K beats.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..audio import Samples, pad_end, rms_dbfs
from ..audio.librosa_loading import load_librosa
from ..lead_sheet.chords import PITCH_CLASSES
from ..lead_sheet.lead_sheet import LeadSheet
from ..tokenizers.pitch_contour import FRAME_RATE, fundamental_frequency, midi_pitch

# increase it when features change, so that cached ones are not used
FEATURES_VERSION = 4
# sampling rate in Hz; the windows are in samples at this rate
ANALYSIS_RATE = 16_000
CHROMA_WINDOW = 4096
# chroma frames per second
CHROMA_RATE = 16
ONSET_WINDOW = 512
ONSET_BANDS = 40
# longest beat period considered in tempo estimation: 4 s, in frames at 100 Hz
TEMPO_FRAMES = 400
# frames this far below a clip's loudest count as silence, so that noise has no chroma
CHROMA_FLOOR_DB = 60.0
SILENT_DBFS = -90.0

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Features:
    """Features of one sound.

    Args:
        seconds: its length.
        chroma (float32 [12, T_c] at 16 Hz): magnitude by pitch class, C first; zero in silent frames.
        onsets (float32 [T] at 100 Hz): onset strength, the mean rise of the mel bands in dB.
        beats (float32 [K]): times of the detected beats, in seconds.
        pitch (float32 [T] at 100 Hz): fundamental frequency in Hz, NaN in unvoiced frames; empty if not a vocal.
        lead_sheet: for a vocal, the song's lead sheet if known.
    """

    seconds: float
    chroma: Array
    onsets: Array
    beats: Array
    pitch: Array
    lead_sheet: LeadSheet | None = None

    def measured(self) -> dict[str, Any]:
        """The values measured by `extract`, by name: numbers and arrays, without `lead_sheet`."""
        # only `lead_sheet` has a default
        return {field.name: getattr(self, field.name) for field in fields(self) if field.default is MISSING}

    @classmethod
    def of(cls, measured: Mapping[str, Any]) -> "Features":
        """Features from the values of `measured()`; numbers may be 0-dimensional arrays, as loaded from a cache."""
        numbers = {name: float(value) for name, value in measured.items() if not np.ndim(value)}
        return cls(**{**measured, **numbers})


def extract(samples: Samples, *, voice: bool = False) -> Features:
    """Extracts the features of one sound.

    Args:
        samples (float32 [N] at 16 kHz): the sound, in mono.
        voice: whether it is a vocal, whose pitch is extracted as well.
    """
    onsets = onset_strength(samples)
    pitch = np.empty(0)
    if voice:
        pitch = fundamental_frequency(samples, ANALYSIS_RATE)
    return Features(
        seconds=len(samples) / ANALYSIS_RATE,
        chroma=chroma(samples),
        onsets=onsets,
        beats=beats(onsets),
        pitch=pitch.astype(np.float32),
    )


def pitch_classes(hertz: NDArray[Any]) -> NDArray[np.int64]:
    """Pitch class of each frequency in Hz (float [N], none of them NaN), rounded to semitones: int64 [N], C is 0."""
    return np.round(midi_pitch(hertz)).astype(np.int64) % PITCH_CLASSES


def chroma(samples: Samples) -> Array:
    """Magnitude by pitch class, weighted towards octaves around 500 Hz; zero in silent frames.

    Args:
        samples (float32 [N] at 16 kHz): the sound.

    Returns:
        float32 [12, 1 + seconds · 16], C first.
    """
    librosa = load_librosa()
    hop = ANALYSIS_RATE // CHROMA_RATE
    magnitude = np.abs(librosa.stft(pad_end(samples, CHROMA_WINDOW), n_fft=CHROMA_WINDOW, hop_length=hop))
    # without the frames of the padding, [12, T_c]
    by_class = (_chroma_filters() @ magnitude)[:, : 1 + len(samples) // hop]
    total = by_class.sum(axis=0)
    # magnitude of a sine at this level: under a Hann window, amplitude 1 gives a quarter of the window's length
    silent = 10 ** (SILENT_DBFS / 20) * CHROMA_WINDOW / 4
    floor = max(total.max(initial=0.0) * 10 ** (-CHROMA_FLOOR_DB / 20), silent)
    return np.where(total >= floor, by_class, 0.0).astype(np.float32)


@cache
def _chroma_filters() -> Array:
    """Weights of the spectrum's frequencies in each pitch class: float32 [12, CHROMA_WINDOW / 2 + 1]."""
    librosa = load_librosa()
    return librosa.filters.chroma(sr=ANALYSIS_RATE, n_fft=CHROMA_WINDOW, tuning=0.0).astype(np.float32)


def onset_strength(samples: Samples) -> Array:
    """Mean rise of 40 mel bands from frame to frame, in dB; levels more than 80 dB below the loudest count as equal.

    Args:
        samples (float32 [N] at 16 kHz): the sound.

    Returns:
        float32 [T] at 100 Hz; zeros for a silent sound.
    """
    librosa = load_librosa()
    hop = ANALYSIS_RATE // FRAME_RATE
    count = 1 + len(samples) // hop
    if rms_dbfs(samples) < SILENT_DBFS:
        return np.zeros(count, np.float32)
    mel = librosa.feature.melspectrogram(
        y=pad_end(samples, ONSET_WINDOW), sr=ANALYSIS_RATE, n_fft=ONSET_WINDOW, hop_length=hop, n_mels=ONSET_BANDS
    )
    strength = librosa.onset.onset_strength(
        S=librosa.power_to_db(mel, ref=np.max, top_db=80.0),
        sr=ANALYSIS_RATE,
        hop_length=hop,
        # librosa delays the curve by half of this; half of its default window would be 50 ms more
        n_fft=ONSET_WINDOW,
    )
    return strength[:count].astype(np.float32)


def beats(onsets: Array) -> Array:
    """Beats in seconds (float32 [K]) of an onset curve (float32 [T] at 100 Hz), by librosa's dynamic programming.

    A curve shorter than 1 s or without onsets has no beats.

    The tempo is estimated from one autocorrelation of the whole clip: librosa's default, one per frame, takes ten
    times as long and distinguishes matched from shuffled pairs no better.
    """
    librosa = load_librosa()
    if len(onsets) < FRAME_RATE or not onsets.any():
        return np.empty(0, np.float32)
    hop = ANALYSIS_RATE // FRAME_RATE
    autocorrelation = librosa.autocorrelate(onsets - onsets.mean(), max_size=TEMPO_FRAMES)
    tempo = librosa.feature.tempo(tg=np.maximum(autocorrelation, 0.0)[:, None], sr=ANALYSIS_RATE, hop_length=hop)
    _, times = librosa.beat.beat_track(
        onset_envelope=onsets, sr=ANALYSIS_RATE, hop_length=hop, bpm=float(tempo[0]), units="time"
    )
    return np.asarray(times, np.float32)
