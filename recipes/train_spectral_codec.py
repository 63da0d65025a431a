# SPDX-License-Identifier: Apache-2.0
"""Train a spectral codec on rendered songs.

    python recipes/train_spectral_codec.py --corpus CORPUS --out RUN --steps 6000
    python recipes/train_spectral_codec.py --corpus CORPUS --further CORPUS2,CORPUS3 --records FOLDER --out RUN \
        --codec CODEC --decoder_only true --steps 350 --learning_rate 5e-4 --final_learning_rate 2e-5 \
        --warmup_steps 50 --averaging 0.995 --level_weight 0.5 --adversarial_from 1 --adversarial_ramp 300 \
        --discriminator_learning_rate 1e-3 --discriminator_share 0.5

CORPUS is the output of recipes/build_song_corpus.py. The second command only trains the decoder of a spectral codec
further, on more corpora and on recordings in FOLDER, of which every eighth is held out for tests; codes stay the same.
RUN/state.pt is saved every few minutes and at the end, and the same command resumes from it. RUN/codec is the codec,
RUN/metrics.jsonl the log. One CPU core does about three steps per second, or one with discriminators.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from hafm_hf import HAFMSpectralConfig, HAFMSpectralModel
from hafm_hf.training.arguments import parse_dataclasses
from hafm_tiny.codec import evaluate_codec
from hafm_tiny.song_pool import Song, read_mono
from hafm_tiny.song_runs import SongRunArguments, resume, train_on_songs
from hafm_tiny.spectral_codec import SpectralTrainer, SpectralTrainingArguments
from running import check_sizes, run_recipe

SIZES = ("hop_length", "num_codebooks", "encoder_width", "encoder_layers", "decoder_width", "decoder_layers",
         "codebook_dim")  # fmt: skip


@dataclass
class SpectralCodecArguments:
    """Further training data, and the sizes of a new codec (24 kHz; the defaults of HAFMSpectralConfig if None)."""

    hop_length: int | None = field(default=None, metadata={"help": "samples per frame; 320 gives 75 Hz at 24 kHz"})
    num_codebooks: int | None = None
    encoder_width: int | None = None
    encoder_layers: int | None = None
    decoder_width: int | None = None
    decoder_layers: int | None = None
    codebook_dim: int | None = None
    phase_jitter: float = field(default=0.3, metadata={"help": "of the finished codec; training uses 0"})
    codec: str = field(default="", metadata={"help": "spectral codec to start from: a folder or hub id"})
    further: str = field(default="", metadata={"help": "more corpora of songs, separated by commas"})
    records: str = field(default="", metadata={"help": "folder of recordings to train on as well"})
    figures: bool = field(default=True, metadata={"help": "evaluate it on the test songs at the end"})


def load_or_create(arguments: SpectralCodecArguments) -> HAFMSpectralModel:
    """The codec to start from, in float32, or a new one."""
    sizes = {name: size for name in SIZES if (size := getattr(arguments, name)) is not None}
    if arguments.codec:
        codec: HAFMSpectralModel = HAFMSpectralModel.from_pretrained(arguments.codec, dtype=torch.float32)
        check_sizes(codec.config, sizes)
        return codec
    config = HAFMSpectralConfig(**sizes)
    return HAFMSpectralModel(HAFMSpectralConfig(**sizes, window_length=4 * config.hop_length))


def read_records(folder: str, sampling_rate: int, held_out: bool = False) -> list[Song]:
    """The recordings below a folder, in mono; every eighth is held out for tests."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix in (".flac", ".ogg", ".wav"))
    chosen = [path for index, path in enumerate(paths) if (index % 8 == 7) == held_out] if folder else []
    if folder and not chosen:
        raise ValueError(f"{folder} holds no recordings to train on: every eighth .flac, .ogg or .wav is for tests.")
    sounds = [read_mono(path, sampling_rate) for path in chosen]
    return [Song(path.stem, sound, sound, {}) for path, sound in zip(chosen, sounds, strict=True)]


def main() -> None:
    """Trains, checkpoints and evaluates a spectral codec."""
    words = parse_dataclasses((SpectralCodecArguments, SpectralTrainingArguments, SongRunArguments))
    model, arguments, run = words
    torch.manual_seed(arguments.seed)
    codec = load_or_create(model).to(run.device).train()
    codec.config.phase_jitter = 0.0
    pool = run.songs("train", codec.config.sampling_rate)
    for folder in filter(None, model.further.split(",")):
        pool.songs += replace(run, corpus=folder).songs("train", codec.config.sampling_rate).songs
    pool.require((arguments.crop_frames + 1) * codec.config.hop_length / codec.config.sampling_rate)
    records = read_records(model.records, codec.config.sampling_rate)
    trainer = SpectralTrainer(codec, pool, arguments, records)
    if not resume(trainer, run) and not model.codec:
        trainer.start()
    train_on_songs(trainer, arguments.steps, run, lambda out: trainer.averaged().save_pretrained(out / "codec"))
    finished = trainer.settle(min(300, arguments.steps))
    finished.config.phase_jitter = model.phase_jitter
    finished.save_pretrained(Path(run.out) / "codec")
    held_out = run.songs("test", codec.config.sampling_rate, max_hours=0.5, stems=True) if model.figures else None
    if held_out and held_out.songs:
        whole = codec.config.num_codebooks
        counts = sorted({whole, -(-whole // 2), -(-whole // 4)}, reverse=True)
        figures = evaluate_codec(trainer.average, held_out, tuple(counts))
        Path(run.out, "figures.json").write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    run_recipe(main)
