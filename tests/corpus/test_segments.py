# SPDX-License-Identifier: Apache-2.0
"""Which segments the paper's thresholds keep, and that segments have whole frames."""

import numpy as np
import pytest

from corpus.karaoke import sing
from hafm_hf.audio import rms_dbfs
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
        (-20.0, -np.inf, Reason.QUIET_INSTRUMENTAL),
        (-np.inf, -20.0, Reason.SILENT_VOCAL),
    ],
)
def test_segments_are_dropped_by_the_papers_limits(vocal: float, instrumental: float, reason: Reason | None) -> None:
    found = reason_to_drop(at_level(vocal), at_level(instrumental, 1), FilterOptions())
    assert (found and found[0]) == reason
    loose = FilterOptions(min_instrumental_db=-100.0, max_vocal_excess_db=30.0, min_vocal_db=-100.0)
    silent = -np.inf in (vocal, instrumental)
    assert silent or reason_to_drop(at_level(vocal), at_level(instrumental, 1), loose) is None


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 37800, 44100])
def test_segments_have_whole_frames_whatever_the_rate(rate: int) -> None:
    for seconds in (1.24, 29.96):
        fitted = fit_rate(np.zeros(round(seconds * rate), np.float32), rate, 16_000, seconds)
        assert len(fitted) == round(seconds * 16_000)
