# SPDX-License-Identifier: Apache-2.0
"""Train the small HuBERT of the bundled semantic tokenizer on rendered songs.

    python recipes/pretrain_semantic.py --corpus CORPUS --out RUN --steps 3000

CORPUS is the output of recipes/build_song_corpus.py. RUN/state.pt is saved every few minutes and at the end; the same
command resumes from it (another --steps may be given, and the learning rate follows the new schedule). RUN/hubert is
an ordinary HubertModel folder, from which recipes/fit_kmeans.py makes a semantic tokenizer; RUN/metrics.jsonl is the
log. One CPU core does about one step (32 s of audio) per second; a GPU is used if there is one.
"""

from dataclasses import dataclass

import torch
from transformers import HubertModel

from hafm_hf.training.arguments import parse_dataclasses
from hafm_tiny.hubert import SemanticTrainer, SemanticTrainingArguments
from hafm_tiny.song_runs import SongRunArguments, resume, train_on_songs
from hafm_tiny.targets import start_front_end, tiny_hubert_config
from running import run_recipe


@dataclass
class HubertArguments:
    """Sizes of the network."""

    sampling_rate: int = 16_000
    hidden_size: int = 192
    num_hidden_layers: int = 5


def main() -> None:
    """Trains a small HuBERT on the songs of --corpus; saves its state, its log and the model in --out."""
    model, arguments, run = parse_dataclasses((HubertArguments, SemanticTrainingArguments, SongRunArguments))
    torch.manual_seed(arguments.seed)
    hubert = HubertModel(tiny_hubert_config(model.hidden_size, model.num_hidden_layers))
    start_front_end(hubert, model.sampling_rate)
    pool = run.load_songs("train", model.sampling_rate)
    # a crop that is transposed upwards is read from more than its length of a song
    cents = 100 * arguments.max_shift + max(arguments.vocal_cents, arguments.band_cents)
    pool.require(2 ** (cents / 1200) * max(arguments.crop_seconds) + 2 / model.sampling_rate)
    trainer = SemanticTrainer(hubert.to(run.device).train(), pool, arguments)
    resume(trainer, run)
    train_on_songs(trainer, arguments.steps, run, lambda out: trainer.save_hubert(out / "hubert"))


if __name__ == "__main__":
    run_recipe(main)
