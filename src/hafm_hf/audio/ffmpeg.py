# SPDX-License-Identifier: Apache-2.0
"""Sounds that libsndfile cannot read, such as phones record: decoded by the command ffmpeg where it is installed.

ffmpeg knows hundreds of formats, some of which name further files and addresses to read. So it is only run on files
whose first bytes are those of one of `FORMATS`, with the one demuxer for it, without the network, and within limits.
"""

import os
import re
import shutil
import struct
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from .errors import DamagedAudioError, HAFMAudioError
from .samples import Samples

COMMAND = "ffmpeg"
# of wall time that ffmpeg may take for one file; an hour of AAC takes 20 s
MAX_SECONDS = 300.0
# limit of a single allocation by ffmpeg
MAX_BYTES_AT_ONCE = 1 << 28
# of ffmpeg's messages that are read
MAX_MESSAGE_BYTES = 1 << 20
# in ffmpeg's messages: the length by the header, and that this is only an estimate from the bit rate
DURATION = re.compile(r"Duration: (\d+):(\d+):([\d.]+)")
DURATION_IS_ESTIMATED = "Estimating duration"
# a smaller difference from that length is due to the codec: headers may count the samples of its delay, or not
DELAY_SECONDS = 0.25
# header of an AU file: magic number, offset and size of the samples, encoding (AU_FLOAT: float32), Hz, channels
AU_HEADER = struct.Struct(">4sIIIII")
AU_FLOAT = 6


@dataclass(frozen=True)
class Format:
    """A format by its demuxer in ffmpeg, and its name in messages."""

    demuxer: str
    name: str


# bytes at the start of a file that `recognised` needs
MAGIC_BYTES = 40
MPEG4 = Format("mov", "MPEG-4 audio (M4A, MP4 or 3GP)")
# position in a file, the bytes there, and the format that they identify
FORMATS = (
    (0, b"\x1a\x45\xdf\xa3", Format("matroska", "WebM or Matroska")),
    (0, b"#!AMR", Format("amr", "AMR")),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", Format("asf", "Windows Media")),
    (0, b"\xff\xf1", Format("aac", "AAC")),
    (0, b"\xff\xf9", Format("aac", "AAC")),
    (0, b"\x00\x00\x01\xba", Format("mpeg", "an MPEG programme stream")),
    (0, b"caff", Format("caf", "CAF with a codec of its own")),
    (0, b"riff\x2e\x91\xcf\x11", Format("w64", "W64 with a codec of its own")),
    (8, b"AIFC", Format("aiff", "AIFF-C with a codec of its own")),
    (28, b"\x7fFLAC", Format("ogg", "FLAC in Ogg")),
    (28, b"Speex  ", Format("ogg", "Speex")),
    *((4, atom, MPEG4) for atom in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")),
)
# codecs of WAV files that ffmpeg is to decode, by their number in the header; libsndfile reads the others, and a file
# that it does not read is damaged
WAV_CODECS = {0x20: "Yamaha ADPCM", 0x45: "G.726", 0x160: "WMA", 0x161: "WMA", 0xFF: "AAC"}


def recognised(head: bytes) -> Format | None:
    """The format of a file by its first `MAGIC_BYTES` bytes; None if ffmpeg is not to read it."""
    for offset, magic, file_format in FORMATS:
        if head.startswith(magic, offset):
            return file_format
    if head[:4] == b"RIFF" and head[8:16] == b"WAVEfmt ":
        # bytes 20 and 21: the number of the codec
        codec = WAV_CODECS.get(int.from_bytes(head[20:22], "little"))
        if codec is None:
            return None
        return Format("wav", f"WAV with {codec}")
    return None


class FFmpegSound:
    """The first sound in a file, decoded by ffmpeg from its start.

    Attributes:
        sampling_rate, channels: of the sound, the rate in Hz.
        frames: always None: the length is only known at the end.
        claimed: number of frames that the file's header claims; None before the end of the sound, and if as many
            were decoded.
    """

    def __init__(self, file: BinaryIO, path: str | None, file_format: Format, name: str, seconds: float) -> None:
        """Starts ffmpeg.

        Args:
            file, path: the file, and its path if it has one. Otherwise it is copied to a temporary file, in which
                ffmpeg can seek: phones write the index of a recording at its end.
            file_format: from `recognised`.
            name: name of the source in messages.
            seconds: at most this many seconds are decoded.

        Raises:
            HAFMAudioError: ffmpeg is not installed, or cannot read the file.
        """
        self._name = name
        self.frames: int | None = None
        self.claimed: int | None = None
        self._frames_read = 0
        if shutil.which(COMMAND) is None:
            raise HAFMAudioError(
                f"{name} is {file_format.name}, for which HAFM needs ffmpeg; install that (apt-get install ffmpeg, "
                "brew install ffmpeg), or convert it to WAV, FLAC, MP3 or OGG first."
            )
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if path is None:
            self._folder = tempfile.TemporaryDirectory(prefix="hafm_")
            path = os.path.join(self._folder.name, "sound")
            file.seek(0)
            with open(path, "wb") as copy:
                shutil.copyfileobj(file, copy)
        self._messages = tempfile.TemporaryFile()
        self._timed_out = threading.Event()
        # no network, no other demuxer
        demuxer = file_format.demuxer
        limits = ["-protocol_whitelist", "file,pipe", "-format_whitelist", demuxer, "-f", demuxer, "-threads", "1"]
        limits += ["-max_alloc", str(MAX_BYTES_AT_ONCE)]
        # the first audio stream, as an AU file of float32
        output = ["-map", "0:a:0", "-vn", "-sn", "-dn", "-t", str(seconds), "-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
        # in bytes: a file name need not be valid text
        url = os.fsencode(f"file:{path}")
        command: list[str | bytes] = [COMMAND, "-nostdin", "-hide_banner", "-nostats", *limits, "-i", url, *output]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._messages
        )
        self._timer = threading.Timer(MAX_SECONDS, self._kill_at_time_limit)
        self._timer.daemon = True
        self._timer.start()
        try:
            self._read_header()
        except BaseException:
            self.close()
            raise

    def _kill_at_time_limit(self) -> None:
        """Kills ffmpeg once it has run for `MAX_SECONDS`, and notes that for `_finish`; called by the timer."""
        self._timed_out.set()
        self._process.kill()

    def _read_header(self) -> None:
        """Reads sampling rate and number of channels from the header of the AU file that ffmpeg writes.

        Raises:
            HAFMAudioError: ffmpeg has failed, or has written nothing.
        """
        header = self._read_output(AU_HEADER.size)
        if len(header) < AU_HEADER.size:
            # ffmpeg's own error, if it has one
            self._finish()
            raise DamagedAudioError(f"{self._name} holds no sound; check what it is.")
        _, offset, _, encoding, rate, channels = AU_HEADER.unpack(header)
        assert encoding == AU_FLOAT
        # a comment may follow in the header
        self._read_output(offset - AU_HEADER.size)
        self.sampling_rate = rate
        self.channels = channels

    def _read_output(self, count: int) -> bytes:
        """The next `count` bytes of the AU file that ffmpeg writes, or fewer at its end; waits for them."""
        assert self._process.stdout is not None
        return self._process.stdout.read(count)

    def read_into(self, out: Samples) -> int:
        """Reads up to n frames into `out` (float32 [n, channels]); returns their number, below n only at the end.

        Raises:
            HAFMAudioError: the file cannot be decoded, or not in time.
        """
        # four bytes a sample
        frame_bytes = 4 * self.channels
        block = self._read_output(len(out) * frame_bytes)
        count = len(block) // frame_bytes
        out[:count] = np.frombuffer(block[: count * frame_bytes], dtype=">f4").reshape(count, self.channels)
        self._frames_read += count
        if count < len(out):
            self._finish()
        return count

    def _finish(self) -> None:
        """Waits for ffmpeg to exit after its last output, and sets `claimed` if the header claims another length.

        Raises:
            HAFMAudioError: it has failed, has taken too long, or has found no sound.
        """
        code = self._process.wait()
        if self._timed_out.is_set():
            raise HAFMAudioError(f"{self._name} takes ffmpeg longer than {MAX_SECONDS:g} s; convert it to WAV first.")
        self._messages.seek(0)
        messages = self._messages.read(MAX_MESSAGE_BYTES).decode("utf-8", "replace")
        # ffmpeg's complaint about `-map` if there is no audio stream
        if "matches no streams" in messages:
            raise HAFMAudioError(f"{self._name} holds no sound; check what it is.")
        if code:
            last_line = messages.strip().rpartition("\n")[2]
            # what comes before the reason names the file
            why = last_line.rpartition(": ")[2].rstrip(".")
            raise DamagedAudioError(f"{self._name} cannot be decoded ({why}); it may be damaged, save it again.")
        duration = DURATION.search(messages)
        if duration is not None and DURATION_IS_ESTIMATED not in messages:
            hours, minutes, seconds = map(float, duration.groups())
            claimed = round((3600 * hours + 60 * minutes + seconds) * self.sampling_rate)
            if abs(claimed - self._frames_read) > DELAY_SECONDS * self.sampling_rate:
                self.claimed = claimed

    def close(self) -> None:
        """Kills ffmpeg, if it still runs, and removes its temporary files."""
        self._timer.cancel()
        self._process.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.wait()
        self._messages.close()
        if self._folder is not None:
            self._folder.cleanup()
