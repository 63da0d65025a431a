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
# of wall time for one file; an hour of AAC takes 20 s
MAX_SECONDS = 300.0
# a single allocation of ffmpeg's
MAX_BYTES_AT_ONCE = 1 << 28
# of its messages
MAX_MESSAGE_BYTES = 1 << 20
# in its messages: the length by the header, and that it is only an estimate, from the bit rate
DURATION = re.compile(r"Duration: (\d+):(\d+):([\d.]+)")
DURATION_IS_ESTIMATED = "Estimating duration"
DELAY_SECONDS = 0.25
# a header of Sun's AU, with floats
AU_HEADER = struct.Struct(">4sIIIII")
AU_FLOAT = 6


@dataclass(frozen=True)
class Format:
    """A format by its demuxer in ffmpeg, and its name in messages."""

    demuxer: str
    name: str


# bytes of a file that `recognised` needs
MAGIC_BYTES = 40
MPEG4 = Format("mov", "MPEG-4 audio (M4A, MP4 or 3GP)")
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
# the number of a codec in a WAV file: those that libsndfile reads, and files that are damaged, are no matter of ffmpeg
WAV_CODECS = {0x20: "Yamaha ADPCM", 0x45: "G.726", 0x160: "WMA", 0x161: "WMA", 0xFF: "AAC"}


def recognised(head: bytes) -> Format | None:
    """The format of a file by its first `MAGIC_BYTES`, if ffmpeg is to read it, else None."""
    for offset, magic, file_format in FORMATS:
        if head.startswith(magic, offset):
            return file_format
    if head[:4] == b"RIFF" and head[8:16] == b"WAVEfmt ":
        codec = WAV_CODECS.get(int.from_bytes(head[20:22], "little"))
        if codec is None:
            return None
        return Format("wav", f"WAV with {codec}")
    return None


class FFmpegSound:
    """The first sound in a file, decoded by ffmpeg from its start.

    Attributes:
        sampling_rate, channels: of the sound.
        frames: None: how long a sound is, is only known at its end.
        claimed: length that the file's header claims, in frames; None until the end, or if that is what there is.
    """

    def __init__(self, file: BinaryIO, path: str | None, file_format: Format, name: str, seconds: float) -> None:
        """Starts ffmpeg.

        Args:
            file, path: the file, and its path if it has one; otherwise it is copied, since a phone writes the table of
                what it has recorded last.
            file_format: from `recognised`.
            name: name of the source in messages.
            seconds: at most this much is decoded.

        Raises:
            HAFMAudioError: ffmpeg is not installed, or cannot read the file.
        """
        self._name = name
        self.frames: int | None = None
        self.claimed: int | None = None
        # frames read so far
        self._done = 0
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
        self._late = threading.Event()
        # without the network: an option of the input, like the demuxer and its limits
        demuxer = file_format.demuxer
        safe = ["-protocol_whitelist", "file,pipe", "-format_whitelist", demuxer, "-f", demuxer, "-threads", "1"]
        safe += ["-max_alloc", str(MAX_BYTES_AT_ONCE)]
        sound = ["-map", "0:a:0", "-vn", "-sn", "-dn", "-t", str(seconds), "-c:a", "pcm_f32be", "-f", "au", "pipe:1"]
        # bytes: a name need not be text
        given = os.fsencode(f"file:{path}")
        command: list[str | bytes] = [COMMAND, "-nostdin", "-hide_banner", "-nostats", *safe, "-i", given, *sound]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._messages
        )
        self._timer = threading.Timer(MAX_SECONDS, self._give_up)
        self._timer.daemon = True
        self._timer.start()
        try:
            self._read_header()
        except BaseException:
            self.close()
            raise

    def _give_up(self) -> None:
        """Ends ffmpeg because it takes too long; called by the timer."""
        self._late.set()
        self._process.kill()

    def _read_header(self) -> None:
        """Reads rate and number of channels from the header of the AU file that ffmpeg writes.

        Raises:
            HAFMAudioError: ffmpeg has failed, or has written nothing.
        """
        header = self._bytes(AU_HEADER.size)
        if len(header) < AU_HEADER.size:
            # ffmpeg's own error, if it has one
            self._finish()
            raise DamagedAudioError(f"{self._name} holds no sound; check what it is.")
        _, offset, _, encoding, rate, channels = AU_HEADER.unpack(header)
        assert encoding == AU_FLOAT
        # the header may be longer, by a comment
        self._bytes(offset - AU_HEADER.size)
        self.sampling_rate = rate
        self.channels = channels

    def _bytes(self, count: int) -> bytes:
        """The next `count` bytes of the AU file that ffmpeg writes, or fewer at its end; waits for them."""
        assert self._process.stdout is not None
        return self._process.stdout.read(count)

    def read_into(self, out: Samples) -> int:
        """Reads up to len(out) frames into float32 [n, C] and returns their number, which is less at the end.

        Raises:
            HAFMAudioError: the file cannot be decoded, or not in time.
        """
        # four bytes a sample
        frame_bytes = 4 * self.channels
        block = self._bytes(len(out) * frame_bytes)
        count = len(block) // frame_bytes
        out[:count] = np.frombuffer(block[: count * frame_bytes], dtype=">f4").reshape(count, self.channels)
        self._done += count
        if count < len(out):
            self._finish()
        return count

    def _finish(self) -> None:
        """Waits for ffmpeg to end once it writes no more, and sets `claimed`.

        Raises:
            HAFMAudioError: it has failed, has taken too long, or has found no sound.
        """
        code = self._process.wait()
        if self._late.is_set():
            raise HAFMAudioError(f"{self._name} takes ffmpeg longer than {MAX_SECONDS:g} s; convert it to WAV first.")
        self._messages.seek(0)
        messages = self._messages.read(MAX_MESSAGE_BYTES).decode("utf-8", "replace")
        # there is no audio stream, as `-map` demands
        if "matches no streams" in messages:
            raise HAFMAudioError(f"{self._name} holds no sound; check what it is.")
        if code:
            # the last line's end: what comes before names the file
            why = messages.strip().rpartition("\n")[2].rpartition(": ")[2].rstrip(".")
            raise DamagedAudioError(f"{self._name} cannot be decoded ({why}); it may be damaged, save it again.")
        stated = DURATION.search(messages)
        if stated is not None and DURATION_IS_ESTIMATED not in messages:
            hours, minutes, seconds = map(float, stated.groups())
            claimed = round((3600 * hours + 60 * minutes + seconds) * self.sampling_rate)
            # codecs begin and end with some samples that the header may count or not
            if abs(claimed - self._done) > DELAY_SECONDS * self.sampling_rate:
                self.claimed = claimed

    def close(self) -> None:
        """Ends ffmpeg, if it still runs, and removes its temporary files."""
        self._timer.cancel()
        self._process.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process.wait()
        self._messages.close()
        if self._folder is not None:
            self._folder.cleanup()
