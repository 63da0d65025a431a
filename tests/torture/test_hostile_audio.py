# SPDX-License-Identifier: Apache-2.0
"""Untrusted audio is read or refused in one sentence: no crash, no hang, no gigabyte of memory."""

import struct
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faults import Tally
from hafm_hf import HAFMFeatureExtractor, audio
from torture.reading_child import Reader
from vocals import file_bytes, glide

# options of soundfile.write
ENCODINGS = {
    "pcm": {"format": "WAV"},
    "float": {"format": "WAV", "subtype": "FLOAT"},
    "extended": {"format": "WAVEX", "subtype": "PCM_24"},
    "adpcm": {"format": "WAV", "subtype": "IMA_ADPCM"},
    "rf64": {"format": "RF64"},
    "flac": {"format": "FLAC"},
    "vorbis": {"format": "OGG", "subtype": "VORBIS"},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {"format": "MP3", "subtype": "MPEG_LAYER_III"},
    "aiff": {"format": "AIFF"},
}
# boundary values for header fields
ODD_NUMBERS = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)
# bytes at the beginning of a file, which hold its header in most formats
HEADER = 120


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    """A process that reads files, so that a crash ends that process only."""
    reader = Reader()
    yield reader
    reader.stop()


def seeds() -> list[bytes]:
    """A voice of 1.1 s in every encoding, mono and stereo."""
    voice = glide(1.1, 16_000)
    stereo = np.stack([voice, -0.5 * voice], axis=1)
    return [file_bytes(sound, 16_000, **how) for how in ENCODINGS.values() for sound in (voice, stereo)]


@st.composite
def mutated_files(draw: st.DrawFn, files: list[bytes]) -> bytes:
    """A strategy that draws one of `files` after one to six mutations, half of them in its first `HEADER` bytes."""
    content = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(1, 6))):
        if not content:
            break
        end = min(HEADER, len(content)) if draw(st.booleans()) else len(content)
        where = draw(st.integers(0, end - 1))
        size = draw(st.integers(1, 64))
        mutation = draw(st.sampled_from(["bit", "number", "noise", "cut", "drop", "repeat", "foreign"]))
        if mutation == "bit":
            content[where] ^= 1 << draw(st.integers(0, 7))
        elif mutation == "number":
            order = draw(st.sampled_from(["<I", ">I", "<H", ">H"]))
            number = draw(st.sampled_from(ODD_NUMBERS)) & (0xFFFF if order[1] == "H" else 0xFFFF_FFFF)
            content[where : where + struct.calcsize(order)] = struct.pack(order, number)
        elif mutation == "noise":
            content[where : where + size] = draw(st.binary(min_size=size, max_size=size))
        elif mutation == "cut":
            del content[where:]
        elif mutation == "drop":
            del content[where : where + size]
        elif mutation == "repeat":
            content[where:where] = content[where : where + size] * draw(st.integers(1, 9))
        else:
            content[where:where] = draw(st.sampled_from(files))[: size * 4]
    return bytes(content)


@pytest.mark.fault("mutated audio files", cut=400, full=10_000)
def test_mutated_files_are_read_or_refused(tally: Tally, reader: Reader, tmp_path: Path) -> None:
    path = tmp_path / "vocal.wav"

    suppressed = list(HealthCheck)

    @settings(
        max_examples=tally.tries, derandomize=True, database=None, deadline=None, suppress_health_check=suppressed
    )
    @given(mutated_files(seeds()))
    def survives(content: bytes) -> None:
        """Checks that a file is either read or refused."""
        path.write_bytes(content)
        outcome = reader.outcome(path)
        assert outcome == "read" or outcome.startswith("refused: "), outcome
        tally.survived()

    survives()


def riff(rate: int = 24_000, channels: int = 1, bits: int = 16, data: bytes = bytes(96_000), kind: int = 1) -> bytes:
    """A WAV file with an arbitrary header.

    Args:
        rate: in Hz.
        channels: their number.
        bits: of a sample.
        data: the samples' bytes, whatever the header says; by default two seconds of silence.
        kind: 1 for integers, 3 for floats.
    """
    frame = channels * bits // 8
    header = struct.pack("<HHIIHH", kind, channels, rate, min(rate * frame, 0xFFFF_FFFF), frame & 0xFFFF, bits)
    chunks = b"fmt " + struct.pack("<I", len(header)) + header + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def long_flac(hours: float, rate: int = 24_000) -> bytes:
    """Two seconds of FLAC whose header declares `hours`."""
    content = bytearray(file_bytes(glide(2.0, rate), rate, format="FLAC"))
    # STREAMINFO: the last 36 of these 64 bits are the number of samples
    others = int.from_bytes(content[18:26], "big") >> 36 << 36
    content[18:26] = (others | round(hours * 3600 * rate)).to_bytes(8, "big")
    return bytes(content)


def floats(*values: float) -> bytes:
    """A float WAV file of 1.5 s of a voice, whose samples from the 100th on are replaced by the given values."""
    voice = glide(1.5)
    voice[100 : 100 + len(values)] = values
    return riff(bits=32, data=voice.astype("<f4").tobytes(), kind=3)


# files, and what their refusals say
BOMBS = {
    "24 hours declared": (long_flac(24), "longer than 3600 s"),
    "an hour at 192 kHz": (long_flac(0.99, 192_000), "reads at most 900 s at that rate"),
    "no channel": (riff(channels=0), "is not audio"),
    "64 channels": (riff(channels=64), "has 64 channels; the limit is 32: save it as mono"),
    "1 Hz": (riff(rate=1), "a sampling rate of 1 Hz"),
    "10 MHz": (riff(rate=10_000_000), "a sampling rate of 10000000 Hz"),
    "NaN": (floats(np.nan), "NaN or infinite"),
    "infinity": (floats(-np.inf), "NaN or infinite"),
    "two infinities": (floats(np.inf, -np.inf), "NaN or infinite"),
    "largest float": (floats(3.4e38), "where full scale is 1"),
    "a spreadsheet": (b"%PDF-1.7 " * 99, "is not audio"),
    "another parser": (file_bytes(glide(1.5), format="MAT5"), "is not audio"),
}


@pytest.mark.fault("bombs and impossible headers")
@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused_with_the_reason(bomb: str, reader: Reader, tmp_path: Path) -> None:
    content, said = BOMBS[bomb]
    (tmp_path / "vocal.wav").write_bytes(content)
    outcome = reader.outcome(tmp_path / "vocal.wav")
    assert outcome.startswith("refused: "), outcome
    assert said in outcome, outcome


@pytest.mark.fault("unusual but harmless audio")
@pytest.mark.parametrize("sound", ["constant", "full scale square", "one click"])
def test_unusual_audio_is_read_about_as_fast_as_a_voice(sound: str) -> None:
    # sample numbers of 4 s at 24 kHz
    index = np.arange(24_000 * 4)
    samples = {
        "constant": np.full(index.size, 0.5),
        "full scale square": np.where(index // 50 % 2, 1.0, -1.0),
        "one click": np.where(index == 7, 1.0, 0.0),
    }[sound].astype("<f4")
    extractor = HAFMFeatureExtractor(sampling_rate=16_000)
    # processor seconds
    costs = {}
    for name, voice in {"voice": glide(4.0), sound: samples}.items():
        content = riff(bits=32, data=voice.astype("<f4").tobytes(), kind=3)
        began = time.process_time()
        read, rate = audio.read_audio(content)
        features = extractor(read, rate)["input_values"][0].numpy()
        costs[name] = time.process_time() - began
        assert np.isfinite(features).all()
        # 4 s at 16 kHz
        assert features.shape == (64_000,)
    assert costs[sound] < 20 * costs["voice"] + 0.05, costs
    assert audio.is_silent(read) == (sound == "constant")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://example.org/songs/vocal%20one.wav?x=/etc/passwd", "vocal one.wav"),
        ("http://example.org/..%2F..%2Fetc%2Fpasswd.wav", "passwd.wav"),
        ("http://example.org/a%00b%0A.wav", "ab.wav"),
    ],
)
def test_a_urls_display_name_is_a_file_name_without_path(url: str, name: str) -> None:
    assert audio.source_name(url) == name
