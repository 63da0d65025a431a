# SPDX-License-Identifier: Apache-2.0
"""Synthetic songs with known beats and chords, measured once for all tests."""

from dataclasses import replace

import pytest

from hafm_hf.evaluation.features import extract
from little_band import Samples, given_song, song


@pytest.fixture(scope="session")
def songs() -> list[tuple[Samples, Samples]]:
    """Eight voices with their bands, float32 [N] each at 16 kHz."""
    return [song(seed) for seed in range(8)]


@pytest.fixture(scope="session")
def measured(songs: list[tuple[Samples, Samples]]) -> list[tuple]:
    """Features of the voice, with the song's lead sheet, and of the band of each song."""
    sheets = [given_song(seed)[2] for seed in range(len(songs))]
    return [
        (replace(extract(voice, voice=True), lead_sheet=sheet), extract(band))
        for (voice, band), sheet in zip(songs, sheets, strict=True)
    ]
