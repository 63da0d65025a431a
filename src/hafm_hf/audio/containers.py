# SPDX-License-Identifier: Apache-2.0
"""What the bytes of a sound file hold, whatever its header claims.

libsndfile believes headers: it stops where an MP3's first frame suggests, where a recorder that was killed has left a
size of 0, and where the first of several sounds ends. `find_sections` compares the header with the bytes that are
there and returns one `Section` for each sound, with a corrected header where its own is wrong. Nothing is decoded.
mpeg_audio.py does this for MP3, this file for WAV, RF64, W64, AIFF, CAF, AU, Ogg (RFC 3533), FLAC (RFC 9639) and MP4.
"""

import io
import itertools
import re
import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from . import mpeg_audio

# compressed sound is searched in memory; this is three hours at the highest bit rate of MP3
MAX_SEARCHED_BYTES = 1 << 29
BLOCK = 1 << 20
# a cut MP3 begins in the middle of a frame, a stream that was recorded perhaps with other bytes
CUT_BYTES = 1 << 16
# fewer bytes after a sound are padding
LEAST_BYTES = 64


class TooLargeError(Exception):
    """A file that is too large to be searched; the message says how large it may be."""


@dataclass(frozen=True)
class Section:
    """One sound in a file.

    Attributes:
        extents: ranges of bytes (start, end) in the file.
        head: bytes in front of them, such as a corrected header.
        claimed: length that the sound's own header claims, as a multiple of what is there; 1 if it claims none.
        missing: samples that it claims beyond what is there, if that is known exactly; negative if there are more.
    """

    extents: tuple[tuple[int, int], ...]
    head: bytes = b""
    claimed: float = 1.0
    missing: int = 0


class SectionFile(io.RawIOBase):
    """A section as a file of its own. Reading it moves `file`, so sections are read one after another."""

    def __init__(self, file: BinaryIO, section: Section) -> None:
        self._file = file
        self._section = section
        # where the head and each extent end, in bytes of the section
        self._ends = list(itertools.accumulate([len(section.head), *(end - start for start, end in section.extents)]))
        self._position = 0

    def readable(self) -> bool:
        """Returns True."""
        return True

    def seekable(self) -> bool:
        """Returns True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to byte `offset` of the section, counted as `whence` says (`io`); returns the new position."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._ends[-1]}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def tell(self) -> int:
        """The current byte of the section."""
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fills `buffer`, at most to the end of the current extent; returns the number of bytes read, 0 at the end."""
        # 0 is the section's own head, n its extent n - 1
        extent = bisect_right(self._ends, self._position)
        if extent == len(self._ends):
            return 0
        left = self._ends[extent] - self._position
        count = min(len(buffer), left)
        if extent == 0:
            block = self._section.head[self._position : self._position + count]
        else:
            extent_end = self._section.extents[extent - 1][1]
            block = read_at(self._file, extent_end - left, count)
        buffer[: len(block)] = block
        self._position += len(block)
        return len(block)


def find_sections(file: BinaryIO) -> list[Section]:
    """The sounds in a file, in their order; a single section of the whole file if its format is none of these.

    Raises:
        TooLargeError: MP3 or Ogg of more than `MAX_SEARCHED_BYTES`.
        OSError: the file cannot be read.
    """
    size = file.seek(0, io.SEEK_END)
    whole = [Section(((0, size),))]
    start = after_id3(read_at(file, 0, 10))
    magic = read_at(file, start, 16)
    layout = next((layout for layout in LAYOUTS if layout.begins(magic)), None)
    if layout is not None:
        # behind an ID3 tag, libsndfile's own reading stands
        if start == 0:
            return list(_chunked_sounds(file, size, layout))
        return whole
    if magic.startswith(b".snd"):
        return list(_au_sounds(file, size)) or whole
    if magic.startswith(b"fLaC"):
        return _flac_streams(file, start, size)
    if magic.startswith(b"OggS"):
        return _ogg_links(_searched(file, size)) or whole
    if magic[4:8] == b"ftyp":
        return _mpeg4_files(file, size)
    # neither an ID3 tag nor frames of MP3 near the begin: another format, which is not searched
    if start == 0 and mpeg_audio.first_frame(read_at(file, 0, CUT_BYTES), 0) is None:
        return whole
    sounds = mpeg_audio.find_sounds(_searched(file, size), start)
    return [Section(sound.extents, sound.head, missing=sound.missing) for sound in sounds] or whole


def read_at(file: BinaryIO, start: int, size: int) -> bytes:
    """Up to `size` bytes of a file from byte `start` on; none if the size is negative, as by a header that lies."""
    file.seek(start)
    return file.read(max(size, 0))


def after_id3(head: bytes) -> int:
    """Length of the ID3v2 tag that begins with these ten bytes; 0 if they are something else."""
    return mpeg_audio.id3_length(head, 0)


def _searched(file: BinaryIO, size: int) -> bytes:
    """All bytes of a file of `size`; raises TooLargeError."""
    if size > MAX_SEARCHED_BYTES:
        raise TooLargeError(f"{size / 1e6:.0f} MB of compressed sound; the limit is {MAX_SEARCHED_BYTES / 1e6:.0f} MB")
    return read_at(file, 0, size)


# begins of files that are sounds whatever their names; pictures, too, begin with "ftyp"
SOUNDS = re.compile(
    rb"(?:RIFF|RIFX|RF64|BW64)....WAVE|FORM....AIF[FC]|riff\x2e\x91\xcf\x11|caff\x00\x01|\.snd\x00\x00|fLaC|OggS|ID3[\x02-\x04]"
    rb"|....ftyp(?:M4A|M4B|mp4|iso|3gp|3g2|qt)|#!AMR|\x1a\x45\xdf\xa3|\x30\x26\xb2\x75\x8e\x66\xcf\x11",
    re.DOTALL,
)


def begins_like_sound(content: bytes) -> bool:
    """Whether these first bytes of a file (up to `CUT_BYTES`) are those of a sound."""
    return bool(SOUNDS.match(content)) or (content[:1] == b"\xff" and mpeg_audio.first_frame(content, 0) == 0)


@dataclass(frozen=True)
class Layout:
    """A format of chunks, each with an identifier and a size in front.

    Attributes:
        magic: what a file begins with.
        head: bytes before the first chunk.
        size: struct format of a chunk's size, whose bytes may include `counted` bytes of the chunk's own header.
        data: identifier of the chunk with the samples.
        padding: chunks begin at a multiple of this.
    """

    magic: re.Pattern[bytes]
    head: int
    size: str
    data: bytes
    padding: int
    counted: int = 0

    def begins(self, content: bytes) -> bool:
        """Whether these bytes are the begin of a file."""
        return self.magic.match(content) is not None

    @property
    def overhead(self) -> int:
        """Bytes of a chunk's header."""
        return len(self.data) + struct.calcsize(self.size)

    def chunk(self, file: BinaryIO, start: int) -> tuple[bytes, int]:
        """The chunk whose header is at byte `start` of a file.

        Returns:
            Its identifier, and the bytes that it states to follow its header, negative if it lies; (b"", 0) if the
            file ends before or in the header.
        """
        header = read_at(file, start, self.overhead)
        if len(header) < self.overhead:
            return b"", 0
        name = header[: len(self.data)]
        (stated,) = struct.unpack(self.size, header[len(name) :])
        return name, stated - self.counted

    def padded_size(self, length: int) -> int:
        """Bytes from the begin of a chunk of `length` bytes, its header not counted, to that of the next one."""
        # rounded up
        return -(-(self.overhead + length) // self.padding) * self.padding


WAVE = re.compile(rb"(?:RIFF|RIFX|RF64|BW64)....WAVE", re.DOTALL)
W64 = re.compile(rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb")
W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
LAYOUTS = (
    Layout(re.compile(rb"RIFX....WAVE", re.DOTALL), 12, ">I", b"data", 2),
    Layout(WAVE, 12, "<I", b"data", 2),
    Layout(re.compile(rb"FORM....AIF[FC]", re.DOTALL), 12, ">I", b"SSND", 2),
    Layout(re.compile(rb"caff\x00\x01"), 8, ">q", b"data", 1),
    Layout(W64, 40, "<q", W64_DATA, 8, counted=24),
)
# sizes from here on, of 4 and of 8 bytes, stand for sound that was written to a pipe (SoX, arecord, FFmpeg)
UNKNOWN_SIZES = {4: 0x7FFF_0000, 8: 1 << 48}


def _chunked_sounds(file: BinaryIO, size: int, layout: Layout) -> Iterator[Section]:
    """The sounds in a file (of `size` bytes) that holds one or more WAV, AIFF, CAF or W64 files, one after another.

    A sound whose header states another size than that of its samples gets a corrected header as `head`.
    """
    start = 0
    while start < size:
        data_chunk = _find_chunk(file, start + layout.head, size, layout)
        if data_chunk is None:
            yield Section(((start, size),))
            return
        # first byte of the samples
        first_byte = data_chunk + layout.overhead
        stated_size = _stated_size(file, start, data_chunk, layout)
        end, following = _end_of_data(file, first_byte, stated_size, size, layout)
        size_there = max(end - first_byte, 0)
        if stated_size == size_there:
            # a file's header or less is nothing to read, and libsndfile stumbles over the first bytes of one
            last = end if following - end <= layout.head else following
            yield Section(((start, last),))
        else:
            head = _corrected(read_at(file, start, first_byte - start), size_there, layout)
            claimed = 1.0
            if stated_size and size_there:
                claimed = stated_size / size_there
            yield Section(((first_byte, end),), head, claimed)
        start = following


def _find_chunk(file: BinaryIO, start: int, size: int, layout: Layout) -> int | None:
    """Where the chunk with the samples begins in a file of `size` bytes, whose first chunk is at byte `start`.

    None if there is no such chunk.
    """
    while start < size:
        name, length = layout.chunk(file, start)
        if name == layout.data:
            return start
        if not name or length < 0:
            return None
        start += layout.padded_size(length)
    return None


def _stated_size(file: BinaryIO, start: int, data_chunk: int, layout: Layout) -> int | None:
    """The size of the samples in bytes by the header of their chunk; None if it says that it does not know.

    Args:
        file, layout: the file and its format.
        start: the byte at which the sound begins in the file.
        data_chunk: the byte at which its chunk with the samples begins.
    """
    _, stated = layout.chunk(file, data_chunk)
    if read_at(file, start, 4) in (b"RF64", b"BW64"):
        # the sizes of 64 bits are in the first chunk, ds64, from byte 20 on: of the whole file, of its samples
        _, stated = struct.unpack("<QQ", read_at(file, start + 20, 16).ljust(16, b"\0"))
        return stated or None
    if 0 < stated < UNKNOWN_SIZES[struct.calcsize(layout.size)]:
        return stated
    return None


def _end_of_data(file: BinaryIO, first: int, stated: int | None, size: int, layout: Layout) -> tuple[int, int]:
    """Finds the end of the samples of a sound.

    Args:
        file, layout: the file and its format.
        first: where the samples begin.
        stated: their size in bytes by the chunk's header, if it knows.
        size: of the file.

    Returns:
        Where they end, and where the next sound begins, or else the file ends.
    """
    if stated is None:
        # chunks directly after an empty one: there are no samples
        rest = _after_chunks(file, first, size, layout)
        if rest > first:
            return first, rest
        end = _find_sound(file, first, size, layout.magic)
        return end, end
    end = first + stated
    # not read behind the end of the file, where the system refuses to seek if a header states 64 bits
    if end >= size:
        return size, size
    padded_end = first - layout.overhead + layout.padded_size(stated)
    # padding may be missing; `fromkeys` leaves out the second if it is the first
    ends = dict.fromkeys((end, padded_end))
    # few bytes are no sound, unless they are the header of an empty one, which libsndfile would stumble over
    if size - end < LEAST_BYTES and not any(layout.begins(read_at(file, after, 16)) for after in ends):
        return end, size
    for after in ends:
        following = _after_chunks(file, after, size, layout)
        if following > after or layout.begins(read_at(file, after, 16)):
            return end, following
    # neither chunks nor another sound: the samples go on
    end = _find_sound(file, end, size, layout.magic)
    return end, end


def _after_chunks(file: BinaryIO, start: int, size: int, layout: Layout) -> int:
    """Where the chunks that begin at byte `start` of a file (of `size` bytes) end: at another sound, or at the end.

    It is `start` if there are no chunks, that is, no printable identifiers with sizes that fit into the file.
    """
    position = start
    while size - position >= layout.overhead:
        if layout.begins(read_at(file, position, 16)):
            return position
        name, length = layout.chunk(file, position)
        is_name = name[:4].isascii() and name[:4].decode("ascii", "replace").isprintable()
        if not is_name or length < 0 or position + layout.overhead + length > size:
            break
        position += layout.padded_size(length)
    if position == start:
        return start
    # what follows chunks is not sound
    return size


def _find_sound(file: BinaryIO, start: int, size: int, magic: re.Pattern[bytes]) -> int:
    """The first byte from `start` on at which `magic`, the begin of a sound, matches; `size`, the file's, if none."""
    while start < size:
        # 16 bytes more: it may begin in one block and end in the next
        next_file = magic.search(read_at(file, start, BLOCK + 16))
        if next_file is not None:
            return start + next_file.start()
        start += BLOCK
    return size


def _corrected(head: bytes, size: int, layout: Layout) -> bytes:
    """The bytes of a sound up to its samples (`head`), with the actual size of the samples in bytes (`size`).

    Their last field is the size in the header of the samples' chunk; a size that it cannot hold becomes the largest
    that it can.
    """
    field = struct.calcsize(layout.size)
    # struct's lower-case codes are signed
    if layout.size.islower():
        largest_size = (1 << 8 * field - 1) - 1
    else:
        largest_size = (1 << 8 * field) - 1
    head = head[:-field] + struct.pack(layout.size, min(size + layout.counted, largest_size))
    # otherwise the wrong size would be that of the chunk ds64
    if head[:4] in (b"RF64", b"BW64"):
        return b"RIFF" + head[4:]
    return head


# the begin of an AU file: magic number, offset of the samples, their size and encoding
AU = re.compile(rb"\.snd\x00\x00......\x00\x00\x00[\x01-\x1b]", re.DOTALL)
AU_HEADER = 24
AU_UNKNOWN = 0xFFFF_FFFF


def _au_sounds(file: BinaryIO, size: int) -> Iterator[Section]:
    """The sounds in a file (of `size` bytes) that holds one or more AU files, one after another.

    A sound ends where the next AU header begins, at first sought where the size in its header says.
    """
    start = 0
    while size - start > AU_HEADER:
        head = read_at(file, start, AU_HEADER)
        # of the samples: distance from the begin of the header, and size in bytes
        offset, stated = struct.unpack(">II", head[4:12])
        first = start + offset
        end = first + stated
        if stated == AU_UNKNOWN:
            end = _find_sound(file, min(first, size), size, AU)
        elif not AU.match(read_at(file, end, AU_HEADER)):
            end = _find_sound(file, min(end, size), size, AU)
        size_there = max(end - first, 0)
        # with a size that is not known, libsndfile reads everything
        head = head[:8] + struct.pack(">I", AU_UNKNOWN) + head[12:]
        claimed = 1.0
        if 0 < stated < AU_UNKNOWN and size_there:
            claimed = stated / size_there
        yield Section(((start + AU_HEADER, end),), head, claimed)
        start = end


def _ogg_links(data: bytes) -> list[Section]:
    """The links (sounds one after another) of a chained Ogg file, given as all of its bytes.

    Each begins with the first pages of its streams, and ends with the page that reaches its latest sample.
    """
    links: list[Section] = []
    # the latest sample at which a page of the current link has ended
    latest = 0
    # whether the previous page was the first one of a stream: several such pages begin one link
    opening = False
    page = data.find(b"OggS")
    while 0 <= page <= len(data) - OGG_HEADER:
        # byte 5: flags, 2 for a stream's first page; 6 to 13: sample at the page's end; 26: number of segments
        header = data[page : page + OGG_HEADER]
        lengths = data[page + OGG_HEADER : page + OGG_HEADER + header[26]]
        end = min(page + OGG_HEADER + len(lengths) + sum(lengths), len(data))
        sample = int.from_bytes(header[6:14], "little", signed=True)
        if header[5] & 2 and not opening:
            links.append(Section(((page, end),)))
            latest = 0
        opening = bool(header[5] & 2)
        # libsndfile takes the last page's sample for the length, even if it lies before those of other pages
        if links and (sample >= latest or sample == OGG_NO_SAMPLE):
            latest = max(latest, sample)
            links[-1] = Section(((links[-1].extents[0][0], end),))
        page = data.find(b"OggS", end)
    return links


# bytes of a page before the lengths of its segments; sample of a page on which no packet ends
OGG_HEADER = 27
OGG_NO_SAMPLE = -1


def _mpeg4_files(file: BinaryIO, size: int) -> list[Section]:
    """Splits MP4 files that lie one behind the other, `size` bytes in all: each begins with a box of the type ftyp."""
    starts = []
    position = 0
    while position < size:
        # of a box: its length (4 bytes), type (4), and perhaps a longer length (8)
        header = read_at(file, position, 16)
        if header[4:8] == b"ftyp":
            starts.append(position)
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            # it is in the next eight bytes
            length = int.from_bytes(header[8:16], "big")
        if length < 8:
            # 0: the box reaches to the end of the file; 2 to 7: it is damaged
            break
        position += length
    return [Section((extent,)) for extent in zip(starts, [*starts[1:], size], strict=True)]


# a first metadata block (STREAMINFO, 34 bytes), which may be the last one, too
FLAC_STREAM = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
# bytes of the marker "fLaC", of that block's header, and of the block (RFC 9639, 8.2)
FLAC_HEADER = 4 + 4 + 34
FLAC_FRAME = re.compile(rb"\xff[\xf8\xf9]")
# the longest two frames: 65,535 samples of eight channels each
FLAC_TAIL = 1 << 22
# samples of a frame by the code in its header; 6 and 7 stand for a number at the header's end
FLAC_SIZES = {1: 192, **{code: 576 << code - 2 for code in range(2, 6)}, **{code: 1 << code for code in range(8, 16)}}


def _flac_streams(file: BinaryIO, start: int, size: int) -> list[Section]:
    """The FLAC streams in a file of `size` bytes, of which the first may begin at byte `start`."""
    starts: list[int] = []
    for position in range(start, size, BLOCK):
        # a stream's begin may lie across two blocks
        block = read_at(file, position, BLOCK + 8)
        offset = block.find(b"fLaC")
        while 0 <= offset < BLOCK:
            if FLAC_STREAM.match(block, offset):
                starts.append(position + offset)
            offset = block.find(b"fLaC", offset + 1)
    if not starts:
        return [Section(((0, size),))]
    return [_flac_section(file, *extent) for extent in zip(starts, [*starts[1:], size], strict=True)]


def _flac_section(file: BinaryIO, start: int, end: int) -> Section:
    """The FLAC stream from byte `start` to `end` of a file.

    Its header is corrected if the number of samples that it states does not end in the last frame.
    """
    # from byte 8 the least block size, from byte 18 rate, channels, bits a sample and, in its last 36 bits, the number
    # of samples
    head = read_at(file, start, FLAC_HEADER)
    packed = int.from_bytes(head[18:26], "big")
    stated_samples = packed & (1 << 36) - 1
    first_frame = start + FLAC_HEADER
    tail = read_at(file, max(first_frame, end - FLAC_TAIL), min(end - first_frame, FLAC_TAIL))
    block_size = int.from_bytes(head[8:10], "big")
    # samples before the last frame, and up to its end
    samples_before, actual_samples = _last_flac_frame(tail, block_size)
    # the header is right, or there is no frame to compare it with
    if samples_before < stated_samples <= actual_samples or actual_samples == 0:
        return Section(((start, end),))
    corrected = head[:18] + (packed + actual_samples - stated_samples).to_bytes(8, "big") + head[26:]
    missing = 0
    # 0: the encoder did not know it
    if stated_samples:
        missing = stated_samples - actual_samples
    return Section(((first_frame, end),), corrected, missing=missing)


def _last_flac_frame(tail: bytes, block_size: int) -> tuple[int, int]:
    """Finds the last frame in the last bytes of a FLAC stream.

    Args:
        tail: these bytes.
        block_size: samples of a frame, in streams whose frames all have the same number.

    Returns:
        The frame's first sample, and the one after its last, counted from the begin of the stream; zeros if there is
        no frame.
    """
    last = (0, 0)
    # samples at which a frame that was found ends; 0 for the first frame
    ends = {0}
    for sync_code in FLAC_FRAME.finditer(tail):
        # a frame of silence may be shorter than the longest header
        header = tail[sync_code.start() : sync_code.start() + 16].ljust(16, b"\0")
        first, following = _flac_frame(header, block_size)
        # only frames that follow others: their header may occur by chance
        if first in ends and following > first:
            last = (first, following)
        ends.add(following)
    return last


def _flac_frame(header: bytes, block_size: int) -> tuple[int, int]:
    """Reads the header of a FLAC frame (RFC 9639, 9.1).

    Args:
        header: 16 bytes from a frame's sync code on.
        block_size: samples of a frame, if the header gives the number of the frame instead of its first sample.

    Returns:
        The first sample of the frame, and of the next; zeros if the bytes are no header.
    """
    # frame or sample number, coded like a character of UTF-8, in up to seven bytes: as many as the first begins with
    # ones, or one byte that begins with 0
    ones = 8 - (~header[4] & 0xFF).bit_length()
    # no such character
    if ones == 1 or ones == 8:
        return 0, 0
    # its lowest bits, and six bits of each further byte
    number = header[4] & (0x7F >> ones)
    # of the next byte to read
    position = 5
    for byte in header[5 : 4 + max(ones, 1)]:
        number = (number << 6) | (byte & 0x3F)
        position += 1
    size_code = header[2] >> 4
    samples = FLAC_SIZES.get(size_code, 0)
    # the number of samples less 1 follows, in one or two bytes
    if size_code in (6, 7):
        size_bytes = size_code - 5
        samples = int.from_bytes(header[position : position + size_bytes], "big") + 1
        position += size_bytes
    # a rate that is no usual one follows, in kHz, Hz or tens of Hz
    rate_code = header[2] & 0xF
    position += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    # then the checksum
    if not samples or _crc8(header[:position]) != header[position]:
        return 0, 0
    # bit 0: frames differ in size, so that the number is that of the first sample
    if header[1] & 1:
        first = number
    else:
        first = number * block_size
    return first, first + samples


def _crc8(data: bytes) -> int:
    """The checksum of a FLAC frame's header: CRC-8 of the polynomial x⁸ + x² + x + 1 (RFC 9639, 9.1.8)."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            overflows = crc & 0x80
            crc = crc << 1 & 0xFF
            if overflows:
                # x² + x + 1
                crc ^= 0b111
    return crc
