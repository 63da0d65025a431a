# SPDX-License-Identifier: Apache-2.0
"""Makes measurements of rendered voices resemble human singing, so that a rhythm network generalises to real singers.

A rendered singer holds every pitch, attacks every note and is silent between notes; a network trained on such singers
alone gets better at their rhythm and worse at real people's. The output of `VocalAnalyser.measure` for a
rendered voice is therefore modified, differently for each take: scoops, glides, vibrato and pitch errors; accents,
slow attacks and early releases; consonants before the beat, breaths, a room and background noise. The shares of voiced
frames, levels, glides and rises are then close to real singers'.

Dimensions: S frames at 100 Hz.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.signal import lfilter

from hafm_hf.tokenizers.pitch_contour import FRAME_RATE, LOUD_QUANTILE, MEL_BANDS, SILENT_DBFS

Measured = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
# silence in dB
NOTHING = -120.0
# of the shortest note to modify, in frames
SHORTEST_NOTE = 4
# a linear slope over the mel bands, for the spectral tilt of noise
TILT = np.linspace(-1.0, 1.0, MEL_BANDS)


def human_take(measured: Measured, notes: Sequence[Sequence[float]], rng: np.random.Generator) -> Measured:
    """Alters the measurements of a rendered voice as if a person had sung its notes.

    Args:
        measured: measurements of the rendered voice: pitch in Hz (NaN for none), level in dBFS, mel bands in dB ([S],
            [S], [S, 40]).
        notes: start and end of each note in seconds; further fields are ignored.
        rng: source of all randomness.

    Returns:
        The altered measurements; the same as before if no frame has a pitch.
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
    """One take, sung note by note and then measured; the singer's habits are drawn once per take.

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
        # frames without a pitch have that of the last one before them, or of the first
        last_voiced = np.maximum.accumulate(np.where(self.voiced, np.arange(frames), int(self.voiced.argmax())))
        self.semitones = 12 * np.log2(pitch[last_voiced] / 440)
        # semitones and dB to add to the voice; level of consonants and breaths in dB, and their mel bands
        self.bend = np.zeros(frames)
        self.gain = np.zeros(frames)
        self.noise_level = np.full(frames, NOTHING)
        self.noise_bands = np.full((frames, MEL_BANDS), NOTHING)
        draw = rng.uniform
        # depth in semitones
        self.vibrato = draw(0, 0.6)
        self.vibrato_hz = draw(4.5, 7)
        # share of notes with a scoop
        self.scoops = draw(0, 0.7)
        # deviation of pitch errors in semitones
        self.off = draw(0, 0.4)
        # deviation of accents, and largest loss of level per second, in dB
        self.accents = draw(0, 4)
        self.fades = draw(0, 12)
        # shares of notes with a consonant, and of rests with a breath
        self.consonants = draw(0.2, 0.9)
        self.breaths = draw(0.3, 1)
        # largest share of a note that is released early
        self.shortened = draw(0, 0.5)

    def sing(self, start: int, stop: int, rest: int) -> None:
        """Sings one note, frames [start, stop), after `rest` frames of rest."""
        self._bend(start, stop)
        self._change_level(start, stop)
        if self.rng.random() < self.consonants:
            self._consonant(start)
        # no breath in less than a quarter of a second
        if rest > 25 and self.rng.random() < self.breaths:
            self._breath(start, rest)

    def _bend(self, start: int, stop: int) -> None:
        """Adds pitch error, vibrato, a scoop at the start, a fall at the end, and a turn to a note [start, stop).

        In semitones, to `bend`. Short notes have no vibrato (up to 0.3 s) and no turn (up to 0.25 s).
        """
        rng = self.rng
        time = np.arange(stop - start) / FRAME_RATE
        bend = np.full(len(time), rng.normal(0, self.off))
        if len(time) > 30:
            turns = (self.vibrato_hz + rng.normal(0, 0.3)) * time + rng.random()
            swell = np.clip((time - 0.1) / 0.3, 0, 1)
            bend += self.vibrato * rng.uniform(0.3, 1) * swell * np.sin(2 * np.pi * turns)
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
        """Adds an accent, a fade, perhaps a slow attack and an early release to a note, frames [start, stop), in dB.

        Half of the notes are attacked slowly: up to 8 dB softer at first, with a time constant of 0.02 to 0.12 s. Half
        of those above 0.2 s are released early, by 5 to 30 dB.
        """
        rng = self.rng
        seconds = np.arange(stop - start) / FRAME_RATE
        accent = rng.normal(0, self.accents)
        fade = self.fades * rng.random() * seconds / max(float(seconds[-1]), 0.5)
        gain_db = accent - fade
        if rng.random() < 0.5:
            gain_db -= rng.uniform(0, 8) * np.exp(-seconds / rng.uniform(0.02, 0.12))
        released = round(len(seconds) * rng.uniform(0, self.shortened))
        if len(seconds) > 20 and released > 3 and rng.random() < 0.5:
            gain_db[-released:] -= rng.uniform(5, 30) * np.linspace(0, 1, released)
        self.gain[start:stop] += gain_db

    def _consonant(self, start: int) -> None:
        """Adds a consonant before a note's first frame: 0.02 to 0.13 s of bright noise that attenuates the voice."""
        rng = self.rng
        begin = max(start - round(FRAME_RATE * self.rng.uniform(0.02, 0.13)), 0)
        if start - begin < 2:
            return
        level = self.loud - rng.uniform(6, 24) + rng.normal(0, 1.5, start - begin)
        self._noise(begin, level, level[:, None] - 4 + rng.uniform(0, 14) * TILT)
        self.gain[begin:start] -= rng.uniform(0, 25)
        # 60 % are voiceless, but for their first frames
        cut = begin + int(rng.integers(0, 3))
        self.voiced[cut:start] &= rng.random() < 0.4

    def _breath(self, start: int, rest: int) -> None:
        """Adds a breath in the `rest` frames before a note's first frame."""
        rng = self.rng
        stop = start - round(FRAME_RATE * rng.uniform(0, 0.1))
        begin = max(stop - round(FRAME_RATE * rng.uniform(0.12, min(0.5, rest / FRAME_RATE))), 0)
        if stop - begin < 6:
            return
        level = self.loud - rng.uniform(14, 34) + _decibels(np.hanning(stop - begin) + 0.02)
        colour = rng.uniform(-2, 8) * TILT + rng.normal(0, 2, (stop - begin, MEL_BANDS))
        self._noise(begin, level, level[:, None] - 6 + colour)

    def _noise(self, begin: int, level: NDArray[Any], bands: NDArray[Any]) -> None:
        """Adds noise from frame `begin` on: its levels (float [n], dB) and those of its mel bands ([n, 40])."""
        frames = slice(begin, begin + len(level))
        self.noise_level[frames] = np.maximum(self.noise_level[frames], level)
        self.noise_bands[frames] = np.maximum(self.noise_bands[frames], bands)

    def measured(self) -> Measured:
        """The measurements of the take, in a random room with background noise."""
        rng = self.rng
        frames = len(self.level)
        self.gain = gaussian_filter1d(self.gain, rng.uniform(0.8, 3)) + self._wander(150, rng.uniform(0, 3))
        level = _power(self.level + self.gain)
        bands = _power(self.bands + self.gain[:, None])
        # powers [S] and [S, 40]
        sounds = [level + _power(self.noise_level), bands + _power(self.noise_bands)]

        # by which a room's power falls in a frame: 60 dB in 0.08 to 0.7 s
        decay = 10 ** (-6 / (rng.uniform(0.08, 0.7) * FRAME_RATE))
        wet = 3 * _power(-rng.uniform(4, 16))
        floor = self.loud - rng.uniform(22, 60)
        colour = gaussian_filter1d(rng.normal(0, 1, MEL_BANDS), 6)
        colour = 5 * colour / colour.std() - 8 + rng.normal(0, 2.5, (frames, MEL_BANDS))
        smooth = rng.uniform(0.01, 2)
        for number, noise in enumerate((rng.normal(0, 1, frames), colour)):
            dry = sounds[number]
            recorded = dry + wet * lfilter([1 - decay], [1, -decay], dry, axis=0) + _power(floor + noise)
            sounds[number] = _decibels(gaussian_filter1d(recorded, smooth, axis=0))
        level, bands = sounds

        # notes glide into each other; a tracker misses quiet frames, and some others
        slurred = gaussian_filter1d(self.semitones, FRAME_RATE * rng.uniform(0.005, 0.06))
        slurred += self.bend + self._wander(rng.uniform(4, 15), rng.uniform(0.02, 0.15))
        has_pitch = self.voiced & (level > self.loud - 35) & (self._wander(3, 1) < rng.uniform(1.8, 4))
        pitch = np.where(has_pitch, 440 * 2 ** (slurred / 12), np.nan)
        return pitch.astype(np.float32), level.astype(np.float32), bands.astype(np.float32)

    def _wander(self, frames: float, deviation: float) -> NDArray[np.float64]:
        """A random walk smoothed over `frames` frames, with the given standard deviation: float64 [S]."""
        path: NDArray[np.float64] = gaussian_filter1d(self.rng.normal(0, 1, len(self.level)), frames)
        return path * (deviation / max(float(path.std()), 1e-9))


def _power(decibels: Any) -> Any:
    """The power at a level in dB, without a limit."""
    return 10 ** (decibels / 10)


def _decibels(power: NDArray[Any]) -> NDArray[Any]:
    """The level of a power in dB, at least −100."""
    return 10 * np.log10(power + 1e-10)
