# SPDX-License-Identifier: Apache-2.0
"""Fit vocal clusters of a semantic tokenizer that preserve note, onset and beat, on songs with labels.

    python recipes/fit_vocal_space.py --tokenizer TOKENIZER --corpus CORPUS --out RUN

TOKENIZER has separate centroids (recipes/fit_kmeans.py --separate), CORPUS is the output of
recipes/build_song_corpus.py. RUN/semantic_tokenizer is the new tokenizer. Only its vocal tokens change, but a corpus
must be tokenised again. --rhythm_only true trains only the rhythm network of a tokenizer with such clusters, and
stages remain usable; the bundled one was fine-tuned so with --steps 1200 --learning_rate 6e-4. RUN/features caches the
vocals' features (69 MB per hour for hafm-tiny), from which a killed run resumes.
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
    RhythmicFrames,
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
    """The tokenizer, and how to fit it."""

    tokenizer: str = field(default="", metadata={"help": "folder or hub id of a semantic tokenizer"})
    frames: int = field(default=200_000, metadata={"help": "training frames to cluster"})
    rhythm_only: bool = field(default=False, metadata={"help": "only train the rhythm network"})
    half: bool = field(default=False, metadata={"help": "save the weights in float16"})


def read_songs(
    tokenizer: HAFMSemanticTokenizerModel, run: SongRunArguments, split: str, takes: int
) -> Iterator[SungFrames]:
    """Yields the songs of a split; features that are not in RUN/features from an earlier run are saved there.

    Args:
        tokenizer: extracts the features.
        run: folders of the run.
        split: "train" or "validation".
        takes: number of simulated human takes of each song.
    """
    # one cache per tokenizer: features depend on it
    folder = Path(run.out) / "features" / fingerprint(tokenizer) / split
    pool = run.load_songs(split, tokenizer.config.sampling_rate)
    pool.require(0.0)  # songs of any length, but some
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
    """Fits a tokenizer's vocal clusters and rhythm network, or the latter alone; saves it with figures.json."""
    tokenizer_arguments, arguments, run = parse_dataclasses(
        (TokenizerArguments, VocalSpaceArguments, SongRunArguments)
    )
    if not tokenizer_arguments.tokenizer:
        raise ValueError("Name the --tokenizer.")
    tokenizer = HAFMSemanticTokenizerModel.from_pretrained(tokenizer_arguments.tokenizer)
    tokenizer = tokenizer.float().to(run.device).eval()
    # simulated human takes of each song; validation uses the rendered vocals only
    splits = {"train": arguments.takes, "validation": 0}
    if tokenizer_arguments.rhythm_only:
        config = tokenizer.config
        rhythms: dict[str, list[RhythmicFrames]] = {}
        for split, takes in splits.items():
            songs = run.load_songs(split, config.sampling_rate).songs
            rhythms[split] = [rhythmic_frames(song, config, takes) for song in songs]
        fitted, figures = fit_rhythm(tokenizer.cpu(), rhythms["train"], rhythms["validation"], arguments)
    else:
        sung = {split: list(read_songs(tokenizer, run, split, takes)) for split, takes in splits.items()}
        frames = tokenizer_arguments.frames
        fitted, figures = fit_vocal_space(tokenizer.cpu(), sung["train"], sung["validation"], arguments, frames)
    out = Path(run.out) / "semantic_tokenizer"
    if tokenizer_arguments.half:
        fitted.half()
    fitted.save_pretrained(out)
    (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    logger.info("%s is in %s", json.dumps(figures), out)


if __name__ == "__main__":
    run_recipe(main)
