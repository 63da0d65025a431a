# SPDX-License-Identifier: Apache-2.0
"""Simulated human takes of a rendered voice keep its melody and timing, but not its exactness."""

import numpy as np
import pytest

from hafm_hf.tokenizers.pitch_contour import FRAME_RATE, MEL_BANDS, VocalAnalyser
from hafm_tiny.human_takes import Measured, human_take

# start and stop in seconds, MIDI pitch: notes of 0.45 s every 0.6 s, then a note too short to change, and one that is
# cut off by the end of the recording, at 30 s
NOTES = [(0.5 + n * 0.6, 0.5 + n * 0.6 + 0.45, 57 + n % 5) for n in range(48)] + [(29.5, 29.51, 57), (29.7, 31.0, 60)]
FRAMES = 30 * FRAME_RATE


def exact_voice() -> Measured:
    """A voice that holds every note exactly at −20 dBFS, and is silent (−100 dBFS) between notes."""
    pitch = np.full(FRAMES, np.nan, np.float32)
    level = np.full(FRAMES, -100.0, np.float32)
    for start, stop, midi in NOTES:
        part = slice(round(start * FRAME_RATE), round(stop * FRAME_RATE))
        pitch[part] = 440 * 2 ** ((midi - 69) / 12)
        level[part] = -20.0
    return pitch, level, np.repeat(level[:, None] - 10, MEL_BANDS, axis=1)


def test_takes_keep_melody_and_timing_but_are_less_exact() -> None:
    exact = exact_voice()
    takes = [human_take(exact, NOTES, np.random.default_rng(seed)) for seed in range(12)]
    sung = np.isfinite(exact[0])
    # of each take, in frames with a pitch
    cents_off = [1200 * np.abs(np.log2(pitch / exact[0]))[sung & np.isfinite(pitch)] for pitch, _, _ in takes]
    assert all(np.median(cents) < 60 for cents in cents_off), "about in tune"
    assert np.median(np.concatenate(cents_off)) > 5, "but not exactly"
    # shares of frames with a pitch, in notes and between them
    assert min(np.isfinite(pitch)[sung].mean() for pitch, _, _ in takes) > 0.6
    assert max(np.isfinite(pitch)[~sung].mean() for pitch, _, _ in takes) < 0.2
    starts = np.array([round(start * FRAME_RATE) for start, stop, _ in NOTES if stop - start > 0.1])
    for _, level, bands in takes:
        assert level.shape == (FRAMES,)
        assert bands.shape == (FRAMES, MEL_BANDS)
        # louder in notes than between them, where there is room noise now
        assert level[sung].mean() > level[~sung].mean() + 10
        assert level[~sung].min() > -100
        # levels rise mostly near the starts of notes: from 0.14 s before (consonants) to 0.12 s after them
        rise = np.maximum(np.diff(bands.mean(axis=1), prepend=bands[0].mean()), 0)
        near = np.zeros(FRAMES, bool)
        near[(starts[:, None] + np.arange(-14, 12)).clip(0, FRAMES - 1)] = True
        assert rise[near].sum() > 0.85 * rise.sum()


def test_takes_depend_on_their_seed_only_and_a_silent_voice_is_unchanged() -> None:
    first, same, other = (human_take(exact_voice(), NOTES, np.random.default_rng(seed)) for seed in (1, 1, 2))
    # pitch, level and mel bands
    for values, same_seed, other_seed, exact in zip(first, same, other, exact_voice(), strict=True):
        np.testing.assert_array_equal(values, same_seed)
        assert not np.array_equal(values, other_seed, equal_nan=True)
        assert values.dtype == exact.dtype
    describe = VocalAnalyser(16_000, 50).describe
    assert np.isfinite(describe(*first)).all()
    silent = (np.full(100, np.nan, np.float32), *exact_voice()[1:])
    assert human_take(silent, NOTES, np.random.default_rng(0)) is silent


@pytest.mark.parametrize(
    "notes",
    [[], [(0.0, 0.02)], [(29.9, 90.0)]],
    ids=["no notes", "a note too short to change", "a note beyond the end"],
)
def test_songs_without_complete_notes_have_takes_too(notes: list[tuple[float, float]]) -> None:
    assert all(np.isfinite(values).any() for values in human_take(exact_voice(), notes, np.random.default_rng(0)))
