"""Train the small HuBERT of the bundled semantic tokenizer on rendered songs.

    python recipes/pretrain_semantic.py --corpus CORPUS --out RUN --steps 3000

CORPUS is what recipes/build_song_corpus.py writes. RUN/state.pt is written every few minutes and at the end, and a run
that is started again goes on from there (with another --steps, if given, whose learning-rate curve it then follows).
RUN/hubert is an ordinary HubertModel folder; recipes/fit_kmeans.py makes a semantic tokenizer of it. One CPU core does
about one step (32 s of audio) a second; a GPU is used where there is one.
"""

import argparse
import json
import logging
import time
from pathlib import Path

import torch
from transformers import HubertModel

from hafm_hf.training.semantic import SemanticTrainer, SemanticTrainingArguments
from hafm_hf.training.semantic_targets import start_front_end, tiny_hubert_config
from hafm_hf.training.songs import SongPool
from hafm_hf.training.state import load_state, save_state

logger = logging.getLogger("pretrain_semantic")


def parse_arguments() -> argparse.Namespace:
    """Command line of this recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sampling-rate", type=int, default=16_000)
    parser.add_argument("--hidden-size", type=int, default=192)
    parser.add_argument("--num-hidden-layers", type=int, default=5)
    parser.add_argument("--max-hours", type=float, default=12.0, help="of songs held in memory")
    parser.add_argument("--save-minutes", type=float, default=3.0)
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    defaults = SemanticTrainingArguments()
    for name in ("steps", "warmup_steps", "max_shift", "seed"):
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=getattr(defaults, name))
    for name in ("batch_seconds", "learning_rate", "vocal_share", "noise_std", "mask_share"):
        parser.add_argument("--" + name.replace("_", "-"), type=float, default=getattr(defaults, name))
    return parser.parse_args()


def save_all(trainer: SemanticTrainer, out: Path) -> None:
    """Write the state to resume from, and the model as an ordinary folder."""
    save_state(out / "state.pt", trainer.state_dict())
    trainer.save_hubert(out / "hubert")


def main() -> None:
    """Train and checkpoint a HuBERT."""
    options = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names = SemanticTrainingArguments.__dataclass_fields__
    arguments = SemanticTrainingArguments(**{name: value for name, value in vars(options).items() if name in names})
    hubert = HubertModel(tiny_hubert_config(options.hidden_size, options.num_hidden_layers))
    start_front_end(hubert, options.sampling_rate)
    pool = SongPool(options.corpus, "train", options.sampling_rate, options.max_hours)
    pool.refresh()
    pool.require(1.3 * max(arguments.crop_seconds))
    trainer = SemanticTrainer(hubert.to(device).train(), pool, arguments)
    state = options.out / "state.pt"
    if state.exists():
        trainer.load_state_dict(load_state(state, device))
        logger.info("resumed at step %d", trainer.step)
    run(trainer, options)


def run(trainer: SemanticTrainer, options: argparse.Namespace) -> None:
    """Train to the last step with logs, checkpoints, and new songs as they are rendered."""
    logger.info("%d songs, %.2f h", len(trainer.pool.songs), trainer.pool.hours)
    since, saved = time.monotonic(), time.monotonic()
    sums: dict[str, list[float]] = {}
    while trainer.step < trainer.arguments.steps:
        for name, value in trainer.train_step().items():
            sums.setdefault(name, []).append(value)
        if trainer.step % options.log_every == 0:
            speed = options.log_every / (time.monotonic() - since)
            means = {name: round(sum(values) / len(values), 5) for name, values in sums.items()}
            logger.info("step %d %.2f steps/s %s", trainer.step, speed, json.dumps(means))
            since, sums = time.monotonic(), {}
        if time.monotonic() - saved > 60 * options.save_minutes:
            save_all(trainer, options.out)
            trainer.pool.refresh()
            saved = since = time.monotonic()
            logger.info("saved at step %d; %.2f h of songs", trainer.step, trainer.pool.hours)
    save_all(trainer, options.out)


if __name__ == "__main__":
    main()
