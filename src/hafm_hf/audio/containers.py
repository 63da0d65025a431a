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
# bytes that are searched at a time in other files
BLOCK = 1 << 20
# bytes in which the first frame of an MP3 must begin: a cut file begins inside a frame, a recorded stream perhaps with
# other bytes
CUT_BYTES = 1 << 16
# fewer bytes than these after a sound are padding
LEAST_BYTES = 64


class TooLargeError(Exception):
    """A file that is too large to be searched; the message says how large it may be."""


@dataclass(frozen=True)
class Section:
    """One sound in a file.

    Attributes:
        extents: ranges of bytes (start, end) in the file.
        head: bytes to read before them, such as a corrected header.
        claimed: length that the sound's original header claims, divided by the actual length; 1 if it claims none.
        missing: samples per channel that the original header claims beyond the actual ones, where the difference is
            known exactly (else 0); negative if there are more than it claims.
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
        """Fills `buffer`, at most to the end of the head or of the current extent.

        Returns:
            The number of bytes read, 0 at the end of the section.
        """
        # 0 for the section's head, n + 1 for its extent n
        part = bisect_right(self._ends, self._position)
        if part == len(self._ends):
            return 0
        left = self._ends[part] - self._position
        count = min(len(buffer), left)
        if part == 0:
            block = self._section.head[self._position : self._position + count]
        else:
            extent_end = self._section.extents[part - 1][1]
            block = read_at(self._file, extent_end - left, count)
        buffer[: len(block)] = block
        self._position += len(block)
        return len(block)


def find_sections(file: BinaryIO) -> list[Section]:
    """The sounds in a file, in order; the whole file as a single section if its format is not among those searched.

    Raises:
        TooLargeError: MP3 or Ogg of more than `MAX_SEARCHED_BYTES`.
        OSError: the file cannot be read.
    """
    size = file.seek(0, io.SEEK_END)
    whole = [Section(((0, size),))]
    start = after_id3(read_at(file, 0, 10))
    magic = read_at(file, start, 16)
    layout = next((layout for layout in LAYOUTS if layout.begins(magic)), None)
    is_au = magic.startswith(b".snd")
    is_mpeg4 = magic[4:8] == b"ftyp"
    if start > 0 and (layout is not None or is_au or is_mpeg4):
        # these formats have no ID3 tag before them; the decoders may know what to do with one
        return whole
    if layout is not None:
        return list(_chunked_sounds(file, size, layout))
    if is_au:
        return list(_au_sounds(file, size)) or whole
    if is_mpeg4:
        return _mpeg4_files(file, size)
    if magic.startswith(b"fLaC"):
        return _flac_streams(file, start, size)
    if magic.startswith(b"OggS"):
        return _ogg_links(_read_whole(file, size)) or whole
    # neither an ID3 tag nor MP3 frames near the beginning: another format, which is not searched
    if start == 0 and mpeg_audio.first_frame(read_at(file, 0, CUT_BYTES), 0) is None:
        return whole
    sounds = mpeg_audio.find_sounds(_read_whole(file, size), start)
    return [Section(sound.extents, sound.head, missing=sound.missing) for sound in sounds] or whole


def read_at(file: BinaryIO, start: int, size: int) -> bytes:
    """Up to `size` bytes of a file from byte `start` on; none if `size` is negative, as a wrong header can make it."""
    file.seek(start)
    return file.read(max(size, 0))


def after_id3(head: bytes) -> int:
    """Length in bytes of the ID3v2 tag that begins with these ten bytes; 0 if they are something else."""
    return mpeg_audio.id3_length(head, 0)


def _read_whole(file: BinaryIO, size: int) -> bytes:
    """All `size` bytes of a file; raises TooLargeError if they are more than `MAX_SEARCHED_BYTES`."""
    if size > MAX_SEARCHED_BYTES:
        raise TooLargeError(f"{size / 1e6:.0f} MB of compressed sound; the limit is {MAX_SEARCHED_BYTES / 1e6:.0f} MB")
    return read_at(file, 0, size)


# first bytes of sound files, whatever their names; of files with "ftyp" only some brands, since pictures have it, too
SOUNDS = re.compile(
    rb"(?:RIFF|RIFX|RF64|BW64)....WAVE|FORM....AIF[FC]|riff\x2e\x91\xcf\x11|caff\x00\x01|\.snd\x00\x00|fLaC|OggS|ID3[\x02-\x04]"
    rb"|....ftyp(?:M4A|M4B|mp4|iso|3gp|3g2|qt)|#!AMR|\x1a\x45\xdf\xa3|\x30\x26\xb2\x75\x8e\x66\xcf\x11",
    re.DOTALL,
)


def begins_like_sound(content: bytes) -> bool:
    """Whether these first bytes of a file (up to `CUT_BYTES`) are those of a sound."""
    if SOUNDS.match(content):
        return True
    # MPEG audio without a tag begins with a frame
    return content[:1] == b"\xff" and mpeg_audio.first_frame(content, 0) == 0


@dataclass(frozen=True)
class Layout:
    """A file format that consists of chunks, each with a header of an identifier and a size.

    Attributes:
        magic: matches the first bytes of a file.
        head: number of bytes before the first chunk.
        size: struct format of the size field in a chunk's header.
        data: identifier of the chunk with the samples.
        padding: a chunk, its header included, is padded to a multiple of this many bytes.
        counted: bytes of its own header that a chunk's size includes.
    """

    magic: re.Pattern[bytes]
    head: int
    size: str
    data: bytes
    padding: int
    counted: int = 0

    def begins(self, content: bytes) -> bool:
        """Whether a file of this format may begin with these bytes."""
        return self.magic.match(content) is not None

    @property
    def overhead(self) -> int:
        """Length in bytes of a chunk's header."""
        return len(self.data) + struct.calcsize(self.size)

    def chunk(self, file: BinaryIO, start: int) -> tuple[bytes, int]:
        """The chunk whose header is at byte `start` of a file.

        Returns:
            Its identifier, and the stated number of bytes after its header, negative if the header is wrong; (b"", 0)
            if the file ends before or in the header.
        """
        header = read_at(file, start, self.overhead)
        if len(header) < self.overhead:
            return b"", 0
        name = header[: len(self.data)]
        (stated,) = struct.unpack(self.size, header[len(name) :])
        return name, stated - self.counted

    def padded_size(self, length: int) -> int:
        """Bytes from the start of a chunk to that of the next one, for `length` bytes after the chunk's header."""
        unpadded = self.overhead + length
        return unpadded + -unpadded % self.padding


# the formats; W64 identifiers have 16 bytes
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
# by the length of a size field in bytes: from this value on, the size is unknown, as of sound that was written to a
# pipe (SoX, arecord, FFmpeg)
UNKNOWN_SIZES = {4: 0x7FFF_0000, 8: 1 << 48}
# where the first chunk of an RF64 or BW64 file (ds64) states, in 64 bits each, the size of the file and of its samples
DS64_SIZES = 20


def _chunked_sounds(file: BinaryIO, size: int, layout: Layout) -> Iterator[Section]:
    """The sounds in a file (of `size` bytes) that holds one or more WAV, AIFF, CAF or W64 files, one after another.

    A sound whose header states a wrong size of its samples gets a corrected header as `head`.
    """
    start = 0
    while start < size:
        data_chunk = _find_data_chunk(file, start + layout.head, size, layout)
        if data_chunk is None:
            yield Section(((start, size),))
            return
        # of the samples
        first_byte = data_chunk + layout.overhead
        stated_size = _stated_size(file, start, data_chunk, layout)
        end, following = _end_of_data(file, first_byte, stated_size, size, layout)
        size_there = max(end - first_byte, 0)
        if stated_size == size_there:
            # bytes after the samples, if not more than a file's header, hold nothing to read, and libsndfile stumbles
            # over the start of such a header
            section_end = end if following - end <= layout.head else following
            yield Section(((start, section_end),))
        else:
            head = _corrected_head(read_at(file, start, first_byte - start), size_there, layout)
            claimed = 1.0
            if stated_size and size_there:
                claimed = stated_size / size_there
            yield Section(((first_byte, end),), head, claimed)
        start = following


def _find_data_chunk(file: BinaryIO, start: int, size: int, layout: Layout) -> int | None:
    """Finds the chunk with the samples in a file of `size` bytes, chunk by chunk from the one at byte `start` on.

    Returns:
        The byte at which it begins; None if there is no such chunk.
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
    """The size in bytes that a sound's header states for its samples; None if it states none, or a placeholder.

    Args:
        file, layout: the file and its format.
        start: byte of the file at which the sound begins.
        data_chunk: byte of the file at which the chunk with the sound's samples begins.
    """
    if read_at(file, start, 4) in (b"RF64", b"BW64"):
        # 0 if the file ends before the field
        sizes = read_at(file, start + DS64_SIZES, 16).ljust(16, b"\0")
        _, samples_size = struct.unpack("<QQ", sizes)
        return samples_size or None
    _, chunk_size = layout.chunk(file, data_chunk)
    if 0 < chunk_size < UNKNOWN_SIZES[struct.calcsize(layout.size)]:
        return chunk_size
    return None


def _end_of_data(file: BinaryIO, first: int, stated: int | None, size: int, layout: Layout) -> tuple[int, int]:
    """Finds the end of the samples of a sound.

    Args:
        file, layout: the file and its format.
        first: byte of the file at which the samples begin.
        stated: their size in bytes by the header; None if it is unknown.
        size: of the file in bytes.

    Returns:
        The byte at which the samples end, and the one at which the next sound begins, or else the file ends.
    """
    if stated is None:
        # other chunks follow directly: there are no samples
        chunks_end = _end_of_chunks(file, first, size, layout)
        if chunks_end > first:
            return first, chunks_end
        end = _find_sound(file, first, size, layout.magic)
        return end, end
    end = first + stated
    # no seeking beyond the end of the file: the system refuses positions as large as 64-bit sizes can be
    if end >= size:
        return size, size
    # where chunks or another sound may follow; some writers leave the padding out
    candidates = [end]
    padded_end = first - layout.overhead + layout.padded_size(stated)
    if padded_end != end:
        candidates.append(padded_end)
    # few bytes are no sound, unless they are the header of an empty one, which libsndfile would stumble over
    another_begins = any(layout.begins(read_at(file, candidate, 16)) for candidate in candidates)
    if size - end < LEAST_BYTES and not another_begins:
        return end, size
    for candidate in candidates:
        following = _end_of_chunks(file, candidate, size, layout)
        if following > candidate or layout.begins(read_at(file, candidate, 16)):
            return end, following
    # neither chunks nor another sound follow: the samples go on beyond the stated size
    end = _find_sound(file, end, size, layout.magic)
    return end, end


def _end_of_chunks(file: BinaryIO, start: int, size: int, layout: Layout) -> int:
    """Where the chunks from byte `start` on end in a file of `size` bytes: at another sound, or at the file's end.

    The result is `start` if there is no chunk, that is, no printable identifier with a size that fits into the file.
    """
    position = start
    while size - position >= layout.overhead:
        if layout.begins(read_at(file, position, 16)):
            return position
        name, length = layout.chunk(file, position)
        # the longer identifiers of W64, too, begin with four letters
        is_name = name[:4].isascii() and name[:4].decode("ascii", "replace").isprintable()
        if not is_name or length < 0 or position + layout.overhead + length > size:
            break
        position += layout.padded_size(length)
    if position == start:
        return start
    # bytes after chunks that are no chunk are no sound either
    return size


def _find_sound(file: BinaryIO, start: int, size: int, magic: re.Pattern[bytes]) -> int:
    """The first byte from `start` on at which `magic` matches the start of a sound; `size`, the file's, if none."""
    while start < size:
        # 16 bytes more: a match may begin in one block and end in the next
        next_file = magic.search(read_at(file, start, BLOCK + 16))
        if next_file is not None:
            return start + next_file.start()
        start += BLOCK
    return size


def _corrected_head(head: bytes, size: int, layout: Layout) -> bytes:
    """The bytes of a sound up to its samples, with the actual size of the samples.

    Args:
        head: these bytes; the last field is the size in the header of the samples' chunk.
        size: the samples' actual size in bytes; one that the field cannot hold becomes the largest that it can.
        layout: the sound's format.
    """
    field_bytes = struct.calcsize(layout.size)
    bits = 8 * field_bytes
    # struct's lower-case codes are signed
    if layout.size.islower():
        bits -= 1
    largest_size = (1 << bits) - 1
    head = head[:-field_bytes] + struct.pack(layout.size, min(size + layout.counted, largest_size))
    # as RF64, the sound would still have the wrong size of the chunk ds64
    if head[:4] in (b"RF64", b"BW64"):
        return b"RIFF" + head[4:]
    return head


# first bytes of an AU file: magic number, offset of the samples, their size and encoding
AU = re.compile(rb"\.snd\x00\x00......\x00\x00\x00[\x01-\x1b]", re.DOTALL)
# length of its header in bytes, and the size that stands for an unknown one
AU_HEADER = 24
AU_UNKNOWN = 0xFFFF_FFFF


def _au_sounds(file: BinaryIO, size: int) -> Iterator[Section]:
    """The sounds in a file (of `size` bytes) that holds one or more AU files, one after another.

    A sound ends where the next AU header begins, which is first looked for where the stated size ends.
    """
    start = 0
    while size - start > AU_HEADER:
        head = read_at(file, start, AU_HEADER)
        # of the samples: distance from the start of the header, and size in bytes
        offset, stated = struct.unpack(">II", head[4:12])
        # in a damaged header, the samples may begin inside of it
        first = start + max(offset, AU_HEADER)
        end = first + stated
        if stated == AU_UNKNOWN:
            end = _find_sound(file, min(first, size), size, AU)
        elif not AU.match(read_at(file, end, AU_HEADER)):
            end = _find_sound(file, min(end, size), size, AU)
        size_there = max(end - first, 0)
        # given an unknown size, libsndfile reads to the end of the section
        head = head[:8] + struct.pack(">I", AU_UNKNOWN) + head[12:]
        claimed = 1.0
        if 0 < stated < AU_UNKNOWN and size_there:
            claimed = stated / size_there
        yield Section(((start + AU_HEADER, end),), head, claimed)
        start = end


# bytes of a page before the lengths of its segments; flag of a stream's first page; sample of a page on which no
# packet ends
OGG_HEADER = 27
OGG_FIRST_PAGE = 2
OGG_NO_SAMPLE = -1


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
        # byte 5: flags; 6 to 13: number of samples up to the page's end; 26: number of segments
        header = data[page : page + OGG_HEADER]
        lengths = data[page + OGG_HEADER : page + OGG_HEADER + header[26]]
        end = min(page + OGG_HEADER + len(lengths) + sum(lengths), len(data))
        sample = int.from_bytes(header[6:14], "little", signed=True)
        begins_stream = bool(header[5] & OGG_FIRST_PAGE)
        if begins_stream and not opening:
            links.append(Section(((page, end),)))
            latest = 0
        opening = begins_stream
        # libsndfile takes the last page's sample for the length, even if it lies before those of other pages
        if links and (sample >= latest or sample == OGG_NO_SAMPLE):
            latest = max(latest, sample)
            links[-1] = Section(((links[-1].extents[0][0], end),))
        page = data.find(b"OggS", end)
    return links


def _mpeg4_files(file: BinaryIO, size: int) -> list[Section]:
    """Splits MP4 files that are joined end to end, `size` bytes in all: each begins with a box of the type ftyp."""
    starts = []
    position = 0
    while position < size:
        # of a box: its length (4 bytes), type (4), and perhaps a longer length (8)
        header = read_at(file, position, 16)
        if header[4:8] == b"ftyp":
            starts.append(position)
        length = int.from_bytes(header[:4], "big")
        # 1: the length is in the next eight bytes
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        # 0: the box reaches to the end of the file; 2 to 7: it is damaged
        if length < 8:
            break
        position += length
    return [Section((extent,)) for extent in zip(starts, [*starts[1:], size], strict=True)]


# marker of a stream, then the header of its first metadata block (STREAMINFO, 34 bytes), which may be the only one
FLAC_STREAM = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
# bytes of the marker "fLaC", of that block's header, and of the block (RFC 9639, 8.2)
FLAC_HEADER = 4 + 4 + 34
# sync code at the start of a frame
FLAC_FRAME = re.compile(rb"\xff[\xf8\xf9]")
# bytes of the two longest frames: 65,535 samples of eight channels each
FLAC_TAIL = 1 << 22
# the lowest bits of 8 bytes of STREAMINFO: the number of samples
FLAC_SAMPLES_MASK = (1 << 36) - 1
# bytes at a header's end that give the sampling rate, by its code; 0 for other codes
FLAC_RATE_BYTES = {12: 1, 13: 2, 14: 2}
# samples of a frame by the code in its header; 6 and 7 stand for a number at the header's end
FLAC_SIZES = {1: 192, **{code: 576 << code - 2 for code in range(2, 6)}, **{code: 1 << code for code in range(8, 16)}}


def _flac_streams(file: BinaryIO, start: int, size: int) -> list[Section]:
    """The FLAC streams in a file of `size` bytes, searched from byte `start` on."""
    starts: list[int] = []
    for position in range(start, size, BLOCK):
        # 8 bytes more: the start of a stream may lie across two blocks
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

    Its header is corrected if the stated number of samples does not end in the last frame.
    """
    # bytes 8 and 9: smallest block size; 18 to 25: sampling rate, channels, bits per sample, number of samples
    head = read_at(file, start, FLAC_HEADER)
    packed = int.from_bytes(head[18:26], "big")
    stated_samples = packed & FLAC_SAMPLES_MASK
    first_frame = start + FLAC_HEADER
    tail = read_at(file, max(first_frame, end - FLAC_TAIL), min(end - first_frame, FLAC_TAIL))
    block_size = int.from_bytes(head[8:10], "big")
    # up to the start of the last frame, and up to its end
    samples_before, actual_samples = _last_flac_frame(tail, block_size)
    # the header is right, or there is no frame to compare it with
    if samples_before < stated_samples <= actual_samples or actual_samples == 0:
        return Section(((start, end),))
    corrected = head[:18] + (packed + actual_samples - stated_samples).to_bytes(8, "big") + head[26:]
    # a stated number of 0 is an unknown one
    missing = 0
    if stated_samples:
        missing = stated_samples - actual_samples
    return Section(((first_frame, end),), corrected, missing=missing)


def _last_flac_frame(tail: bytes, block_size: int) -> tuple[int, int]:
    """Finds the last frame in the last bytes of a FLAC stream.

    Args:
        tail: the last bytes.
        block_size: samples per frame, in streams whose frames all have the same number.

    Returns:
        The frame's first sample, and the one after its last, counted from the start of the stream; zeros if there is
        no frame.
    """
    last = (0, 0)
    # where the candidates so far end, in samples; 0 for the first frame
    ends = {0}
    for sync_code in FLAC_FRAME.finditer(tail):
        # a frame of silence may be shorter than the longest header
        header = tail[sync_code.start() : sync_code.start() + 16].ljust(16, b"\0")
        first, following = _read_flac_header(header, block_size)
        # only a frame that follows another: bytes may look like a header by chance
        if first in ends and following > first:
            last = (first, following)
        ends.add(following)
    return last


def _read_flac_header(header: bytes, block_size: int) -> tuple[int, int]:
    """Reads the header of a FLAC frame (RFC 9639, 9.1).

    Args:
        header: 16 bytes from a frame's sync code on.
        block_size: samples per frame, for headers that give the number of the frame instead of that of its first
            sample.

    Returns:
        The first sample of the frame, and of the next; zeros if the bytes are no header.
    """
    # number of the frame or of its first sample, coded like a character of UTF-8: the first byte begins with as many
    # ones as there are bytes, up to seven, or with 0 if it is the only one
    ones = 8 - (~header[4] & 0xFF).bit_length()
    # no character begins like that
    if ones == 1 or ones == 8:
        return 0, 0
    # the first byte's lowest bits, and six bits of each further byte
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
    # an unusual sampling rate follows, in kHz, Hz or tens of Hz
    rate_code = header[2] & 0xF
    position += FLAC_RATE_BYTES.get(rate_code, 0)
    # then the checksum
    if not samples or _crc8(header[:position]) != header[position]:
        return 0, 0
    # bit 0: frames differ in size, so the number is that of the first sample
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
