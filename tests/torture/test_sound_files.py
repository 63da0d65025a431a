# SPDX-License-Identifier: Apache-2.0
"""Sound files whose headers lie lose nothing silently; what is given to ffmpeg fetches nothing and ends in time."""

import struct
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from audio.encoders import encode, needs_ffmpeg
from faults import Tally
from hafm_hf import audio
from hafm_hf.audio import HAFMAudioError
from loopback import Quiet, serving
from vocals import EXAMPLE, file_bytes, glide

RATE, SECONDS = 24_000, 3.0
# fraction of samples that must be read: MP3 may lose three frames, 3,456 of 72,000 samples
KEPT = 0.95
PATIENCE_SECONDS = 60.0

# header fields by format: (marker, offset in bytes from the marker, struct layout)
SIZE, FILE, FRAMES, SAMPLING_RATE, CHANNELS = "size", "size of the file", "frames", "sampling rate", "channels"
LENGTHS = (SIZE, FILE, FRAMES)
FIELDS = {
    "WAV": {SIZE: (b"data", 4, "<I"), FILE: (b"RIFF", 4, "<I"), SAMPLING_RATE: (b"fmt ", 12, "<I"),
            CHANNELS: (b"fmt ", 10, "<H"), "bytes per second": (b"fmt ", 16, "<I"), "block": (b"fmt ", 20, "<H")},
    "RF64": {SIZE: (b"ds64", 16, "<Q"), FILE: (b"ds64", 8, "<Q"), FRAMES: (b"ds64", 24, "<Q")},
    "W64": {SIZE: (b"data\xf3\xac", 16, "<Q"), FILE: (b"riff", 16, "<Q")},
    "AIFF": {SIZE: (b"SSND", 4, ">I"), FILE: (b"FORM", 4, ">I"), FRAMES: (b"COMM", 10, ">I"),
             CHANNELS: (b"COMM", 8, ">H"), SAMPLING_RATE: (b"COMM", 16, ">H")},
    "AU": {SIZE: (b".snd", 8, ">I"), SAMPLING_RATE: (b".snd", 16, ">I"), CHANNELS: (b".snd", 20, ">I")},
    "CAF": {SIZE: (b"data", 4, ">Q"), CHANNELS: (b"desc", 36, ">I"), SAMPLING_RATE: (b"desc", 12, ">d")},
    "FLAC": {FRAMES: (b"fLaC", 22, ">I"), SAMPLING_RATE: (b"fLaC", 18, ">H"), CHANNELS: (b"fLaC", 20, ">H")},
    "MP3": {FRAMES: (b"Xing", 8, ">I"), SIZE: (b"Xing", 12, ">I"), SAMPLING_RATE: (b"\xff", 2, ">B"),
            CHANNELS: (b"\xff", 3, ">B"), "side information": (b"\xff", 6, ">I")},
}  # fmt: skip
ODD_NUMBERS = (0, 1, 2, 3, 7, 100, 8_000, 0x7FFF, 0xFFFF, 48_000, 144_000, 0x7FFF_FFFF, 0xFFFF_FFFE, 0xFFFF_FFFF)


def lies() -> Iterator[tuple[str, str, bytes, int]]:
    """Yields files of `SECONDS`, mono and stereo, each with one wrong header field, without end.

    Yields:
        format and field (keys of `FIELDS`), the file's bytes, its true number of samples over all channels.
    """
    random = np.random.default_rng(0)
    while True:
        for channels in (1, 2):
            for file_format, fields in FIELDS.items():
                sound = np.tile(glide(SECONDS, RATE)[:, None], channels)
                variable = {"bitrate_mode": "VARIABLE", "compression_level": 0.2} if file_format == "MP3" else {}
                content = file_bytes(sound, RATE, format=file_format, **variable)
                for field, (marker, offset, layout) in fields.items():
                    place = content.find(marker) + offset
                    width = struct.calcsize(layout)
                    number = int(random.choice(ODD_NUMBERS)) if random.random() < 0.7 else int(random.integers(2**32))
                    if layout != ">d":
                        # only as many low bits as the field has
                        number &= 2 ** (8 * width) - 1
                    stated = struct.pack(layout, number)
                    yield file_format, field, content[:place] + stated + content[place + width :], sound.size


@pytest.mark.fault("headers that lie", cut=400, full=5_000)
def test_headers_that_lie_lose_nothing_silently(tally: Tally) -> None:
    outcomes = {"read": 0, "with a remark": 0, "refused": 0}
    for (file_format, field, content, samples), _ in zip(lies(), range(tally.tries), strict=False):
        try:
            recording = audio.read_recording(content, keep=audio.MAX_CHANNELS)
        except HAFMAudioError as error:
            outcomes["refused"] += 1
            # a wrong rate or channel count may be refused, and so may a length over an hour; other lengths may not
            if field in LENGTHS and "is longer than 3600 s" not in str(error):
                tally.lose(f"{file_format}, {field}: {error}")
            else:
                tally.survived()
            continue
        outcomes["with a remark" if recording.remarks else "read"] += 1
        if recording.samples.size < KEPT * samples and not recording.remarks:
            tally.lose(f"{file_format}, {field}: {recording.samples.size} of {samples} samples")
        else:
            tally.survived()
    tally.measured = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())


class Visited(Quiet):
    """A server that must get no request; it records the paths of those it gets."""

    visits: list[str] = []

    def do_GET(self) -> None:
        """Records the path, and answers 404."""
        self.visits.append(self.path)
        self.reply(404, b"", {})


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example in formats of browsers and telephones."""
    needs_ffmpeg()
    folder = tmp_path_factory.mktemp("recordings")
    encode(EXAMPLE, {folder / "song.m4a": [], folder / "song.webm": ["-c:a", "libopus"], folder / "song.aac": []})
    return folder


def hostile(recordings: Path, url: str) -> dict[str, bytes]:
    """Files with addresses that ffmpeg would open, and files that it would decode for hours, if it were let.

    Args:
        recordings: folder with song.m4a, song.webm and song.aac.
        url: the server that must get no request.

    Returns:
        contents by file name.
    """
    m4a, webm, aac = ((recordings / f"song.{suffix}").read_bytes() for suffix in ("m4a", "webm", "aac"))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}/part.m4a\n#EXT-X-ENDLIST\n".encode()
    # the first box of an M4A file, 24 bytes
    brand = b"\0\0\0\x18ftypM4A \0\0\0\0M4A isom"
    # version and flags follow the name of the data reference box; without flag 1 its samples are in another file
    flags = m4a.index(b"url ", m4a.index(b"dref")) + len(b"url ")
    elsewhere = m4a[:flags] + bytes(4) + m4a[flags + 4 :]
    # the GUID of the ASF header object, with which WMA files begin
    asf_header = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
    return {
        "playlist.m4a": playlist,
        "playlist_after_a_type.m4a": brand + playlist,
        "concat.m4a": f"ffconcat version 1.0\nfile '{url}/a.m4a'\nfile '/etc/passwd'\n".encode(),
        "dash.webm": f"<?xml version='1.0'?><MPD><BaseURL>{url}/a.webm</BaseURL></MPD>".encode(),
        "session.aac": f"v=0\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\na=control:{url}".encode(),
        "elsewhere.m4a": elsewhere,
        "ram.wma": f"[Reference]\nRef1={url}/a.wma\n".encode(),
        "asf.wma": asf_header + playlist,
        "without_table.m4a": m4a[: len(m4a) // 2],
        # boxes that claim almost 4 GiB each
        "table_of_gigabytes.m4a": brand + b"\xff\xff\xff\xf0moov" + b"\xff\xff\xff\xe0trak" + bytes(5000),
        "zeros.m4a": brand + bytes(1 << 20),
        "mute.webm": webm[:60] + bytes(1 << 20),
        "noise.webm": webm[:400] + np.random.default_rng(0).bytes(1 << 18),
        "noise.aac": aac[:200] + np.random.default_rng(1).bytes(1 << 18),
        # each byte is an empty frame of 20 ms: almost six hours
        "endless.amr": b"#!AMR\n" + b"\x7c" * (1 << 20),
        # the example 4,000 times
        "endless.aac": aac * 4000,
        "http:__evil.m4a": m4a,
        "concat:a.m4a|b.m4a": m4a,
        "-i.m4a": m4a,
        "%03d*?.m4a": m4a,
        "pipe:0": m4a,
    }


# good sounds under names that ffmpeg might take for an address or an option; these must be read
NAMES = ("http:__evil.m4a", "concat:a.m4a|b.m4a", "-i.m4a", "%03d*?.m4a", "pipe:0")


@pytest.mark.fault("containers for ffmpeg", cut=42, full=42)
def test_containers_for_ffmpeg_fetch_nothing_and_end_in_time(
    tally: Tally, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    visits: list[str] = []
    longest = 0.0
    with serving(Visited, visits=visits) as url:
        for name, content in hostile(recordings, url).items():
            Path(name).write_bytes(content)
            for source in (Path(name), content):
                began = time.monotonic()
                refusal = _refusal(source)
                longest = max(longest, time.monotonic() - began)
                not_a_sentence = refusal and (not refusal.endswith(".") or "\n" in refusal)
                if visits or (name in NAMES and refusal) or not_a_sentence:
                    tally.lose(f"{name}: {refusal}; fetched {visits}")
                else:
                    tally.survived()
    tally.measured = f"each in {longest:.1f} s or less"
    assert longest < PATIENCE_SECONDS


def _refusal(source: Path | bytes) -> str:
    """The error message of reading a sound, a path or its bytes; empty if it can be read."""
    try:
        audio.read_audio(source)
    except HAFMAudioError as error:
        return str(error)
    return ""
