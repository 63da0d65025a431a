# SPDX-License-Identifier: Apache-2.0
"""Evaluates a model's stereo on the test songs of a rendered corpus.

    python recipes/evaluate_stereo.py --rendered CORPUS [--model MODEL] [--out FIGURES.json]

CORPUS is from recipes/build_song_corpus.py with `--stereo-rate 44100`. Two things are compared with its bands:
"decoded", their codes as the codec plays them, and "generated", what the model plays for the same voices, given the
chords, beats and style of each song. Levels of mid and side are in dB, by octave.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers.utils import logging

from hafm_hf import HAFMForVocalAccompaniment
from hafm_hf.training.arguments import parse_dataclasses
from hafm_tiny.song_pool import SongPool
from hafm_tiny.stereo_figures import evaluate_in_stereo, generated_levels
from running import run_recipe

logger = logging.get_logger(__name__)


@dataclass
class Arguments:
    """What to evaluate, and on which songs."""

    rendered: str = field(metadata={"help": "corpus of recipes/build_song_corpus.py with stereo: its test songs"})
    model: str = field(default="", metadata={"help": "composite model; default: the bundled one"})
    clips: int = field(default=40, metadata={"help": "clips of five seconds to decode"})
    seconds: float = field(default=24.0, metadata={"help": "length of what is generated of each song"})
    max_hours: float = field(default=0.5, metadata={"help": "length of the songs to load, at most"})
    out: str = field(default="", metadata={"help": "JSON file for the figures"})


def main() -> None:
    """Logs figures of what a model's codec decodes, and of what the model generates; writes them to `--out`."""
    arguments: Arguments
    (arguments,) = parse_dataclasses((Arguments,))
    torch.set_num_threads(1)
    composite = HAFMForVocalAccompaniment.from_pretrained(arguments.model or None).eval()
    codec_format = composite.config.codec_format
    if codec_format.output_channels != 2:
        raise ValueError("This model plays mono; its codec is evaluated by recipes/train_spectral_codec.py.")
    pool = SongPool(
        Path(arguments.rendered),
        "test",
        codec_format.sampling_rate,
        arguments.max_hours,
        stems=True,
        stereo_rate=codec_format.output_sampling_rate,
    )
    pool.refresh()
    if not pool.songs:
        raise ValueError(f"{pool.folder} holds no songs; name the output of recipes/build_song_corpus.py.")
    decoded = evaluate_in_stereo({"codec": composite.codec}, pool, clips=arguments.clips)["codec"]
    logger.info("decoded: %s", json.dumps(decoded))
    generated = generated_levels(composite, pool, arguments.seconds)
    logger.info("generated: %s", json.dumps(generated))
    if arguments.out:
        Path(arguments.out).write_text(json.dumps({"decoded": decoded, "generated": generated}, indent=2) + "\n")


if __name__ == "__main__":
    run_recipe(main)
