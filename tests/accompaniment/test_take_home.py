# SPDX-License-Identifier: Apache-2.0
"""The final mix: the voice's own rate and channels, balance, loudness, endings, formats; through every interface."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import transformers

from commands import hafm
from hafm_hf import LeadSheet, audio
from vocals import CODEC_RATE, file_bytes, glide

RATE = 44_100
# samples in 5 ms
EDGE = RATE * 5 // 1000


def stereo(seconds: float = 1.5, amplitude: float = 0.1) -> np.ndarray:
    """float32 [N, 2] at 44.1 kHz: a voice that fades in and out, panned to the left."""
    voice = glide(seconds, RATE, amplitude)
    swell = np.minimum(np.minimum(np.arange(len(voice)), np.arange(len(voice))[::-1]) / 4000, 1.0) ** 2
    left = (voice * swell).astype(np.float32)
    return np.stack([left, 0.6 * np.roll(left, 13)], axis=1)


def impulses(samples: int) -> np.ndarray:
    """float32 [N] at 44.1 kHz: a click every tenth of a second."""
    clicks = np.zeros(samples, np.float32)
    clicks[:: RATE // 10] = 0.5
    return clicks


@pytest.fixture(scope="module")
def voice_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stereo voice as a file of 24 bits."""
    path = tmp_path_factory.mktemp("voices") / "voice.wav"
    path.write_bytes(file_bytes(stereo(), RATE, subtype="PCM_24"))
    return path


def assert_ends_are_quiet(samples: np.ndarray, rate: int = RATE) -> None:
    """Asserts that the first and the last 5 ms of a sound ([N] or [N, channels] at `rate` Hz) are below −50 dBFS."""
    edge = rate * 5 // 1000
    assert max(audio.peak_dbfs(samples[:edge]), audio.peak_dbfs(samples[-edge:])) < -50.0


def test_a_stereo_voice_keeps_its_rate_its_channels_and_every_sample(accompany: Any, voice_file: Path) -> None:
    song = accompany(str(voice_file), seed=1, skip_fine=True, instrumental_gain_db=-96.0)
    assert song["sampling_rate"] == RATE
    assert song["mix"].shape == song["vocals"].shape == stereo().shape
    assert song["audio"].shape == (len(stereo()),)
    # the band is practically silent: the residual is below −90 dBFS
    assert audio.peak_dbfs(song["mix"] - stereo()) < -90.0
    assert audio.peak_dbfs(song["vocals"] - stereo()) < -90.0
    file = voice_file.parent / "written.flac"
    audio.write_audio(file, song["mix"], RATE)
    assert audio.peak_dbfs(audio.read_audio(file, mono=False)[0] - stereo()) < -90.0


def test_arrays_lists_and_batches_keep_rates_and_channels_too(accompany: Any) -> None:
    vocals = [
        {"array": stereo(1.1), "sampling_rate": RATE},
        {"array": glide(1.2, 8_000), "sampling_rate": 8_000},
        {"array": np.stack([glide(1.0, 48_000)] * 6, axis=1), "sampling_rate": 48_000},
    ]
    for batch_size in (1, 2):
        songs = accompany(vocals, seed=1, skip_fine=True, batch_size=batch_size)
        assert [song["sampling_rate"] for song in songs] == [RATE, CODEC_RATE, 48_000]
        assert [song["mix"].shape for song in songs] == [(round(1.1 * RATE), 2), (28_800,), (48_000,)]
    (song,) = accompany(vocals[:1], seed=1, skip_fine=True, output_rate=32_000)
    assert song["sampling_rate"] == 32_000
    assert song["mix"].shape == (round(1.1 * 32_000), 2)


def test_the_band_is_the_models_output_resampled(accompany: Any) -> None:
    song = accompany(stereo(), sampling_rate=RATE, seed=1, skip_fine=True)
    generated = accompany.model.generate(stereo().mean(axis=1), RATE, seed=1, skip_fine=True).audio[0].numpy()
    expected = audio.resample(audio.turned_down(generated), CODEC_RATE, RATE)[: len(song["audio"])]
    # without the fades at both ends, 20 ms each, and as much again
    inside = slice(2 * EDGE * 4, -2 * EDGE * 4)
    gain = float(expected[inside] @ song["audio"][inside]) / float(expected[inside] @ expected[inside])
    assert gain == pytest.approx(1.0, abs=0.2)
    assert np.allclose(song["audio"][inside], gain * expected[inside], atol=1e-4)
    assert_ends_are_quiet(song["audio"])


def test_a_mix_has_the_requested_loudness_and_balance_and_quiet_ends(
    bundled_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("pyloudnorm")
    pipeline = transformers.pipeline("vocal-accompaniment", model=str(bundled_model), device="cpu")
    # a voice that begins and ends in the middle of a note; the fine codebooks do not matter here
    chunks = list(pipeline.stream(glide(3.0, RATE), sampling_rate=RATE, seed=1, skip_fine=True))
    song = pipeline.join(chunks, balance="auto", loudness=-16)
    assert audio.loudness(song["mix"], RATE) == pytest.approx(-16.0, abs=0.5)
    assert audio.true_peak_dbtp(song["mix"]) <= -1.0 + 1e-3
    assert not caplog.messages
    assert_ends_are_quiet(song["mix"])
    # clicks cannot be that loud below the ceiling of the true peak
    clicks = [{**chunk, "audio": 0 * chunk["audio"], "vocals": impulses(len(chunk["vocals"]))} for chunk in chunks]
    pipeline.join(clicks, loudness=-6)
    assert "LUFS instead of -6" in caplog.text
    inside = slice(EDGE * 4, -EDGE * 4)
    voice = song["vocals"][inside]
    band = song["audio"][inside]
    # the gains of voice and band in the mix are found by least squares
    parts = np.stack([voice, band.mean(axis=1)], axis=1).astype(np.float64)
    for balance, expected in (("auto", -2.5), (6, 6.0)):
        mix = pipeline.join(chunks, balance=balance)["mix"][inside].mean(axis=1).astype(np.float64)
        voice_gain, band_gain = np.linalg.lstsq(parts, mix, rcond=None)[0].astype(np.float32)
        voice_level = audio.loudness(voice_gain * audio.with_channels(voice, 2), RATE)
        assert voice_level - audio.loudness(band_gain * band, RATE) == pytest.approx(expected, abs=0.2)


def test_the_band_continues_after_the_voice_and_fades_out(accompany: Any) -> None:
    song = accompany(stereo(), sampling_rate=RATE, seed=1, skip_fine=True, tail=0.8)
    total = len(stereo()) + round(0.8 * RATE)
    assert song["mix"].shape == (total, 2)
    assert song["audio"].shape == (total,)
    assert not song["vocals"][len(stereo()) :].any()
    levels = [audio.rms_dbfs(part) for part in np.array_split(song["audio"][len(stereo()) :], 4)]
    assert levels == sorted(levels, reverse=True)
    # dB, from the first quarter of the tail to the last
    assert levels[0] - levels[3] > 12.0
    assert_ends_are_quiet(song["mix"])


def test_kept_spans_of_an_instrumental_at_the_voices_rate_are_sample_exact(accompany: Any) -> None:
    sound = {"array": stereo(), "sampling_rate": RATE}
    old = accompany(sound, seed=1, skip_fine=True)["audio"]
    again, bare = (
        accompany(sound, seed=2, skip_fine=True, sampling_rate=RATE, instrumental=band, keep=np.array([(0.0, 0.7)]))
        for band in ({"array": old, "sampling_rate": RATE}, old)
    )
    assert np.array_equal(bare["audio"], again["audio"])
    new = again["audio"]
    # the kept span before its cross-fade; the gain prevents clipping
    kept = slice(0, round(0.67 * RATE))
    gain = float(new[kept] @ old[kept]) / float(old[kept] @ old[kept])
    assert np.allclose(new[kept], gain * old[kept], atol=1e-6)
    assert gain <= 1.0 + 1e-6
    assert not np.allclose(new[RATE:], gain * old[RATE:], atol=1e-3)


def test_a_song_returns_its_lead_sheet_given_and_estimated(accompany: Any, bundled_model: Path) -> None:
    assert accompany(glide(), sampling_rate=CODEC_RATE, seed=1, skip_fine=True)["lead_sheet"] == LeadSheet()
    pipeline = transformers.pipeline("vocal-accompaniment", model=str(bundled_model), device="cpu")
    given = {"tempo": 96, "beats_per_bar": 3, "chords": [[0, 1, "F#dim"]]}
    song = pipeline(glide(2.5), sampling_rate=CODEC_RATE, seed=1, skip_fine=True, lead_sheet=given)
    sheet = song["lead_sheet"]
    assert isinstance(sheet, LeadSheet)
    assert list(sheet.chords) == [(0, 1, "F#dim")]
    assert sheet.beats_per_bar == 3
    assert sheet.beats is not None
    assert np.allclose(np.diff(sheet.beats), 60 / 96, atol=0.002)
    assert sheet.estimated == ["beats", "style"]


@pytest.mark.parametrize("file_format", ["wav", "flac", "mp3"])
def test_the_command_writes_each_format_at_the_voices_rate(
    tiny_model: Path, voice_file: Path, tmp_path: Path, file_format: str
) -> None:
    words = ("--model", tiny_model, "--skip-fine", "--seed", 1, "--out", tmp_path, "--format", file_format, "--json")
    done = hafm("accompany", voice_file, *words, "--tail", 0.5, check=True)
    result = json.loads(done.stdout)
    assert result["sampling_rate"] == RATE
    assert result["seconds"] == pytest.approx(2.0)
    for part, channels in (("instrumental", 1), ("mix", 2)):
        info = soundfile.info(result[part])
        assert result[part] == str(tmp_path / f"voice_{part}.{file_format}")
        assert (info.format, info.samplerate, info.channels) == (file_format.upper(), RATE, channels)
        assert_ends_are_quiet(audio.read_audio(result[part], mono=False)[0])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--balance", "loud"), "'loud' is neither auto nor a number"),
        (("--balance", "99"), "balance is 99.0; it must be between -30 and 30"),
        (("--loudness", "3"), "should be less than or equal to -6"),
        (("--tail", "-1"), "should be greater than or equal to 0"),
        (("--format", "ogg"), "'ogg' is not one of 'wav', 'flac', 'mp3'"),
        (("--format", "mp3", "--output-rate", "96000"), "MP3 has no sample rate of 96000 Hz"),
    ],
)
def test_invalid_options_are_refused_before_anything_is_read(words: tuple[str, ...], said: str) -> None:
    done = hafm("accompany", "missing.wav", *words)
    assert done.exit_code == 2
    assert said in " ".join(done.output.replace("│", " ").split())
