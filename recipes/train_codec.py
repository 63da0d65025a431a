"""Train a small EnCodec-shaped codec on rendered songs.

    python recipes/train_codec.py --corpus CORPUS --out RUN --steps 4000 --num-filters 12

CORPUS is what recipes/build_song_corpus.py writes. RUN/state.pt is written every few minutes and at the end, and a run
that is started again goes on from there (with another --steps, if given, whose learning-rate curve it then follows).
RUN/codec is an ordinary EncodecModel folder. One CPU core does about two steps a second; a GPU is used where there is
one.
"""

import argparse
import json
import logging
import time
from pathlib import Path

import torch
from transformers import EncodecConfig, EncodecModel

from hafm_hf.training.codec import CodecTrainer, CodecTrainingArguments, draw_batch, evaluate_codec, start_codec
from hafm_hf.training.songs import SongPool
from hafm_hf.training.state import load_state, save_state

logger = logging.getLogger("train_codec")


def parse_arguments() -> argparse.Namespace:
    """Command line of this recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--num-filters", type=int, default=12)
    parser.add_argument("--max-hours", type=float, default=12.0, help="of songs held in memory")
    parser.add_argument("--save-minutes", type=float, default=3.0)
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    defaults = CodecTrainingArguments()
    for name in ("steps", "batch_size", "quantize_from", "spectral_from", "spectral_ramp", "warmup_steps", "seed"):
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=getattr(defaults, name))
    for name in ("crop_seconds", "learning_rate", "spectral_weight", "commitment_weight"):
        parser.add_argument("--" + name.replace("_", "-"), type=float, default=getattr(defaults, name))
    return parser.parse_args()


def build_codec(num_filters: int) -> EncodecModel:
    """EnCodec's 24 kHz architecture with fewer filters and, at 6 kbps, 8 codebooks."""
    return EncodecModel(EncodecConfig(num_filters=num_filters, target_bandwidths=[1.5, 3.0, 6.0]))


def save_all(trainer: CodecTrainer, out: Path) -> None:
    """Write the state to resume from, and the model as an ordinary folder."""
    save_state(out / "state.pt", trainer.state_dict())
    trainer.codec.save_pretrained(out / "codec")


def main() -> None:
    """Train, checkpoint and evaluate a codec."""
    options = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    names = CodecTrainingArguments.__dataclass_fields__
    arguments = CodecTrainingArguments(**{name: value for name, value in vars(options).items() if name in names})
    codec = build_codec(options.num_filters).to(device).train()
    pool = SongPool(options.corpus, "train", codec.config.sampling_rate, options.max_hours)
    pool.refresh()
    pool.require(arguments.crop_seconds)
    held_out = SongPool(options.corpus, "test", codec.config.sampling_rate, max_hours=0.5)
    trainer = CodecTrainer(codec, pool, arguments)
    state = options.out / "state.pt"
    if state.exists():
        trainer.load_state_dict(load_state(state, device))
        logger.info("resumed at step %d", trainer.step)
    else:
        start_codec(codec, draw_batch(pool, arguments, 0).to(device))
    run(trainer, held_out, options)


def run(trainer: CodecTrainer, held_out: SongPool, options: argparse.Namespace) -> None:
    """Train to the last step with logs, checkpoints, and new songs as they are rendered; evaluate at the end."""
    logger.info("%d songs, %.2f h", len(trainer.pool.songs), trainer.pool.hours)
    since, saved = time.monotonic(), time.monotonic()
    sums: dict[str, float] = {}
    while trainer.step < trainer.arguments.steps:
        for name, value in trainer.train_step().items():
            sums[name] = sums.get(name, 0.0) + value / options.log_every
        if trainer.step % options.log_every == 0:
            speed = options.log_every / (time.monotonic() - since)
            logger.info(
                "step %d %.2f steps/s %s", trainer.step, speed, json.dumps({k: round(v, 5) for k, v in sums.items()})
            )
            since, sums = time.monotonic(), {}
        if time.monotonic() - saved > 60 * options.save_minutes:
            save_all(trainer, options.out)
            trainer.pool.refresh()
            saved = since = time.monotonic()
            logger.info("saved at step %d; %.2f h of songs", trainer.step, trainer.pool.hours)
    save_all(trainer, options.out)
    held_out.refresh()
    if held_out.songs:
        figures = evaluate_codec(trainer.codec, held_out)
        (options.out / "figures.json").write_text(json.dumps(figures, indent=2))
        logger.info("test songs: %s", json.dumps(figures))


if __name__ == "__main__":
    main()
