# SPDX-License-Identifier: Apache-2.0
"""Levels, and mixing voice and instrumental: gain, loudness, true peak, fades.

Loudness is measured with pyloudnorm, part of the extra `studio`. Shapes: [N] is mono, N samples; [N, C] has C
channels; time-varying gains, [N], are applied to the transpose, whose last axis is time in both cases. Functions that
pass over a song several times call `check_stop` in between; an exception that it raises ends the work.
"""

import functools
import math
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import soxr

from ..stopping import CheckStop, stoppable
from .errors import HAFMAudioError
from .samples import Samples, in_columns, with_channels

# RMS level below which a sound is silence; highest peak of what HAFM writes
SILENCE_DBFS = -70.0
CEILING_DBFS = -1.0
# the longest window that pyloudnorm's gating needs (ITU-R BS.1770)
LOUDNESS_BLOCK_SECONDS = 0.4
# for true peaks (ITU-R BS.1770-4, annex 2)
OVERSAMPLING = 4
# window of the limiter's gain; context on both sides of a block for the resampler's filter; samples in a block
LIMITER_SECONDS = 0.04
FILTER_SAMPLES = 256
BLOCK = 1 << 20
# limiting lowers the loudness, so gain and limiter are iterated, until the loudness in LU is that close to its target
LIMITER_PASSES = 6
LOUDNESS_TOLERANCE = 0.1
# of an instrumental, to balance it with its vocal
LARGEST_GAIN_DB = 48.0
# the outermost part of a song, and the level that its peak may have; the first quarter of a fade stays below that
EDGE_SECONDS = 0.005
EDGE_DBFS = -50.0
FADE_SECONDS = 4 * EDGE_SECONDS
# a fade is a quarter of a sine to this power; the second is that of an additional fade-out
FADE_POWER = 6
TAIL_POWER = 2
# cross-fade that is long enough to hide a splice
JOIN_SECONDS = 0.02
# a voice whose loud parts lie below the first level is turned up to the second, as far as its peak allows; the loud
# parts are the 95th percentile of the levels of short blocks
QUIET_DBFS = -33.0
USUAL_DBFS = -21.0
LOUD_QUANTILE = 0.95
LEVEL_SECONDS = 0.05


def decibels_to_gain(decibels: float) -> float:
    """Amplitude factor of a gain in dB: +6.02 dB double the amplitude."""
    return float(10.0 ** (decibels / 20.0))


def peak_dbfs(samples: Samples) -> float:
    """Largest absolute sample of float32 [N] or [N, C], in dBFS; -inf for silence."""
    highest = float(samples.max(initial=0.0))
    lowest = float(samples.min(initial=0.0))
    return _to_decibels(max(highest, -lowest))


def rms_dbfs(samples: Samples) -> float:
    """Root mean square of float32 [N] or [N, C], in dBFS; -inf for silence."""
    # block by block: squares of an hour in float64 would take a gigabyte
    blocks = (samples[start : start + BLOCK] for start in range(0, samples.size, BLOCK))
    total = sum(float(np.square(block, dtype=np.float64).sum()) for block in blocks)
    if not samples.size:
        return -math.inf
    return _to_decibels(math.sqrt(total / samples.size))


def _to_decibels(amplitude: float) -> float:
    """Decibels relative to an amplitude of 1; -inf for 0."""
    if amplitude <= 0.0:
        return -math.inf
    return 20.0 * math.log10(amplitude)


def is_silent(samples: Samples) -> bool:
    """Whether the RMS level of float32 [N], not counting its inaudible DC offset, lies below −70 dBFS."""
    if not samples.size:
        return True
    # the variance: mean square less squared mean
    power = 10.0 ** (rms_dbfs(samples) / 10.0) - float(samples.mean(dtype=np.float64)) ** 2
    return power < 10.0 ** (SILENCE_DBFS / 10.0)


def quiet_gain_db(samples: Samples, sampling_rate: int) -> float:
    """Gain in dB that makes a quiet voice (float32 [N] or [N, C]) loud enough for the model and the mix; 0 for others.

    A voice is quiet if its loud parts (the 95th percentile of the levels of blocks of 50 ms) lie between −70 and −33
    dBFS. The gain brings them to −21 dBFS, or the voice's peak to −1 dBFS, whichever is less.
    """
    size = max(round(LEVEL_SECONDS * sampling_rate), 1)
    blocks = [samples[start : start + size] for start in range(0, len(samples), size)]
    # digital silence does not count: an intro before the voice must not change its level
    levels = [rms_dbfs(block) for block in blocks if block.any()]
    if not levels:
        return 0.0
    loud = float(np.quantile(levels, LOUD_QUANTILE, method="lower"))
    if not SILENCE_DBFS < loud < QUIET_DBFS:
        return 0.0
    return max(min(USUAL_DBFS - loud, CEILING_DBFS - peak_dbfs(samples)), 0.0)


def turned_up(samples: Samples, sampling_rate: int) -> Samples:
    """A voice (float32 [N] or [N, C]), turned up if it is quiet (`quiet_gain_db`)."""
    gain_db = quiet_gain_db(samples, sampling_rate)
    if not gain_db:
        return samples
    return samples * np.float32(decibels_to_gain(gain_db))


def turned_down(samples: Samples) -> Samples:
    """Float32 [N] or [N, C], turned down as a whole to a peak of at most −1 dBFS; quieter sound as it is."""
    excess_db = peak_dbfs(samples) - CEILING_DBFS
    if excess_db <= 0.0:
        return samples
    return samples * np.float32(decibels_to_gain(-excess_db))


def loudness(samples: Samples, sampling_rate: int) -> float:
    """Integrated loudness in LUFS (ITU-R BS.1770-4) of float32 [N] or [N, C]; NaN below 0.4 s, −inf for silence.

    Raises:
        ModuleNotFoundError: without pyloudnorm.
    """
    if len(samples) < LOUDNESS_BLOCK_SECONDS * sampling_rate:
        return float("nan")
    with warnings.catch_warnings():
        # pyloudnorm warns where everything lies below the gate, and returns -inf
        warnings.simplefilter("ignore")
        return float(_meter(sampling_rate).integrated_loudness(samples.astype(np.float64)))


def require_pyloudnorm() -> None:
    """Checks that pyloudnorm can be imported, before work that measures loudness only after minutes.

    Raises:
        ModuleNotFoundError: it is not installed; the message says what to install.
    """
    try:
        import pyloudnorm  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "pyloudnorm, which measures loudness, is not installed: pip install 'hafm-hf[studio]'.", name=error.name
        ) from error


@functools.cache
def _meter(sampling_rate: int) -> Any:
    """pyloudnorm's meter for a sampling rate in Hz."""
    import pyloudnorm

    return pyloudnorm.Meter(sampling_rate)


def true_peak_dbtp(samples: Samples, check_stop: CheckStop | None = None) -> float:
    """True peak of float32 [N] or [N, C], inter-sample peaks included, in dBTP; −inf for silence."""
    peak = max((float(block.max(initial=0.0)) for block in _true_peaks(samples, check_stop)), default=0.0)
    return _to_decibels(peak)


def _true_peaks(samples: Samples, check_stop: CheckStop | None) -> Iterator[np.ndarray]:
    """Largest amplitude, in any channel, between each sample of float32 [N] or [N, C] and the next (by oversampling).

    Yields:
        float32 [n], n ≤ `BLOCK`, block by block; the blocks together are [N].
    """
    frames = in_columns(samples)  # [N, C]
    for start in stoppable(range(0, len(frames), BLOCK), check_stop):
        # with context on both sides for the resampler's filter
        before = min(start, FILTER_SAMPLES)
        block = frames[start - before : start + BLOCK + FILTER_SAMPLES]
        oversampled = soxr.resample(block, 1, OVERSAMPLING, quality="HQ")
        count = min(BLOCK, len(frames) - start)
        peaks = _largest(np.abs(oversampled))[before * OVERSAMPLING :][: count * OVERSAMPLING]
        # the resampler may return a few samples too few at the end
        peaks = np.pad(peaks, (0, count * OVERSAMPLING - len(peaks)))
        between = _largest(peaks.reshape(count, OVERSAMPLING))
        # the samples themselves count, too: resampling changes them a little
        yield np.maximum(between, _largest(np.abs(frames[start : start + count])))


def _largest(values: np.ndarray) -> np.ndarray:
    """The largest value of each row: [rows, columns] → [rows]."""
    # ten times as fast as NumPy's own maximum over a few columns
    return functools.reduce(np.maximum, values.T)


def mix_audio(
    vocal: Samples,
    instrumental: Samples,
    *,
    vocal_gain_db: float = 0.0,
    instrumental_gain_db: float = 0.0,
    check_stop: CheckStop | None = None,
) -> Samples:
    """Mixes a vocal and an instrumental (float32 [N] or [N, C] each, at the same rate), each with a gain in dB.

    If the mix would clip, it is turned down as a whole, so that the balance stays as requested.

    Returns:
        float32 [N] or [N, C], C the larger of the two channel counts; true peak at most −1 dBTP.

    Raises:
        HAFMAudioError: the two differ in length.
    """
    if len(vocal) != len(instrumental):
        raise HAFMAudioError(
            f"The vocal has {vocal.shape[0]} samples and the instrumental {instrumental.shape[0]}; "
            "bring them to one rate and length first."
        )
    # 1 for mono, [N]: the product of no numbers
    channels = max(math.prod(sound.shape[1:]) for sound in (vocal, instrumental))
    mixed: Samples = with_channels(vocal, channels) * np.float32(decibels_to_gain(vocal_gain_db))
    gain = np.float32(decibels_to_gain(instrumental_gain_db))
    # in place and block by block: an hour of sound is copied as little as possible
    for start in range(0, len(mixed), BLOCK):
        mixed[start : start + BLOCK] += with_channels(instrumental[start : start + BLOCK], channels) * gain
    excess = true_peak_dbtp(mixed, check_stop) - CEILING_DBFS
    if excess > 0.0:
        mixed *= np.float32(decibels_to_gain(-excess))
    return mixed


def balance_gain_db(
    vocal: Samples, instrumental: Samples, sampling_rate: int, balance: float, check_stop: CheckStop | None = None
) -> float:
    """Gain in dB, at most 48, that puts an instrumental `balance` LU below its vocal.

    Both are float32 [N] or [N, C] at `sampling_rate` Hz, measured with the larger number of channels of the two. The
    gain is 0 if either is silent or shorter than 0.4 s.

    Raises:
        ModuleNotFoundError: without pyloudnorm.
    """
    # 1 for mono, [N]: the product of no numbers
    channels = max(math.prod(sound.shape[1:]) for sound in (vocal, instrumental))
    # as many channels for both: a mono sound in two channels measures 3 LU louder
    sounds = stoppable([vocal, instrumental], check_stop)
    vocal_lufs, instrumental_lufs = [loudness(with_channels(sound, channels), sampling_rate) for sound in sounds]
    gain_db = vocal_lufs - instrumental_lufs - balance
    if not math.isfinite(gain_db):
        return 0.0
    return min(gain_db, LARGEST_GAIN_DB)


def to_loudness(samples: Samples, sampling_rate: int, lufs: float, check_stop: CheckStop | None = None) -> Samples:
    """Brings a mix (float32 [N] or [N, C]) to a loudness in LUFS, true peaks limited to −1 dBTP.

    If the limiter keeps the target out of reach, the result is quieter. Silence, and less than 0.4 s, whose loudness
    is not defined, are left as they are.

    Raises:
        ModuleNotFoundError: without pyloudnorm.
    """
    gain_db = lufs - loudness(samples, sampling_rate)
    if not math.isfinite(gain_db):
        return samples
    mix = samples
    for _ in stoppable(range(LIMITER_PASSES), check_stop):
        mix = _limited(samples * np.float32(decibels_to_gain(gain_db)), sampling_rate, check_stop)
        # the limiter has lowered the loudness
        missing_db = lufs - loudness(mix, sampling_rate)
        if abs(missing_db) < LOUDNESS_TOLERANCE:
            break
        gain_db += missing_db
    return mix


def _limited(samples: Samples, sampling_rate: int, check_stop: CheckStop | None) -> Samples:
    """Limits the true peak of float32 [N] or [N, C] to −1 dBTP by a gain that falls before each peak."""
    from scipy.ndimage import minimum_filter1d, uniform_filter1d

    ceiling = decibels_to_gain(CEILING_DBFS)
    peaks = np.concatenate(list(_true_peaks(samples, check_stop)))
    if float(peaks.max(initial=0.0)) <= ceiling:
        return samples
    # length of the gain's window in samples; odd, so that its middle is a sample
    width = 2 * round(LIMITER_SECONDS * sampling_rate / 2) + 1
    # each minimum that is averaged for a sample covers that sample, so the average never exceeds the gain needed there
    gain = minimum_filter1d(ceiling / np.maximum(peaks, ceiling), width)
    gain = uniform_filter1d(gain, width)
    limited = (samples.T * gain.astype(np.float32)).T
    # the moving gain changes inter-sample peaks a little
    correction_db = min(CEILING_DBFS - true_peak_dbtp(limited, check_stop), 0.0)
    return limited * np.float32(decibels_to_gain(correction_db))


def fade_instrumental(
    piece: Samples, sampling_rate: int, first: int, total: int, fade_seconds: float = 0.0
) -> Samples:
    """Applies a song's fade-in and fade-out to a piece of its instrumental, as far as they lie in the piece.

    Args:
        piece (float32 [n] or [n, C]): part of a song; changed in place.
        first: index in the song of the piece's first sample.
        total: number of samples in the song.
        fade_seconds: length of an additional, gentler fade-out at the end of the song; 0 for none.

    Returns:
        the piece; the song's first and last 5 ms are attenuated by at least 50 dB.
    """
    for seconds, power, at_end in (
        (FADE_SECONDS, FADE_POWER, False),
        (FADE_SECONDS, FADE_POWER, True),
        (fade_seconds, TAIL_POWER, True),
    ):
        length = min(round(seconds * sampling_rate), total)
        if at_end:
            start = total - length
        else:
            start = 0
        # the part of the fade that lies in the piece, in samples of the song
        low = max(start, first)
        high = min(start + length, first + len(piece))
        if low < high:
            # distance of each sample from the silent end of the fade
            distance = np.arange(low - start, high - start)
            if at_end:
                distance = length - 1 - distance
            slope = np.sin(np.pi / 2 * distance / length) ** power
            # transposed, since time must be the last axis with and without channels
            piece[low - first : high - first].T[:] *= slope.astype(np.float32)
    return piece


def fade_edges(samples: Samples, sampling_rate: int) -> Samples:
    """Fades float32 [N] or [N, C] over 20 ms at each end whose outermost 5 ms peak above −50 dBFS."""
    edge = round(EDGE_SECONDS * sampling_rate)
    length = min(round(FADE_SECONDS * sampling_rate), len(samples))
    starts_loud = peak_dbfs(samples[:edge]) > EDGE_DBFS
    ends_loud = peak_dbfs(samples[len(samples) - edge :]) > EDGE_DBFS
    if not (starts_loud or ends_loud):
        return samples
    faded = samples.copy()
    slope = np.sin(np.pi / 2 * np.arange(length) / length) ** FADE_POWER
    # transposed, since time must be the last axis with and without channels
    if starts_loud:
        faded[:length].T[:] *= slope.astype(np.float32)
    if ends_loud:
        faded[::-1][:length].T[:] *= slope.astype(np.float32)
    return faded


def paste(sound: Samples, part: Samples, sampling_rate: int, first: int, last: int) -> Samples:
    """A copy of a sound in which the samples from index `first` up to `last` (excluded) are those of `part`.

    At each end of that span that is not an end of the sound, the two are cross-faded over at most 20 ms inside it.

    Args:
        sound, part: float32 [N] or [N, C], with the same channels, both at least `last` samples long.
        sampling_rate: in Hz.
        first, last: the span, as sample indices.
    """
    fade = min(round(JOIN_SECONDS * sampling_rate), (last - first) // 2)
    # of `part`, for each sample of the span
    gain = np.ones(last - first, dtype=np.float32)
    # rises from 0 to 1, both excluded
    slope = np.linspace(0, 1, fade + 2, dtype=np.float32)[1:-1]
    if first > 0:
        gain[:fade] *= slope
    if last < len(sound):
        gain[len(gain) - fade :] *= slope[::-1]
    joined = sound.copy()
    joined[first:last] = (gain * part[first:last].T + (1 - gain) * sound[first:last].T).T
    return joined
