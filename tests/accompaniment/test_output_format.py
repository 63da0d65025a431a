# SPDX-License-Identifier: Apache-2.0
"""A codec that reads mono at 24 kHz and plays 44.1 kHz stereo: through every interface, the output has its format."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import transformers
from huggingface_hub.errors import StrictDataclassClassValidationError

from accompaniment.test_accompaniment import voice
from commands import hafm
from hafm_hf import HAFMForVocalAccompaniment, audio
from hafm_hf.accompaniment.kept_instrumental import KeptInstrumental
from hafm_hf.evaluation.datasets import Clip, Part
from hafm_hf.evaluation.generating import RenderingOptions, render
from hafm_hf.hub.endpoint import EndpointHandler
from hafm_hf.pretrained.model_card import model_card
from hafm_hf.tokenizers.codecs import as_codec
from tiny_models import tiny_band, tiny_separator, tiny_spectral_codec
from vocals import CODEC_RATE, file_bytes

RATE = 44_100
# options of a codec that reads mono at 24 kHz
WIDE = {"output_sampling_rate": RATE, "output_audio_channels": 2}


@pytest.fixture(scope="module")
def model() -> HAFMForVocalAccompaniment:
    """A composite that plays 44.1 kHz stereo."""
    return tiny_band("delay", codec=tiny_spectral_codec(**WIDE))


@pytest.fixture(scope="module")
def folder(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The saved model."""
    path = tmp_path_factory.mktemp("wide") / "model"
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def accompany(folder: Path) -> Any:
    """The pipeline of the saved model."""
    return transformers.pipeline("vocal-accompaniment", model=str(folder), device="cpu")


@pytest.mark.parametrize(("samples", "rate"), [(16_001, 16_000), (CODEC_RATE // 2 + 7, CODEC_RATE), (30_011, 48_000)])
def test_a_band_in_stereo_is_as_long_as_its_voice(model: Any, samples: int, rate: int) -> None:
    song = model.generate(np.resize(voice(0.6), samples), rate, seed=1)
    assert song.sampling_rate == RATE
    assert song.audio[0].shape == (2, round(samples * RATE / rate))
    left, right = song.audio[0]
    assert (left - right).abs().max() > 0.01


def test_streamed_stereo_equals_that_of_a_call(model: Any) -> None:
    whole = model.generate(voice(0.9), CODEC_RATE, seed=1, stems=True)
    pieces = list(model.stream(voice(0.9), CODEC_RATE, seed=1, stems=True))
    assert len(pieces) > 1
    expected = torch.stack(list(whole.stems[0].values()))
    torch.testing.assert_close(torch.cat(pieces, dim=-1), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(expected.sum(0), whole.audio[0], atol=1e-5, rtol=0)


def test_kept_spans_give_tokens_in_mono_and_are_pasted_in_stereo(model: Any) -> None:
    vocal = audio.resample(voice(1.0), CODEC_RATE, RATE)
    old = model.generate(vocal, RATE, seed=1).audio[0]
    new = model.generate(vocal, RATE, seed=2, instrumental=old, keep=[(0.0, 0.4)])
    # the kept span of 0.4 s before its cross-fade
    inside = slice(0, round(0.37 * RATE))
    assert torch.equal(new.audio[0][:, inside], old[:, inside])
    codec = as_codec(model.codec)
    kept = KeptInstrumental(old.numpy(), RATE, [(0.0, 0.4)], 1.0)
    codes = kept.tokens(model.semantic_tokenizer, codec, model.stages, 25, 25)
    mono = torch.from_numpy(audio.resample(old.mean(0).numpy(), RATE, CODEC_RATE))
    # frames at 75 Hz, all of which lie in the span
    assert torch.equal(codes["coarse"][:, :28], codec.encode(mono[None, None])[0, :4, :28])


def test_a_mono_instrumental_can_be_kept_as_well(model: Any) -> None:
    old = voice(0.8, pitch=110)
    new = model.generate(voice(0.8), CODEC_RATE, seed=2, instrumental=old, keep=[(0.0, 0.4)])
    # 0.2 s at 44.1 kHz
    expected = audio.resample(old, CODEC_RATE, RATE)[:9_000]
    assert np.array_equal(new.audio[0][0, :9_000], expected)
    assert np.array_equal(new.audio[0][1, :9_000], expected)


def test_a_mono_voice_sits_in_the_middle_of_the_mix(accompany: Any) -> None:
    song = accompany(voice(1.1), sampling_rate=CODEC_RATE, seed=1)
    assert song["sampling_rate"] == RATE
    assert song["mix"].shape == song["audio"].shape == (round(1.1 * RATE), 2)
    inside = slice(2_000, -2_000)
    # left minus right, which a voice in the middle does not change
    mix_side, band_side = ((song[part][:, 0] - song[part][:, 1])[inside] for part in ("mix", "audio"))
    gain = float(mix_side @ band_side) / float(band_side @ band_side)
    np.testing.assert_allclose(mix_side, gain * band_side, atol=1e-5)
    middle = (song["mix"] - gain * song["audio"]).mean(1)[inside]
    assert np.corrcoef(middle, song["vocals"][inside])[0, 1] > 0.999


def test_a_streamed_song_joins_to_that_of_a_call(accompany: Any) -> None:
    whole = accompany(voice(1.2), sampling_rate=CODEC_RATE, seed=1, stems=True)
    joined = accompany.join(accompany.stream(voice(1.2), sampling_rate=CODEC_RATE, seed=1, stems=True))
    np.testing.assert_allclose(joined["mix"], whole["mix"], atol=1e-3)
    assert joined["stems"]["drums"].shape == whole["stems"]["drums"].shape == whole["audio"].shape


def test_commands_and_endpoints_return_stereo(folder: Path, tmp_path: Path) -> None:
    content = file_bytes(voice(1.0), CODEC_RATE)
    (tmp_path / "v.wav").write_bytes(content)
    hafm("accompany", tmp_path / "v.wav", "--model", folder, "--out", tmp_path, "--seed", 1, "--stems", check=True)
    for part in ("instrumental", "mix", "drums"):
        written = soundfile.info(tmp_path / f"v_{part}.wav")
        assert (written.samplerate, written.channels, written.frames) == (RATE, 2, RATE)
    answer = EndpointHandler(str(folder))({"inputs": content, "parameters": {"seed": 1}})
    sound, rate = soundfile.read(io.BytesIO(base64.b64decode(answer[0]["blob"])))
    assert (sound.shape, rate) == ((RATE, 2), RATE)


def test_an_evaluation_reads_the_mean_of_the_channels(folder: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "v.wav", voice(1.0), CODEC_RATE)
    rendered = render([Clip("a", "a", Part(tmp_path / "v.wav"))], tmp_path / "out", RenderingOptions(str(folder)))
    stereo, rate = soundfile.read(rendered[0]["a"].path, dtype="float32")
    samples, read_rate = rendered[0]["a"].read()
    assert read_rate == rate == RATE
    np.testing.assert_allclose(samples, stereo.mean(1), atol=1e-6)


def test_a_card_states_the_format_that_is_played(model: Any) -> None:
    assert "stereo at 44,100 Hz" in str(model_card(model, "singers/wide"))


def test_a_separator_fits_only_at_the_codecs_input_or_output_rate(tmp_path: Path) -> None:
    codec = tiny_spectral_codec(**WIDE)
    native = tiny_separator(sampling_rate=RATE, n_fft=2352, hop_length=588)
    model: Any = tiny_band(plain=True, codec=codec, separator=native)
    song = model.generate(voice(0.4), CODEC_RATE, seed=1, stems=True)
    torch.testing.assert_close(sum(song.stems[0].values()), song.audio[0], atol=1e-5, rtol=0)
    with pytest.raises(StrictDataclassClassValidationError, match="separator sampling rate is 16000"):
        tiny_band(plain=True, codec=codec, separator=tiny_separator(sampling_rate=16_000))
    with pytest.raises(StrictDataclassClassValidationError, match="768 samples at 24000 Hz are no whole number"):
        tiny_band(plain=True, codec=codec, separator=tiny_separator(n_fft=768, hop_length=384))
