# SPDX-License-Identifier: Apache-2.0
"""Makes measurements of rendered voices resemble human singing, so that a rhythm network generalises to real singers.

A rendered singer holds every pitch, attacks every note and is silent between notes; a network trained on such singers
alone gets better at their rhythm and worse at real people's. The output of `VocalAnalyser.measure` for a
rendered voice is therefore modified, differently for each take: scoops, glides, vibrato and pitch errors; accents,
slow attacks and early releases; consonants before the beat, breaths, a room and background noise. The shares of voiced
frames, levels, glides and rises are then close to real singers'.

Dimensions: S frames at 100 Hz (FRAME_RATE).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.signal import lfilter

from hafm_hf.tokenizers.pitch_contour import FRAME_RATE, LOUD_QUANTILE, MEL_BANDS, SILENT_DBFS

# pitch in Hz [S], NaN for none; level in dBFS [S]; mel bands in dB [S, MEL_BANDS]
Measured = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
# level of silence, in dB
NOTHING = -120.0
# shortest note to modify, shortest rest with a breath, and shortest breath, in frames of 10 ms
SHORTEST_NOTE = 4
SHORTEST_REST = 25
SHORTEST_BREATH = 6
# a linear slope over the mel bands, for the spectral tilt of noise
TILT = np.linspace(-1.0, 1.0, MEL_BANDS)


def human_take(measured: Measured, notes: Sequence[Sequence[float]], rng: np.random.Generator) -> Measured:
    """Alters the measurements of a rendered voice as if a person had sung its notes.

    Args:
        measured: measurements of the rendered voice at 100 Hz: pitch in Hz (float32 [frames], NaN for none), level in
            dBFS (float32 [frames]), and mel bands in dB (float32 [frames, 40]).
        notes: start and end of each note in seconds, sorted; further fields are ignored.
        rng: source of all randomness.

    Returns:
        The altered measurements; `measured` itself if no frame has a pitch.
    """
    if not np.isfinite(measured[0]).any():
        return measured
    take = HumanTake(measured, rng)
    spans = [(max(round(start * FRAME_RATE), 0), round(stop * FRAME_RATE)) for start, stop, *_ in notes]
    last_stop = 0
    for start, stop in spans:
        stop = min(stop, len(take.bend))
        if stop - start >= SHORTEST_NOTE:
            take.sing(start, stop, rest=start - last_stop)
            last_stop = stop
    return take.measured()


class HumanTake:
    """One take: call `sing` for each note, and then `measured` once. The singer's habits are drawn for the whole take.

    Args:
        measured: measurements of the rendered voice, as for `human_take`; at least one frame has a pitch.
        rng: source of all randomness.
    """

    def __init__(self, measured: Measured, rng: np.random.Generator) -> None:
        pitch, level, bands = measured
        pitch = pitch.astype(np.float64)
        self.level = level.astype(np.float64)
        self.bands = bands.astype(np.float64)
        self.rng = rng
        frames = len(pitch)
        self.loud = max(float(np.quantile(self.level, LOUD_QUANTILE)), SILENT_DBFS)
        self.voiced = np.isfinite(pitch)
        # frames without a pitch get that of the last voiced frame before them, or else of the first voiced one
        last_voiced = np.maximum.accumulate(np.where(self.voiced, np.arange(frames), int(self.voiced.argmax())))
        # relative to A4
        self.semitones = 12 * np.log2(pitch[last_voiced] / 440)
        # to be added to the voice: semitones, and dB; level and mel bands of its consonants and breaths, in dB
        self.bend = np.zeros(frames)
        self.gain = np.zeros(frames)
        self.noise_level = np.full(frames, NOTHING)
        self.noise_bands = np.full((frames, MEL_BANDS), NOTHING)
        draw = rng.uniform
        # depth in semitones, and rate
        self.vibrato = draw(0, 0.6)
        self.vibrato_hz = draw(4.5, 7)
        # share of notes with a scoop
        self.scoops = draw(0, 0.7)
        # standard deviation of the notes' pitch errors, in semitones
        self.off = draw(0, 0.4)
        # in dB: standard deviation of accents, and largest loss of level during a note
        self.accents = draw(0, 4)
        self.fades = draw(0, 12)
        # shares of notes with a consonant, and of rests with a breath
        self.consonants = draw(0.2, 0.9)
        self.breaths = draw(0.3, 1)
        # largest share of a note that is released early
        self.shortened = draw(0, 0.5)

    def sing(self, start: int, stop: int, rest: int) -> None:
        """Sings one note, frames [start, stop), after `rest` frames of rest."""
        self._bend_pitch(start, stop)
        self._change_level(start, stop)
        if self.rng.random() < self.consonants:
            self._consonant(start)
        if rest > SHORTEST_REST and self.rng.random() < self.breaths:
            self._breath(start, rest)

    def _bend_pitch(self, start: int, stop: int) -> None:
        """Adds a pitch error and perhaps vibrato, a scoop, a fall and a turn to `bend`, for frames [start, stop).

        A scoop rises to the pitch at the start, a fall leaves it at the end, a turn touches a neighbouring pitch.
        Short notes have no vibrato (up to 0.3 s) and no turn (up to 0.25 s).
        """
        rng = self.rng
        time = np.arange(stop - start) / FRAME_RATE
        bend = np.full(len(time), rng.normal(0, self.off))
        if len(time) > 30:
            cycles = (self.vibrato_hz + rng.normal(0, 0.3)) * time + rng.random()
            swell = np.clip((time - 0.1) / 0.3, 0, 1)
            bend += self.vibrato * rng.uniform(0.3, 1) * swell * np.sin(2 * np.pi * cycles)
        if rng.random() < self.scoops:
            bend -= rng.uniform(0.5, 3) * np.exp(-time / rng.uniform(0.02, 0.1))
        if rng.random() < 0.3 * self.scoops:
            bend -= rng.uniform(0.5, 3) * np.exp(-time[::-1] / rng.uniform(0.02, 0.08))
        if len(time) > 25 and rng.random() < 0.25:
            middle = rng.uniform(0.1, time[-1])
            width = rng.uniform(0.03, 0.06)
            bend += rng.choice([-2, -1, 1, 2]) * np.exp(-0.5 * ((time - middle) / width) ** 2)
        self.bend[start:stop] += bend

    def _change_level(self, start: int, stop: int) -> None:
        """Adds an accent, a fade, and perhaps a slow attack and an early release to `gain`, for frames [start, stop).

        Half of the notes have a slow attack: up to 8 dB softer at first, with a time constant of 0.02 to 0.12 s. About
        half of the notes longer than 0.2 s have an early release: by 5 to 30 dB.
        """
        rng = self.rng
        seconds = np.arange(stop - start) / FRAME_RATE
        accent = rng.normal(0, self.accents)
        fade = self.fades * rng.random() * seconds / max(float(seconds[-1]), 0.5)
        gain_db = accent - fade
        if rng.random() < 0.5:
            gain_db -= rng.uniform(0, 8) * np.exp(-seconds / rng.uniform(0.02, 0.12))
        released = round(len(seconds) * rng.uniform(0, self.shortened))  # frames
        if len(seconds) > 20 and released > 3 and rng.random() < 0.5:
            gain_db[-released:] -= rng.uniform(5, 30) * np.linspace(0, 1, released)
        self.gain[start:stop] += gain_db

    def _consonant(self, start: int) -> None:
        """Adds a consonant before a note's first frame: 0.02 to 0.13 s of bright noise, with the voice attenuated."""
        rng = self.rng
        begin = max(start - round(FRAME_RATE * self.rng.uniform(0.02, 0.13)), 0)
        if start - begin < 2:
            return
        level = self.loud - rng.uniform(6, 24) + rng.normal(0, 1.5, start - begin)
        self._noise(begin, level, level[:, None] - 4 + rng.uniform(0, 14) * TILT)
        self.gain[begin:start] -= rng.uniform(0, 25)
        # 60 % are voiceless, except for up to two frames at the start
        cut = begin + int(rng.integers(0, 3))
        self.voiced[cut:start] &= rng.random() < 0.4

    def _breath(self, start: int, rest: int) -> None:
        """Adds a breath of 0.12 to 0.5 s to the `rest` frames before a note's first frame."""
        rng = self.rng
        stop = start - round(FRAME_RATE * rng.uniform(0, 0.1))
        begin = max(stop - round(FRAME_RATE * rng.uniform(0.12, min(0.5, rest / FRAME_RATE))), 0)
        if stop - begin < SHORTEST_BREATH:
            return
        level = self.loud - rng.uniform(14, 34) + _decibels(np.hanning(stop - begin) + 0.02)
        colour = rng.uniform(-2, 8) * TILT + rng.normal(0, 2, (stop - begin, MEL_BANDS))
        self._noise(begin, level, level[:, None] - 6 + colour)

    def _noise(self, begin: int, level: NDArray[Any], bands: NDArray[Any]) -> None:
        """Adds noise from a frame on, unless there is louder noise already.

        Args:
            begin: first frame of the noise.
            level (float [frames]): its level in dB.
            bands (float [frames, 40]): levels of its mel bands in dB.
        """
        frames = slice(begin, begin + len(level))
        self.noise_level[frames] = np.maximum(self.noise_level[frames], level)
        self.noise_bands[frames] = np.maximum(self.noise_bands[frames], bands)

    def measured(self) -> Measured:
        """The measurements of the take, recorded in a random room with background noise; changes `gain`."""
        rng = self.rng
        frames = len(self.level)
        self.gain = gaussian_filter1d(self.gain, rng.uniform(0.8, 3)) + self._wander(150, rng.uniform(0, 3))
        # powers of the dry sound, [S] and [S, 40]
        dry_level = _power(self.level + self.gain) + _power(self.noise_level)
        dry_bands = _power(self.bands + self.gain[:, None]) + _power(self.noise_bands)

        # factor of a room's power from frame to frame: it falls by 60 dB in 0.08 to 0.7 s
        decay = 10 ** (-6 / (rng.uniform(0.08, 0.7) * FRAME_RATE))
        # power of the room relative to the dry sound; level of the background noise, and its spectrum, in dB
        wet = 3 * _power(-rng.uniform(4, 16))
        floor = self.loud - rng.uniform(22, 60)
        spectrum = gaussian_filter1d(rng.normal(0, 1, MEL_BANDS), 6)
        noise_bands = 5 * spectrum / spectrum.std() - 8 + rng.normal(0, 2.5, (frames, MEL_BANDS))
        smooth = rng.uniform(0.01, 2)
        noise_level = rng.normal(0, 1, frames)

        def recorded(dry: NDArray[Any], noise: NDArray[Any]) -> NDArray[Any]:
            """Levels in dB of a dry sound (powers) with the room, and with noise (in dB relative to `floor`)."""
            power = dry + wet * lfilter([1 - decay], [1, -decay], dry, axis=0) + _power(floor + noise)
            return _decibels(gaussian_filter1d(power, smooth, axis=0))

        level = recorded(dry_level, noise_level)
        bands = recorded(dry_bands, noise_bands)

        # notes glide into each other; a tracker misses quiet frames, and some others
        slurred = gaussian_filter1d(self.semitones, FRAME_RATE * rng.uniform(0.005, 0.06))
        slurred += self.bend + self._wander(rng.uniform(4, 15), rng.uniform(0.02, 0.15))
        has_pitch = self.voiced & (level > self.loud - 35) & (self._wander(3, 1) < rng.uniform(1.8, 4))
        pitch = np.where(has_pitch, 440 * 2 ** (slurred / 12), np.nan)
        return pitch.astype(np.float32), level.astype(np.float32), bands.astype(np.float32)

    def _wander(self, frames: float, deviation: float) -> NDArray[np.float64]:
        """Slow random deviations for all frames: float64 [S].

        Args:
            frames: standard deviation in frames of the Gaussian that smooths them; the longer, the slower.
            deviation: their standard deviation.
        """
        path: NDArray[np.float64] = gaussian_filter1d(self.rng.normal(0, 1, len(self.level)), frames)
        return path * (deviation / max(float(path.std()), 1e-9))


def _power(decibels: Any) -> Any:
    """The power of a level in dB, a number or an array."""
    return 10 ** (decibels / 10)


def _decibels(power: NDArray[Any]) -> NDArray[Any]:
    """The level in dB of a power, at least −100."""
    return 10 * np.log10(power + 1e-10)
