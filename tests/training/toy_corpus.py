# SPDX-License-Identifier: Apache-2.0
"""A token corpus for tests, in which every target token encodes its position in time."""

from pathlib import Path

import numpy as np

from hafm_hf.corpus.tokens import TokenCorpusInfo, TokenExcerpt, write_shard
from hafm_hf.modeling.configuration_stage import HAFMCoarseConfig, HAFMFineConfig, HAFMSemanticConfig, HAFMStageConfig

INFO = TokenCorpusInfo(
    semantic_frame_rate=50, acoustic_frame_rate=75, num_clusters=40, codebook_size=30, num_codebooks=5
)
SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "head_dim": 8, "position_scheme": "time"}


def toy_excerpt(track: str, seconds: float, seed: int) -> TokenExcerpt:
    """An excerpt whose vocal tokens count up every five frames from a random offset, and determine the other streams.

    Instrumental tokens are 3 v + 1 (mod 40) for the vocal token v of their frame, and codebook q (from 0) of the codec
    has the codes v (q + 1) (mod 30) for the v that sounds at the time.
    """
    offset = int(np.random.default_rng(seed).integers(0, 40))
    vocal = (np.arange(round(seconds * 50)) // 5 + offset) % 40
    # the vocal token, at 50 Hz, at the time of each codec frame, at 75 Hz
    sounding = vocal[np.arange(round(seconds * 75)) * 50 // 75]
    instrumental = (vocal * 3 + 1) % 40
    acoustic = np.stack([(sounding * (codebook + 1)) % 30 for codebook in range(5)])
    return TokenExcerpt(
        track, 0.0, seconds, vocal.astype(np.int16), instrumental.astype(np.int16), acoustic.astype(np.int16)
    )


def write_toy_corpus(folder: Path) -> None:
    """Writes two shards of training excerpts with several lengths and one of validation excerpts."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(2):
        rows = []
        for number in range(6):
            seconds = (2.0, 4.4, 8.0)[number % 3]
            rows.append(toy_excerpt(f"train_{shard}_{number}", seconds, seed=10 * shard + number))
        write_shard(folder / f"train-{shard:05d}.parquet", rows, INFO)
    rows = [toy_excerpt(f"val_{number}", seconds=4.0, seed=90 + number) for number in range(5)]
    write_shard(folder / "validation-00000.parquet", rows, INFO)


def toy_config(stage: str, **changes: object) -> HAFMStageConfig:
    """The configuration of a tiny stage for the toy corpus, with 3 coarse and 2 fine codebooks."""
    classes = {"semantic": HAFMSemanticConfig, "coarse": HAFMCoarseConfig, "fine": HAFMFineConfig}
    streams = {
        "semantic": {"conditioning_codebook_sizes": [[40]], "codebook_sizes": [40]},
        "coarse": {"conditioning_codebook_sizes": [[40], [40]], "codebook_sizes": [30] * 3},
        "fine": {"conditioning_codebook_sizes": [[30] * 3], "codebook_sizes": [30] * 2},
    }
    return classes[stage](**{**SIZES, **streams[stage], **changes})
