# SPDX-License-Identifier: Apache-2.0
"""Songs with known answers, measured once for all tests."""

from dataclasses import replace
from pathlib import Path

import pytest

from hafm_hf.evaluation.features import extract
from little_band import RATE, Samples, song, told_song


@pytest.fixture(scope="session")
def songs() -> list[tuple[Samples, Samples]]:
    """Eight voices with their bands."""
    return [song(seed) for seed in range(8)]


@pytest.fixture(scope="session")
def measured(songs: list[tuple[Samples, Samples]]) -> list[tuple]:
    """Features of voice and band of each song, with its lead sheet."""
    sheets = [told_song(seed)[2] for seed in range(len(songs))]
    return [
        (replace(extract(voice, voice=True), told=sheet), extract(band))
        for (voice, band), sheet in zip(songs, sheets, strict=True)
    ]


@pytest.fixture(scope="session")
def pairs_folder(tmp_path_factory: pytest.TempPathFactory, songs: list[tuple[Samples, Samples]]) -> Path:
    """The songs as a folder of pairs."""
    import soundfile

    folder = tmp_path_factory.mktemp("pairs")
    for number, (voice, band) in enumerate(songs):
        (folder / f"song{number}").mkdir()
        soundfile.write(folder / f"song{number}" / "vocal.wav", voice, RATE)
        soundfile.write(folder / f"song{number}" / "instrumental.wav", band, RATE)
    return folder
