# SPDX-License-Identifier: Apache-2.0
"""A composite with only a few tokens per second, so that hours of audio are cheap to generate."""

import torch

from hafm_hf import HAFMForVocalAccompaniment, HAFMSemanticTokenizerConfig, HAFMSemanticTokenizerModel
from tiny_models import CLUSTERS, CODES, tiny_codec, tiny_hubert, tiny_stage

# frames per second
SEMANTIC_RATE, ACOUSTIC_RATE = 2, 3


def slow_token_composite() -> HAFMForVocalAccompaniment:
    """Random weights; 2 semantic and 3 acoustic frames per second instead of 50 and 75, at the usual 16 and 24 kHz.

    So a test can generate a long song of few tokens.
    """
    torch.manual_seed(0)
    # their product is 8,000: two frames a second at 16 kHz
    strides = (5, 5, 5, 4, 4, 4)
    hubert = tiny_hubert(conv_dim=(4,) * len(strides), conv_stride=strides, conv_kernel=strides)
    tokenizer = HAFMSemanticTokenizerModel(
        HAFMSemanticTokenizerConfig(hubert_config=hubert, layer=1, num_clusters=CLUSTERS, frame_rate=SEMANTIC_RATE)
    ).eval()
    tokenizer.centroids.normal_()
    bits = (CODES - 1).bit_length()
    # kbps of 4 and of 8 codebooks; the product of the ratios is 8,000, three frames a second at 24 kHz
    bandwidths = [count * ACOUSTIC_RATE * bits / 1000 for count in (4, 8)]
    codec = tiny_codec(upsampling_ratios=[20, 20, 20], target_bandwidths=bandwidths)
    rates = {
        "semantic": {"conditioning_frame_rate": SEMANTIC_RATE, "frame_rate": SEMANTIC_RATE},
        "coarse": {"conditioning_frame_rate": SEMANTIC_RATE, "frame_rate": ACOUSTIC_RATE},
        "fine": {"conditioning_frame_rate": ACOUSTIC_RATE, "frame_rate": ACOUSTIC_RATE},
    }
    stages = {name: tiny_stage(name, num_hidden_layers=1, **each) for name, each in rates.items()}
    return HAFMForVocalAccompaniment.from_parts(semantic_tokenizer=tokenizer, codec=codec, **stages).eval()
