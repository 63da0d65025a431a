# SPDX-License-Identifier: Apache-2.0
"""Reading, resampling, mixing and writing audio: one-sentence refusals, and no half-written files."""

import os
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import soundfile
import torch

from hafm_hf import audio
from hafm_hf.audio import HAFMAudioError
from vocals import file_bytes

RATE = 22_050


def tone(seconds: float = 1.5, rate: int = RATE, frequency: float = 440.0, amplitude: float = 0.5) -> audio.Samples:
    """A sine of `frequency` Hz: float32 [seconds * rate]."""
    time = np.arange(round(seconds * rate)) / rate
    return (amplitude * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


@pytest.mark.parametrize(
    ("file_format", "subtype", "tolerance"),
    [
        ("WAV", "PCM_16", 1e-4),
        ("WAV", "PCM_24", 1e-6),
        ("WAV", "PCM_32", 1e-6),
        ("WAV", "FLOAT", 1e-6),
        ("FLAC", "PCM_24", 1e-6),
        ("OGG", "VORBIS", 0.05),
        ("MP3", "MPEG_LAYER_III", 0.1),
    ],
)
def test_every_format_reads_back_as_written(tmp_path: Path, file_format: str, subtype: str, tolerance: float) -> None:
    path = tmp_path / f"vocal.{file_format.lower()}"
    path.write_bytes(file_bytes(tone(), RATE, format=file_format, subtype=subtype))
    samples, rate = audio.read_audio(path)
    assert rate == RATE
    assert samples.dtype == np.float32
    assert samples.shape == tone().shape
    # lossy codecs differ more at the ends
    middle = slice(5000, -5000)
    assert np.abs(samples - tone())[middle].max() < tolerance


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 44_100, 48_000, 96_000])
def test_any_rate_keeps_the_pitch_and_the_duration(rate: int) -> None:
    samples, target = audio.read_audio(file_bytes(tone(rate=rate), rate), sampling_rate=24_000)
    assert target == 24_000
    assert samples.shape == (36_000,)
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(samples.size)))
    loudest_hertz = np.argmax(spectrum) * 24_000 / samples.size
    assert abs(loudest_hertz - 440.0) < 1.0
    # without a quarter of a second at each end, where the resampling filter reaches into silence
    peak = np.abs(samples[6_000:-6_000]).max()
    assert abs(peak - 0.5) < 0.01


def test_stereo_becomes_the_mean_of_its_channels() -> None:
    stereo = np.stack([tone(), 0.5 * tone(frequency=660.0)], axis=1)
    four_channels = np.tile(stereo, 2)
    # more than two channels are averaged even where stereo would be kept
    for sound, mono in ((stereo, True), (four_channels, True), (four_channels, False)):
        samples, _ = audio.read_audio(file_bytes(sound, RATE, subtype="FLOAT"), mono=mono)
        assert np.allclose(samples, stereo.mean(axis=1), atol=1e-6)


def test_seconds_reads_only_the_start_even_of_a_file_that_is_too_long() -> None:
    source = file_bytes(tone(seconds=3.0), RATE, subtype="FLOAT")
    samples, _ = audio.read_audio(source, seconds=1.2, max_seconds=2.0)
    assert np.array_equal(samples, tone(seconds=3.0)[: round(1.2 * RATE)])
    for seconds in (None, 2.5):
        with pytest.raises(HAFMAudioError, match=r"longer than 2 s"):
            audio.read_audio(source, seconds=seconds, max_seconds=2.0)


def bad_sources(folder: Path) -> dict[str, tuple[object, str]]:
    """Writes bad files into a folder, and returns for each case a source and a part of its error message."""
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("These are words, not samples.\n" * 50)
    (folder / "text.mp3").write_text("These are words, not samples.\n" * 50)
    (folder / "short.wav").write_bytes(file_bytes(tone(0.3), RATE))
    (folder / "none.wav").write_bytes(file_bytes(tone(0.0), RATE))
    holed = tone()
    holed[100] = np.nan
    (folder / "nan.wav").write_bytes(file_bytes(holed, RATE, subtype="FLOAT"))
    infinite = tone()
    infinite[100] = -np.inf
    (folder / "slow.wav").write_bytes(file_bytes(tone(rate=4_000), 4_000))
    return {
        "missing": (folder / "absent.wav", "absent.wav does not exist"),
        "folder": (folder, "is a folder"),
        "empty file": (folder / "empty.wav", "empty.wav is empty"),
        "empty bytes": (b"", "the vocal is empty"),
        "text": (folder / "text.wav", "text.wav is not audio"),
        "text as mp3": (folder / "text.mp3", "text.mp3 is not audio"),
        "text bytes": (b"words " * 99, "the vocal is not audio"),
        "short": (folder / "short.wav", "short.wav is 0.3 s long; HAFM needs at least 1 s."),
        "no samples": (folder / "none.wav", "none.wav is 0 s long; HAFM needs at least 1 s."),
        "almost a second": (file_bytes(tone()[: RATE - 1], RATE), "is 0.99 s long; HAFM needs at least 1 s"),
        "nan": (folder / "nan.wav", "nan.wav has NaN or infinite samples"),
        "infinite": (file_bytes(infinite, RATE, subtype="FLOAT"), "the vocal has NaN or infinite samples"),
        "rate": (folder / "slow.wav", "slow.wav has a sampling rate of 4000 Hz"),
        "no server": ("http://127.0.0.1:9/vocal.wav", "cannot be fetched"),
    }


def test_bad_sources_are_refused_in_one_sentence_that_names_them(tmp_path: Path) -> None:
    for case, (source, said) in bad_sources(tmp_path).items():
        with pytest.raises(HAFMAudioError) as caught:
            audio.read_audio(source)  # type: ignore[arg-type]
        message = str(caught.value)
        assert said in message, (case, message)
        assert message.endswith("."), (case, message)
        assert "\n" not in message, (case, message)


def test_an_unreadable_file_is_not_called_damaged_or_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs.wav").write_bytes(file_bytes(tone(), RATE))
    with monkeypatch.context() as denied:
        # the file cannot be read
        denied.setattr(os, "access", lambda path, mode: False)
        with pytest.raises(HAFMAudioError, match="theirs.wav may not be read by this user"):
            audio.read_audio(tmp_path / "theirs.wav")
        # nor can its folder
        denied.setattr(Path, "stat", Mock(side_effect=PermissionError))
        with pytest.raises(HAFMAudioError, match="theirs.wav may not be read by this user"):
            audio.read_audio(tmp_path / "theirs.wav")


def test_arrays_and_tensors_of_any_type_and_layout_become_float_samples() -> None:
    wave = tone()
    assert np.allclose(audio.to_samples((wave * 32768).astype(np.int16)), wave, atol=1e-4)
    assert np.allclose(audio.to_samples((wave * 2**31).astype(np.int32)), wave, atol=1e-6)
    assert np.allclose(audio.to_samples((wave * 128 + 128).astype(np.uint8)), wave, atol=1e-2)
    assert np.array_equal(audio.to_samples(torch.from_numpy(wave)), wave)
    assert np.allclose(audio.to_samples(torch.from_numpy((wave * 32768).astype(np.int16))), wave, atol=1e-4)
    assert np.allclose(audio.to_samples(torch.from_numpy(wave).bfloat16()), wave, atol=1e-2)
    channels_first = np.stack([wave, wave])
    channels_last = np.stack([wave, wave], axis=1)
    assert np.array_equal(audio.to_samples(channels_first), audio.to_samples(channels_last))


@pytest.mark.parametrize("samples", [np.zeros((2, 3, 4)), np.array(["a"]), np.array(3.0), [True], [1, -1]])
def test_arrays_that_are_not_sound_are_refused(samples: object) -> None:
    with pytest.raises(HAFMAudioError):
        audio.to_samples(samples)


def test_levels_are_decibels_below_full_scale() -> None:
    # half of full scale, −6.02 dB; the RMS of a sine is 3.01 dB below its peak
    assert audio.peak_dbfs(tone(amplitude=0.5)) == pytest.approx(-6.02, abs=0.01)
    assert audio.rms_dbfs(tone(amplitude=0.5)) == pytest.approx(-9.03, abs=0.01)
    assert audio.rms_dbfs(np.zeros(7, dtype=np.float32)) == -np.inf
    assert audio.is_silent(np.zeros(7, dtype=np.float32))
    assert audio.is_silent(tone(amplitude=1e-4))
    assert not audio.is_silent(tone(amplitude=0.01))


def test_mix_adds_after_the_gains() -> None:
    vocal = tone(amplitude=0.2)
    instrumental = tone(frequency=300.0, amplitude=0.1)
    # half and double the amplitude
    mixed = audio.mix_audio(vocal, instrumental, vocal_gain_db=-6.0206, instrumental_gain_db=6.0206)
    assert np.allclose(mixed, 0.5 * vocal + 2.0 * instrumental, atol=1e-5)
    with pytest.raises(HAFMAudioError, match="33075 samples and the instrumental 33074"):
        audio.mix_audio(tone(), tone()[:-1])


@pytest.mark.parametrize("gain", [0.0, 12.0, 60.0])
def test_mix_never_clips_and_keeps_the_balance(gain: float) -> None:
    vocal = tone(amplitude=0.9)
    instrumental = tone(frequency=300.0, amplitude=0.9)
    mixed = audio.mix_audio(vocal, instrumental, vocal_gain_db=gain, instrumental_gain_db=gain)
    # the ceiling, in dBTP
    assert audio.true_peak_dbtp(mixed) == pytest.approx(-1.0, abs=1e-3)
    expected = vocal + instrumental
    assert np.allclose(mixed / np.abs(mixed).max(), expected / np.abs(expected).max(), atol=1e-5)


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_written_sound_is_16_bit_and_the_same_every_time(tmp_path: Path, suffix: str) -> None:
    first = audio.write_audio(tmp_path / "new" / f"a.{suffix}", tone(), RATE)
    assert first.read_bytes() == audio.write_audio(tmp_path / f"b.{suffix}", tone(), RATE).read_bytes()
    assert soundfile.info(first).subtype == "PCM_16"
    half_a_step = 0.5 / 2**15
    once = audio.read_audio(first)[0]
    np.testing.assert_allclose(once, tone(), atol=1.01 * half_a_step, rtol=0)
    # writing it again changes nothing
    assert np.array_equal(audio.read_audio(audio.write_audio(first, once, RATE))[0], once)
    plain = tmp_path / "plain"
    plain.touch()
    assert first.stat().st_mode == plain.stat().st_mode


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = audio.write_audio(tmp_path / "song.wav", tone(), RATE)
    before = path.read_bytes()
    with pytest.raises(HAFMAudioError, match="cannot be written"):
        audio.write_audio(path, tone(), -1)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(HAFMAudioError, match="cannot be written"):
        audio.write_audio(path / "song.wav", tone(), RATE)
