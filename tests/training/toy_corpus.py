# SPDX-License-Identifier: Apache-2.0
"""A token corpus for tests, in which every target token encodes its position in time."""

from pathlib import Path

import numpy as np

from hafm_hf.corpus.tokens import TokenCorpusInfo, TokenExcerpt, write_shard
from hafm_hf.modeling.configuration_stage import HAFMCoarseConfig, HAFMFineConfig, HAFMSemanticConfig, HAFMStageConfig

INFO = TokenCorpusInfo(50, 75, num_clusters=40, codebook_size=30, num_codebooks=5)
SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "head_dim": 8, "position_scheme": "time"}


def toy_excerpt(track: str, seconds: float, seed: int) -> TokenExcerpt:
    """Vocal tokens count up every five frames from a random offset; the other streams are functions of them."""
    offset = int(np.random.default_rng(seed).integers(0, 40))
    vocal = (np.arange(round(seconds * 50)) // 5 + offset) % 40
    sounding = vocal[np.arange(round(seconds * 75)) * 50 // 75]
    acoustic = np.stack([(sounding * (codebook + 1)) % 30 for codebook in range(5)])
    return TokenExcerpt(
        track, 0.0, seconds, vocal.astype(np.int16), ((vocal * 3 + 1) % 40).astype(np.int16), acoustic.astype(np.int16)
    )


def write_toy_corpus(folder: Path) -> None:
    """Writes two shards of training excerpts with several lengths and one of validation excerpts."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(2):
        rows = [toy_excerpt(f"train_{shard}_{i}", (2.0, 4.4, 8.0)[i % 3], 10 * shard + i) for i in range(6)]
        write_shard(folder / f"train-{shard:05d}.parquet", rows, INFO)
    write_shard(folder / "validation-00000.parquet", [toy_excerpt(f"val_{i}", 4.0, 90 + i) for i in range(5)], INFO)


def toy_config(stage: str, **changes: object) -> HAFMStageConfig:
    """The configuration of a tiny stage for the toy corpus, with 3 coarse and 2 fine codebooks."""
    classes = {"semantic": HAFMSemanticConfig, "coarse": HAFMCoarseConfig, "fine": HAFMFineConfig}
    streams = {
        "semantic": {"conditioning_codebook_sizes": [[40]], "codebook_sizes": [40]},
        "coarse": {"conditioning_codebook_sizes": [[40], [40]], "codebook_sizes": [30] * 3},
        "fine": {"conditioning_codebook_sizes": [[30] * 3], "codebook_sizes": [30] * 2},
    }
    return classes[stage](**{**SIZES, **streams[stage], **changes})
