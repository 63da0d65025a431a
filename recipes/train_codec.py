# SPDX-License-Identifier: Apache-2.0
"""Train a small EnCodec-shaped codec on rendered songs.

    python recipes/train_codec.py --corpus CORPUS --out RUN --steps 4000 --num_filters 12
    python recipes/train_codec.py --corpus CORPUS --out RUN --steps 20000 --num_filters 24 --stem_share 0.8
    python recipes/train_codec.py --corpus CORPUS --out RUN --codec CODEC --decoder_only true --spectral_from 0

CORPUS is what recipes/build_song_corpus.py writes. RUN/state.pt is written every few minutes and at the end, and a run
that is started again goes on from there (with another --steps, if given, whose learning-rate curve it then follows).
RUN/codec is an ordinary EncodecModel folder, RUN/metrics.jsonl the log. One CPU core does about two steps a second; a
GPU is used where there is one. --adversarial_from adds EnCodec's discriminators. --codec goes on from a trained codec;
with --decoder_only its codes stay what they are, so stages trained on them need no training. --help lists everything.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import EncodecConfig, EncodecModel

from hafm_hf.training.arguments import parse_dataclasses
from hafm_tiny.codec import CodecTrainer, CodecTrainingArguments, draw_batch, evaluate_codec, start_codec
from hafm_tiny.song_runs import SongRunArguments, resume, train_on_songs
from running import run_recipe


@dataclass
class CodecArguments:
    """EnCodec's 24 kHz architecture with fewer filters and, at 6 kbps, 8 codebooks."""

    num_filters: int = 12
    codec: str = field(default="", metadata={"help": "start from this codec: a folder or hub id"})
    figures: bool = field(default=True, metadata={"help": "measure it on the test songs at the end"})


def load_or_create(arguments: CodecArguments) -> EncodecModel:
    """The codec that is named, in float32, or a new one."""
    if arguments.codec:
        return EncodecModel.from_pretrained(arguments.codec, dtype=torch.float32)
    return EncodecModel(EncodecConfig(num_filters=arguments.num_filters, target_bandwidths=[1.5, 3.0, 6.0]))


def main() -> None:
    """Trains, checkpoints and evaluates a codec."""
    model, arguments, run = parse_dataclasses((CodecArguments, CodecTrainingArguments, SongRunArguments))
    if arguments.decoder_only and not model.codec:
        raise ValueError("--decoder_only needs the --codec whose decoder is trained.")
    if model.codec:
        # its codebooks are trained: they go on from where they are
        arguments.quantize_from = -1
    torch.manual_seed(arguments.seed)
    codec = load_or_create(model).to(run.device).train()
    config = codec.config
    pool = run.songs("train", config.sampling_rate, stems=arguments.stem_share > 0)
    pool.require(arguments.crop_seconds)
    trainer = CodecTrainer(codec, pool, arguments)
    if not resume(trainer, run) and not model.codec:
        start_codec(codec, draw_batch(pool, arguments, 0).to(run.device))
    train_on_songs(trainer, arguments.steps, run, lambda out: codec.save_pretrained(out / "codec"))
    held_out = run.songs("test", config.sampling_rate, max_hours=0.5, stems=True) if model.figures else None
    if held_out and held_out.songs:
        figures = evaluate_codec(codec, held_out)
        Path(run.out, "figures.json").write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    run_recipe(main)
