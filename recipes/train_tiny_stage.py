# SPDX-License-Identifier: Apache-2.0
"""Trains a stage like train_stage.py, but initialises a new one from the codec's codebooks and tokenizer's centroids.

python recipes/train_tiny_stage.py recipes/configs/tiny/coarse.yaml --corpus CORPUS --output_dir runs/coarse \\
    --codec CODEC --semantic_tokenizer TOKENIZER
"""

import argparse
from functools import partial

from hafm_hf.training.recipe import train_stage
from hafm_tiny.codebooks import start_stage
from running import run_recipe


def main() -> None:
    """Parses its own two options and passes all others on to `train_stage`."""
    parser = argparse.ArgumentParser(allow_abbrev=False, epilog="All other options are those of train_stage.py.")
    parser.add_argument("--codec", required=True)
    parser.add_argument("--semantic_tokenizer", required=True)
    options, other_words = parser.parse_known_args()
    initialise = partial(start_stage, codec=options.codec, semantic_tokenizer=options.semantic_tokenizer)
    train_stage(other_words, initialise)


if __name__ == "__main__":
    run_recipe(main)
