# SPDX-License-Identifier: Apache-2.0
"""Mixes dry players to stems: amplifier, equaliser, level and room, the same for all songs of a style.

All processing is time-invariant and per player, so repeated notes give repeated samples, and stems sum to the mix.
Audio is mono, float64 [N].
"""

from collections.abc import Mapping
from functools import cache

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq
from scipy.signal import fftconvolve, resample_poly

from .styles import STEMS, Curve, Style

PREDELAY, BRIGHT_DECAY = 0.012, 0.35
# frequency response of a guitar cabinet
CABINET: Curve = ((50, -18), (110, 0), (400, -2), (2200, 4), (4200, 0), (5500, -12), (8000, -36), (24000, -60))


def equalised(audio: np.ndarray, sampling_rate: int, curve: Curve) -> np.ndarray:
    """Equalises audio [N] with a curve of (Hz, dB), interpolated linearly over log frequency."""
    length = next_fast_len(audio.size, real=True)
    frequency = np.maximum(rfftfreq(length, 1 / sampling_rate), 1.0)
    at, level = zip(*curve, strict=True)
    gain = 10 ** (np.interp(np.log(frequency), np.log(at), level) / 20)
    return irfft(rfft(audio, length) * gain, length)[: audio.size]


def overdriven(audio: np.ndarray, sampling_rate: int, drive_db: float) -> np.ndarray:
    """Audio [N] through soft valve distortion and a guitar cabinet, at about its original level."""
    gain = 10 ** (drive_db / 20)
    return equalised(np.tanh(gain * audio + 0.1) - np.tanh(0.1), sampling_rate, CABINET) / gain**0.8


@cache
def _room(name: str, seconds: float, sampling_rate: int) -> np.ndarray:
    """Impulse response of a style's room, [seconds * sampling_rate], with energy 1; high frequencies decay faster."""
    generator = np.random.default_rng(list(name.encode()))
    times = np.arange(int(seconds * sampling_rate)) / sampling_rate
    noise = generator.standard_normal((2, times.size))
    response = np.zeros(times.size)
    for part, decay, edge in ((noise[0], seconds, -1), (noise[1], seconds * BRIGHT_DECAY, 1)):
        curve = ((1500.0, min(0, 24 * edge)), (4500.0, min(0, -24 * edge)))
        response += equalised(part, sampling_rate, curve) * 10 ** (-3 * times / decay)
    response[: int(PREDELAY * sampling_rate)] = 0.0
    return np.asarray(equalised(response, sampling_rate, ((60, -24), (250, 0))) / np.sqrt(np.sum(response**2)))


def mixed(
    players: Mapping[str, np.ndarray], style: Style, synthesis_rate: int, sampling_rate: int
) -> dict[str, np.ndarray]:
    """Mix dry players into the stems of a style.

    Args:
        players: audio [N] by player, at `synthesis_rate`.
        style: defines how each player is mixed.
        synthesis_rate: in Hz, an integer multiple of `sampling_rate`.
        sampling_rate: rate of the stems in Hz.

    Returns:
        all STEMS by name, [N * sampling_rate / synthesis_rate] each.
    """
    stems: dict[str, np.ndarray] = {}
    sends: dict[str, np.ndarray] = {}
    for name, dry in players.items():
        player, sound = style.players[name], style.players[name].sound
        audio = overdriven(dry, synthesis_rate, sound.drive_db) if sound.drive_db else dry
        audio = resample_poly(audio, 1, synthesis_rate // sampling_rate)
        audio = equalised(audio, sampling_rate, sound.curve) if sound.curve else audio
        audio = audio * 10 ** (sound.gain_db / 20)
        audio = sound.ceiling * np.tanh(audio / sound.ceiling) if sound.ceiling else audio
        stems[player.stem] = stems.get(player.stem, 0.0) + audio
        sends[player.stem] = sends.get(player.stem, 0.0) + audio * 10 ** (sound.room_db / 20)
    response = _room(style.name, style.room_seconds, sampling_rate)
    return {stem: stems[stem] + fftconvolve(sends[stem], response)[: stems[stem].size] for stem in STEMS}
