# SPDX-License-Identifier: Apache-2.0
"""Decodes sounds, by libsndfile where it can, else by ffmpeg, to the end of what is there.

A file holds one or more sounds one after another (`containers.find_sections`), its parts; they are joined. What the
headers claim is compared with what was decoded. A frame is one sample of each channel.
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

# libsndfile's names of the formats that it may decode
FORMATS = ("WAV", "WAVEX", "RF64", "W64", "FLAC", "OGG", "MP3", "MPEG", "AIFF", "AU", "CAF")
# formats in which a few bytes may hold a sound of any length: limits apply to the length that the header claims
COMPRESSED = ("FLAC", "OGG", "MP3", "MPEG")
# no more is missing from an intact file: MP3 decoders may cut off their delay (529 to 2,257 samples) at its ends
LOST_SECONDS = 0.06
# a file that cannot be sought in, such as a pipe, is read into memory up to this size
MAX_STREAM_BYTES = 1 << 29
# sounds in one file; each is opened to see how long it is
MAX_SOUNDS = 1000
# bytes that are read from the file at a time
_BUFFER_BYTES = 1 << 16
# frames that are decoded at a time, or allocated at first, where the length is not known
_BLOCK_FRAMES = 1 << 20


class Part(Protocol):
    """One sound of a file, read from its start.

    Attributes:
        sampling_rate, channels: of the sound, the rate in Hz.
        frames: number of frames; None if it is not known before the end.
        claimed: number of frames that the file's header claims; None if that is not known.
    """

    sampling_rate: int
    channels: int
    frames: int | None
    claimed: int | None

    def read_into(self, out: Samples) -> int:
        """Reads up to n frames into `out` (float32 [n, channels]); returns their number, below n only at the end."""

    def close(self) -> None:
        """Ends the decoder."""


class SndfilePart:
    """A sound decoded by libsndfile.

    Attributes:
        sampling_rate, channels: of the sound, the rate in Hz.
        format: libsndfile's name of the file's format, such as "WAV".
        frames: number of frames by the header; None if it does not say.
        claimed: number of frames by the header before that was corrected (`Section`); None if `frames` is None.
    """

    def __init__(self, file: BinaryIO, section: Section, name: str) -> None:
        """Opens a section of a file, whose name in messages is `name`.

        Raises:
            soundfile.LibsndfileError, TypeError: libsndfile cannot read the section.
        """
        self._name = name
        self._reader = io.BufferedReader(SectionFile(file, section), _BUFFER_BYTES)
        self._file = soundfile.SoundFile(self._reader)
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
        """Reads up to n frames into `out` (float32 [n, channels]); returns their number, below n only at the end.

        A sound whose end is missing ends where the last frame could be decoded.

        Raises:
            DamagedAudioError: decoding fails before the end of the section's bytes.
        """
        before = self._file.tell()
        try:
            return len(self._file.read(out=out))
        except (soundfile.LibsndfileError, RuntimeError) as error:
            # an error at the very end of the bytes means that the sound was cut off: what was decoded is used
            position = self._reader.tell()
            end = self._reader.seek(0, io.SEEK_END)
            if position < end:
                raise damaged(self._name, error) from error
            return max(self._file.tell() - before, 0)

    def tags(self) -> dict[str, str]:
        """Title, artist, licence and so on, as far as libsndfile reads them."""
        return self._file.copy_metadata()

    def close(self) -> None:
        """Closes the decoder, not the file."""
        self._file.close()


def damaged(name: str, error: Exception) -> DamagedAudioError:
    """The error for a sound, called `name`, at which a decoder gave up with `error`."""
    why = getattr(error, "error_string", "") or str(error)
    return DamagedAudioError(f"{name} cannot be decoded ({why.rstrip('.')}); it may be damaged, save it again.")


class Sound:
    """All the sounds of a file (its parts), open for reading as one sound, from the start.

    Attributes:
        name: name of the source in messages.
        sampling_rate: that of the first part, in Hz; other parts are resampled to it.
        channels: number of channels of the first part; other parts are converted to it.
        frames: number of frames; None if that is only known after decoding, as of sounds that ffmpeg decodes.
        claimed: number of frames that the headers claim; None if they claim none, or before the end of a sound that
            ffmpeg decodes.
        length_for_limits: number of frames to compare with limits before anything is decoded; None if not known.
        remarks: what the user should know about the sound, one sentence each.
    """

    def __init__(self, file: BinaryIO, path: str | None, name: str, seconds: float) -> None:
        """Opens the parts of a file.

        Args:
            file: the file, which can be sought in and is not closed here.
            path: its path, if it has one.
            name: name of the source in messages.
            seconds: ffmpeg decodes at most this many seconds of a part.

        Raises:
            HAFMAudioError: the file is not audio, is too large, or holds too many sounds.
        """
        self.name = name
        self.remarks: list[str] = []
        self._file = file
        self._path = path
        self._seconds = seconds
        self._sections = self._find_sections()
        # index of the part that is being read
        self._section_index = 0
        self._part: Part = self._open_part(0)
        self.sampling_rate = self._part.sampling_rate
        self.channels = self._part.channels
        self.frames = self._part.frames
        self.claimed = self._part.claimed
        self.length_for_limits = _length_for_limits(self._part)
        # what has not been returned yet of a part that had to be converted to the first one's rate or channels
        self._converted: Samples | None = None
        if len(self._sections) > 1:
            self._add_later_parts()

    def _find_sections(self) -> list[Section]:
        """The sections of the file, one for each part; raises HAFMAudioError if it is too large to be searched."""
        try:
            return find_sections(self._file)
        except TooLargeError as error:
            raise HAFMAudioError(f"{self.name} holds {error}; cut it first.") from error

    def _open_part(self, section_index: int) -> Part:
        """Opens the part with this index, by libsndfile or else by ffmpeg; raises HAFMAudioError if neither can."""
        try:
            part = SndfilePart(self._file, self._sections[section_index], self.name)
        except (soundfile.LibsndfileError, TypeError, ValueError) as error:
            path = None
            # a file of a single part need not be copied for ffmpeg
            if len(self._sections) == 1:
                file = self._file
                path = self._path
            else:
                file = io.BufferedReader(SectionFile(self._file, self._sections[section_index]))
            file_format = ffmpeg.recognised(read_at(file, 0, ffmpeg.MAGIC_BYTES))
            if file_format is None:
                raise not_audio(self.name) from error
            return ffmpeg.FFmpegSound(file, path, file_format, self.name, self._seconds)
        # libsndfile reads other formats too, but each parser is attack surface
        if part.format not in FORMATS:
            part.close()
            raise not_audio(self.name)
        return part

    def _add_later_parts(self) -> None:
        """Adds the lengths of the parts after the first to `frames`, `claimed` and `length_for_limits`.

        Sections that are no sound are left out. `remarks` reports these, and that sounds are joined.

        Raises:
            HAFMAudioError: more than `MAX_SOUNDS` sections.
        """
        if len(self._sections) > MAX_SOUNDS:
            raise HAFMAudioError(
                f"{self.name} holds {len(self._sections)} sounds; HAFM reads at most {MAX_SOUNDS} of a file."
            )
        kept = self._sections[:1]
        for section_index in range(1, len(self._sections)):
            try:
                part = self._open_part(section_index)
            except HAFMAudioError:
                size = sum(end - start for start, end in self._sections[section_index].extents)
                self.remarks.append(f"{self.name} holds {size} bytes that are no sound; they are left out.")
                continue
            kept.append(self._sections[section_index])
            scale = self.sampling_rate / part.sampling_rate
            self.frames = _added(self.frames, part.frames, scale)
            self.claimed = _added(self.claimed, part.claimed, scale)
            self.length_for_limits = _added(self.length_for_limits, _length_for_limits(part), scale)
            part.close()
        self._sections = kept
        if len(kept) > 1:
            self.remarks.append(f"{self.name} holds {len(kept)} sounds, one after another; they are joined.")

    def rewind(self) -> None:
        """Goes back to the start."""
        self._part.close()
        self._section_index = 0
        self._part = self._open_part(0)
        self._converted = None

    def read_into(self, out: Samples) -> int:
        """Reads up to n frames into `out` (float32 [n, channels]); returns their number, below n only at the end.

        Raises:
            HAFMAudioError: the sound cannot be decoded.
        """
        done = 0
        while done < len(out):
            done += self._read_part(out[done:])
            if done == len(out) or self._section_index + 1 == len(self._sections):
                break
            self._section_index += 1
            self._part.close()
            self._part = self._open_part(self._section_index)
            self._converted = None
        # a part that ffmpeg decodes knows only at its end what its header claims; no sum is known for several parts
        if done < len(out) and len(self._sections) == 1 and isinstance(self._part, ffmpeg.FFmpegSound):
            self.claimed = self._part.claimed
        return done

    def _read_part(self, out: Samples) -> int:
        """Reads up to n frames of the current part, converted to the rate and channels of the first, into `out`.

        Args:
            out: float32 [n, channels], changed in place.

        Returns:
            The number of frames read, below n only at the end of the part.
        """
        part = self._part
        if part.sampling_rate == self.sampling_rate and part.channels == self.channels:
            return part.read_into(out)
        if self._converted is None:
            # as a whole: pieces resampled one by one would not fit together
            sound = with_channels(_read_all(part, part.frames), self.channels)
            resampled = resample(np.ascontiguousarray(sound), part.sampling_rate, self.sampling_rate)
            self._converted = resampled.reshape(len(resampled), self.channels)
        block = self._converted[: len(out)]
        self._converted = self._converted[len(out) :]
        out[: len(block)] = block
        return len(block)

    def skip(self, frames: int) -> None:
        """Moves to frame `frames`, at most to the end; the sound must still be at its start."""
        if len(self._sections) == 1 and isinstance(self._part, SndfilePart):
            self._part.seek(frames)
            return
        # neither ffmpeg nor joined sounds can seek: what is skipped is decoded
        block = np.empty((min(frames, _BLOCK_FRAMES), self.channels), dtype=np.float32)
        while frames > 0 and (count := self.read_into(block[:frames])):
            frames -= count

    def read(self, frames: int | None = None) -> Samples:
        """Reads the next `frames` frames, or fewer at the end; all that remain if None: float32 [frames, channels].

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
        """Number of frames of the sound, which must still be at its start.

        If the headers do not state it, the sound is decoded to its end to count them, and then rewound.
        """
        if self.frames is None:
            block = np.empty((_BLOCK_FRAMES // self.channels, self.channels), dtype=np.float32)
            self.frames = 0
            while count := self.read_into(block):
                self.frames += count
            self.rewind()
        return self.frames

    def tags(self) -> dict[str, str]:
        """Title, artist, licence and so on of the part that is being read (at first the file's first one).

        Empty if ffmpeg decodes that part.
        """
        if isinstance(self._part, SndfilePart):
            return self._part.tags()
        return {}

    def close(self) -> None:
        """Ends the decoder."""
        self._part.close()


def _length_for_limits(part: Part) -> int | None:
    """The number of frames of a part that counts for limits before it is decoded; None if it is not known."""
    if isinstance(part, SndfilePart) and part.format in COMPRESSED:
        return part.claimed
    return part.frames


def _added(frames: int | None, others: int | None, scale: float) -> int | None:
    """The sum of two lengths in frames, the second of them scaled to the rate of the first; None if one is unknown."""
    if frames is None or others is None:
        return None
    return frames + round(others * scale)


def _read_all(source: "Part | Sound", expected: int | None, most: int | None = None) -> Samples:
    """Reads a sound to its end.

    Args:
        source: the open sound, read from its current position on.
        expected: number of frames that the sound should have, and at which reading stops; None if it is not known.
        most: largest number of frames to read; None for no limit.

    Returns:
        float32 [frames, channels].
    """
    # a length that a header overstates costs no memory: pages that are never written are never allocated
    first_length = _BLOCK_FRAMES
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
        seconds: ffmpeg decodes at most this many seconds of each sound in the file.

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
            # file objects without the method can be sought in
            can_seek = getattr(file, "seekable", lambda: True)
            if not can_seek():
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
    """Raises HAFMAudioError unless `path` is a readable file that is not empty.

    A pipe, or another file that is not a regular one, may still be empty.

    Args:
        path: the file.
        name: what to call it in the message that it is empty.
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
