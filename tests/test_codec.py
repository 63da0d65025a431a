"""The codec: weights of the original package, codes and lengths."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import EncodecConfig, EncodecModel

from hafm_hf.codec import convert_encodec_state_dict, decode_codes, encode_codes, load_encodec

RATIOS = (4, 3, 2)
HOP = 24


def tiny_codec() -> EncodecModel:
    """Random weights and 3 codebooks of 64: 18 kbps at 1,000 frames a second."""
    torch.manual_seed(0)
    config = EncodecConfig(
        num_filters=4,
        hidden_size=10,
        upsampling_ratios=list(RATIOS),
        codebook_size=64,
        target_bandwidths=[6.0, 18.0],
        num_lstm_layers=1,
    )
    codec = EncodecModel(config).eval()
    fill_codebooks(codec)
    return codec


@torch.no_grad()
def fill_codebooks(codec: EncodecModel) -> None:
    embeddings = codec.encoder(0.3 * torch.randn(1, 1, 2_400))
    mean, spread = embeddings.mean((0, 2)), embeddings.std((0, 2))
    for index, layer in enumerate(codec.quantizer.layers):
        scattered = spread / 2**index * torch.randn(64, len(spread))
        layer.codebook.embed.copy_(scattered + mean if index == 0 else scattered)


@pytest.fixture(scope="module")
def codec() -> EncodecModel:
    return tiny_codec()


@pytest.fixture(scope="module")
def original() -> Any:
    """The `encodec` package; it imports torchaudio, for resampling only, which has no CPU build."""
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


def test_original_weights_convert_bit_for_bit(original: Any) -> None:
    torch.manual_seed(0)
    reference = original.EncodecModel.encodec_model_24khz(pretrained=False).eval()
    waveform = torch.randn(2, 1, 7_000)
    with torch.no_grad():
        embeddings = reference.encoder(waveform)
    for vector in reference.quantizer.vq.layers:
        # scattered around the embeddings themselves, so that neighbouring frames get different codes
        vector._codebook.embed.copy_(embeddings.mean((0, 2)) + embeddings.std((0, 2)) * torch.randn(1024, 128))
        vector._codebook.inited.fill_(1)
    codec = EncodecModel(EncodecConfig()).eval()
    state = reference.state_dict()
    converted = convert_encodec_state_dict(state)
    assert converted.keys() == codec.state_dict().keys()
    assert all(torch.equal(value, converted[name]) for name, value in zip(converted, state.values(), strict=True))
    codec.load_state_dict(converted, strict=True)

    reference.set_target_bandwidth(6.0)
    with torch.no_grad():
        assert torch.equal(codec.encoder(waveform), reference.encoder(waveform))
        codes = reference.encode(waveform)[0][0]
        ours = encode_codes(codec, waveform[:, 0], 8)
        assert ours.shape == (2, 8, 22) and torch.equal(ours, codes)
        assert len(codes.unique()) > 20
        audio = reference.decode([(codes, None)])[:, 0]
        assert torch.equal(decode_codes(codec, codes), audio)


def test_a_foreign_key_is_not_converted() -> None:
    with pytest.raises(ValueError, match="model.embed is not a weight of EnCodec"):
        convert_encodec_state_dict({"model.embed": torch.zeros(1)})


@pytest.mark.parametrize("samples", [1, 23, 24, 25, 960, 1001])
def test_codes_cover_the_audio_and_decode_to_its_length(codec: EncodecModel, samples: int) -> None:
    codes = encode_codes(codec, 0.3 * torch.randn(2, samples), 3)
    assert codes.shape == (2, 3, -(-samples // HOP))
    assert codes.dtype == torch.int64
    assert decode_codes(codec, codes, samples).shape == (2, samples)


def test_codes_equal_transformers_own_encode(codec: EncodecModel) -> None:
    waveform = 0.3 * torch.randn(2, 2_400)
    codes = codec.encode(waveform[:, None], bandwidth=18.0).audio_codes[0]
    assert torch.equal(encode_codes(codec, waveform, 3), codes)
    assert len(codes.unique()) > 10
    with torch.no_grad():
        audio = codec.decode(codes[None], [None]).audio_values[:, 0]
    assert torch.equal(decode_codes(codec, codes, 2_400), audio)


def test_fewer_codebooks_are_the_first_of_all(codec: EncodecModel) -> None:
    waveform = 0.3 * torch.randn(1, 1_200)
    codes = encode_codes(codec, waveform, 3)
    assert torch.equal(encode_codes(codec, waveform, 1), codes[:, :1])
    assert not torch.equal(decode_codes(codec, codes[:, :1]), decode_codes(codec, codes))


def test_saved_codec_loads_strictly_from_folder_and_subfolder(codec: EncodecModel, tmp_path: Path) -> None:
    codec.save_pretrained(tmp_path / "codec")
    waveform = 0.3 * torch.randn(1, 1_200)
    wanted = encode_codes(codec, waveform, 3)
    assert torch.equal(encode_codes(load_encodec(tmp_path / "codec"), waveform, 3), wanted)
    assert torch.equal(encode_codes(load_encodec(tmp_path, subfolder="codec"), waveform, 3), wanted)
    path = tmp_path / "codec" / "model.safetensors"
    state = load_file(path)
    del state["quantizer.layers.1.codebook.embed"]
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="quantizer.layers.1.codebook.embed"):
        load_encodec(tmp_path / "codec")


def test_stereo_and_chunked_codecs_are_refused(tmp_path: Path) -> None:
    config = EncodecConfig(num_filters=2, hidden_size=4, codebook_size=16, audio_channels=2, normalize=True)
    EncodecModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="mono"):
        load_encodec(tmp_path)


def test_wrong_use_is_a_clear_error(codec: EncodecModel) -> None:
    with pytest.raises(ValueError, match="num_codebooks is 4; this codec has 1 to 3"):
        encode_codes(codec, torch.zeros(1, 100), 4)
    with pytest.raises(ValueError, match=r"shape \[100\]"):
        encode_codes(codec, torch.zeros(100), 3)
    with pytest.raises(ValueError, match="between 0 and 63"):
        decode_codes(codec, torch.full((1, 3, 5), 64))
    with pytest.raises(ValueError, match="length is 121; 5 frames hold 120"):
        decode_codes(codec, torch.zeros(1, 3, 5, dtype=torch.int64), 121)
