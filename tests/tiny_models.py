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
    """A HuBERT of two layers cut at the first, with random centroids."""
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
    tokenizer.centroids.normal_()
    return tokenizer


def tiny_rhythmic_tokenizer(seed: int = 0) -> HAFMSemanticTokenizer:
    """One whose vocals have clusters of their own, in a projection and beside it the place in the beat."""
    config = copy.deepcopy(tiny_semantic_tokenizer(seed).config)
    config.separate_centroids, config.vocal_projection_size = True, 5
    config.rhythm_channels, config.rhythm_layers, config.beat_line = 7, 2, True
    tokenizer = HAFMSemanticTokenizer(config).eval()
    for buffer in (tokenizer.centroids, tokenizer.vocal_projection):
        buffer.normal_()
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
