"""Small models with random weights whose sizes all differ, so that a mixed-up axis fails."""

import copy
from typing import Any

import torch
from transformers import EncodecConfig, EncodecModel, HubertConfig

from hafm_hf import (
    HAFMCoarseConfig,
    HAFMCoarseForCausalLM,
    HAFMFineConfig,
    HAFMFineForCausalLM,
    HAFMForVocalAccompaniment,
    HAFMHarmonyConfig,
    HAFMHarmonyModel,
    HAFMSemanticConfig,
    HAFMSemanticForCausalLM,
    HAFMSemanticTokenizer,
    HAFMSemanticTokenizerConfig,
)
from vocals import glide

CLUSTERS = 13
CODES = 16
SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "head_dim": 10,
    # wide weights, so that what a token sees changes what comes out
    "initializer_range": 0.3,
}
STAGES = {
    "semantic": (HAFMSemanticConfig, HAFMSemanticForCausalLM),
    "coarse": (HAFMCoarseConfig, HAFMCoarseForCausalLM),
    "fine": (HAFMFineConfig, HAFMFineForCausalLM),
}
VOCABULARIES: dict[str, dict] = {
    "semantic": {"conditioning_codebook_sizes": [[CLUSTERS]], "codebook_sizes": [CLUSTERS]},
    "coarse": {"conditioning_codebook_sizes": [[CLUSTERS], [CLUSTERS]], "codebook_sizes": [CODES] * 4},
    "fine": {"conditioning_codebook_sizes": [[CODES] * 4], "codebook_sizes": [CODES] * 4},
}


def tiny_stage(name: str, seed: int = 0, **options: Any) -> Any:
    """A stage with random weights, in evaluation mode."""
    config_class, model_class = STAGES[name]
    torch.manual_seed(seed)
    return model_class(config_class(**{**SIZES, **VOCABULARIES[name], **options})).eval()


def tiny_semantic_tokenizer(seed: int = 0) -> HAFMSemanticTokenizer:
    """A HuBERT of two layers cut at the first, whose centroids are its features of a glide, noise and silence."""
    hubert = HubertConfig(
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=3,
        intermediate_size=20,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
    )
    torch.manual_seed(seed)
    tokenizer = HAFMSemanticTokenizer(
        HAFMSemanticTokenizerConfig(hubert_config=hubert, layer=1, num_clusters=CLUSTERS)
    ).eval()
    tokenizer.set_centroids(evenly(tokenizer.extract_features(sounds(), noise=True, seed=seed)))
    return tokenizer


def sounds(rate: int = 16_000) -> torch.Tensor:
    """Half a second each of a glide, noise and silence: float32 [N]."""
    noise = 0.1 * torch.randn(rate // 2, generator=torch.Generator().manual_seed(0))
    return torch.cat([torch.from_numpy(glide(0.5, rate)), noise, torch.zeros(rate // 2)])


def evenly(features: torch.Tensor) -> torch.Tensor:
    """Rows of features (float [T, D]) at even steps: float [CLUSTERS, D]."""
    return features[torch.linspace(0, len(features) - 1, CLUSTERS).long()]


def tiny_rhythmic_tokenizer(seed: int = 0) -> HAFMSemanticTokenizer:
    """One whose vocals have clusters of their own, in a projection and beside it the place in the beat."""
    config = copy.deepcopy(tiny_semantic_tokenizer(seed).config)
    config.separate_centroids, config.vocal_projection_size = True, 5
    config.rhythm_channels, config.rhythm_layers, config.beat_line = 7, 2, True
    tokenizer = HAFMSemanticTokenizer(config).eval()
    tokenizer.vocal_projection.normal_()
    # no more than the features weigh, so that a token tells both
    tokenizer.rhythm_scale.fill_(0.1)
    features = tokenizer.extract_features(sounds(), noise=True, seed=seed)
    vocal = tokenizer.vocal_space(features, tokenizer.describe(sounds()))
    tokenizer.centroids[0, :, : vocal.shape[1]] = evenly(vocal)
    tokenizer.centroids[1] = evenly(features)
    return tokenizer


def tiny_harmony(seed: int = 0, **options: Any) -> HAFMHarmonyModel:
    """A network of two layers with random weights and tables."""
    torch.manual_seed(seed)
    model = HAFMHarmonyModel(
        HAFMHarmonyConfig(**{"num_clusters": CLUSTERS, "channels": 9, "num_layers": 2, **options})
    )
    model.notes.uniform_()
    model.chord_scores.normal_()
    return model.eval()


def tiny_codec(seed: int = 0) -> EncodecModel:
    """An EncodecModel at 24 kHz and 75 Hz, with codebooks of random vectors (fresh ones are all zero)."""
    torch.manual_seed(seed)
    config = EncodecConfig(
        num_filters=2,
        hidden_size=6,
        codebook_size=CODES,
        codebook_dim=6,
        num_lstm_layers=1,
        target_bandwidths=[0.3 * n for n in (4, 8)],
    )
    codec = EncodecModel(config).eval()
    for layer in codec.quantizer.layers:
        layer.codebook.embed.normal_()
    return codec


def tiny_composite(seed: int = 0, **options: Any) -> HAFMForVocalAccompaniment:
    """All parts together, with random weights; `options` go to every stage's configuration."""
    stages = {name: tiny_stage(name, seed, **options) for name in STAGES}
    return HAFMForVocalAccompaniment.from_parts(
        semantic_tokenizer=tiny_semantic_tokenizer(seed), codec=tiny_codec(seed), **stages
    ).eval()
