# SPDX-License-Identifier: Apache-2.0
"""A new stage that starts from what its tokens mean.

Drawn from noise, a table of 1024 codes has to be learnt row by row, each from the few times its code occurs, while
codec and semantic tokenizer know already which of their tokens are alike. The paper draws all embeddings from
N(0, 0.02).
"""

import torch
from transformers import PreTrainedModel

from hafm_hf.tokenizers.codecs import load_codec
from hafm_hf.tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel
from hafm_hf.training.data import stage_streams

# share of the old random values that is kept: it fills the directions that the projection leaves empty
NOISE = 0.25


def start_stage(model: PreTrainedModel, codec: str, semantic_tokenizer: str) -> None:
    """Sets embeddings and heads of a new stage by the codebooks of a codec and the centroids of a tokenizer."""
    loaded, centroids = load_codec(codec), HAFMSemanticTokenizerModel.from_pretrained(semantic_tokenizer).centroids
    acoustic = [loaded.codebook(index).detach() for index in range(loaded.format.num_codebooks)]
    initialise_from_codebooks(model, centroids, torch.stack(acoustic))


def project_codebooks(vectors: torch.Tensor, deviation: float, projection: torch.Tensor) -> torch.Tensor:
    """Projects codebook vectors to the width of a stage, centred, each codebook with standard deviation `deviation`.

    Args:
        vectors (float [Q, V, C]): one codebook vector per token.
        deviation (float): standard deviation of each projected codebook.
        projection (float [C, D]): shared by codebooks that live in one space.
    """
    projected = (vectors - vectors.mean(dim=1, keepdim=True)).float() @ projection
    return projected * deviation / projected.flatten(1).std(dim=1)[:, None, None].clamp(min=1e-9)


@torch.no_grad()
def initialise_from_codebooks(model: PreTrainedModel, semantic: torch.Tensor, acoustic: torch.Tensor) -> None:
    """Sets embeddings and heads of a new stage by the vectors behind its tokens; mask token and BOS keep theirs.

    Args:
        model: a stage.
        semantic (float [clusters, C_s], or [2, clusters, C_s]): centroids of the semantic tokenizer, of vocals and of
            instrumentals where they are separate.
        acoustic (float [8, codebook size, C_a]): codebooks of the codec.
    """
    config, streams = model.config, stage_streams(model.config)
    deviation = config.initializer_range
    sources = semantic.expand(2, -1, -1)
    centroids = {"vocal_semantic": sources[0], "instrumental_semantic": sources[1]}
    projections = {
        "semantic": torch.randn(semantic.shape[-1], config.hidden_size),
        "acoustic": torch.randn(acoustic.shape[-1], config.hidden_size),
    }

    def projected(column: str, first: int, last: int) -> torch.Tensor:
        kind = "acoustic" if column == "acoustic" else "semantic"
        vectors = acoustic[first:last] if kind == "acoustic" else centroids[column][None]
        return project_codebooks(vectors, deviation, projections[kind])

    conditioning = torch.cat([projected(stream.column, stream.first, stream.last) for stream in streams.conditioning])
    target = projected(streams.target.column, streams.target.first, streams.target.last)
    for weight, values in (
        (model.model.conditioning_embedding.weight, conditioning),
        (model.model.target_embedding.weight, target),
        (model.heads.weight, target),
    ):
        rows = weight[:, : values.shape[1]]
        rows.mul_(NOISE).add_(values)
