# SPDX-License-Identifier: Apache-2.0
"""Finds the frames of MPEG audio (MP3 above all), and writes the header that states how many there are.

An MP3 file is a row of frames, each with a header of four bytes that gives its length. A first frame without sound,
written by encoders such as Xing and LAME, may hold a tag that states how many frames follow. Without it, libsndfile
estimates their number from the bit rate of one frame, and reads no further.
Sources: ISO 11172-3, 2.4.2.3 and http://gabriel.mp3-tech.org/mp3infotag.html.
"""

import itertools
import struct
from dataclasses import dataclass, field

# kbit/s of the values of a header's bit-rate field from 1 on, by whether it is MPEG-1, and by layer
LOW_BIT_RATES = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
BIT_RATES = {
    (True, 1): tuple(range(32, 449, 32)),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): LOW_BIT_RATES,
    (False, 3): LOW_BIT_RATES,
}
SAMPLING_RATES = (44_100, 48_000, 32_000)
# how often the sampling rates above are halved, by a header's version field (3: MPEG-1, 2: MPEG-2, 0: MPEG-2.5)
VERSION_SHIFTS = {3: 0, 2: 1, 0: 2}
# this many frames in a row are a sound; fewer may occur in other bytes by chance
FRAMES_TO_TRUST = 3
# names of tags that state the number of frames, and all distances at which they lie from the start of their frame
# (`_tag_offset`)
TAGS = (b"Xing", b"Info", b"VBRI")
TAG_OFFSETS = (36, 21, 13, 38, 23, 15)
# flags in a Xing or Info tag that tell which fields it has: number of frames, number of bytes
FRAMES_FIELD = 1
BYTES_FIELD = 2


# header of a frame, numbers of bits from the highest one: 11 sync, 2 version, 2 layer, 1 no checksum, 4 bit rate,
# 2 sampling rate, 1 padding, 1 private, 2 channel mode (3: mono), 6 others
HEADER = struct.Struct(">I")
# the bits of the header that are equal in all frames of a sound, by the layer field (1: layer III, 2: II, 3: I): sync,
# version, layer and sampling rate, and in layers I and II the bit rate
KIND_MASKS = (0xFFFE_0C00, 0xFFFE_0C00, 0xFFFE_FC00, 0xFFFE_FC00)


@dataclass
class MpegSound:
    """The frames of one sound, which all have the same kind.

    Attributes:
        kind: what the headers of the frames share (`_kind`).
        header: position of the frame with the tag, which states their number; None if there is none.
        extents: ranges of bytes (start, end) of the frames; bytes between them are not MPEG audio.
        frames: number of frames, not counting that of the tag.
        head: bytes to put in front of the frames: an ID3v2 tag, if any, and a frame that states their number.
        missing: samples per channel that the tag states beyond those of the frames; negative if there are more.
        rows: start and end of each row of frames, as they are found; `extents` are made of them.
    """

    kind: int
    header: int | None = None
    extents: "tuple[tuple[int, int], ...]" = ()
    frames: int = 0
    head: bytes = b""
    missing: int = 0
    rows: list[list[int]] = field(default_factory=list)


def _frame_lengths() -> list[int]:
    """Lengths in bytes of frames, by the second and the third byte of their headers.

    Returns:
        65,536 lengths, the index 256 × second + third byte; 0 where these bytes are no header, or that of a frame of
        free format (any bit rate).
    """
    lengths = [0] * (1 << 16)
    for version, layer, bit_rate, rate in itertools.product(VERSION_SHIFTS, (1, 2, 3), range(14), range(3)):
        sampling_rate = SAMPLING_RATES[rate] >> VERSION_SHIFTS[version]
        bits_per_second = 1000 * BIT_RATES[version == 3, layer][bit_rate]
        # bytes of a slot; frames consist of whole slots
        if layer == 1:
            slot = 4
        else:
            slot = 1
        slots = _samples_per_frame(version, layer) // 8 // slot * bits_per_second // sampling_rate
        # the length does not depend on the bits no_checksum and private; with padding there is a slot more
        for no_checksum, padding, private in itertools.product((0, 1), repeat=3):
            second = 0xE0 | (version << 3) | ((4 - layer) << 1) | no_checksum
            third = ((bit_rate + 1) << 4) | (rate << 2) | (padding << 1) | private
            lengths[second << 8 | third] = (slots + padding) * slot
    return lengths


def _samples_per_frame(version: int, layer: int) -> int:
    """Samples per channel of a frame, by its version field (3: MPEG-1, 2: MPEG-2, 0: MPEG-2.5) and layer (1 to 3)."""
    if layer == 1:
        return 384
    if layer == 2 or version == 3:
        return 1152
    return 576


FRAME_LENGTHS = _frame_lengths()


def id3_length(data: bytes, position: int) -> int:
    """Length in bytes of the ID3v2 tag at `position`, its header included; 0 if there is none."""
    header = data[position : position + 10]
    # the last four bytes are the size, seven bits each
    if header[:3] != b"ID3" or len(header) < 10 or max(header[6:]) > 0x7F:
        return 0
    size = 0
    for byte in header[6:]:
        size = size << 7 | byte
    return 10 + size


def find_sounds(data: bytes, start: int = 0) -> list[MpegSound]:
    """The sounds in MPEG audio: a new one begins at a frame with a tag, and where the kind of the frames changes.

    Args:
        data: the bytes of the file.
        start: byte at which to begin, such as after an ID3v2 tag; what precedes it is kept with the first sound.
    """
    tags = _tag_frames(data)
    sounds: list[MpegSound] = []
    # of the latest sound; −1 before the first
    kind = -1
    position = start
    # start and end of the latest row of frames; changed in place, since it is in the sound's `rows`
    row: list[int] = []
    while True:
        if sounds:
            position, count = _follow(data, position, kind, tags)
            sounds[-1].frames += count
            row[1] = position
        # another file may follow, with an ID3v2 tag of its own
        tag_length = id3_length(data, position)
        if tag_length:
            position += tag_length
            continue
        next_frame = first_frame(data, position, kind)
        if next_frame is None:
            break
        position = next_frame
        if position in tags or _kind(data, position) != kind:
            kind = _kind(data, position)
            sounds.append(MpegSound(kind))
        row = [position, position]
        sounds[-1].rows.append(row)
        if position in tags:
            # the row begins after the frame with the tag
            sounds[-1].header = position
            position += _length(data, position)
            row[0] = position
            row[1] = position
    sounds = [sound for sound in sounds if sound.frames]
    for index, sound in enumerate(sounds):
        _finish(data, sound, start if index == 0 else 0)
    return sounds


def first_frame(data: bytes, start: int, kind: int = -1) -> int | None:
    """Finds the next frame; bytes that look like one by chance are passed over.

    A frame must begin a row of `FRAMES_TO_TRUST` frames of one kind, or a shorter row up to the end of the data or to
    an ID3 tag.

    Args:
        data: the bytes of a file.
        start: byte at which to begin.
        kind: kind of the preceding sound (`_kind`), of which two frames are enough; −1 for none.

    Returns:
        The byte at which it begins; None if there is none.
    """
    position = data.find(b"\xff", start)
    while position >= 0:
        # number of frames of one kind that follow one another from here, and where the last of them ends
        count = 0
        end = position
        candidate_kind = _kind(data, position)
        while (length := _length(data, end)) and _kind(data, end) == candidate_kind:
            end += length
            count += 1
            if count == FRAMES_TO_TRUST or end >= len(data):
                break
        # "TAG" and "ID3": an ID3v1 or ID3v2 tag
        ended = end == len(data) or data[end : end + 3] in (b"TAG", b"ID3")
        goes_on = count > 1 and candidate_kind == kind
        if count >= FRAMES_TO_TRUST or goes_on or (count and ended):
            return position
        position = data.find(b"\xff", position + 1)
    return None


def _follow(data: bytes, position: int, kind: int, tags: set[int]) -> tuple[int, int]:
    """Follows a row of frames of one kind that begins at `position`.

    Args:
        data: the bytes of the file.
        position: byte at which the first frame begins.
        kind: of the frames (`_kind`).
        tags: positions of frames with tags, which begin another sound.

    Returns:
        The byte at which the row ends, and the number of its frames.
    """
    # `_kind` is written out here, without a call for each frame: an hour has 140,000
    # all but the bit for mono
    shared_bits = kind & ~0xFF
    mono = kind & 1
    mask = KIND_MASKS[kind >> 17 & 3]
    last = len(data) - HEADER.size
    count = 0
    while position <= last and position not in tags:
        (header,) = HEADER.unpack_from(data, position)
        is_mono = header >> 6 & 3 == 3
        if header & mask != shared_bits or is_mono != mono:
            break
        length = FRAME_LENGTHS[header >> 8 & 0xFFFF]
        if not length or position + length > len(data):
            break
        position += length
        count += 1
    return position, count


def _length(data: bytes, position: int) -> int:
    """Length in bytes of the frame whose header is at `position`; 0 if there is none."""
    if position + HEADER.size > len(data) or data[position] != 0xFF:
        return 0
    return FRAME_LENGTHS[data[position + 1] << 8 | data[position + 2]]


def _kind(data: bytes, position: int) -> int:
    """What the headers of a sound's frames share, as read from the header at `position`; −1 at the end of the data.

    It is the header's bits of sync word, version, layer and sampling rate, with a lowest bit of 1 for mono; in layers
    I and II also those of the bit rate, from which libsndfile computes the length of the sound.
    """
    if position + HEADER.size > len(data):
        return -1
    (header,) = HEADER.unpack_from(data, position)
    layer_field = header >> 17 & 3
    is_mono = header >> 6 & 3 == 3
    return (header & KIND_MASKS[layer_field]) | is_mono


def _tag_frames(data: bytes) -> set[int]:
    """Positions of the frames with a tag instead of sound, which states how many frames follow, in a file's bytes."""
    frames = set()
    for tag in TAGS:
        tag_position = data.find(tag)
        while tag_position >= 0:
            # the offset depends on the frame's header, which lies that far before the tag
            for offset in TAG_OFFSETS:
                position = tag_position - offset
                if position >= 0 and _length(data, position) and _tag_offset(data, position, tag) == offset:
                    frames.add(position)
            tag_position = data.find(tag, tag_position + 1)
    return frames


def _tag_offset(data: bytes, position: int, tag: bytes) -> int:
    """Bytes from the start of a frame of layer III to the place of its tag.

    They hold header, checksum and side information, whose length depends on version and channels; for VBRI they are
    always 36.

    Args:
        data: the bytes of a file.
        position: byte at which the frame begins.
        tag: one of `TAGS`.
    """
    if tag == b"VBRI":
        return 36
    # in a header, bit 3 of byte 1: MPEG-1; bit 0: no checksum; bits 6 and 7 of byte 3: channels
    is_mpeg_1 = data[position + 1] & 8
    mono = data[position + 3] >> 6 == 3
    if is_mpeg_1:
        side_information = 17 if mono else 32
    else:
        side_information = 9 if mono else 17
    checksum = 2
    if data[position + 1] & 1:
        checksum = 0
    return HEADER.size + side_information + checksum


def _finish(data: bytes, sound: MpegSound, id3_bytes: int) -> None:
    """Sets `extents`, `head` and `missing` of a sound whose frames have been found.

    Args:
        data: the bytes of the file.
        sound: changed in place.
        id3_bytes: length of the ID3v2 tag at the start of the file if it belongs to the sound, else 0.
    """
    sound.extents = tuple((first, last) for first, last in sound.rows if last > first)
    layer = 4 - (sound.kind >> 17 & 3)
    # tags that state the number of frames are of layer III
    if layer < 3:
        sound.head = data[:id3_bytes]
        return
    first_header = sound.extents[0][0]
    frame = _silent_frame(data[first_header : first_header + HEADER.size], sound.frames)
    if sound.header is not None:
        tag_frame = data[sound.header : sound.header + _length(data, sound.header)]
        # zeros from the header up to the tag, or libsndfile would take it for a frame with sound
        name = next(name for name in TAGS if name in tag_frame)
        tag_start = tag_frame.find(name)
        silence = bytes(tag_start - HEADER.size)
        tag_frame = tag_frame[: HEADER.size] + silence + tag_frame[tag_start:]
        stated, corrected = _corrected_tag(tag_frame, sound)
        # right as it is: some writers count the tag's own frame, too
        if abs(stated - sound.frames) <= 1:
            corrected = tag_frame
        elif stated:
            sound.missing = (stated - sound.frames) * _samples_per_frame(sound.kind >> 19 & 3, layer)
        # a tag that cannot be corrected is replaced
        frame = corrected or frame
    sound.head = data[:id3_bytes] + frame


def _corrected_tag(tag: bytes, sound: MpegSound) -> tuple[int, bytes]:
    """Corrects the number of frames that a tag states.

    Args:
        tag: the frame with the tag, Xing, Info or VBRI.
        sound: the sound that it belongs to, whose frames have been counted.

    Returns:
        The stated number, 0 if there is none; and the frame with the counted number instead, b"" if it cannot be
        corrected: for VBRI, and for a tag without that field.
    """
    vbri = tag.find(b"VBRI")
    if vbri >= 0:
        # name (4 bytes), version (2), delay (2), quality (2), number of bytes (4), number of frames (4)
        return int.from_bytes(tag[vbri + 14 : vbri + 18], "big"), b""
    # name, flags, number of frames, number of bytes (4 bytes each); `find` gives −1 for the name that is not there
    start = 8 + max(tag.find(b"Xing"), tag.find(b"Info"))
    fields = int.from_bytes(tag[start - 4 : start], "big")
    if not fields & FRAMES_FIELD or len(tag) < start + 8:
        return 0, b""
    stated = int.from_bytes(tag[start : start + 4], "big")
    numbers = struct.pack(">I", sound.frames)
    if fields & BYTES_FIELD:
        total = len(tag) + sum(last - first for first, last in sound.extents)
        numbers += struct.pack(">I", total)
    return stated, tag[:start] + numbers + tag[start + len(numbers) :]


def _silent_frame(header: bytes, frames: int) -> bytes:
    """A frame of layer III without sound, with a tag that states how many frames follow.

    Args:
        header: the header (4 bytes) of one of the frames that follow.
        frames: their number.
    """
    # without checksum, at the bit rate of field 9, whose frames are long enough for the tag
    silent_header = bytes((0xFF, header[1] | 1, 0x90 | header[2] & 0x0C, header[3]))
    tag = b"Info" + struct.pack(">II", FRAMES_FIELD, frames)
    frame = silent_header.ljust(_tag_offset(silent_header, 0, b"Info"), b"\0") + tag
    return frame.ljust(_length(silent_header, 0), b"\0")
