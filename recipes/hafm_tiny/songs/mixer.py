# SPDX-License-Identifier: Apache-2.0
"""Mixes dry players to stems: amplifier, equaliser, level and room, the same for all songs of a style.

All processing is time-invariant and per player, so repeated notes give repeated samples, and stems sum to the mix.
Audio is float64: mono [N], or left and right [2, N].
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq
from scipy.signal import fftconvolve, resample_poly

from .styles import STEMS, Curve, Sound, Style

# of a room: seconds before it sets in, and reverberation time of low frequencies as a share of the high ones'
PREDELAY = 0.012
LOW_DECAY = 0.35
# of a stereo room: half width in Hz of the crossfade at the mono path's Nyquist frequency; reverberation time above it
# as a share of the room's; the room is narrow up to one frequency (Hz), and has its whole width from the other
CROSSFADE = 500.0
AIRY_DECAY = 0.35
NARROW = 120.0
WIDE = 400.0
# a ducked player's level falls within the first time, and recovers with the second as time constant
DUCK_SECONDS = 0.005
RECOVER_SECONDS = 0.11
# below this share of the ceiling, saturation has a gain of 1; avoids a division by 0
SMALLEST = 1e-6
# frequency response of a guitar cabinet
CABINET: Curve = ((50, -18), (110, 0), (400, -2), (2200, 4), (4200, 0), (5500, -12), (8000, -36), (24000, -60))


def equalised(audio: np.ndarray, sampling_rate: int, curve: Curve) -> np.ndarray:
    """Equalises audio [N] with a curve of (Hz, dB), interpolated linearly over log frequency."""
    length = next_fast_len(audio.size, real=True)
    # log of 0 Hz would be −∞
    frequency = np.maximum(rfftfreq(length, 1 / sampling_rate), 1.0)
    hertz, decibels = zip(*curve, strict=True)
    gain = 10 ** (np.interp(np.log(frequency), np.log(hertz), decibels) / 20)
    return irfft(rfft(audio, length) * gain, length)[: audio.size]


def overdriven(audio: np.ndarray, sampling_rate: int, drive_db: float) -> np.ndarray:
    """Sends audio [N] through soft valve distortion and a guitar cabinet, at about its original level.

    `drive_db` is the amplification before the distortion.
    """
    gain = 10 ** (drive_db / 20)
    # the offset adds even harmonics
    distorted = np.tanh(gain * audio + 0.1) - np.tanh(0.1)
    # less than the whole gain is taken back, as saturation has lowered the level
    return equalised(distorted, sampling_rate, CABINET) / gain**0.8


@cache
def _room(name: str, seconds: float, sampling_rate: int) -> np.ndarray:
    """Impulse response of the room of the style called `name`, which seeds it; its energy is 1 before the low cut.

    Args:
        name: name of the style.
        seconds: reverberation time.
        sampling_rate: in Hz.

    Returns:
        float64 [seconds · sampling_rate].
    """
    response = _reverberation(np.random.default_rng(list(name.encode())), seconds, sampling_rate)
    return np.asarray(_low_cut(response, sampling_rate) / np.sqrt(np.sum(response**2)))


def _reverberation(generator: np.random.Generator, seconds: float, sampling_rate: int) -> np.ndarray:
    """Decaying noise [seconds · sampling_rate], silent during the predelay; it decays faster below about 3 kHz."""
    times = np.arange(int(seconds * sampling_rate)) / sampling_rate
    noise = generator.standard_normal((2, times.size))
    high = equalised(noise[0], sampling_rate, ((1500.0, -24), (4500.0, 0)))
    low = equalised(noise[1], sampling_rate, ((1500.0, 0), (4500.0, -24)))
    # both decay by 60 dB within their reverberation time
    response = np.zeros(times.size)
    response += high * 10 ** (-3 * times / seconds)
    response += low * 10 ** (-3 * times / (seconds * LOW_DECAY))
    response[: int(PREDELAY * sampling_rate)] = 0.0
    return response


def _low_cut(response: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Attenuates a response [N] below 250 Hz, by 24 dB at 60 Hz."""
    return equalised(response, sampling_rate, ((60, -24), (250, 0)))


@cache
def _stereo_room(name: str, seconds: float, width: float, mono_rate: int, sampling_rate: int) -> np.ndarray:
    """Impulse responses of a style's room, for the mean of left and right (mid) and for half their difference (side).

    Below the mono path's Nyquist frequency, the first is the mono room's, resampled; above, it is drawn anew.

    Args:
        name: name of the style, which seeds the responses.
        seconds: reverberation time.
        width: level of the side's response, relative to the mid's; a factor.
        mono_rate: sampling rate of the mono path in Hz.
        sampling_rate: sampling rate of the responses in Hz.

    Returns:
        float64 [2, samples]: mid and side.
    """
    common = math.gcd(mono_rate, sampling_rate)
    # a convolution sums over samples, so a response with more samples per second needs smaller ones
    mono = _room(name, seconds, mono_rate) * mono_rate / sampling_rate
    mid = resample_poly(mono, sampling_rate // common, mono_rate // common)
    # the mono room's noise, before `_room` cuts its low frequencies and normalises it
    drawn = _reverberation(np.random.default_rng(list(name.encode())), seconds, mono_rate)
    # new noise gets the power per Hz of the resampled mono response: `_room` scales its noise to a power of 1
    level = np.sqrt(mono_rate / sampling_rate / np.sum(drawn**2))
    generator = np.random.default_rng([*name.encode(), sampling_rate])
    new_mid = level * _reverberation(generator, seconds, sampling_rate)[: mid.size]
    side = level * _reverberation(generator, seconds, sampling_rate)[: mid.size]
    # above the mono path's Nyquist frequency, the room decays faster
    _, mid_above = _split_at(new_mid, seconds, mono_rate / 2, sampling_rate)
    side_below, side_above = _split_at(side, seconds, mono_rate / 2, sampling_rate)
    # left and right differ little at low frequencies: the side has −24 dB up to NARROW Hz, and 0 dB from WIDE Hz on
    side_below = equalised(_low_cut(side_below, sampling_rate), sampling_rate, ((NARROW, -24), (WIDE, 0)))
    size = min(mid.size, mid_above.size)
    return np.stack([mid[:size] + mid_above[:size], width * (side_below + side_above)[:size]])


def _split_at(response: np.ndarray, seconds: float, hertz: float, sampling_rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits a room's response at a frequency; the part above is made to decay faster, as air absorbs it.

    Args:
        response (float [N]): impulse response of the room.
        seconds: its reverberation time.
        hertz: the frequency.
        sampling_rate: in Hz.

    Returns:
        The parts below and above the frequency, [N] each.
    """
    # multiplied by this, a decay of 60 dB in `seconds` becomes one in AIRY_DECAY · `seconds`
    decay = 10 ** (-3 * np.arange(response.size) / sampling_rate * (1 / AIRY_DECAY - 1) / seconds)
    edges = (hertz - CROSSFADE, hertz + CROSSFADE)
    below = equalised(response, sampling_rate, ((edges[0], 0), (edges[1], -90)))
    return below, decay * equalised(response, sampling_rate, ((edges[0], -90), (edges[1], 0)))


def mixed(
    players: Mapping[str, np.ndarray],
    style: Style,
    synthesis_rate: int,
    sampling_rate: int,
    kicks: Sequence[float] = (),
) -> dict[str, np.ndarray]:
    """Mix dry players into the mono stems of a style.

    Args:
        players: audio by player (float [left and right, N] at `synthesis_rate`); the channels are averaged.
        style: defines how each player is mixed.
        synthesis_rate: in Hz, an integer multiple of `sampling_rate`.
        sampling_rate: rate of the stems in Hz.
        kicks: times in seconds at which the players with a `ducking_db` are ducked.

    Returns:
        All STEMS by name, float64 [N · sampling_rate / synthesis_rate] each.
    """
    stems: dict[str, np.ndarray] = {}
    sends: dict[str, np.ndarray] = {}  # by stem: what goes into the room
    for name, dry in players.items():
        player = style.players[name]
        sound = player.sound
        audio = _amplified(dry.mean(axis=0, dtype=np.float64), synthesis_rate, sound)
        audio = resample_poly(audio, 1, synthesis_rate // sampling_rate)
        if sound.curve:
            audio = equalised(audio, sampling_rate, sound.curve)
        audio = audio * 10 ** (sound.gain_db / 20)
        if sound.ducking_db:
            audio = audio * _ducking_gain(kicks, sound.ducking_db, audio.size, sampling_rate)
        if sound.ceiling:
            audio = sound.ceiling * np.tanh(audio / sound.ceiling)
        stems[player.stem] = stems.get(player.stem, 0.0) + audio
        sends[player.stem] = sends.get(player.stem, 0.0) + audio * 10 ** (sound.room_db / 20)
    response = _room(style.name, style.room_seconds, sampling_rate)
    return {stem: stems[stem] + fftconvolve(sends[stem], response)[: stems[stem].size] for stem in STEMS}


def mixed_in_stereo(
    players: Mapping[str, np.ndarray],
    style: Style,
    synthesis_rate: int,
    mono_rate: int,
    sampling_rate: int,
    kicks: Sequence[float] = (),
) -> dict[str, np.ndarray]:
    """Mix dry players into stereo stems whose mean of left and right is, up to its bandwidth, the mono stem.

    So pans are linear (their gains add up to two), saturation follows the mean of the channels, and the mean of the
    room's two responses is the mono room's.

    Args:
        players: audio by player (float [left and right, N] at `synthesis_rate`).
        style: defines how each player is mixed, panned and how wide it is.
        synthesis_rate: in Hz.
        mono_rate: rate of the mono stems in Hz.
        sampling_rate: rate of these stems in Hz, above `mono_rate`.
        kicks: times in seconds at which the players with a `ducking_db` are ducked.

    Returns:
        All STEMS by name, float64 [left and right, ⌈N · sampling_rate / synthesis_rate⌉] each.
    """
    common = math.gcd(synthesis_rate, sampling_rate)
    # mid is the mean of left and right, side half their difference: left = mid + side, right = mid − side
    stems: dict[str, np.ndarray] = {}
    sends: dict[str, np.ndarray] = {}  # by stem: what goes into the room, made of the players' mid only
    for name, dry in players.items():
        player = style.players[name]
        sound = player.sound
        # an amplifier has one loudspeaker, so it is mono
        width = 0.0 if sound.drive_db else sound.width
        mid = _amplified(dry.mean(axis=0, dtype=np.float64), synthesis_rate, sound)
        side = width * (dry[0].astype(np.float64) - dry[1]) / 2
        audio = resample_poly(np.stack([mid, side]), sampling_rate // common, synthesis_rate // common, axis=-1)
        if sound.curve:
            audio = np.stack([equalised(channel, sampling_rate, sound.curve) for channel in audio])
        if sound.ducking_db:
            audio = audio * _ducking_gain(kicks, sound.ducking_db, audio.shape[-1], sampling_rate)
        mid, side = audio * 10 ** (sound.gain_db / 20)
        if sound.ceiling:
            gain = _saturation_gain(mid, sound.ceiling)
            mid = gain * mid
            side = gain * side
        # a pan to the right (positive) makes left − right negative
        stems[player.stem] = stems.get(player.stem, 0.0) + np.stack([mid, side - sound.pan * mid])
        sends[player.stem] = sends.get(player.stem, 0.0) + mid * 10 ** (sound.room_db / 20)
    responses = _stereo_room(style.name, style.room_seconds, style.room_width, mono_rate, sampling_rate)
    mixed_stems = {}
    for stem in STEMS:
        mid, side = stems[stem] + fftconvolve(sends[stem][None], responses, axes=-1)[:, : stems[stem].shape[-1]]
        mixed_stems[stem] = np.stack([mid + side, mid - side])
    return mixed_stems


def _amplified(audio: np.ndarray, sampling_rate: int, sound: Sound) -> np.ndarray:
    """Sends audio [N] through a player's amplifier, if it has one."""
    if not sound.drive_db:
        return audio
    return overdriven(audio, sampling_rate, sound.drive_db)


def _ducking_gain(kicks: Sequence[float], depth_db: float, size: int, sampling_rate: int) -> np.ndarray:
    """The gain of a player that is attenuated by `depth_db` for a moment after each of `kicks` (in seconds).

    Returns:
        float64 [size]: a factor for each sample.
    """
    times = np.arange(size) / sampling_rate
    starts = np.array([-np.inf, *sorted(kicks)])
    # seconds since the last kick; ∞ before the first
    since = times - starts[np.searchsorted(starts, times, "right") - 1]
    depth = np.minimum(since / DUCK_SECONDS, 1.0) * np.exp(-since / RECOVER_SECONDS)
    return 10 ** (-depth_db * np.where(np.isfinite(since), depth, 0.0) / 20)


def _saturation_gain(audio: np.ndarray, ceiling: float) -> np.ndarray:
    """The gain [N] with which tape saturation keeps audio [N] below an amplitude of `ceiling`."""
    driven = audio / ceiling
    return np.divide(np.tanh(driven), driven, out=np.ones_like(driven), where=np.abs(driven) > SMALLEST)
