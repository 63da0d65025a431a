# SPDX-License-Identifier: Apache-2.0
"""Global beat tracking from noisy estimates per frame."""

import math

import numpy as np
import pytest
import torch

from hafm_hf.tokenizers.beat_tracker import HAFMBeatTracker

# frames per second
RATE = 50
TRACKER = HAFMBeatTracker(RATE)


def sung_beats(tempos: list[float], seconds: float, seed: int = 0) -> torch.Tensor:
    """True beat phase 0 to 1 (float64 [T]) of sections of `seconds` each, at the given tempi in BPM."""
    per_frame = np.repeat([tempo / 60 / RATE for tempo in tempos], round(seconds * RATE))
    return torch.from_numpy((np.cumsum(per_frame) + np.random.default_rng(seed).random()) % 1)


def noisy_points(phase: torch.Tensor, noise: float, silent: float = 0.0, seed: int = 0) -> torch.Tensor:
    """Noisy estimates of the position within the beat, as cosine and sine of the phase and of its double.

    Args:
        phase (float64 [T], 0 to 1): the true one.
        noise: standard deviation of the noise; without it, the cosines have an amplitude of 0.5.
        silent: share of the frames in which they are all zero, as in rests.

    Returns:
        float64 [T, 4].
    """
    angle = 2 * math.pi * phase
    points = torch.stack([angle.cos(), angle.sin(), (2 * angle).cos(), (2 * angle).sin()], dim=1)
    generator = torch.Generator().manual_seed(seed)
    points = 0.5 * points + noise * torch.randn(points.shape, generator=generator, dtype=points.dtype)
    return points * (torch.rand(len(points), 1, generator=generator) >= silent)


def distance(found: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Circular distance between phases (float [T]), in beats, 0 to 0.5: float64 [T]."""
    apart = (found.double() - true).abs() % 1
    return torch.minimum(apart, 1 - apart)


@pytest.mark.parametrize("tempo", [63.0, 96.4, 118.3, 171.0])
def test_the_beat_is_found_despite_noise_and_rests(tempo: float) -> None:
    true = sung_beats([tempo], 12.0)
    tracked = TRACKER.follow(noisy_points(true, noise=1.0, silent=0.4))
    assert tracked.dtype == torch.float32
    assert tracked.shape == true.shape
    # after the first second
    assert float(distance(tracked, true)[RATE:].mean()) < 0.06


def test_a_singer_who_slows_down_is_followed() -> None:
    true = sung_beats([120.0, 114.0, 108.0], 6.0)
    tracked = TRACKER.follow(noisy_points(true, noise=0.5))
    assert float(distance(tracked, true)[2 * RATE :].mean()) < 0.08


def test_an_off_beat_phrase_does_not_shift_a_steady_beat() -> None:
    true = sung_beats([100.0], 36.0)
    phrased = true.clone()
    phrased[12 * RATE : 18 * RATE] += 0.5
    points = noisy_points(phrased, noise=0.5)
    path = TRACKER._likeliest_phases(points.numpy(), None)
    assert float(distance(torch.from_numpy(path), true)[14 * RATE : 16 * RATE].mean()) > 0.3, "the path is misled"
    assert float(distance(TRACKER.follow(points), true).mean()) < 0.05


@pytest.mark.parametrize("tempo", [80.0, 100.0, 160.0])
def test_a_known_tempo_is_kept_whatever_the_estimates(tempo: float) -> None:
    points = noisy_points(sung_beats([100.0], 12.0), noise=0.5)
    tracked = TRACKER.follow(points, tempo)
    beats = float((tracked.double().diff() % 1).sum())
    beats_per_minute = beats / (len(tracked) - 1) * RATE * 60
    assert beats_per_minute == pytest.approx(tempo, rel=1e-4), "exact, even after hours"
    if tempo == 100.0:
        assert float(distance(tracked, TRACKER.follow(points).double()).max()) < 0.03


@pytest.mark.parametrize("frames", [0, 1, 2, 30])
def test_the_shortest_vocals_and_silence_have_a_phase(frames: int) -> None:
    for points in (torch.zeros(frames, 4), torch.randn(frames, 4)):
        tracked = TRACKER.follow(points)
        assert tracked.shape == (frames,)
        assert bool(((tracked >= 0) & (tracked < 1)).all())
