# SPDX-License-Identifier: Apache-2.0
"""Audio files of unknown quality, and the paper's thresholds: what is read, and what is dropped with a reason."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from corpus.karaoke import RATE, sing
from hafm_hf.audio import rms_dbfs
from hafm_hf.corpus.filtering import FilterOptions, reason_to_drop
from hafm_hf.corpus.reading import decode
from hafm_hf.corpus.tokenizing import fit_rate
from hafm_hf.corpus.tracks import Reason, TrackError
from vocals import file_bytes


def encoded(file_format: str, seconds: float = 6.0) -> bytes:
    """A mono song as a file."""
    return file_bytes(sing(seconds, 0), RATE, format=file_format)


def reason(path: Path, content: bytes, max_seconds: float = 60.0) -> Reason:
    """Why a file with this content, which is written first, is not decoded."""
    path.write_bytes(content)
    with pytest.raises(TrackError) as caught:
        decode(path, max_seconds)
    return caught.value.reason


@pytest.mark.parametrize("file_format", ["WAV", "FLAC", "OGG", "MP3"])
def test_whole_files_are_read_to_the_last_sample(tmp_path: Path, file_format: str) -> None:
    (tmp_path / "song").write_bytes(encoded(file_format))
    samples, rate = decode(tmp_path / "song", 60.0)
    assert (rate, samples.shape, samples.dtype) == (RATE, (6 * RATE, 1), np.float32)


def test_truncated_spliced_or_overwritten_mp3s_are_damaged(tmp_path: Path) -> None:
    whole = encoded("MP3")
    third = len(whole) // 3
    noise = np.random.default_rng(0).bytes(len(whole) // 4)
    for content in (
        whole[: len(whole) // 2],
        whole[:third] + whole[third + len(whole) // 8 :],
        whole[:third] + noise + whole[third + len(noise) :],
        whole[:third] + bytes(len(noise)) + whole[third + len(noise) :],
    ):
        assert reason(tmp_path / "song.mp3", content) is Reason.DAMAGED


def test_broken_flac_and_ogg_are_damaged(tmp_path: Path) -> None:
    for file_format in ("FLAC", "OGG"):
        whole = encoded(file_format)
        half = len(whole) // 2
        zeros = bytes(half // 2)
        content = whole[:half] + zeros + whole[half + len(zeros) :]
        assert reason(tmp_path / "song", content) is Reason.DAMAGED


@pytest.mark.parametrize(
    "content", [b"<html>not found</html>" * 40, b"", b"ID3\x04\x00\x00\x00\x00\x00\x00" + bytes(900), b"RIFF"]
)
def test_files_that_are_not_audio_are_not_decodable_whatever_their_name(tmp_path: Path, content: bytes) -> None:
    assert reason(tmp_path / "song.wav", content) is Reason.NOT_DECODABLE


def test_files_that_are_too_long_or_too_low_in_rate_are_not_decoded(tmp_path: Path) -> None:
    assert reason(tmp_path / "song.flac", encoded("FLAC"), 5.9) is Reason.TOO_LONG
    soundfile.write(tmp_path / "low.wav", sing(1.0, 0), 1000)
    assert reason(tmp_path / "low.wav", (tmp_path / "low.wav").read_bytes()) is Reason.NOT_DECODABLE


def at_level(decibels: float, seed: int = 0) -> np.ndarray:
    """A second of sound with an RMS of so many dBFS; −inf: silence."""
    sound = sing(1.0, seed)
    return sound * np.float32(10 ** ((decibels - rms_dbfs(sound)) / 20))


@pytest.mark.parametrize(
    ("vocal", "instrumental", "reason"),
    [
        (-20.0, -24.9, None), (-20.0, -25.1, Reason.QUIET_INSTRUMENTAL), (-20.0, -np.inf, Reason.QUIET_INSTRUMENTAL),
        (-15.1, -20.0, None), (-14.9, -20.0, Reason.LOUD_VOCAL),
        (-49.9, -20.0, None), (-50.1, -20.0, Reason.SILENT_VOCAL), (-np.inf, -20.0, Reason.SILENT_VOCAL),
    ],
)  # fmt: skip
def test_segments_are_dropped_by_the_papers_limits(vocal: float, instrumental: float, reason: Reason | None) -> None:
    reason_and_detail = reason_to_drop(at_level(vocal), at_level(instrumental, 1), FilterOptions())
    assert (reason_and_detail and reason_and_detail[0]) == reason
    loose = FilterOptions(min_instrumental_db=-100.0, max_vocal_excess_db=30.0, min_vocal_db=-100.0)
    # no limit keeps silence
    silent = -np.inf in (vocal, instrumental)
    assert silent or reason_to_drop(at_level(vocal), at_level(instrumental, 1), loose) is None


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 37800, 44100])
def test_segments_have_whole_frames_whatever_the_rate(rate: int) -> None:
    # multiples of 40 ms, where frames at 50 and 75 Hz align
    for seconds in (1.24, 29.96):
        fitted = fit_rate(np.zeros(round(seconds * rate), np.float32), rate, 16_000, seconds)
        assert len(fitted) == round(seconds * 16_000)
