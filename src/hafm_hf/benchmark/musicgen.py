# SPDX-License-Identifier: Apache-2.0
"""The peer of the benchmarks: MusicGen's decoder in the size of a stage.

Apart from them, since `hafm benchmark generate` needs nothing but the core of the package.
"""

from transformers import MusicgenForCausalLM, PreTrainedModel
from transformers.models.musicgen.configuration_musicgen import MusicgenDecoderConfig

from ..modeling.modeling_hafm import HAFMStageForCausalLM


def musicgen_decoder(stage: HAFMStageForCausalLM, slots: int) -> PreTrainedModel:
    """MusicGen's decoder of the stage's width, layers and heads, for `slots` slots of as many codes as the stage's."""
    config = stage.config
    return MusicgenForCausalLM(
        MusicgenDecoderConfig(
            vocab_size=config.codebook_size,
            max_position_embeddings=slots,
            num_hidden_layers=config.num_hidden_layers,
            ffn_dim=4 * config.hidden_size,
            num_attention_heads=config.num_attention_heads,
            hidden_size=config.hidden_size,
            num_codebooks=stage.pattern.rows,
            dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
            layerdrop=0.0,
            pad_token_id=config.codebook_size,
            bos_token_id=config.codebook_size,
        )
    )
