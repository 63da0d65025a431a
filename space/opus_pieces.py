# SPDX-License-Identifier: Apache-2.0
"""One Opus stream in pieces that browsers decode one by one, and that join without a click.

A piece that is encoded alone begins with a cold encoder, which is heard where it follows another. So one encoder
writes the whole sound, and its packets are put into files of their own (RFC 7845): each also has the packets of the
160 ms before it, which a decoder needs to settle, and says by its pre-skip that they are not to be played.
Times are exact: a piece decodes to as many samples as it stands for. Dimensions: N samples, C channels.
"""

import io
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr

from hafm_hf import audio

# Opus counts in samples at this rate, whatever the sound's own
RATE = 48_000
# of libsndfile's packets: 20 ms
PACKET = 960
# packets before a piece: a decoder that begins there is after 160 ms within −45 dB of one that has run on
WARM_UP = 8
# pieces begin at multiples of this many samples: 0.1 s, a whole number of samples at 44.1 kHz too
GRID = 4_800
# of an Ogg page (RFC 3533): bytes before its lacing values (the sizes of its packets' parts), and before their number
PAGE_HEAD = 27
LACE_COUNT = 26
# the most lacing values of a page, and the largest one; a packet ends with the first that is smaller
MOST_LACES = 255
LARGEST_LACE = 255
# bytes of the checksum
CHECKSUM = slice(22, 26)
# flags of the first and the last page of a stream
FIRST_PAGE = 2
LAST_PAGE = 4
# of the stream; any number
SERIAL = 1
# bytes of an Opus head that say how many samples are not played
PRE_SKIP = slice(10, 12)
REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class Piece:
    """Part of a sound: an Ogg file, and where it begins and ends in samples at 48 kHz."""

    content: bytes
    start: int
    stop: int


class OpusPieces:
    """Encodes a sound as it is generated.

    Args:
        sampling_rate: of the sound, in Hz.
        channels: C.

    Attributes:
        packets: the encoder's: head, comments, then sound, PACKET samples each.
        parsed_bytes: up to which byte `file` has been read.
        partial_packet: the beginning of a packet that ends on the next page.
        written_samples: samples at 48 kHz that the encoder has got.
        sent_samples: samples at 48 kHz of all pieces so far; the next one begins there.
        finished: whether the sound has ended.
    """

    def __init__(self, sampling_rate: int, channels: int) -> None:
        self.sampling_rate = sampling_rate
        self.channels = channels
        self.resampler = None
        if sampling_rate != RATE:
            self.resampler = soxr.ResampleStream(sampling_rate, RATE, channels, dtype="float32", quality="HQ")
        self.file = io.BytesIO()
        self.encoder = soundfile.SoundFile(self.file, "w", RATE, channels, "OPUS", format="OGG")
        self.parsed_bytes = 0
        self.packets: list[bytes] = []
        self.partial_packet = b""
        self.written_samples = 0
        self.sent_samples = 0
        self.finished = False

    def add(self, samples: audio.Samples) -> None:
        """Encodes the next samples (float32 [N] or [N, C])."""
        self._encode(audio.with_channels(samples, self.channels))

    def finish(self) -> None:
        """Ends the sound, after which all of it is ready."""
        nothing = np.zeros((0, self.channels) if self.channels > 1 else 0, dtype=np.float32)
        self._encode(nothing, last=True)
        self.encoder.close()
        self.finished = True
        self._read_pages()

    def _encode(self, samples: audio.Samples, last: bool = False) -> None:
        """Encodes samples (float32 [N] or [N, C]); the `last` ones flush the resampler."""
        if self.resampler is not None:
            samples = self.resampler.resample_chunk(samples, last=last)
        self.encoder.write(samples)
        self.written_samples += len(samples)
        self._read_pages()

    @property
    def ready(self) -> int:
        """Up to which sample, at 48 kHz, pieces can be made; the encoder holds back about a second."""
        if self.finished:
            return self.written_samples
        # without head and comments; and the last packet is complete only with the one after it
        sound_packets = len(self.packets) - 3
        if sound_packets <= 0:
            return 0
        return max(sound_packets * PACKET - self.pre_skip, 0) // GRID * GRID

    @property
    def pre_skip(self) -> int:
        """By how many samples (at 48 kHz) the decoder's output is late."""
        return int(struct.unpack("<H", self.packets[0][PRE_SKIP])[0])

    def _read_pages(self) -> None:
        """Takes the packets from the pages that the encoder has written since the last call."""
        content = self.file.getbuffer()
        while self.parsed_bytes + PAGE_HEAD <= len(content):
            first_lace = self.parsed_bytes + PAGE_HEAD
            # where the next part of a packet begins
            position = first_lace + content[self.parsed_bytes + LACE_COUNT]
            laces = bytes(content[first_lace:position])
            page_end = position + sum(laces)
            if page_end > len(content):
                break
            for lace in laces:
                self.partial_packet += bytes(content[position : position + lace])
                position += lace
                if lace < LARGEST_LACE:
                    self.packets.append(self.partial_packet)
                    self.partial_packet = b""
            self.parsed_bytes = page_end
        # the encoder cannot write to the file while its content is viewed
        content.release()

    def piece(self, stop: int) -> Piece:
        """Makes the next piece, from the end of the last one up to sample `stop` (at 48 kHz), at most `ready`."""
        start = self.sent_samples
        own_head, comments, *sound = self.packets
        # the decoder's output of packet n begins at sample n · PACKET − pre_skip
        first = max((start + self.pre_skip) // PACKET - WARM_UP, 0)
        last = math.ceil((stop + self.pre_skip) / PACKET)
        skipped = start + self.pre_skip - first * PACKET
        head = bytearray(own_head)
        head[PRE_SKIP] = struct.pack("<H", skipped)
        pages = [
            page([bytes(head)], granule=0, number=0, flags=FIRST_PAGE),
            page([comments], granule=0, number=1),
            *sound_pages(sound[first:last], samples=skipped + stop - start),
        ]
        self.sent_samples = stop
        return Piece(b"".join(pages), start, stop)


def sound_pages(packets: list[bytes], samples: int) -> Iterator[bytes]:
    """Ogg pages of sound, after those of head and comments.

    Args:
        packets: of the sound, PACKET samples each.
        samples: after how many the file ends, its pre-skip included.
    """
    remaining = packets
    number = 2  # of the page: head and comments are pages 0 and 1
    done = 0  # samples on the pages so far
    while remaining:
        # as many whole packets as a page has room for
        count = 0
        laces = 0
        while count < len(remaining) and laces + len(lacing(remaining[count])) <= MOST_LACES:
            laces += len(lacing(remaining[count]))
            count += 1
        done += count * PACKET
        if count == len(remaining):
            # the last packet may be longer than the sound
            yield page(remaining, granule=samples, number=number, flags=LAST_PAGE)
        else:
            yield page(remaining[:count], granule=done, number=number)
        remaining = remaining[count:]
        number += 1


def lacing(packet: bytes) -> bytes:
    """A packet's size as Ogg's lacing values: their sum."""
    return bytes([LARGEST_LACE]) * (len(packet) // LARGEST_LACE) + bytes([len(packet) % LARGEST_LACE])


def page(packets: list[bytes], *, granule: int, number: int, flags: int = 0) -> bytes:
    """An Ogg page of whole packets.

    Args:
        packets: at least one.
        granule: samples of the stream up to the page's end, its pre-skip included.
        number: of the page in the stream, from 0.
        flags: FIRST_PAGE, LAST_PAGE or 0.
    """
    laces = b"".join(lacing(packet) for packet in packets)
    # version 0, and a checksum of 0 until the true one is known
    head = struct.pack("<4sBBqIIIB", b"OggS", 0, flags, granule, SERIAL, number, 0, len(laces))
    content = bytearray(head + laces + b"".join(packets))
    content[CHECKSUM] = struct.pack("<I", checksum(bytes(content)))
    return bytes(content)


def checksum(content: bytes) -> int:
    """Ogg's CRC-32: zlib's, with the bits of every byte and of the result reversed, and without its inversions."""
    inverted = zlib.crc32(content.translate(REVERSED_BITS), 0xFFFFFFFF)
    return int(f"{inverted ^ 0xFFFFFFFF:032b}"[::-1], 2)


def decoded(piece: Piece) -> np.ndarray:
    """The samples of a piece at 48 kHz: float32 [N, C]."""
    samples, _ = soundfile.read(io.BytesIO(piece.content), dtype="float32", always_2d=True)
    return samples
