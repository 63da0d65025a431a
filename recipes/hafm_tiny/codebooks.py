# SPDX-License-Identifier: Apache-2.0
"""Initialises a stage's embeddings and heads from codebooks and centroids, or from a stage for another codec.

With random initialisation (the paper: N(0, 0.02)), each row of a table of 1024 codes has to be learnt from the few
occurrences of its code. But codebooks and centroids already show which tokens are similar, and for a stage trained
with another codec, co-occurrences show which of its codes a new code corresponds to.

The centroids of the semantic tokenizer are treated like a codebook. Dimensions: Q codebooks, V codes of a codebook, C
width of their vectors (C_s of centroids, C_a of the codec), D width of the stage.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from hafm_hf.lead_sheet.style_choice import StyleRange
from hafm_hf.tokenizers.codecs import load_codec
from hafm_hf.tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel
from hafm_hf.training.data import StreamSlice, load_token_corpus, read_stream, stage_streams

# share of the random initialisation to keep: it fills directions that the projection leaves empty
NOISE = 0.25
# weight of the old codes' overall frequencies as a prior, in occurrences
BELIEF = 20.0


def start_stage(model: PreTrainedModel, codec: str, semantic_tokenizer: str) -> None:
    """Initialises a new stage's embeddings and heads from a codec's codebooks and a tokenizer's centroids.

    Args:
        model: a stage, changed in place.
        codec, semantic_tokenizer: folders or hub ids.
    """
    loaded = load_codec(codec)
    centroids = HAFMSemanticTokenizerModel.from_pretrained(semantic_tokenizer).centroids
    acoustic = [loaded.codebook(index).detach() for index in range(loaded.format.num_codebooks)]
    initialise_from_codebooks(model, centroids, torch.stack(acoustic))


def project_codebooks(vectors: torch.Tensor, deviation: float, projection: torch.Tensor) -> torch.Tensor:
    """Centres codebook vectors and projects them to the width of a stage.

    Args:
        vectors (float [Q, V, C]): a vector of width C for each of V codes in Q codebooks.
        deviation (float): standard deviation to which each projected codebook is scaled.
        projection (float [C, D]): to the width D of the stage; shared by all codebooks of the same space.

    Returns:
        float [Q, V, D].
    """
    projected = (vectors - vectors.mean(dim=1, keepdim=True)).float() @ projection
    return projected * deviation / projected.flatten(1).std(dim=1)[:, None, None].clamp(min=1e-9)


@torch.no_grad()
def initialise_from_codebooks(model: PreTrainedModel, semantic: torch.Tensor, acoustic: torch.Tensor) -> None:
    """Initialises a new stage's embeddings and heads from the vectors of its tokens; mask token and BOS are unchanged.

    Args:
        model: a stage, changed in place.
        semantic (float [clusters, C_s], or [2, clusters, C_s]): centroids of the semantic tokenizer, of width C_s; two
            sets if it has separate ones for vocals and for instrumentals.
        acoustic (float [8, codebook size, C_a]): codebooks of the codec, with vectors of width C_a.
    """
    config = model.config
    *sources, target_stream = stage_streams(config)
    deviation = config.initializer_range
    vocal, instrumental = semantic.expand(2, -1, -1)
    centroids = {"vocal_semantic": vocal, "instrumental_semantic": instrumental}
    projections = {
        "semantic": torch.randn(semantic.shape[-1], config.hidden_size),
        "acoustic": torch.randn(acoustic.shape[-1], config.hidden_size),
    }

    def projected(stream: StreamSlice) -> torch.Tensor:
        """The vectors of a stream's tokens, projected to the stage's width: float [codebooks, codes, width]."""
        if stream.column == "acoustic":
            return project_codebooks(acoustic[stream.first : stream.last], deviation, projections["acoustic"])
        return project_codebooks(centroids[stream.column][None], deviation, projections["semantic"])

    conditioning = torch.cat([projected(source) for source in sources])
    target = projected(target_stream)
    for weight, values in (
        (model.model.conditioning_embedding.weight, conditioning),
        (model.model.target_embedding.weight, target),
        (model.heads.weight, target),
    ):
        weights_of_codes = weight[:, : values.shape[1]]  # without mask token and BOS, which come last
        weights_of_codes.mul_(NOISE).add_(values)


def count_together(before: Path, now: Path) -> torch.Tensor:
    """Counts how often a new codec's codes coincide with an old codec's, on the same training songs.

    Args:
        before: folder of the songs' tokens with the old codec.
        now: folder of their tokens with the new one.

    Returns:
        float32 [codebooks, new codes, old codes]: number of frames; of the codebooks that both codecs have.

    Raises:
        ValueError: the two corpora are not of the same songs.
    """
    old, old_info = load_token_corpus(str(before), "train")
    new, new_info = load_token_corpus(str(now), "train")
    old_songs = [*zip(old["track"], old["duration"], strict=True)]
    new_songs = [*zip(new["track"], new["duration"], strict=True)]
    if old_songs != new_songs:
        raise ValueError(f"{before} and {now} are not tokens of the same songs; prepare both from one folder.")
    books = min(old_info.num_codebooks, new_info.num_codebooks)
    old_size = old_info.codebook_size
    counts = np.zeros((books, new_info.codebook_size * old_size), np.float32)
    for row in range(len(new)):
        new_codes = read_stream(new, row, "acoustic").astype(np.int64)
        old_codes = read_stream(old, row, "acoustic").astype(np.int64)
        # of each frame, the index of its pair of a new and an old code: [books, frames]
        pairs_of_books = new_codes[:books] * old_size + old_codes[:books]
        for book, pairs in enumerate(pairs_of_books):
            counts[book] += np.bincount(pairs, minlength=counts.shape[1])
    return torch.from_numpy(counts).view(books, new_info.codebook_size, old_size)


@torch.no_grad()
def carry_over(model: PreTrainedModel, together: torch.Tensor) -> None:
    """Adapts a stage to a new codec: gives each new code the mean weights of the old codes, weighted by co-occurrence.

    These are the rows of embeddings and heads. Embeddings are rescaled to their former spread; heads are not, so that
    the logits of a code that stands for many old ones stay as moderate as their mean.

    Args:
        model: a stage, changed in place.
        together (float32 [Q, new codes, old codes]): co-occurrences in Q codebooks (`count_together`).

    Raises:
        ValueError: the counts have fewer codebooks than the stage, or another codebook size.
    """
    # the stream that it reads first, and the one that it predicts
    reads, *_, writes = stage_streams(model.config)
    size = model.config.codebook_size
    last = writes.last
    if len(together) < last or {*together.shape[1:]} != {size}:
        raise ValueError(f"The stage needs {last} codebooks of {size} codes; the corpora have {[*together.shape]}.")
    # frequencies of the old codes: overall, [Q, 1, old codes], and given each new code, smoothed with the former
    frequencies = together.sum(1, keepdim=True) / together.sum((1, 2), keepdim=True)
    shares = (together + BELIEF * frequencies) / (together.sum(2, keepdim=True) + BELIEF)
    decoder = model.model
    # weights, the stream whose codes their rows stand for, and whether they are rescaled
    tables = [(model.heads.weight, writes, False), (decoder.target_embedding.weight, writes, True)]
    if reads.column == "acoustic":
        tables += [(decoder.conditioning_embedding.weight, reads, True)]
    for weight, stream, is_rescaled in tables:
        old_rows = weight[:, : together.shape[2]]
        new_rows = shares[stream.first : stream.last].to(old_rows) @ old_rows
        # deviations from the mean of each codebook
        new_deviations = new_rows - new_rows.mean(1, keepdim=True)
        old_deviations = old_rows - old_rows.mean(1, keepdim=True)
        scale: torch.Tensor | float = 1.0
        if is_rescaled:
            scale = old_deviations.std((1, 2), keepdim=True) / new_deviations.std((1, 2), keepdim=True)
        weight[:, : together.shape[1]] = new_rows - new_deviations + new_deviations * scale


@torch.no_grad()
def add_styles(model: PreTrainedModel, styles: Mapping[str, StyleRange]) -> None:
    """Adds styles to a stage; the embedding of each begins as the mean of the present ones.

    Args:
        model: a stage, changed in place, as is its configuration.
        styles: by name, the songs that each style suits.

    Raises:
        ValueError: the stage has no styles, has one of these already, or has no room for them.
    """
    config = model.config
    present = list(config.styles)
    if not present:
        raise ValueError("The stage has no styles to begin from: train one with --styles.")
    if known := set(present) & set(styles):
        raise ValueError(f"The stage has the styles {', '.join(sorted(known))} already.")
    # entry 0 of the table stands for an unknown style
    room = config.lead_sheet_streams["style"] - 1
    if len(present) + len(styles) > room:
        raise ValueError(f"{len(present) + len(styles)} styles are too many: the stage has room for {room}.")
    stream = list(config.lead_sheet_streams).index("style")
    table = model.model.lead_sheet_embedding.weight[stream]  # [entries, width]
    first = 1 + len(present)
    table[first : first + len(styles)] = table[1:first].mean(dim=0)
    config.styles = [*present, *styles]
    ranges = {name: dataclasses.asdict(suits) for name, suits in styles.items()}
    config.style_ranges = {**config.style_ranges, **ranges}
