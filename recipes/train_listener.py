# SPDX-License-Identifier: Apache-2.0
"""Train the part of a composite that hears beats, bars, chords and key in a voice, on simulated singers.

    python recipes/train_listener.py --songs POP909 --sheets LEAD_SHEETS.jsonl.gz --out RUN
    hafm assemble OUT … --listener RUN/listener

No sound is needed: SONGS is a folder in POP909's layout, SHEETS a file of lead sheets, one JSON object a line; in the
place of SONGS a rendered corpus serves by its labels, --corpus. Takes about 25 minutes on one core.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from transformers.utils import logging

from hafm_hf.cli.training import run_recipe
from hafm_hf.pretrained.loading import write_checksums
from hafm_hf.training.arguments import parse_dataclasses
from hafm_tiny.listening.configuration_listener import HAFMListenerConfig
from hafm_tiny.listening.measuring import simulated_scores
from hafm_tiny.listening.modeling_listener import HAFMListenerModel
from hafm_tiny.listening.training import ListenerArguments, ListenerTrainer
from hafm_tiny.listening.tunes import TEST_SONGS, VALIDATION_SONGS, load_tunes
from hafm_tiny.steps import take_steps

logger = logging.get_logger(__name__)
# of a song, as the result is scored
SCORED_SECONDS = 60.0


@dataclass
class Folders:
    """What is read, and where the result goes."""

    songs: str = field(default="", metadata={"help": "folder of songs in POP909's layout"})
    corpus: str = field(default="", metadata={"help": "rendered songs, where there are no SONGS"})
    sheets: str = field(default="", metadata={"help": "lead sheets, .jsonl.gz"})
    validation_songs: int = field(default=VALIDATION_SONGS, metadata={"help": "of SONGS, as in build_song_corpus.py"})
    test_songs: int = field(default=TEST_SONGS, metadata={"help": "of SONGS, as in build_song_corpus.py"})
    out: str = field(default="", metadata={"help": "gets listener/, the part"})
    harmony_channels: int = HAFMListenerConfig.harmony_channels
    time_channels: int = HAFMListenerConfig.time_channels
    threads: int = 1

    def __post_init__(self) -> None:
        """Refuses what is not named, and sets what holds for the whole process."""
        if not self.out or not (self.songs or self.corpus or self.sheets):
            raise ValueError("Name the --out and what to learn from: --songs, --corpus or --sheets.")
        torch.set_num_threads(self.threads)


def main() -> None:
    """Trains the two towers one after the other, scores the listener and saves it."""
    folders, arguments = parse_dataclasses((Folders, ListenerArguments))
    tunes = load_tunes(folders.songs, folders.sheets, folders.corpus, folders.validation_songs, folders.test_songs)
    logger.info("%s", {split: f"{len(found)} songs" for split, found in tunes.items()})
    torch.manual_seed(arguments.seed)
    sizes = {"harmony_channels": folders.harmony_channels, "time_channels": folders.time_channels}
    model = HAFMListenerModel(HAFMListenerConfig(**sizes))
    trainer, figures = ListenerTrainer(model, tunes["train"], arguments), {}
    for name, loss in (("harmony", trainer.harmony_loss), ("time", trainer.time_loss)):
        steps = arguments.steps if name == "harmony" else round(arguments.steps * arguments.time_share)
        figures[f"{name}_nats"] = take_steps(model, loss, replace(arguments, steps=max(steps, 1)))
    figures |= simulated_scores(model, tunes["validation"], SCORED_SECONDS)
    out = Path(folders.out) / "listener"
    model.half().save_pretrained(out)
    write_checksums(out)
    (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    logger.info("%s is in %s", json.dumps(figures), out)


if __name__ == "__main__":
    run_recipe(main)
