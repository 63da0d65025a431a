# SPDX-License-Identifier: Apache-2.0
"""Give the vocal of a semantic tokenizer clusters that keep note, onset and beat, from songs with labels.

    python recipes/fit_vocal_space.py --tokenizer TOKENIZER --corpus CORPUS --out RUN

TOKENIZER has separate centroids (recipes/fit_kmeans.py --separate), CORPUS is what recipes/build_song_corpus.py
writes. RUN/semantic_tokenizer is the new tokenizer: only tokens of vocals are others than before, so a corpus must be
tokenised again. --rhythm_only true trains the rhythm network alone of a tokenizer that has such clusters, and stages
may stay; the bundled one's learnt on so, with --steps 1200 --learning_rate 6e-4. RUN/features keeps the vocals'
features (69 MB an hour for hafm-tiny); a killed run goes on from them.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from transformers.utils import logging

from hafm_hf.atomic_files import replacing
from hafm_hf.pretrained.loading import fingerprint
from hafm_hf.tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel
from hafm_hf.training.arguments import parse_dataclasses
from hafm_tiny.song_runs import SongRunArguments
from hafm_tiny.vocal_space import (
    SungFrames,
    VocalSpaceArguments,
    fit_rhythm,
    fit_vocal_space,
    rhythmic_frames,
    sung_frames,
    vocal_features,
)
from running import run_recipe

logger = logging.get_logger(__name__)


@dataclass
class TokenizerArguments:
    """What is fitted to what."""

    tokenizer: str = field(default="", metadata={"help": "folder or hub id of a semantic tokenizer"})
    frames: int = field(default=200_000, metadata={"help": "of training songs that are clustered"})
    rhythm_only: bool = field(default=False, metadata={"help": "another rhythm network, and all else as it was"})
    half: bool = field(default=False, metadata={"help": "save the weights in float16"})


def read_songs(
    tokenizer: HAFMSemanticTokenizerModel, run: SongRunArguments, split: str, takes: int
) -> Iterator[SungFrames]:
    """Songs of a split, their features from RUN/features where an earlier run has left them."""
    # another tokenizer's features are others
    folder = Path(run.out) / "features" / fingerprint(tokenizer) / split
    pool = run.songs(split, tokenizer.config.sampling_rate)
    pool.require(0.0)
    for number, song in enumerate(pool.songs):
        path = folder / f"{song.name}.npy"
        if path.exists():
            features = np.load(path)
        else:
            features = vocal_features(tokenizer, song, number)
            with replacing(path) as file:
                np.save(file, features)
            logger.info("%s: features of song %d, %s", split, number + 1, song.name)
        yield sung_frames(features, song, tokenizer.config, takes)


def main() -> None:
    """Fits the space and saves the tokenizer."""
    words, arguments, run = parse_dataclasses((TokenizerArguments, VocalSpaceArguments, SongRunArguments))
    if not words.tokenizer:
        raise ValueError("Name the --tokenizer.")
    tokenizer = HAFMSemanticTokenizerModel.from_pretrained(words.tokenizer).float().to(run.device).eval()
    # what is validated is as rendered
    splits = {"train": arguments.takes, "validation": 0}
    if words.rhythm_only:
        config = tokenizer.config
        heard, asked = (
            [rhythmic_frames(song, config, takes) for song in run.songs(split, config.sampling_rate).songs]
            for split, takes in splits.items()
        )
        fitted, figures = fit_rhythm(tokenizer.cpu(), heard, asked, arguments)
    else:
        training, validation = (list(read_songs(tokenizer, run, *split)) for split in splits.items())
        fitted, figures = fit_vocal_space(tokenizer.cpu(), training, validation, arguments, words.frames)
    out = Path(run.out) / "semantic_tokenizer"
    (fitted.half() if words.half else fitted).save_pretrained(out)
    (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    logger.info("%s is in %s", json.dumps(figures), out)


if __name__ == "__main__":
    run_recipe(main)
