# SPDX-License-Identifier: Apache-2.0
"""Codecs: conversion of original weights, codes, lengths, streaming, and every supported family."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import EncodecConfig, EncodecModel, MimiConfig

from convert_encodec import convert
from hafm_hf.tokenizers.codecs import CONTEXT_FRAMES, Codec, CodecStream, as_codec, load_codec
from hafm_hf.tokenizers.configuration_codec import CodecFormat, codec_format
from tiny_models import CODECS, CODES, tiny_codec

RATIOS = (4, 3, 2)


@torch.no_grad()
def fill_codebooks(codec: EncodecModel) -> None:
    """Spreads the code vectors over the encoder's output, so that different sounds get different codes."""
    embeddings = codec.encoder(0.3 * torch.randn(1, 1, 2_400))
    mean = embeddings.mean((0, 2))
    spread = embeddings.std((0, 2))
    for index, layer in enumerate(codec.quantizer.layers):
        scattered = spread / 2**index * torch.randn(64, len(spread))
        layer.codebook.embed.copy_(scattered + mean if index == 0 else scattered)


@pytest.fixture(scope="module")
def codec() -> Codec:
    """Random weights and 3 codebooks of 64 codes: 18 kbps at 1,000 frames per second."""
    sizes = {"num_filters": 4, "hidden_size": 10, "codebook_dim": 10, "codebook_size": 64}
    model = tiny_codec(upsampling_ratios=list(RATIOS), target_bandwidths=[6.0, 18.0], **sizes)
    fill_codebooks(model)
    return as_codec(model)


@pytest.fixture(scope="module")
def original() -> Any:
    """The `encodec` package; a stub replaces torchaudio, which it imports only for resampling."""
    torchaudio = types.ModuleType("torchaudio")
    before = sys.modules.get("torchaudio")
    sys.modules["torchaudio"] = torchaudio
    try:
        return pytest.importorskip("encodec", reason="the reference of the conversion: pip install --no-deps encodec")
    finally:
        if before is None:
            del sys.modules["torchaudio"]
        else:
            sys.modules["torchaudio"] = before


def test_a_checkpoint_of_the_original_package_gives_the_same_codes_and_audio(original: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = original.EncodecModel.encodec_model_24khz(pretrained=False).eval()
    waveform = torch.randn(2, 1, 7_000)
    with torch.no_grad():
        embeddings = reference.encoder(waveform)
    for vector in reference.quantizer.vq.layers:
        # scattered around the embeddings themselves, so that neighbouring frames get different codes
        vector._codebook.embed.copy_(embeddings.mean((0, 2)) + embeddings.std((0, 2)) * torch.randn(1024, 128))
        vector._codebook.inited.fill_(1)
    torch.save(reference.state_dict(), tmp_path / "encodec_24khz-tested.th")
    convert(tmp_path / "encodec_24khz-tested.th").save_pretrained(tmp_path / "codec")
    codec = load_codec(tmp_path / "codec")

    reference.set_target_bandwidth(6.0)
    with torch.no_grad():
        assert torch.equal(codec.model.encoder(waveform), reference.encoder(waveform))
        codes = reference.encode(waveform)[0][0]
        ours = codec.encode(waveform, 8)
        # 7,000 samples are 21.9 frames
        assert ours.shape == (2, 8, 22)
        assert torch.equal(ours, codes)
        assert len(codes.unique()) > 20
        audio = reference.decode([(codes, None)])[:, 0]
        assert torch.equal(codec.decode(codes)[:, 0], audio)


@pytest.mark.parametrize("state", [{"weight": torch.ones(1)}, {"encoder.model.0.conv.conv.bias": torch.ones(3)}, [1]])
def test_files_that_are_not_original_checkpoints_are_refused(state: Any, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "other.th")
    with pytest.raises(ValueError, match="other.th is not a checkpoint"):
        convert(tmp_path / "other.th")


def test_codes_equal_transformers_own_encode(codec: Codec) -> None:
    waveform = 0.3 * torch.randn(2, 1, 2_400)
    codes = codec.model.encode(waveform, bandwidth=18.0).audio_codes[0]
    assert torch.equal(codec.encode(waveform, 3), codes)
    assert len(codes.unique()) > 10
    with torch.no_grad():
        audio = codec.model.decode(codes[None], [None]).audio_values
    assert torch.equal(codec.decode(codes, 2_400), audio)


def test_a_saved_codec_loads_strictly_from_folder_and_subfolder(codec: Codec, tmp_path: Path) -> None:
    codec.model.save_pretrained(tmp_path / "codec")
    waveform = 0.3 * torch.randn(1, 1, 1_200)
    expected = codec.encode(waveform, 3)
    assert torch.equal(load_codec(tmp_path / "codec").encode(waveform, 3), expected)
    assert torch.equal(load_codec(tmp_path, subfolder="codec").encode(waveform, 3), expected)
    path = tmp_path / "codec" / "model.safetensors"
    state = load_file(path)
    del state["quantizer.layers.1.codebook.embed"]
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="quantizer.layers.1.codebook.embed"):
        load_codec(tmp_path / "codec")


def test_invalid_arguments_are_refused(codec: Codec) -> None:
    with pytest.raises(ValueError, match="num_codebooks is 4; this codec has 1 to 3"):
        codec.encode(torch.zeros(1, 1, 100), 4)
    with pytest.raises(ValueError, match=r"shape \[1, 100\]; it must be \[batch, 1, samples\]"):
        codec.encode(torch.zeros(1, 100), 3)
    with pytest.raises(ValueError, match="between 0 and 63"):
        codec.decode(torch.full((1, 3, 5), 64))
    with pytest.raises(ValueError, match="length is 121; 5 frames hold 120"):
        codec.decode(torch.zeros(1, 3, 5, dtype=torch.int64), 121)


@pytest.fixture(scope="module", params=list(CODECS))
def other(request: pytest.FixtureRequest) -> Codec:
    """A codec with another bit rate, sampling rate, number of channels or family."""
    return as_codec(CODECS[request.param]())


def test_every_family_encodes_whole_frames_and_decodes_to_the_given_length(other: Codec) -> None:
    form = other.format
    # a partial last frame
    samples = round(2.3 * form.sampling_rate)
    audio = 0.3 * torch.randn(2, form.channels, samples)
    codes = other.encode(audio)
    assert codes.shape == (2, form.num_codebooks, -(-samples // form.hop_length))
    assert codes.dtype == torch.int64
    assert len(codes.unique()) > CODES // 4
    assert torch.equal(other.encode(audio, 2), codes[:, :2])
    decoded = other.decode(codes, samples)
    assert decoded.shape == audio.shape
    assert float(decoded.std()) > 1e-4
    assert not torch.allclose(other.decode(codes[:, :4], samples), decoded, atol=1e-4)


@pytest.mark.parametrize("frames", [[40, 1, 200, 7], [7, 500], [430]])
def test_streamed_decoding_equals_decoding_at_once(other: Codec, frames: list[int]) -> None:
    form = other.format
    codes = torch.randint(form.codebook_size, (1, form.num_codebooks, sum(frames)))
    whole = other.decode(codes)
    stream = CodecStream(other)
    parts = codes.split(frames, dim=-1)
    pieces = [stream.decode(part, last=number == len(parts)) for number, part in enumerate(parts, start=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=-1), whole, atol=1e-5, rtol=1e-4)
    # all final samples have been returned: no more than the context is held back
    held = sum(frames[:-1]) * form.hop_length - sum(piece.shape[-1] for piece in pieces[:-1])
    assert held <= (form.frame_rate + 2 * CONTEXT_FRAMES) * form.hop_length


@pytest.mark.parametrize("kind", ["32 kHz", "dac", "dac 44.1 kHz"])
def test_decoding_in_sections_equals_transformers_decoding_at_once(kind: str) -> None:
    codec = as_codec(CODECS[kind]())
    codes = torch.randint(codec.format.codebook_size, (2, 8, round(12.4 * codec.format.frame_rate)))
    with torch.no_grad():
        if codec.model.config.model_type == "dac":
            expected = codec.model.decode(audio_codes=codes).audio_values[:, None]
        else:
            expected = codec.model.decode(codes[None], [None]).audio_values
    # with odd strides, transformers' DAC decodes a few samples less
    assert 0 <= codes.shape[-1] * codec.format.hop_length - expected.shape[-1] < 16
    torch.testing.assert_close(codec.decode(codes, expected.shape[-1]), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["dac", "dac 44.1 kHz"])
def test_dac_codes_equal_those_of_transformers(kind: str) -> None:
    codec = as_codec(CODECS[kind]())
    audio = 0.3 * torch.randn(2, 1, 40 * codec.format.hop_length)
    with torch.no_grad():
        expected = codec.model.encode(audio, 5).audio_codes
    assert expected.shape == (2, 5, 40)
    assert len(expected.unique()) > 8
    assert torch.equal(codec.encode(audio, 5), expected)
    # a partial frame counts as a whole one
    assert codec.encode(audio[..., :-3], 5).shape == expected.shape


def test_fractional_frame_rates_are_adjusted_or_refused() -> None:
    # 44,100 Hz are no whole number of frames of 512 samples
    assert codec_format(CODECS["dac 44.1 kHz"]().config) == CodecFormat(44_032, 512, 8, CODES, 1)
    assert codec_format(CODECS["dac 44.1 kHz"]().config).frame_rate == 86
    with pytest.raises(ValueError, match="24000 Hz are not a whole number of frames of 1120 samples"):
        codec_format(EncodecConfig(upsampling_ratios=[8, 5, 4, 7]))
    with pytest.raises(ValueError, match="normalises chunks, as EnCodec at 48 kHz does; use EnCodec at 24 or 32 kHz"):
        as_codec(EncodecModel(EncodecConfig(chunk_length_s=1.0)))
    with pytest.raises(ValueError, match="type 'mimi' is not known; choose encodec, dac or hafm_spectral"):
        as_codec(types.SimpleNamespace(config=MimiConfig()))


def test_every_family_is_saved_and_loaded_by_its_own_class(other: Codec, tmp_path: Path) -> None:
    other.model.save_pretrained(tmp_path)
    loaded = load_codec(tmp_path)
    assert type(loaded) is type(other)
    assert type(loaded.model) is type(other.model)
    codes = torch.randint(other.format.codebook_size, (1, other.format.num_codebooks, 30))
    assert torch.equal(loaded.decode(codes), other.decode(codes))
    # [frames, dimensions] of one sound
    vectors = other.code_vectors(codes[0].t())
    torch.testing.assert_close(vectors.t()[None], other.embed(codes).detach(), atol=1e-5, rtol=1e-5)
