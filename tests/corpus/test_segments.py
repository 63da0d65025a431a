# SPDX-License-Identifier: Apache-2.0
"""What is kept of a track and what is known about it: the paper's thresholds; loudness, tempo and key."""

import numpy as np
import pytest

from corpus.karaoke import RATE, sing
from hafm_hf.audio import rms_dbfs
from hafm_hf.corpus.features import key_of, loudness, segment_features
from hafm_hf.corpus.filtering import FilterOptions, reason_to_drop
from hafm_hf.corpus.tokenizing import fit_rate
from hafm_hf.corpus.tracks import Reason


def at_level(decibels: float, seed: int = 0) -> np.ndarray:
    sound = sing(1.0, seed)
    return sound * np.float32(10 ** ((decibels - rms_dbfs(sound)) / 20))


@pytest.mark.parametrize(
    ("vocal", "instrumental", "reason"),
    [
        (-20.0, -24.9, None),
        (-20.0, -25.1, Reason.QUIET_INSTRUMENTAL),
        (-15.1, -20.0, None),
        (-14.9, -20.0, Reason.LOUD_VOCAL),
        (-49.9, -20.0, None),
        (-50.1, -20.0, Reason.SILENT_VOCAL),
    ],
)
def test_the_thresholds_of_the_paper_decide(vocal: float, instrumental: float, reason: Reason | None) -> None:
    found = reason_to_drop(at_level(vocal), at_level(instrumental, 1), FilterOptions())
    assert (found and found[0]) == reason


def test_silence_is_dropped_and_thresholds_can_be_moved() -> None:
    silence = np.zeros(RATE, np.float32)
    assert reason_to_drop(at_level(-20), silence, FilterOptions()) is not None
    found = reason_to_drop(silence, at_level(-20), FilterOptions())
    assert found is not None and found[0] is Reason.SILENT_VOCAL
    assert reason_to_drop(at_level(-10), at_level(-30), FilterOptions(-40.0, 30.0)) is None


def song(tonic: int, minor: bool, tempo: float, seconds: float = 12.0) -> np.ndarray:
    """Chords I, IV, I, V on the tonic (MIDI pitch), one a beat, each with a click."""
    generator, times = np.random.default_rng(0), np.arange(round(seconds * RATE)) / RATE
    sound = np.zeros(times.size)
    third = 3 if minor else 4
    for number in range(int(seconds * tempo / 60)):
        start = number * 60 / tempo
        inside = (times >= start) & (times < start + 60 / tempo)
        decay = np.exp(-4 * (times[inside] - start))
        root = tonic + (0, 5, 0, 7)[number % 4]
        # a minor key's dominant is major
        for interval in (0, 4 if number % 4 == 3 else third, 7):
            sound[inside] += 0.1 * decay * np.sin(2 * np.pi * 440 * 2 ** ((root + interval - 69) / 12) * times[inside])
        click = inside & (times < start + 0.02)
        sound[click] += 0.1 * generator.standard_normal(int(click.sum()))
    return sound.astype(np.float32)


@pytest.mark.parametrize(
    ("tonic", "minor", "tempo", "key"),
    [(60, False, 100.0, "C:maj"), (66, False, 128.0, "F#:maj"), (57, True, 84.0, "A:min")],
)
def test_tempo_and_key_of_chords_are_found(tonic: int, minor: bool, tempo: float, key: str) -> None:
    found = segment_features(song(tonic, minor, tempo), RATE)
    assert found.key == key and found.tempo == pytest.approx(tempo, rel=0.02)


def test_six_decibels_more_are_six_lufs_more_and_silence_has_no_features() -> None:
    quiet = at_level(-30)
    assert loudness(2 * quiet, RATE) - loudness(quiet, RATE) == pytest.approx(6.02, abs=0.05)
    assert np.isnan(loudness(quiet[:1000], RATE))
    found = segment_features(np.zeros(RATE, np.float32), RATE)
    assert np.isnan(found.loudness) and np.isnan(found.tempo) and found.key == ""


def test_a_rotated_profile_is_its_key() -> None:
    assert key_of(np.roll([5, 0, 3, 0, 4, 3, 0, 5, 0, 3, 0, 2.0], 2)) == "D:maj"


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 37800, 44100])
def test_segments_have_whole_frames_whatever_the_rate(rate: int) -> None:
    for seconds in (1.24, 29.96):
        assert len(fit_rate(np.zeros(round(seconds * rate), np.float32), rate, 16_000, seconds)) == round(
            seconds * 16_000
        )
