# SPDX-License-Identifier: Apache-2.0
"""Audio files of unknown quality: intact ones are read completely, others are dropped with a reason."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from corpus.karaoke import RATE, sing
from hafm_hf.corpus.reading import decode
from hafm_hf.corpus.tracks import Reason, TrackError
from vocals import file_bytes


def encoded(file_format: str, seconds: float = 6.0) -> bytes:
    return file_bytes(sing(seconds, 0), RATE, format=file_format)


def reason(path: Path, content: bytes, max_seconds: float = 60.0) -> Reason:
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
        assert reason(tmp_path / "song", whole[:half] + bytes(half // 2) + whole[half + half // 2 :]) is Reason.DAMAGED


@pytest.mark.parametrize(
    "content", [b"<html>not found</html>" * 40, b"", b"ID3\x04\x00\x00\x00\x00\x00\x00" + bytes(900), b"RIFF"]
)
def test_files_that_are_not_audio_are_not_decodable_whatever_their_name(tmp_path: Path, content: bytes) -> None:
    assert reason(tmp_path / "song.wav", content) is Reason.NOT_DECODABLE


def test_files_that_are_too_long_or_too_low_in_rate_are_not_decoded(tmp_path: Path) -> None:
    assert reason(tmp_path / "song.flac", encoded("FLAC"), 5.9) is Reason.TOO_LONG
    soundfile.write(tmp_path / "low.wav", sing(1.0, 0), 1000)
    assert reason(tmp_path / "low.wav", (tmp_path / "low.wav").read_bytes()) is Reason.NOT_DECODABLE
