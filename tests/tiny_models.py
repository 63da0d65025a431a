# SPDX-License-Identifier: Apache-2.0
"""Small models with random weights, whose sizes all differ so that a mixed-up axis fails."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from transformers import DacConfig, DacModel, EncodecConfig, EncodecModel, HubertConfig

import hafm_hf
from hafm_hf.lead_sheet.lead_sheet import ROW_SIZES
from hafm_hf.listening.encoder import HAFMEncoderOutput
from vocals import glide

# semantic tokens, and codes of a codebook
CLUSTERS = 13
CODES = 16
SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "head_dim": 10,
    # large weights, so that the output depends on every visible token
    "initializer_range": 0.3,
}
STAGES = {
    "semantic": (hafm_hf.HAFMSemanticConfig, hafm_hf.HAFMSemanticForCausalLM),
    "coarse": (hafm_hf.HAFMCoarseConfig, hafm_hf.HAFMCoarseForCausalLM),
    "fine": (hafm_hf.HAFMFineConfig, hafm_hf.HAFMFineForCausalLM),
}
VOCABULARIES: dict[str, dict] = {
    "semantic": {"conditioning_codebook_sizes": [[CLUSTERS]], "codebook_sizes": [CLUSTERS]},
    "coarse": {"conditioning_codebook_sizes": [[CLUSTERS], [CLUSTERS]], "codebook_sizes": [CODES] * 4},
    "fine": {"conditioning_codebook_sizes": [[CODES] * 4], "codebook_sizes": [CODES] * 4},
}


def tiny_stage(name: str, seed: int = 0, **options: Any) -> Any:
    """The stage "semantic", "coarse" or "fine" with random weights, in evaluation mode; `options`: of its config."""
    config_class, model_class = STAGES[name]
    torch.manual_seed(seed)
    return model_class(config_class(**{**SIZES, **VOCABULARIES[name], **options})).eval()


def biased_stage(name: str, seed: int = 0, **options: Any) -> Any:
    """A stage whose feed-forward layers and heads have biases, which are drawn as well, since they start as zeros."""
    stage = tiny_stage(name, seed, feed_forward_bias=True, head_bias=True, **options)
    with torch.no_grad():
        for parameter_name, parameter in stage.named_parameters():
            if parameter_name.endswith("bias"):
                parameter.normal_(std=stage.config.initializer_range)
    return stage


def placed(how: str) -> dict[str, Any]:
    """Options of a stage whose conditioning has its own slots ("index", "time") or none ("sum")."""
    return {"position_scheme": "time", "conditioning_fusion": "sum"} if how == "sum" else {"position_scheme": how}


def tiny_hubert(**convolutions: tuple[int, ...]) -> HubertConfig:
    """A one-layer HuBERT."""
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 20}
    places = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    return HubertConfig(**sizes, **places, **convolutions, feat_extract_norm="layer", do_stable_layer_norm=True)


def tiny_semantic_tokenizer(seed: int = 0) -> hafm_hf.HAFMSemanticTokenizerModel:
    """A one-layer HuBERT whose centroids are its features of a glide, noise and silence."""
    hubert = tiny_hubert(conv_dim=(8,) * 7)
    torch.manual_seed(seed)
    tokenizer = hafm_hf.HAFMSemanticTokenizerModel(
        hafm_hf.HAFMSemanticTokenizerConfig(hubert_config=hubert, layer=1, num_clusters=CLUSTERS)
    ).eval()
    tokenizer.centroids.copy_(evenly(tokenizer.extract_features(sounds(), noise=True, seed=seed)))
    return tokenizer


def sounds(rate: int = 16_000) -> torch.Tensor:
    """Half a second each of a glide, noise and silence: float32 [N] at `rate` Hz."""
    noise = 0.1 * torch.randn(rate // 2, generator=torch.Generator().manual_seed(0))
    return torch.cat([torch.from_numpy(glide(0.5, rate)), noise, torch.zeros(rate // 2)])


def evenly(features: torch.Tensor) -> torch.Tensor:
    """Features (float [frames, width]) at evenly spaced frames: float [CLUSTERS, width]."""
    return features[torch.linspace(0, len(features) - 1, CLUSTERS).long()]


def tiny_rhythmic_tokenizer(seed: int = 0) -> hafm_hf.HAFMSemanticTokenizerModel:
    """A tokenizer with separate clusters for vocals, in a projection extended by the position in the beat."""
    config = copy.deepcopy(tiny_semantic_tokenizer(seed).config)
    config.separate_centroids = True
    config.vocal_projection_size = 5
    config.rhythm_channels = 7
    config.rhythm_layers = 2
    config.beat_line = True
    tokenizer = hafm_hf.HAFMSemanticTokenizerModel(config).eval()
    tokenizer.vocal_projection.normal_()
    # weighs no more than the features, so that tokens depend on both
    tokenizer.rhythm_scale.fill_(0.1)
    features = tokenizer.extract_features(sounds(), noise=True, seed=seed)
    vocal = tokenizer.vocal_space(features, tokenizer.describe(sounds()))
    tokenizer.centroids[0, :, : vocal.shape[1]] = evenly(vocal)
    tokenizer.centroids[1] = evenly(features)
    return tokenizer


def tiny_listener(seed: int = 0, **options: Any) -> hafm_hf.HAFMListenerModel:
    """Two towers of two and three layers with random weights."""
    torch.manual_seed(seed)
    sizes = {"harmony_channels": 5, "harmony_layers": 2, "time_channels": 7, "time_layers": 3, "tempo_bins": 11}
    return hafm_hf.HAFMListenerModel(hafm_hf.HAFMListenerConfig(**{**sizes, **options})).eval()


def tiny_separator(seed: int = 0, **options: Any) -> hafm_hf.HAFMSeparatorModel:
    """Two layers with random weights and a context of a twelfth of a second, for the codec of `tiny_codec`."""
    torch.manual_seed(seed)
    return hafm_hf.HAFMSeparatorModel(
        hafm_hf.HAFMSeparatorConfig(**{"channels": 9, "num_layers": 2, **options})
    ).eval()


def tiny_codec(seed: int = 0, **options: Any) -> EncodecModel:
    """An EncodecModel at 24 kHz and 75 Hz, with random codebooks (new ones are all zero)."""
    torch.manual_seed(seed)
    sizes = {"num_filters": 2, "hidden_size": 6, "codebook_dim": 6, "codebook_size": CODES, "num_lstm_layers": 1}
    # 0.3 kbps per codebook
    config = EncodecConfig(**{**sizes, "target_bandwidths": [0.3 * n for n in (4, 8)], **options})
    codec = EncodecModel(config).eval()
    for layer in codec.quantizer.layers:
        layer.codebook.embed.normal_()
    return codec


def tiny_dac(seed: int = 0, **options: Any) -> DacModel:
    """A DacModel at 24 kHz and 75 Hz, with weights large enough that codes differ and output is audible."""
    torch.manual_seed(seed)
    sizes = {"encoder_hidden_size": 4, "decoder_hidden_size": 32, "codebook_dim": 3, "codebook_size": CODES}
    config = DacConfig(
        **{**sizes, "n_codebooks": 8, "downsampling_ratios": [2, 4, 5, 8], "sampling_rate": 24_000, **options}
    )
    codec = DacModel(config).eval()
    with torch.no_grad():
        for name, weight in codec.named_parameters():
            if name.endswith("weight"):
                weight.normal_(std=0.7 * weight[0].numel() ** -0.5)
    return codec


def tiny_spectral_codec(seed: int = 0, **options: Any) -> hafm_hf.HAFMSpectralModel:
    """A spectral codec at 24 kHz and 75 Hz, with random codebooks and audible noise."""
    torch.manual_seed(seed)
    sizes = {"encoder_width": 12, "encoder_layers": 2, "decoder_width": 20, "decoder_layers": 3, "codebook_dim": 6}
    config = hafm_hf.HAFMSpectralConfig(
        **{**sizes, "expansion": 2, "codebook_size": CODES, "noise_bands": 5, **options}
    )
    return hafm_hf.HAFMSpectralModel(config).eval()


# codecs other than the paper's: at 24 kbps (here 32 codebooks of 0.3 kbps, and a hundredth for rounding), at 32 kHz as
# in MusicGen, DAC, and ours in the STFT domain
CODECS: dict[str, Callable[[], Any]] = {
    "24 kbps": lambda: tiny_codec(target_bandwidths=[0.3 * 32 + 0.01]),
    "32 kHz": lambda: tiny_codec(
        sampling_rate=32_000, upsampling_ratios=[8, 5, 4, 4], use_causal_conv=False, target_bandwidths=[0.2 * 8 + 0.01]
    ),
    "dac": tiny_dac,
    "spectral": tiny_spectral_codec,
    "spectral 44.1 kHz stereo": lambda: tiny_spectral_codec(
        sampling_rate=44_100, audio_channels=2, hop_length=588, window_length=1764
    ),
    "dac 44.1 kHz": lambda: tiny_dac(sampling_rate=44_100, downsampling_ratios=[2, 4, 8, 8]),
}


def tiny_composite(seed: int = 0, **options: Any) -> hafm_hf.HAFMForVocalAccompaniment:
    """All parts together, with random weights; `options` go to every stage's configuration."""
    stages = {name: tiny_stage(name, seed, **options) for name in STAGES}
    return hafm_hf.HAFMForVocalAccompaniment.from_parts(
        semantic_tokenizer=tiny_semantic_tokenizer(seed), codec=tiny_codec(seed), **stages
    ).eval()


def tiny_band(pattern: str = "flat", plain: bool = False, **parts: Any) -> hafm_hf.HAFMForVocalAccompaniment:
    """A composite with styles and stems, and with windows so short that each song has several.

    Args:
        pattern: codebook pattern.
        plain: without lead sheet streams and without a separator.
        parts: additional parts, or replacements of the semantic tokenizer and codec.
    """
    known = {name: ROW_SIZES[name] for name in ("chord", "energy", "style")}
    stages: dict[str, Any] = {}
    for name, window in (("semantic", 0.48), ("coarse", 0.4), ("fine", 0.32)):
        how: dict[str, Any] = {} if name == "semantic" else {"codebook_pattern": pattern}
        how |= {"lead_sheet_streams": {} if plain else known, "styles": ["folk", "rock"]}
        stages[name] = tiny_stage(name, position_scheme="time", num_hidden_layers=1, **how)
        stages[name].generation_config.update(window_seconds=window, overlap_seconds=0.08)
    usual: dict[str, Any] = {"semantic_tokenizer": tiny_semantic_tokenizer(), "codec": tiny_codec()}
    usual |= {} if plain else {"separator": tiny_separator()}
    return hafm_hf.HAFMForVocalAccompaniment.from_parts(**{**usual, **parts, **stages}).eval()


def encoded(
    model: hafm_hf.HAFMForVocalAccompaniment, vocal: Any, rate: int, given: Any = None, **how: Any
) -> HAFMEncoderOutput:
    """What the encoder of a composite returns for a vocal.

    Args:
        model: the composite.
        vocal (float [N] at `rate` Hz): the voice.
        rate: in Hz.
        given: lead sheet; None: there is none.
        how: further arguments of the encoder.
    """
    (extracted,) = model.feature_extractor().vocals(vocal, rate)
    return model.encoder(extracted, given, **how)


@contextmanager
def first_read(model: hafm_hf.HAFMForVocalAccompaniment, embedding: str) -> Iterator[dict[str, torch.Tensor]]:
    """Records what each stage reads during the block: the first input of one of its embeddings.

    Args:
        model: the composite.
        embedding: attribute of each stage's `model`.

    Yields:
        by stage, the ids of the first sequence of the batch, transposed, once the stage has run.
    """
    read: dict[str, torch.Tensor] = {}
    tables = {name: getattr(getattr(model, name).model, embedding) for name in ("semantic", "coarse", "fine")}

    def keep(name: str, _: torch.nn.Module, args: Any) -> None:
        """Keeps a stage's first input."""
        read.setdefault(name, args[0][0].t())

    hooks = [table.register_forward_pre_hook(partial(keep, name)) for name, table in tables.items()]
    yield read
    for hook in hooks:
        hook.remove()
