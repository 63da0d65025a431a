# SPDX-License-Identifier: Apache-2.0
"""The bundled model's controls change the band as requested, by more than takes differ from one another."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

from hafm_hf import HAFMForVocalAccompaniment
from hafm_hf.audio import resample
from hafm_hf.evaluation.features import Features, extract
from hafm_hf.evaluation.timing import onset_curve
from programs import REPOSITORY

# samples of a generation
TAKES = 3
STYLES = ("ballad", "folk", "pop", "rock")


@pytest.fixture(scope="module")
def play(bundled: HAFMForVocalAccompaniment) -> Callable[..., np.ndarray]:
    """A function that generates takes for an example voice."""

    @lru_cache
    def generate(voice: str = "vocal.wav", seed: int = 1, **controls: Any) -> np.ndarray:
        """Takes for the first 6 s of an example voice: float32 [TAKES, N], mono at 24 kHz."""
        samples, rate = soundfile.read(REPOSITORY / "examples" / voice, dtype="float32", stop=6 * 24_000)
        takes = bundled.generate(samples, rate, num_samples=TAKES, seed=seed, skip_fine=True, **controls).audio
        return np.stack([resample(take.mean(0).numpy(), bundled.sampling_rate, 24_000) for take in takes])

    return generate


def features(samples: np.ndarray) -> Features:
    """Features for evaluation of a take (float32 [N] at 24 kHz)."""
    return extract(soxr.resample(samples, 24_000, 16_000))


def level(samples: np.ndarray) -> float:
    """The level of a take (float32 [N]) in dBFS."""
    return float(10 * np.log10(np.mean(samples**2)))


def onset_strength(samples: np.ndarray) -> float:
    """The mean onset strength of a take (float32 [N] at 24 kHz)."""
    return float(features(samples).onsets.mean())


def slow_rather_than_quick(samples: np.ndarray) -> float:
    """How much more strongly the onsets (100 Hz) repeat at the beat of 80 BPM than at that of 112."""
    curve = onset_curve(features(samples).onsets)
    # frames of 10 ms in a beat
    slow = 75
    quick = 54
    return float(np.dot(curve[slow:], curve[:-slow]) - np.dot(curve[quick:], curve[:-quick]))


@pytest.mark.parametrize(
    ("less", "more", "score"),
    [
        ({"energy": "sparse"}, {"energy": "normal"}, level),
        # compared within a style, since styles differ in level
        *[({"style": s, "energy": "normal"}, {"style": s, "energy": "full"}, level) for s in STYLES],
        ({"style": "ballad"}, {"style": "rock"}, onset_strength),
        ({"tempo": 112.0}, {"tempo": 80.0}, slow_rather_than_quick),
    ],
    ids=lambda value: getattr(value, "__name__", None) or "-".join(map(str, value.values())),
)
def test_every_take_follows_the_control(
    play: Callable[..., np.ndarray], less: dict, more: dict, score: Callable[[np.ndarray], float]
) -> None:
    assert max(map(score, play(**less))) < min(map(score, play(**more)))


def test_bands_for_different_voices_differ_twice_as_much_as_takes_do(play: Callable[..., np.ndarray]) -> None:
    def unlike(a: Features, b: Features) -> float:
        """1 minus the correlation of the mean chroma of two bands."""
        return 1 - float(np.corrcoef(a.chroma.mean(1), b.chroma.mean(1))[0, 1])

    # differences between bands for two voices, and between takes for one
    voices = []
    takes = []
    names = ("vocal.wav", "low_ballad.flac")
    for seed in (1, 2, 3):
        ours, others = ([features(take) for take in play(each, seed=seed)] for each in names)
        voices += [unlike(a, b) for a in ours for b in others]
        takes += [unlike(a, b) for songs in (ours, others) for a in songs for b in songs if a is not b]
    assert np.mean(voices) > 2 * np.mean(takes)
