# SPDX-License-Identifier: Apache-2.0
"""Train the separator, the part of a composite that splits an accompaniment into stems, on rendered songs.

    python recipes/train_separator.py --corpus CORPUS --codec CODEC --out RUN --ema_decay 0.998
    hafm assemble OUT … --separator RUN/separator

CORPUS is the output of recipes/build_song_corpus.py, with stems; CODEC is the codec whose output is to be separated.
This takes 75 minutes on one CPU core, and 7 GB. The bundled separator was then trained further:

    … --init_from RUN/separator --steps 9000 --learning_rate 1.3e-3 --ema_decay 0.999 --max_hours 8 --seed 5
    … --init_from RUN2/separator --steps 9000 --learning_rate 1.2e-3 --ema_decay 0.999 --max_hours 13 --seed 6
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers.utils import logging

from hafm_hf.accompaniment.configuration_separator import HAFMSeparatorConfig
from hafm_hf.accompaniment.modeling_separator import HAFMSeparatorModel
from hafm_hf.lead_sheet.vocabulary import STEMS
from hafm_hf.pretrained.loading import write_checksums
from hafm_hf.tokenizers.codecs import load_codec
from hafm_hf.training.arguments import parse_dataclasses
from hafm_tiny.separator import SCORED_SECONDS, SeparatorArguments, SeparatorTrainer, separator_scores
from hafm_tiny.song_pool import SongPool
from running import check_sizes, run_recipe

logger = logging.get_logger(__name__)
# STFT window in hops, that is, codec frames: a little more than 50 ms
WINDOW_FRAMES = 4
# sizes of a new separator if none are given
CHANNELS = 192
LAYERS = 5


@dataclass
class Folders:
    """Input and output folders."""

    corpus: str = field(default="", metadata={"help": "rendered songs with stems"})
    codec: str = field(default="", metadata={"help": "folder or hub id of the codec"})
    init_from: str = field(default="", metadata={"help": "folder or hub id of a separator to continue from"})
    out: str = field(default="", metadata={"help": "output folder, for separator/"})
    threads: int = 1

    def __post_init__(self) -> None:
        """Rejects missing arguments, and sets the number of threads."""
        for name in ("corpus", "codec", "out"):
            if not getattr(self, name):
                raise ValueError(f"Name the --{name}.")
        torch.set_num_threads(self.threads)


def songs_of(folders: Folders, split: str, sampling_rate: int, max_hours: float) -> SongPool:
    """Loads the songs of a split, with their stems.

    Args:
        folders: of the corpus.
        split: "train" or "validation".
        sampling_rate: in Hz.
        max_hours: of songs, at most.

    Raises:
        ValueError: a song lacks a stem.
    """
    pool = SongPool(Path(folders.corpus), split, sampling_rate, max_hours, stems=True)
    pool.refresh()
    for song in pool.songs:
        if missing := {*STEMS} - song.stems.keys():
            raise ValueError(f"The song {song.name} has no {min(missing)}; render its band with stems.")
    return pool


def main() -> None:
    """Trains the separator, scores it on the validation songs, and saves it with figures.json.

    Raises:
        ValueError: a song lacks a stem, no song is long enough, or the separator to continue from does not fit.
    """
    folders, arguments = parse_dataclasses((Folders, SeparatorArguments))
    codec = load_codec(folders.codec)
    rate = codec.format.sampling_rate
    hop = codec.format.hop_length
    songs = songs_of(folders, "train", rate, arguments.max_hours)
    songs.require(arguments.crop_seconds)
    held_out = songs_of(folders, "validation", rate, arguments.max_hours)
    held_out.require(SCORED_SECONDS)

    torch.manual_seed(arguments.seed)
    config = HAFMSeparatorConfig(
        sampling_rate=rate, n_fft=WINDOW_FRAMES * hop, hop_length=hop,
        channels=arguments.channels or CHANNELS, num_layers=arguments.layers or LAYERS,
    )  # fmt: skip
    model = HAFMSeparatorModel(config)
    if folders.init_from:
        model = HAFMSeparatorModel.from_pretrained(folders.init_from, dtype=torch.float32)
        check_sizes(model.config, {"channels": arguments.channels, "num_layers": arguments.layers})
        if (model.config.sampling_rate, model.config.hop_length) != (rate, hop):
            raise ValueError(f"{folders.init_from} is for another codec: its rate or hop length differs.")

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = SeparatorTrainer(model.to(device), songs, codec, arguments)
    logger.info("%d songs, %.2f h", len(songs.songs), songs.hours)
    figures = {"loss": trainer.train()}
    figures |= separator_scores(model.cpu(), held_out.songs, codec)
    out = Path(folders.out) / "separator"
    model.half().save_pretrained(out)
    write_checksums(out)
    (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    logger.info("%s is in %s", json.dumps(figures), out)


if __name__ == "__main__":
    run_recipe(main)
