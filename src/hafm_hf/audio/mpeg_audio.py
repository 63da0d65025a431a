# SPDX-License-Identifier: Apache-2.0
"""Finds the frames of MPEG audio (MP3 above all), and writes the header that states how many there are.

An MP3 file is a row of frames, each of which says how many bytes it has; a first frame without sound, by Xing or LAME,
may say how many frames follow. libsndfile estimates that from the bit rate of one frame otherwise, and reads no
further. Sources: ISO 11172-3, 2.4.2.3 and http://gabriel.mp3-tech.org/mp3infotag.html.
"""

import itertools
import struct
from dataclasses import dataclass, field

# kbit/s by whether it is MPEG-1, and layer
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
# the field of the version: MPEG-1, 2 and 2.5, whose sampling rates are whole, half and a quarter
VERSION_SHIFTS = {3: 0, 2: 1, 0: 2}
# frames in a row that make a sound of bytes that may be anything
FRAMES_TO_TRUST = 3
TAGS = (b"Xing", b"Info", b"VBRI")
TAG_OFFSETS = (36, 21, 13, 38, 23, 15)
# in the header of Xing's: which fields there are
FRAMES_FIELD = 1
BYTES_FIELD = 2


HEADER = struct.Struct(">I")
# by the field of the layer, which counts backwards
KIND_MASKS = (0xFFFE_0C00, 0xFFFE_0C00, 0xFFFE_FC00, 0xFFFE_FC00)


@dataclass
class MpegSound:
    """A row of frames of one kind.

    Attributes:
        kind: what the headers of the frames share.
        header: position of the frame with the tag, or None.
        extents: ranges of bytes (start, end) of the frames; bytes between them are none of MPEG audio.
        frames: number of frames, without that of the tag.
        head, missing: as of `containers.Section`.
    """

    kind: int
    header: int | None = None
    extents: "tuple[tuple[int, int], ...]" = ()
    frames: int = 0
    head: bytes = b""
    missing: int = 0
    rows: list[list[int]] = field(default_factory=list)


def _frame_lengths() -> list[int]:
    """Bytes of a frame by the second and the third byte of its header; 0 for what is no header, or of free format."""
    lengths = [0] * (1 << 16)
    for version, layer, index, rate in itertools.product(VERSION_SHIFTS, (1, 2, 3), range(14), range(3)):
        sampling_rate = SAMPLING_RATES[rate] >> VERSION_SHIFTS[version]
        bits = 1000 * BIT_RATES[version == 3, layer][index]
        slot = 4 if layer == 1 else 1
        samples = _samples(version, layer)
        for protected, padding, private in itertools.product((0, 1), repeat=3):
            second = 0xE0 | version << 3 | 4 - layer << 1 | protected
            third = index + 1 << 4 | rate << 2 | padding << 1 | private
            lengths[second << 8 | third] = (samples // 8 // slot * bits // sampling_rate + padding) * slot
    return lengths


def _samples(version: int, layer: int) -> int:
    """Samples of a frame."""
    if layer == 1:
        return 384
    if layer == 2 or version == 3:
        return 1152
    return 576


FRAME_LENGTHS = _frame_lengths()


def id3_length(data: bytes, position: int) -> int:
    """Bytes of the ID3v2 tag at `position`; 0 if there is none."""
    header = data[position : position + 10]
    if header[:3] != b"ID3" or len(header) < 10 or max(header[6:]) > 0x7F:
        return 0
    size = 0
    for byte in header[6:]:
        size = size << 7 | byte
    return 10 + size


def find_sounds(data: bytes, start: int = 0) -> list[MpegSound]:
    """The sounds in MPEG audio: one begins where the kind of the frames changes, or another file begins.

    Args:
        data: the bytes of the file.
        start: where to begin, such as after an ID3v2 tag, which is kept with the first sound.
    """
    tags = _tag_frames(data)
    sounds: list[MpegSound] = []
    kind = -1
    position = start
    # begin and end of the latest frames that follow one another
    row: list[int] = []
    while True:
        if sounds:
            position, count = _follow(data, position, kind, tags)
            sounds[-1].frames += count
            row[1] = position
        skipped = id3_length(data, position)
        if skipped:
            position += skipped
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
            sounds[-1].header = position
            row[0] = row[1] = position = position + _length(data, position)
    sounds = [sound for sound in sounds if sound.frames]
    for number, sound in enumerate(sounds):
        _finish(data, sound, start if number == 0 else 0)
    return sounds


def first_frame(data: bytes, start: int, kind: int = -1) -> int | None:
    """Where the next frame begins that is followed by others of its kind, or by the end; None if there is none.

    Args:
        data: the bytes of a file.
        start: where to begin.
        kind: kind of the sound that may go on; one more frame of it is enough.
    """
    position = data.find(b"\xff", start)
    while position >= 0:
        following = position
        count = 0
        wanted = _kind(data, position)
        while (length := _length(data, following)) and _kind(data, following) == wanted:
            following += length
            count += 1
            if count == FRAMES_TO_TRUST or following >= len(data):
                break
        ended = following == len(data) or data[following : following + 3] in (b"TAG", b"ID3")
        if count >= FRAMES_TO_TRUST or (count and (ended or (count > 1 and wanted == kind))):
            return position
        position = data.find(b"\xff", position + 1)
    return None


def _follow(data: bytes, position: int, kind: int, tags: set[int]) -> tuple[int, int]:
    """Follows a row of frames that begins at `position`; an hour has 140,000.

    Args:
        data: the bytes of the file.
        position: where the first frame begins.
        kind: of the frames (`_kind`).
        tags: positions of frames with tags, which begin another sound.

    Returns:
        Where the row ends, and the number of its frames.
    """
    wanted = kind >> 8 << 8
    mono = kind & 1
    mask = KIND_MASKS[kind >> 17 & 3]
    last = len(data) - 4
    count = 0
    while position <= last and position not in tags:
        (header,) = HEADER.unpack_from(data, position)
        if header & mask != wanted or (header >> 6 & 3 == 3) != mono:
            break
        length = FRAME_LENGTHS[header >> 8 & 0xFFFF]
        if not length or position + length > len(data):
            break
        position += length
        count += 1
    return position, count


def _length(data: bytes, position: int) -> int:
    """Bytes of the frame at `position`; 0 if there is none."""
    if position + 4 > len(data) or data[position] != 0xFF:
        return 0
    return FRAME_LENGTHS[data[position + 1] << 8 | data[position + 2]]


def _kind(data: bytes, position: int) -> int:
    """What the headers of a sound's frames share: sync word, version, layer, sampling rate, and 1 if it is mono.

    Of layers I and II the bit rate, too: from that libsndfile computes their length.
    """
    if position + 4 > len(data):
        return -1
    (header,) = HEADER.unpack_from(data, position)
    return (header & KIND_MASKS[header >> 17 & 3]) | (header >> 6 & 3 == 3)


def _tag_frames(data: bytes) -> set[int]:
    """Positions of the frames without sound that say how many frames follow."""
    frames = set()
    for tag in TAGS:
        tag_position = data.find(tag)
        while tag_position >= 0:
            for offset in TAG_OFFSETS:
                position = tag_position - offset
                if position >= 0 and _length(data, position) and _tag_offset(data, position, tag) == offset:
                    frames.add(position)
            tag_position = data.find(tag, tag_position + 1)
    return frames


def _tag_offset(data: bytes, position: int, tag: bytes) -> int:
    """Bytes between the begin of a frame and its tag, if it has one: header, checksum and side information."""
    if tag == b"VBRI":
        return 36
    # in a header, bit 3 of byte 1: MPEG-1; bit 0: no checksum; bits 6 and 7 of byte 3: channels
    first_version = data[position + 1] & 8
    mono = data[position + 3] >> 6 == 3
    if first_version:
        side = 17 if mono else 32
    else:
        side = 9 if mono else 17
    checksum = 2
    if data[position + 1] & 1:
        checksum = 0
    return 4 + side + checksum


def _finish(data: bytes, sound: MpegSound, tagged: int) -> None:
    """Sets the extents of a sound, and its head if the file states no number of frames, or another.

    Args:
        data: the bytes of the file.
        sound: changed in place.
        tagged: bytes of the tag at the begin of the file that belongs to the sound.
    """
    sound.extents = tuple((first, last) for first, last in sound.rows if last > first)
    layer = 4 - (sound.kind >> 17 & 3)
    if layer < 3:
        sound.head = data[:tagged]
        return
    position = sound.extents[0][0]
    frame = _silent_frame(data[position : position + 4], sound.frames)
    if sound.header is not None:
        tag = data[sound.header : sound.header + _length(data, sound.header)]
        # silenced: libsndfile takes it for a frame with sound otherwise
        silence = next(found for name in TAGS if (found := tag.find(name)) >= 0) - 4
        tag = tag[:4] + bytes(silence) + tag[4 + silence :]
        stated, corrected = _restated(tag, sound)
        # some writers count the tag's own frame, too
        if abs(stated - sound.frames) <= 1:
            corrected = tag
        elif stated:
            sound.missing = (stated - sound.frames) * _samples(sound.kind >> 19 & 3, layer)
        frame = corrected or frame
    sound.head = data[:tagged] + frame


def _restated(tag: bytes, sound: MpegSound) -> tuple[int, bytes]:
    """Corrects the number of frames that a tag states.

    Args:
        tag: the frame with the tag, Xing, Info or VBRI.
        sound: whose frames have been counted.

    Returns:
        The number stated, 0 if there is none, and the frame with the number of `sound` instead; empty for VBRI, and
        for a tag without that field.
    """
    vbri = tag.find(b"VBRI")
    if vbri >= 0:
        # name, version, delay, quality, bytes, frames
        return int.from_bytes(tag[vbri + 14 : vbri + 18], "big"), b""
    # name, which fields follow, frames, bytes; the name that is not there is found at −1
    start = 8 + max(tag.find(b"Xing"), tag.find(b"Info"))
    fields = int.from_bytes(tag[start - 4 : start], "big")
    if not fields & FRAMES_FIELD or len(tag) < start + 8:
        return 0, b""
    stated = int.from_bytes(tag[start : start + 4], "big")
    numbers = struct.pack(">I", sound.frames)
    if fields & BYTES_FIELD:
        numbers += struct.pack(">I", len(tag) + sum(last - first for first, last in sound.extents))
    return stated, tag[:start] + numbers + tag[start + len(numbers) :]


def _silent_frame(header: bytes, frames: int) -> bytes:
    """A frame without sound for a file of layer III, which says how many frames follow.

    Args:
        header: that of one of these frames.
        frames: their number.
    """
    # without checksum, at the bit rate of index 9, whose frames are long enough for the tag
    start = bytes((0xFF, header[1] | 1, 0x90 | header[2] & 0x0C, header[3]))
    tag = b"Info" + struct.pack(">II", FRAMES_FIELD, frames)
    frame = start.ljust(_tag_offset(start, 0, b"Info"), b"\0") + tag
    return frame.ljust(_length(start, 0), b"\0")
