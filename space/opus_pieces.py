# SPDX-License-Identifier: Apache-2.0
"""One Opus stream in pieces that browsers decode one by one, and that join without a click.

A piece that is encoded alone begins with a cold encoder, which is heard where it follows another. So one encoder
writes the whole sound, and its packets are put into files of their own (RFC 7845): each also has the packets of the
160 ms before it, which a decoder needs to settle, and says by its pre-skip that they are not to be played.
Times are exact: a piece decodes to as many samples as it stands for. Dimensions: N samples, C channels.
"""

import io
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
# of an Ogg page: lacing values, at most
MOST_LACES = 255
FIRST_PAGE = 2
LAST_PAGE = 4
PRE_SKIP = slice(10, 12)
SERIAL = 1
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
    """

    def __init__(self, sampling_rate: int, channels: int) -> None:
        self.sampling_rate = sampling_rate
        self.channels = channels
        self.resampler = None
        if sampling_rate != RATE:
            self.resampler = soxr.ResampleStream(sampling_rate, RATE, channels, dtype="float32", quality="HQ")
        self.file = io.BytesIO()
        self.encoder = soundfile.SoundFile(self.file, "w", RATE, channels, "OPUS", format="OGG")
        self.parsed = 0
        # head and comments, then sound
        self.packets: list[bytes] = []
        self.open_packet = b""
        self.written = 0
        self.sent = 0
        self.finished = False

    def add(self, samples: audio.Samples) -> None:
        """Encodes the next samples (float32 [N] or [N, C])."""
        self._encode(audio.with_channels(samples, self.channels))

    def finish(self) -> None:
        """Ends the sound."""
        nothing = np.zeros((0, self.channels) if self.channels > 1 else 0, dtype=np.float32)
        self._encode(nothing, last=True)
        self.encoder.close()
        self.finished = True
        self._read_pages()

    def _encode(self, samples: audio.Samples, last: bool = False) -> None:
        if self.resampler is not None:
            samples = self.resampler.resample_chunk(samples, last=last)
        self.encoder.write(samples)
        self.written += len(samples)
        self._read_pages()

    @property
    def ready(self) -> int:
        """Up to which sample pieces can be made; the encoder holds back about a second."""
        if self.finished:
            return self.written
        # the last packet is complete only with the one after it
        count = len(self.packets) - 3
        return max(count * PACKET - self.pre_skip, 0) // GRID * GRID if count > 0 else 0

    @property
    def pre_skip(self) -> int:
        """By how many samples the decoder is late."""
        return int(struct.unpack("<H", self.packets[0][PRE_SKIP])[0])

    def _read_pages(self) -> None:
        """Takes the packets from the pages that the encoder has written since the last call."""
        content = self.file.getbuffer()
        while self.parsed + 27 <= len(content):
            count = content[self.parsed + 26]
            laces = bytes(content[self.parsed + 27 : self.parsed + 27 + count])
            end = self.parsed + 27 + count + sum(laces)
            if end > len(content):
                break
            at = self.parsed + 27 + count
            for lace in laces:
                self.open_packet += bytes(content[at : at + lace])
                at += lace
                if lace < MOST_LACES:
                    self.packets.append(self.open_packet)
                    self.open_packet = b""
            self.parsed = end
        content.release()

    def piece(self, stop: int) -> Piece:
        """The piece from the end of the last one up to sample `stop`, which must be `ready`."""
        start = self.sent
        sound = self.packets[2:]
        # the decoder's output of packet n begins at sample n · PACKET − pre_skip
        first = max((start + self.pre_skip) // PACKET - WARM_UP, 0)
        last = -(-(stop + self.pre_skip) // PACKET)
        skipped = start + self.pre_skip - first * PACKET
        head = bytearray(self.packets[0])
        head[PRE_SKIP] = struct.pack("<H", skipped)
        packets = sound[first:last]
        pages = [page([bytes(head)], 0, 0, FIRST_PAGE), page([self.packets[1]], 0, 1)]
        pages += sound_pages(packets, skipped + stop - start)
        self.sent = stop
        return Piece(b"".join(pages), start, stop)


def sound_pages(packets: list[bytes], samples: int) -> Iterator[bytes]:
    """Pages with the packets of a file that ends after so many samples, its pre-skip included."""
    rest = packets
    number = 2
    done = 0
    while rest:
        count = 0
        laces = 0
        while count < len(rest) and laces + len(rest[count]) // MOST_LACES + 1 <= MOST_LACES:
            laces += len(rest[count]) // MOST_LACES + 1
            count += 1
        done += count * PACKET
        last = count == len(rest)
        yield page(rest[:count], samples if last else done, number, LAST_PAGE if last else 0)
        rest = rest[count:]
        number += 1


def page(packets: list[bytes], granule: int, number: int, kind: int = 0) -> bytes:
    """An Ogg page of whole packets."""
    laces = b"".join(b"\xff" * (len(packet) // MOST_LACES) + bytes([len(packet) % MOST_LACES]) for packet in packets)
    head = struct.pack("<4sBBqIIIB", b"OggS", 0, kind, granule, SERIAL, number, 0, len(laces))
    content = bytearray(head + laces + b"".join(packets))
    content[22:26] = struct.pack("<I", checksum(bytes(content)))
    return bytes(content)


def checksum(content: bytes) -> int:
    """Ogg's CRC-32: zlib's, with the bits of every byte and of the result reversed, and without its inversions."""
    inverted = zlib.crc32(content.translate(REVERSED_BITS), 0xFFFFFFFF)
    return int(f"{inverted ^ 0xFFFFFFFF:032b}"[::-1], 2)


def decoded(piece: Piece) -> np.ndarray:
    """The samples of a piece at 48 kHz: float32 [N, C]."""
    samples, _ = soundfile.read(io.BytesIO(piece.content), dtype="float32", always_2d=True)
    return samples
