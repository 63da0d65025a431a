# SPDX-License-Identifier: Apache-2.0
"""A band travels once, as pieces of one Opus stream: they join without a click, and a browser decodes them exactly."""

import io
from base64 import b64encode
from pathlib import Path

import numpy as np
import pytest
import soundfile

import takes
from hafm_hf import audio
from opus_pieces import GRID, RATE, OpusPieces, checksum, decoded
from space.studio import Page
from vocals import EXAMPLE

STEMS = ("drums", "bass", "chords", "pads")
# decodes base64 files in the browser, and returns the samples of their left channels
DECODE = """async (sounds) => {
    const ctx = new OfflineAudioContext(2, 1, 48000);
    const bytes = (text) => Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0)).buffer;
    const buffers = await Promise.all(sounds.map((sound) => ctx.decodeAudioData(bytes(sound))));
    return buffers.map((buffer) => [...buffer.getChannelData(0)]);
}"""


def stereo_stem(name: str) -> np.ndarray:
    """A stem of the first example's band, made stereo, at 48 kHz: float32 [N, 2]."""
    path = EXAMPLE.parent / "bands" / f"{EXAMPLE.stem}_{name}.ogg"
    sound, rate = audio.read_audio(path, min_seconds=0.0)
    whole = audio.resample(sound, rate, RATE)
    return np.stack([whole, np.roll(whole, 30)], axis=1)


def pieces_of(sound: np.ndarray, rate: int, seconds: float) -> list:
    """Pieces of a sound (float [N] or [N, 2] at `rate` Hz) that arrives in parts of `seconds`."""
    encoder = OpusPieces(rate, 1 if sound.ndim == 1 else sound.shape[1])
    size = round(seconds * rate)
    pieces = []
    for start in range(0, len(sound), size):
        encoder.add(sound[start : start + size])
        if encoder.ready > encoder.sent_samples:
            pieces.append(encoder.piece(encoder.ready))
    encoder.finish()
    return [*pieces, encoder.piece(encoder.ready)]


def uncut(sound: np.ndarray) -> np.ndarray:
    """A stereo sound (float32 [N, 2]) encoded as one Opus file and decoded: float32 [N, 2]."""
    encoder = OpusPieces(RATE, 2)
    encoder.add(sound)
    encoder.finish()
    return soundfile.read(io.BytesIO(encoder.file.getvalue()), dtype="float32")[0]


def decibels(error: np.ndarray, sound: np.ndarray) -> float:
    """The level of an error relative to a sound of the same shape, in dB."""
    return float(10 * np.log10((np.mean(error**2) + 1e-12) / (np.mean(sound**2) + 1e-12)))


@pytest.mark.parametrize("name", STEMS)
def test_joins_differ_by_less_than_40_decibels_from_the_uncut_stem(name: str) -> None:
    sound = stereo_stem(name)
    pieces = pieces_of(sound, RATE, 0.7)
    whole = uncut(sound)
    joined = np.concatenate([decoded(piece) for piece in pieces])
    assert len(pieces) > 8
    assert joined.shape == sound.shape
    # 20 ms before and after each join
    around = [slice(piece.start - 960, piece.start + 960) for piece in pieces[1:]]
    assert max(decibels((joined - whole)[near], whole[near]) for near in around) < -40


def test_pieces_begin_on_a_grid_and_cover_the_sound() -> None:
    pieces = pieces_of(stereo_stem("bass"), RATE, 0.5)
    assert [piece.start for piece in pieces[1:]] == [piece.stop for piece in pieces[:-1]]
    assert all(piece.start % GRID == 0 for piece in pieces)


def test_a_browser_decodes_pieces_to_the_sample(page: Page) -> None:
    pieces = pieces_of(stereo_stem("chords"), RATE, 1.3)[:4]
    heard = page.evaluate(DECODE, [b64encode(piece.content).decode() for piece in pieces])
    assert [len(samples) for samples in heard] == [piece.stop - piece.start for piece in pieces]
    for samples, piece in zip(heard, pieces, strict=True):
        expected = decoded(piece)[:, 0]
        assert decibels(np.array(samples) - expected, expected) < -40


@pytest.mark.parametrize(("rate", "channels"), [(24_000, 1), (44_100, 2), (22_050, 1)])
def test_other_rates_are_resampled_without_a_seam(rate: int, channels: int) -> None:
    time = np.arange(4 * rate) / rate
    sound = (0.3 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    if channels == 2:
        sound = np.stack([sound, sound], axis=1)
    joined = np.concatenate([decoded(piece) for piece in pieces_of(sound, rate, 0.3)])[:, 0]
    expected = 0.3 * np.sin(2 * np.pi * 440 * np.arange(len(joined)) / RATE)
    assert len(joined) == 4 * RATE
    assert decibels((joined - expected)[RATE // 2 : -RATE // 2], expected) < -25


def test_the_checksum_equals_that_in_an_ogg_page_of_libsndfile() -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(960, dtype=np.float32), RATE, format="OGG", subtype="OPUS")
    # bytes 22 to 25 are the checksum, which is computed with zeros in its place
    first_page = buffer.getvalue()[:47]
    assert checksum(first_page[:22] + bytes(4) + first_page[26:]) == int.from_bytes(first_page[22:26], "little")


def test_a_band_of_four_stereo_stems_is_a_twelfth_of_a_megabyte_a_second_at_most(tmp_path: Path) -> None:
    stems = {name: stereo_stem(name) for name in STEMS}
    pieces = takes.Pieces(tmp_path)
    # a second at a time
    for start in range(0, len(stems["bass"]), RATE):
        pieces.add({name: sound[start : start + RATE] for name, sound in stems.items()}, RATE)
    pieces.finish()
    seconds = len(stems["bass"]) / RATE
    bytes_sent = sum(path.stat().st_size for path in tmp_path.glob("*.opus"))
    assert pieces.until == pytest.approx(seconds)
    assert bytes_sent / seconds < 1e6 / 12
    # for browsers without Opus, the same pieces without loss
    flac = [audio.read_audio(path, min_seconds=0.0, mono=False)[0] for path in sorted(tmp_path.glob("*_bass.flac"))]
    np.testing.assert_allclose(np.concatenate(flac), stems["bass"], atol=1e-4)
