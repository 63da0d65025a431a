# SPDX-License-Identifier: Apache-2.0
"""Fools: trivial accompaniments, such as a click track or a drone, that a trustworthy score must not reward."""

from collections.abc import Callable

import numpy as np

from ..audio import Samples, click
from ..audio.librosa_loading import load_librosa
from ..lead_sheet.chords import PITCH_CLASSES
from ..tokenizers.pitch_contour import A4_HZ, FRAME_RATE
from .features import ANALYSIS_RATE, Features, pitch_classes

CLICKS_PER_MINUTE = 120
# amplitude of each sine; full scale is 1
LEVEL = 0.1
# (vocal, its features, reference or None) → a candidate; all sounds are float32 [N] at 16 kHz
Fool = Callable[[Samples, Features, Samples | None], Samples]


def click_track(vocal: Samples, voice: Features, reference: Samples | None) -> Samples:
    """A metronome at 120 BPM, as long as the vocal (float32 [N] at 16 kHz), whatever is sung: float32 [N].

    The other arguments are not used; every fool has them.
    """
    seconds = len(vocal) / ANALYSIS_RATE
    beats = np.arange(0.0, seconds, 60 / CLICKS_PER_MINUTE).tolist()
    # no downbeats: all clicks are equal
    return click.click_track(beats, (), seconds, ANALYSIS_RATE)


def doubling_sine(vocal: Samples, voice: Features, reference: Samples | None) -> Samples:
    """A sine at the pitch of the vocal, silent where nothing is sung: float32 [N].

    Args:
        vocal (float32 [N] at 16 kHz): gives the length only.
        voice: features of the vocal, with its pitch.
        reference: not used; every fool has this argument.
    """
    sung = np.isfinite(voice.pitch)
    if not sung.any():
        return np.zeros_like(vocal)
    # time of each sample, in frames at 100 Hz
    times = np.arange(len(vocal)) * FRAME_RATE / ANALYSIS_RATE
    frames = np.arange(len(sung))
    # interpolated across unvoiced frames, where the gain is 0
    frequency = np.interp(times, frames[sung], voice.pitch[sung])
    gain = np.interp(times, frames, sung.astype(np.float64))
    phase = 2 * np.pi * np.cumsum(frequency) / ANALYSIS_RATE
    return (LEVEL * gain * np.sin(phase)).astype(np.float32)


def drone(vocal: Samples, voice: Features, reference: Samples | None) -> Samples:
    """The vocal's most frequent pitch class with its fifth and octave, held throughout: float32 [N].

    Args:
        vocal (float32 [N] at 16 kHz): gives the length only.
        voice: features of the vocal, with its pitch.
        reference: not used; every fool has this argument.
    """
    classes = pitch_classes(voice.pitch[np.isfinite(voice.pitch)])
    most_frequent = int(np.bincount(classes, minlength=PITCH_CLASSES).argmax())
    # in Hz, from C3 to B3: A4 / 2 is A3, of pitch class 9
    root = A4_HZ / 2 * 2 ** ((most_frequent - 9) / 12)
    time = np.arange(len(vocal)) / ANALYSIS_RATE
    tones = sum(np.sin(2 * np.pi * frequency * time) for frequency in (root, 1.5 * root, 2 * root))
    return (LEVEL * np.asarray(tones)).astype(np.float32)


def semitone_high(vocal: Samples, voice: Features, reference: Samples | None) -> Samples:
    """The reference (float32 [N] at 16 kHz) a semitone higher, in time but out of key: float32 [N].

    It needs a reference; the other arguments are not used.
    """
    assert reference is not None, "see NEEDS_REFERENCE"
    return np.asarray(load_librosa().effects.pitch_shift(reference, sr=ANALYSIS_RATE, n_steps=1), np.float32)


FOOLS: dict[str, Fool] = {
    "silence": lambda vocal, *_: np.zeros_like(vocal),
    "click track": click_track,
    "sine doubling the voice": doubling_sine,
    "the voice itself": lambda vocal, *_: vocal,
    "drone": drone,
    "reference a semitone high": semitone_high,
}
NEEDS_REFERENCE = ("reference a semitone high",)
