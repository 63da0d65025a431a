# SPDX-License-Identifier: Apache-2.0
"""The one way to decode a sound: libsndfile where it can, else ffmpeg, to the end of what is there.

A file is a row of sounds (`containers.find_sections`), usually of one; they are joined. What the headers claim is
compared with what was decoded.
"""

import io
import math
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import soundfile

from . import ffmpeg
from .containers import CUT_BYTES, Section, SectionFile, TooLargeError, begins_like_sound, find_sections, read_at
from .errors import DamagedAudioError, HAFMAudioError, UnreadableAudioError
from .samples import Samples, resample, with_channels

FORMATS = ("WAV", "WAVEX", "RF64", "W64", "FLAC", "OGG", "MP3", "MPEG", "AIFF", "AU", "CAF")
# of these, a few bytes may hold a sound of any length, so that the length that the header claims counts for limits
COMPRESSED = ("FLAC", "OGG", "MP3", "MPEG")
# decoders of MP3 may cut off their delay (529 to 2,257 samples) at the ends of an intact file
LOST_SECONDS = 0.06
# a pipe, say, is read into memory up to this size
MAX_STREAM_BYTES = 1 << 29
# sounds in one file; each is opened to see how long it is
MAX_SOUNDS = 1000
_BUFFER = 1 << 16
_FIRST_FRAMES = 1 << 20


class Part(Protocol):
    """One sound of a file, read from its start."""

    sampling_rate: int
    channels: int
    frames: int | None
    claimed: int | None

    def read_into(self, out: Samples) -> int:
        """Reads up to len(out) frames into float32 [n, C] and returns their number, which is less at the end."""

    def close(self) -> None:
        """Ends the decoder."""


class SndfilePart:
    """A sound decoded by libsndfile.

    Attributes:
        sampling_rate, channels: of the sound, the rate in Hz.
        format: libsndfile's name of the file's format, such as "WAV".
        frames: number of frames by the header; None if it does not say.
        claimed: number of frames by the header before that was corrected (`Section`); None with `frames`.
    """

    def __init__(self, file: BinaryIO, section: Section, name: str) -> None:
        """Opens a section of a file, whose name in messages is `name`.

        Raises:
            soundfile.LibsndfileError, TypeError: it is no sound that libsndfile reads.
        """
        self._name = name
        self._bytes = io.BufferedReader(SectionFile(file, section), _BUFFER)
        self._file = soundfile.SoundFile(self._bytes)
        self.sampling_rate: int = self._file.samplerate
        self.channels: int = self._file.channels
        self.format: str = self._file.format
        # libsndfile gives 2**63 - 1 for an unknown length
        has_length = self._file.frames < 2**62
        self.frames: int | None = None
        self.claimed: int | None = None
        if has_length:
            self.frames = self._file.frames
            self.claimed = round(self._file.frames * section.claimed) + section.missing

    def seek(self, frame: int) -> None:
        """Moves to a frame, at most to the end."""
        if self.frames is not None:
            frame = min(frame, self.frames)
        self._file.seek(frame)

    def read_into(self, out: Samples) -> int:
        """Reads up to len(out) frames into float32 [n, C] and returns their number, which is less at the end.

        Raises:
            DamagedAudioError: the sound cannot be decoded, and not because its end is missing.
        """
        before = self._file.tell()
        try:
            return len(self._file.read(out=out))
        except (soundfile.LibsndfileError, RuntimeError) as error:
            # of a sound without its end, everything before is used
            position = self._bytes.tell()
            if position < self._bytes.seek(0, io.SEEK_END):
                raise damaged(self._name, error) from error
            return max(self._file.tell() - before, 0)

    def tags(self) -> dict[str, str]:
        """Title, artist, licence and so on, as far as libsndfile knows them."""
        return self._file.copy_metadata()

    def close(self) -> None:
        """Closes the decoder, not the file."""
        self._file.close()


def damaged(name: str, error: Exception) -> DamagedAudioError:
    """The error for a sound, called `name`, at which a decoder gave up with `error`."""
    why = getattr(error, "error_string", "") or str(error)
    return DamagedAudioError(f"{name} cannot be decoded ({why.rstrip('.')}); it may be damaged, save it again.")


class Sound:
    """A sound that is open for reading, from its start: all that a file holds, at the rate of its first part.

    Attributes:
        name: name of the source in messages.
        sampling_rate: in Hz.
        channels: of the first part; those of others are brought to that number.
        frames: number of frames; None if that is only known after decoding, as of sounds that ffmpeg decodes.
        claimed: number of frames that the headers claim; None if they don't, or (ffmpeg) before the end.
        length_for_limits: number of frames that counts for limits before anything is decoded; None if it is not known.
        remarks: what the user should know of the sound, one sentence each.
    """

    def __init__(self, file: BinaryIO, path: str | None, name: str, seconds: float) -> None:
        """Opens the parts of a file.

        Args:
            file: the file, which can be sought in and stays open.
            path: its path, if it has one.
            name: name of the source in messages.
            seconds: at most this much of a part is decoded by ffmpeg.

        Raises:
            HAFMAudioError: it is no audio, or too large or too many sounds.
        """
        self.name = name
        self.remarks: list[str] = []
        self._file = file
        self._path = path
        self._seconds = seconds
        self._sections = self._find()
        # index of the current part
        self._section_number = 0
        self._part: Part = self._open(0)
        self.sampling_rate = self._part.sampling_rate
        self.channels = self._part.channels
        self.frames = self._part.frames
        self.claimed = self._part.claimed
        self.length_for_limits = self.frames
        if isinstance(self._part, SndfilePart) and self._part.format in COMPRESSED:
            self.length_for_limits = self.claimed
        # samples of a part at another rate, which is resampled as a whole
        self._pending: Samples | None = None
        if len(self._sections) > 1:
            self._add_others()

    def _find(self) -> list[Section]:
        """The sections of the file, one for each sound; raises HAFMAudioError if it is too large to be searched."""
        try:
            return find_sections(self._file)
        except TooLargeError as error:
            raise HAFMAudioError(f"{self.name} holds {error}; cut it first.") from error

    def _open(self, section_number: int) -> Part:
        """Opens the part of that index, by libsndfile if it can, else by ffmpeg; raises HAFMAudioError if none can."""
        try:
            part = SndfilePart(self._file, self._sections[section_number], self.name)
        except (soundfile.LibsndfileError, TypeError, ValueError) as error:
            # ffmpeg reads a single sound from the path, without a copy
            path = None
            if len(self._sections) == 1:
                file = self._file
                path = self._path
            else:
                file = io.BufferedReader(SectionFile(self._file, self._sections[section_number]))
            file_format = ffmpeg.recognised(read_at(file, 0, ffmpeg.MAGIC_BYTES))
            if file_format is None:
                raise not_audio(self.name) from error
            return ffmpeg.FFmpegSound(file, path, file_format, self.name, self._seconds)
        # libsndfile reads other formats too, but each parser is attack surface
        if part.format not in FORMATS:
            part.close()
            raise not_audio(self.name)
        return part

    def _add_others(self) -> None:
        """Adds the lengths of the parts after the first to `frames`, `claimed` and `length_for_limits`.

        Sections that turn out to be no sound are left out. `remarks` says so, and that sounds are joined.

        Raises:
            HAFMAudioError: more than `MAX_SOUNDS` sections.
        """
        if len(self._sections) > MAX_SOUNDS:
            raise HAFMAudioError(
                f"{self.name} holds {len(self._sections)} sounds; HAFM reads at most {MAX_SOUNDS} of a file."
            )
        sections = self._sections[:1]
        for section_number in range(1, len(self._sections)):
            try:
                part = self._open(section_number)
            except HAFMAudioError:
                size = sum(end - start for start, end in self._sections[section_number].extents)
                self.remarks.append(f"{self.name} holds {size} bytes that are no sound; they are left out.")
                continue
            sections.append(self._sections[section_number])
            scale = self.sampling_rate / part.sampling_rate
            self.frames = _added(self.frames, part.frames, scale)
            self.claimed = _added(self.claimed, part.claimed, scale)
            self.length_for_limits = _added(self.length_for_limits, part.claimed, scale)
            part.close()
        self._sections = sections
        if len(sections) > 1:
            self.remarks.append(f"{self.name} holds {len(sections)} sounds, one after another; they are joined.")

    def rewind(self) -> None:
        """Goes back to the start."""
        self._part.close()
        self._section_number = 0
        self._part = self._open(0)
        self._pending = None

    def read_into(self, out: Samples) -> int:
        """Reads up to len(out) frames into float32 [n, C] and returns their number, which is less at the end.

        Raises:
            HAFMAudioError: the sound cannot be decoded.
        """
        done = 0
        while done < len(out):
            done += self._read_part(out[done:])
            if done == len(out) or self._section_number + 1 == len(self._sections):
                break
            self._section_number += 1
            self._part.close()
            self._part = self._open(self._section_number)
            self._pending = None
        # ffmpeg's says only at its end what the header claims; of several parts the sum is not known
        if done < len(out) and len(self._sections) == 1 and isinstance(self._part, ffmpeg.FFmpegSound):
            self.claimed = self._part.claimed
        return done

    def _read_part(self, out: Samples) -> int:
        """Reads up to len(out) frames of the current part, brought to the rate and channels of the first, into `out`.

        Args:
            out: float32 [n, C], changed in place.

        Returns:
            The number of frames read, less than n at the end of the part.
        """
        part = self._part
        if part.sampling_rate == self.sampling_rate and part.channels == self.channels:
            return part.read_into(out)
        if self._pending is None:
            sound = with_channels(_read_all(part, part.frames), self.channels)
            self._pending = resample(np.ascontiguousarray(sound), part.sampling_rate, self.sampling_rate)
            self._pending = self._pending.reshape(len(self._pending), self.channels)
        block = self._pending[: len(out)]
        self._pending = self._pending[len(out) :]
        out[: len(block)] = block
        return len(block)

    def skip(self, frames: int) -> None:
        """Moves forward from the start by `frames`, at most to the end; the sound must not have been read yet."""
        if len(self._sections) == 1 and isinstance(self._part, SndfilePart):
            self._part.seek(frames)
            return
        # ffmpeg and joined sounds cannot be sought in
        block = np.empty((min(frames, _FIRST_FRAMES), self.channels), dtype=np.float32)
        while frames > 0 and (count := self.read_into(block[:frames])):
            frames -= count

    def read(self, frames: int | None = None) -> Samples:
        """Reads up to `frames` frames, or all: float32 [≤ frames, C].

        Raises:
            HAFMAudioError: the sound cannot be decoded.
        """
        if frames is None:
            expected = self.frames
        elif self.frames is None:
            expected = frames
        else:
            expected = min(frames, self.frames)
        return _read_all(self, expected, frames)

    def length(self) -> int:
        """Number of frames. If the header doesn't say it, the sound is decoded from where it stands, and rewound."""
        if self.frames is None:
            block = np.empty((_FIRST_FRAMES // self.channels, self.channels), dtype=np.float32)
            self.frames = 0
            while count := self.read_into(block):
                self.frames += count
            self.rewind()
        return self.frames

    def tags(self) -> dict[str, str]:
        """Title, artist, licence and so on of the first part, as far as libsndfile knows them."""
        if isinstance(self._part, SndfilePart):
            return self._part.tags()
        return {}

    def close(self) -> None:
        """Ends the decoder."""
        self._part.close()


def _added(frames: int | None, others: int | None, scale: float) -> int | None:
    """The sum of two lengths in frames, the second of them scaled to the rate of the first; None if one is unknown."""
    if frames is None or others is None:
        return None
    return frames + round(others * scale)


def _read_all(source: "Part | Sound", expected: int | None, most: int | None = None) -> Samples:
    """Reads a sound to its end.

    Args:
        source: the open sound, read on from where it is.
        expected: number of frames by the header; no more are read. None if it says none.
        most: number of frames to read at most; None for all.

    Returns:
        float32 [N, C].
    """
    # a length that a header overstates costs no memory: pages that are never written are never allocated
    first_length = _FIRST_FRAMES
    if expected is not None:
        first_length = expected
    if most is not None:
        first_length = min(first_length, most)
    samples = np.empty((first_length, source.channels), dtype=np.float32)
    done = 0
    while True:
        wanted = len(samples) - done
        count = source.read_into(samples[done:])
        done += count
        if count < wanted or done == most or expected is not None:
            break
        length = 2 * len(samples)
        if most is not None:
            length = min(length, most)
        samples.resize((length, source.channels), refcheck=False)
    if done < len(samples):
        samples.resize((done, source.channels), refcheck=False)
    return samples


def not_audio(name: str) -> HAFMAudioError:
    """The error for a file that is no sound."""
    return HAFMAudioError(f"{name} is not audio that HAFM can read; convert it to WAV, FLAC, MP3 or OGG first.")


@contextmanager
def opened(
    source: str | os.PathLike[str] | bytes | BinaryIO, name: str, *, seconds: float = math.inf
) -> Iterator[Sound]:
    """Opens a sound; it is closed when the block is left.

    Errors of reading and decoding inside the block are raised as HAFMAudioError, too.

    Args:
        source: path, the bytes of a file, or a binary file object, which is read from its start and stays open.
        name: name of the source in messages.
        seconds: at most this much of a sound is decoded by ffmpeg.

    Raises:
        HAFMAudioError: missing, empty, or not audio.
    """
    with ExitStack() as stack:
        path = None
        if isinstance(source, (str, os.PathLike)):
            check_file(Path(source), name)
            path = os.path.abspath(source)
            file = _opened_file(path, name, stack)
        elif isinstance(source, (bytes, bytearray, memoryview)):
            file = io.BytesIO(source)
        else:
            file = source
        try:
            if not getattr(file, "seekable", lambda: True)():
                file = io.BytesIO(_read_stream(file, name))
                path = None
            if file.seek(0, io.SEEK_END) == 0:
                raise HAFMAudioError(f"{name} is empty (0 bytes); record or export it again.")
            if not math.isfinite(seconds):
                # ffmpeg takes no infinite length; these are 12 days
                seconds = 1e6
            sound = Sound(file, path, name, seconds)
            stack.callback(sound.close)
            yield sound
        except OSError as error:
            raise UnreadableAudioError(f"{name} cannot be read: {error.strerror or error}.") from error
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise damaged(name, error) from error


def _opened_file(path: str, name: str, stack: ExitStack) -> BinaryIO:
    """Opens the file at `path`, called `name` in messages, until `stack` is left; raises UnreadableAudioError."""
    try:
        return stack.enter_context(open(path, "rb"))
    except OSError as error:
        raise UnreadableAudioError(f"{name} cannot be read: {error.strerror or error}.") from error


def _read_stream(file: BinaryIO, name: str) -> bytes:
    """All bytes of a file that cannot be sought in, such as a pipe.

    Raises:
        HAFMAudioError: there are more than `MAX_STREAM_BYTES`.
    """
    content = file.read(MAX_STREAM_BYTES + 1)
    if len(content) > MAX_STREAM_BYTES:
        raise HAFMAudioError(f"{name} is larger than {MAX_STREAM_BYTES / 1e6:.0f} MB; save it as a file first.")
    return content


def is_sound_file(path: str | os.PathLike[str]) -> bool:
    """Whether a regular file begins like a sound, whatever its name; False if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return begins_like_sound(file.read(CUT_BYTES))
    except OSError:
        return False


def check_file(path: Path, name: str) -> None:
    """Raises HAFMAudioError unless `path` is a readable file that is not empty; `name` is what an empty one is called.

    What is no regular file, such as a pipe, may be empty so far.
    """
    denied = UnreadableAudioError(f"{path} may not be read by this user; change its permissions.")
    try:
        status = path.stat()
    except PermissionError as error:
        raise denied from error
    except (OSError, ValueError) as error:
        raise UnreadableAudioError(f"{path} does not exist; check the path.") from error
    if stat.S_ISDIR(status.st_mode):
        raise UnreadableAudioError(f"{path} is a folder; name an audio file in it.")
    if not os.access(path, os.R_OK):
        raise denied
    if stat.S_ISREG(status.st_mode) and status.st_size == 0:
        raise HAFMAudioError(f"{name} is empty (0 bytes); record or export it again.")
