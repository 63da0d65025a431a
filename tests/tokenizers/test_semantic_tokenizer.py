# SPDX-License-Identifier: Apache-2.0
"""The semantic tokenizer: frames, noise, chunks, precision, and conversion from a HuBERT."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from safetensors.torch import load_file, save_file
from sklearn.cluster import KMeans
from transformers import HubertConfig, HubertForCTC, HubertModel

from fit_kmeans import tokenizer_from_hubert
from hafm_hf.audio import read_audio
from hafm_hf.pretrained.loading import BUNDLED_MODEL
from hafm_hf.tokenizers.configuration_semantic_tokenizer import HAFMSemanticTokenizerConfig
from hafm_hf.tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel

# Hz
RATE = 16_000
# samples from one frame to the next
HOP = 320
WIDTH = 24
CLUSTERS = 37
# the layer whose output is clustered, and the number of layers
LAYER = 2
LAYERS = 5


def tiny_hubert_config(stable: bool = True) -> HubertConfig:
    """A tiny HuBERT in the layer-norm variant, or else with group norm."""
    return HubertConfig(
        conv_dim=[6, 8, 10, 10, 8, 8, 12],
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=3,
        intermediate_size=40,
        feat_extract_norm="layer" if stable else "group",
        conv_bias=stable,
        do_stable_layer_norm=stable,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        vocab_size=11,
    )


def random_hubert(stable: bool = True, seed: int = 0) -> HubertModel:
    """A HuBERT whose norms and biases are not neutral, so that a missing or extra one shows."""
    torch.manual_seed(seed)
    hubert = HubertModel(tiny_hubert_config(stable)).eval()
    with torch.no_grad():
        for parameter in hubert.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return hubert


def waveform(seconds: float, seed: int = 1) -> torch.Tensor:
    """Four notes a second of random pitch and level with a little noise: float32 [N] at 16 kHz."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(round(seconds * RATE)) / RATE
    notes = torch.rand(int(seconds * 4) + 1, generator=generator)
    # 0 to 1: the note at each sample
    note = notes[(time * 4).long()]
    pitch = 110 * 2 ** (2 * note)
    tone = torch.sin(2 * torch.pi * torch.cumsum(pitch / RATE, 0)) * note
    return 0.3 * tone + 0.01 * torch.randn(len(time), generator=generator)


@pytest.fixture(scope="module", params=[True, False], ids=["layer-norm", "group-norm"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random HuBERT of either variant."""
    path = tmp_path_factory.mktemp("hubert")
    random_hubert(request.param).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> HAFMSemanticTokenizerModel:
    """A tokenizer whose centroids are some of its own features, so that tokens vary."""
    model = tokenizer_from_hubert(folder, layer=LAYER, num_clusters=CLUSTERS)
    features = model.extract_features(waveform(6.0, seed=9))
    model.centroids.copy_(features[:: len(features) // CLUSTERS][:CLUSTERS])
    return model


def test_features_of_a_truncated_hubert_equal_that_layer_of_the_whole(folder: Path) -> None:
    whole = HubertModel.from_pretrained(folder).eval()
    samples = waveform(1.3)
    for layer in (1, LAYER, LAYERS):
        cut = tokenizer_from_hubert(folder, layer=layer, do_normalize=False)
        with torch.no_grad():
            # 40 samples on each side give one frame for every 320 samples
            padded = torch.nn.functional.pad(samples, (40, 40))[None]
            expected = whole(padded, output_hidden_states=True).hidden_states[layer][0]
        torch.testing.assert_close(cut.extract_features(samples), expected, atol=1e-5, rtol=1e-5)
        assert len(cut.hubert.encoder.layers) == layer
        assert cut.hubert.config._attn_implementation == "sdpa"


def test_input_is_normalised_to_zero_mean_and_unit_variance(folder: Path) -> None:
    samples = waveform(0.7) * 3 + 0.2
    normalised = (samples - samples.mean()) / samples.std(correction=0)
    by_model = tokenizer_from_hubert(folder, layer=LAYER, do_normalize=True).extract_features(samples)
    by_hand = tokenizer_from_hubert(folder, layer=LAYER, do_normalize=False).extract_features(normalised)
    torch.testing.assert_close(by_model, by_hand, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("samples", [0, 1, 319, 320, 321, 16_001, 33_333])
def test_there_are_fifty_frames_per_second(tokenizer: HAFMSemanticTokenizerModel, samples: int) -> None:
    tokens = tokenizer.encode(waveform(3.0)[:samples])
    assert tokens.shape == (-(-samples // HOP),)
    assert tokens.dtype == torch.int64
    assert bool(torch.isfinite(tokenizer.extract_features(torch.zeros(samples))).all()), "also for silence"


def test_tokens_equal_those_of_scikit_learns_kmeans(folder: Path) -> None:
    features = tokenizer_from_hubert(folder, layer=LAYER).extract_features(waveform(8.0))
    kmeans = KMeans(CLUSTERS, n_init=1, random_state=0).fit(features.numpy())
    model = tokenizer_from_hubert(folder, layer=LAYER, num_clusters=CLUSTERS)
    model.centroids.copy_(torch.from_numpy(kmeans.cluster_centers_))
    other = waveform(4.0, seed=5)
    predicted = kmeans.predict(model.extract_features(other).numpy())
    np.testing.assert_array_equal(model.encode(other).numpy(), predicted)
    assert len(set(predicted.tolist())) > 5


def test_noise_is_seeded_optional_and_has_the_configured_level(tokenizer: HAFMSemanticTokenizerModel) -> None:
    samples = waveform(2.0)
    before = torch.get_rng_state()
    clean = tokenizer.extract_features(samples)
    noisy = tokenizer.extract_features(samples, noise=True, seed=3)
    assert torch.equal(noisy, tokenizer.extract_features(samples, noise=True, seed=3))
    assert not torch.equal(noisy, tokenizer.extract_features(samples, noise=True, seed=4))
    assert not torch.equal(noisy, clean)
    drawn = torch.randn(len(samples), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(noisy, tokenizer.extract_features(samples + tokenizer.config.noise_std * drawn))
    assert tokenizer.config.noise_std == 0.01
    assert torch.equal(before, torch.get_rng_state()), "the global generator is untouched"


def test_chunks_of_a_network_without_attention_are_exact() -> None:
    """Without attention, only the cutting can go wrong: noise, normalisation, edges, order."""
    model = HAFMSemanticTokenizerModel(HAFMSemanticTokenizerConfig(hubert_config=random_hubert().config, layer=LAYER))
    with torch.no_grad():
        for layer in model.hubert.encoder.layers:
            layer.attention.out_proj.weight.zero_()
    samples = waveform(7.3) * 2 + 0.1
    whole = model.extract_features(samples, noise=True, seed=2)
    # several chunks instead of one
    model.config.chunk_seconds, model.config.context_seconds = 1.5, 0.3
    torch.testing.assert_close(model.extract_features(samples, noise=True, seed=2), whole, atol=1e-4, rtol=1e-4)


def test_half_precision_keeps_nearly_all_tokens_of_the_bundled_tokenizer() -> None:
    # a trained network, since centroids of a random one are so close that rounding decides between them
    samples, _ = read_audio(Path(__file__).parents[2] / "examples/vocal.wav", sampling_rate=RATE)
    sung = torch.from_numpy(samples)
    tokens = []
    for dtype in (torch.float32, torch.bfloat16):
        loaded = HAFMSemanticTokenizerModel.from_pretrained(BUNDLED_MODEL, subfolder="semantic_tokenizer", dtype=dtype)
        assert loaded.centroids.dtype == dtype
        tokens.append(loaded.encode(sung))
    assert tokens[1].dtype == torch.int64
    assert len(tokens[0].unique()) > 20, "the example has varied tokens"
    assert float((tokens[0] == tokens[1]).float().mean()) > 0.97


def test_recognition_models_and_old_weight_norm_names_are_accepted(tmp_path: Path) -> None:
    torch.manual_seed(0)
    recogniser = HubertForCTC(tiny_hubert_config()).eval()
    recogniser.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    renamed = {}
    for key, value in state.items():
        old_key = key.replace("parametrizations.weight.original0", "weight_g")
        old_key = old_key.replace("parametrizations.weight.original1", "weight_v")
        renamed[old_key] = value
    assert renamed.keys() != state.keys()
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model = tokenizer_from_hubert(tmp_path, layer=LAYER)
    position = recogniser.hubert.encoder.pos_conv_embed.conv
    torch.testing.assert_close(model.hubert.encoder.pos_conv_embed.conv.weight, position.weight)


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_wrong_weights_are_an_error_except_in_dropped_layers(tmp_path: Path, change: str) -> None:
    random_hubert().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["encoder.layers.4.attention.k_proj.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert len(tokenizer_from_hubert(tmp_path, layer=LAYER).hubert.encoder.layers) == LAYER
    if change == "missing":
        del state["encoder.layers.1.attention.k_proj.weight"]
    else:
        state["encoder.layers.1.attention.z_proj.weight"] = torch.zeros(3)
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"{change}.*layers.1.attention"):
        tokenizer_from_hubert(tmp_path, layer=LAYER)


def test_invalid_arguments_are_refused(folder: Path, tokenizer: HAFMSemanticTokenizerModel) -> None:
    with pytest.raises(ValueError, match="layer is 6.*1 to 5"):
        tokenizer_from_hubert(folder, layer=6)
    with pytest.raises(ValueError, match="no centroids"):
        tokenizer_from_hubert(folder, layer=LAYER).encode(waveform(0.2))
    with pytest.raises(ValueError, match="NaN"):
        tokenizer.encode(torch.tensor([0.1, float("nan"), 0.2]))
    with pytest.raises(ValueError, match=r"shape \[2, 1, 320\]"):
        tokenizer(torch.zeros(2, 1, 320))
    with pytest.raises(StrictDataclassClassValidationError, match="longer than twice the context"):
        HAFMSemanticTokenizerConfig(chunk_seconds=4, context_seconds=2)
    config = tiny_hubert_config()
    config.conv_stride = [5, 2, 2, 2, 2, 2, 1]
    with pytest.raises(ValueError, match="steps 160 samples a frame.*needs 320"):
        HAFMSemanticTokenizerModel(HAFMSemanticTokenizerConfig(hubert_config=config, layer=LAYER))


def test_large_kernels_still_give_fifty_aligned_frames_per_second() -> None:
    """The bundled tokenizer has two long convolutions instead of HuBERT's seven."""
    config = tiny_hubert_config()
    changes = {"conv_dim": [9, 7], "conv_kernel": [800, 3], "conv_stride": [160, 2], "num_feat_extract_layers": 2}
    config = HubertConfig(**{**config.to_dict(), **changes})
    model = HAFMSemanticTokenizerModel(HAFMSemanticTokenizerConfig(hubert_config=config, layer=LAYER)).eval()
    assert model.extract_features(waveform(1.0)).shape == (50, WIDTH)
    # the middle of frame 25 is at 0.51 s: the effect of a click there must be centred on that frame
    samples = torch.zeros(RATE)
    samples[int(0.51 * RATE)] = 1.0
    padded = torch.nn.functional.pad(samples, model.padding)[None]
    with torch.no_grad():
        first = model.hubert.feature_extractor.conv_layers[0].conv(padded[:, None])
    # outputs of the first convolution that the click changes, two a frame
    changed = (first - first[..., :1]).abs().sum(1)[0].nonzero().squeeze(1)
    assert abs(float((changed / 2).float().mean()) - 25) <= 1


def test_vocals_and_instrumentals_can_have_separate_centroids(tokenizer: HAFMSemanticTokenizerModel) -> None:
    shared = tokenizer
    config = copy.deepcopy(shared.config)
    config.separate_centroids = True
    apart = HAFMSemanticTokenizerModel(config).eval()
    apart.hubert.load_state_dict(shared.hubert.state_dict())
    # those of instrumentals are in the reverse order
    apart.centroids.copy_(torch.stack([shared.centroids, shared.centroids.flip(0)]))
    waveform = 0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(3))
    last = config.num_clusters - 1
    assert torch.equal(apart.encode(waveform), last - shared.encode(waveform))
    assert torch.equal(apart.encode(waveform, vocal=True, seed=1), shared.encode(waveform, vocal=True, seed=1))
