# SPDX-License-Identifier: Apache-2.0
"""Train the listener, the part of a composite that estimates chords and tempo from a voice, on simulated singers.

    python recipes/train_listener.py --songs POP909 --sheets LEAD_SHEETS.jsonl.gz --out RUN
    python recipes/train_listener.py --corpus CORPUS --out RUN
    hafm assemble OUT … --listener RUN/listener

SONGS is a folder in POP909's layout, SHEETS a file of lead sheets, one JSON object per line. The labels of a rendered
corpus (CORPUS) can replace SONGS; its vocals are used to learn the tempo. Training takes about 40 minutes on one core;
`--init_from LISTENER` continues from a listener. The bundled one's harmony tower was trained for 6 minutes on an H100,
with ten CPU cores simulating singers:

    … --device cuda --harmony_channels 48 --dropout 0.1 --harmony_rate 2e-3 --harmony_batch 14400 --steps 11300
      --warmup_steps 300 --ema_decay 0.999 --pool 24000 --sung_a_step 19

and its tempo for another 15 minutes on one core; the result is 0.6 of the trained plus 0.4 of the initial weights:

    … --corpus CORPUS --init_from LISTENER --only_time true --steps 600 --time_share 1 --time_own_tempo 0.4
      --learning_rate 1e-3

With `--ear HUBERT` (folder or hub id), both towers also read the features of one of its layers. Only CORPUS's vocals
have these; assemble the model with `--listener RUN/listener --ear RUN/ear`.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers.utils import logging

from fit_kmeans import tokenizer_from_hubert
from hafm_hf.listening.configuration_listener import HAFMListenerConfig
from hafm_hf.listening.modeling_listener import HAFMListenerModel
from hafm_hf.pretrained.loading import write_checksums
from hafm_hf.tokenizers.modeling_semantic_tokenizer import HAFMSemanticTokenizerModel
from hafm_hf.training.arguments import parse_dataclasses
from hafm_tiny.listening.measuring import simulated, simulated_scores
from hafm_tiny.listening.takes import sung_takes
from hafm_tiny.listening.training import ListenerArguments, train_listener
from hafm_tiny.listening.tunes import TEST_SONGS, VALIDATION_SONGS, load_tunes
from running import check_sizes, run_recipe

logger = logging.get_logger(__name__)
# seconds of each song used for scoring
SCORED_SECONDS = 60.0


@dataclass
class Folders:
    """Input and output folders, and the model."""

    songs: str = field(default="", metadata={"help": "folder of songs in POP909's layout"})
    corpus: str = field(default="", metadata={"help": "rendered songs, for tempi, and for tunes without SONGS"})
    sheets: str = field(default="", metadata={"help": "lead sheets, .jsonl.gz"})
    validation_songs: int = field(default=VALIDATION_SONGS, metadata={"help": "of SONGS, as in build_song_corpus.py"})
    test_songs: int = field(default=TEST_SONGS, metadata={"help": "of SONGS, as in build_song_corpus.py"})
    only_time: bool = field(default=False, metadata={"help": "keep the harmony tower of --init_from"})
    init_from: str = field(default="", metadata={"help": "folder or hub id of a listener to continue from"})
    out: str = field(default="", metadata={"help": "output folder, for listener/"})
    ear: str = field(default="", metadata={"help": "HuBERT whose features are read as well: a folder or hub id"})
    ear_layer: int = field(default=9, metadata={"help": "hidden state to read"})
    harmony_channels: int | None = None
    time_channels: int | None = None
    dropout: float | None = None
    device: str = field(default="cpu", metadata={"help": "device for training harmony"})
    threads: int = 1

    def __post_init__(self) -> None:
        """Rejects missing arguments, and sets the number of threads."""
        if not self.out or not (self.songs or self.corpus or self.sheets):
            raise ValueError("Name the --out and what to learn from: --songs, --corpus or --sheets.")
        if self.only_time and not self.init_from:
            raise ValueError("--only_time keeps the harmony tower: name the listener that has it with --init_from.")
        if self.ear and not self.corpus:
            raise ValueError("--ear needs sung audio: name rendered songs with --corpus.")
        torch.set_num_threads(self.threads)


def new_listener(folders: Folders, ear: HAFMSemanticTokenizerModel | None) -> HAFMListenerModel:
    """The listener to train: the one of --init_from in float32, or an untrained one.

    Args:
        folders: its sizes and dropout.
        ear: HuBERT whose features it reads as well; None if it reads pitch contours alone.

    Raises:
        ValueError: the existing listener has other sizes than requested.
    """
    sizes = {name: getattr(folders, name) for name in ("harmony_channels", "time_channels")}
    sizes["ear_size"] = 0
    if ear is not None:
        sizes["ear_size"] = ear.config.hubert_config.hidden_size
    changes = {}
    if folders.dropout is not None:
        changes["dropout"] = folders.dropout
    if folders.init_from:
        model = HAFMListenerModel.from_pretrained(folders.init_from, dtype=torch.float32, **changes)
        check_sizes(model.config, sizes)
        return model
    return HAFMListenerModel(HAFMListenerConfig(**{name: size for name, size in sizes.items() if size}, **changes))


def main() -> None:
    """Trains the two towers in turn, scores the listener and saves it."""
    folders, arguments = parse_dataclasses((Folders, ListenerArguments))
    tunes = load_tunes(folders.songs, folders.sheets, folders.corpus, folders.validation_songs, folders.test_songs)
    logger.info("%s", {split: f"{len(songs)} songs" for split, songs in tunes.items()})
    ear = None
    if folders.ear:
        ear = tokenizer_from_hubert(folders.ear, layer=folders.ear_layer, num_clusters=1)
    torch.manual_seed(arguments.seed)
    model = new_listener(folders, ear).to(folders.device)
    rng = np.random.default_rng(arguments.seed)
    # sung audio, from which the tempo is learnt
    takes = list(sung_takes(Path(folders.corpus), rng, ear)) if folders.corpus else ()
    figures = train_listener(model, tunes["train"], arguments, takes, folders.only_time)
    if tunes["validation"]:
        figures |= simulated_scores(model, simulated(tunes["validation"], SCORED_SECONDS))
    out = Path(folders.out) / "listener"
    model.half().save_pretrained(out)
    write_checksums(out)
    if ear is not None:
        ear.half().save_pretrained(out.parent / "ear")
        write_checksums(out.parent / "ear")
    (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    logger.info("%s is in %s", json.dumps(figures), out)


if __name__ == "__main__":
    run_recipe(main)
