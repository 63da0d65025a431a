# SPDX-License-Identifier: Apache-2.0
"""Train a spectral codec on rendered songs, freely or so that it speaks the tokens of an EnCodec.

    python recipes/train_spectral_codec.py --corpus CORPUS --out RUN --steps 6000
    python recipes/train_spectral_codec.py --corpus CORPUS --out RUN --teacher CODEC --model hafm-tiny \
        --encoder_layers 5 --decoder_width 320 --decoder_layers 8 --steps 4000 --adversarial_from 2000

    python recipes/train_spectral_codec.py --corpus CORPUS --further CORPUS2,CORPUS3 --records FOLDER --out RUN \
        --codec CODEC --decoder_only true --model hafm-tiny --played_songs 30 --steps 350 --learning_rate 5e-4 \
        --final_learning_rate 2e-5 --warmup_steps 50 --averaging 0.995 --level_weight 0.5 --free_level_weight 0.1 \
        --adversarial_from 1 --adversarial_ramp 300 --discriminator_learning_rate 1e-3 --discriminator_share 0.5

CORPUS is what recipes/build_song_corpus.py writes. The second command keeps the codes of CODEC, an EnCodec, and so
every stage that has learnt them; what --model plays to the corpus's voices is judged as well. The third trains the
decoder of a spectral codec further, on its own codes, of more corpora and of records, every eighth of which is left
for tests. RUN/state.pt is written every few minutes and at the end, and a run that is started again goes on from
there. RUN/codec is the codec, RUN/metrics.jsonl the log. One CPU core does about three steps a second, with
discriminators one.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from transformers import EncodecModel

from hafm_hf import HAFMForVocalAccompaniment, HAFMSpectralConfig, HAFMSpectralModel
from hafm_hf.training.arguments import parse_dataclasses
from hafm_tiny.codec import evaluate_codec
from hafm_tiny.song_pool import PCM_SCALE, Song, SongPool, read_mono
from hafm_tiny.song_runs import SongRunArguments, resume, train_on_songs
from hafm_tiny.spectral_codec import SpectralTrainer, SpectralTrainingArguments, Teacher
from hafm_tiny.state import load_state, save_state
from running import run_recipe


@dataclass
class SpectralCodecArguments:
    """The sizes of a new codec, at 24 kHz, and what it learns from beside the songs."""

    hop_length: int = field(default=320, metadata={"help": "samples a frame: 75 frames a second"})
    num_codebooks: int = 8
    encoder_width: int = 256
    encoder_layers: int = 4
    decoder_width: int = 256
    decoder_layers: int = 6
    codebook_dim: int = 96
    codec: str = field(default="", metadata={"help": "start from this spectral codec: a folder or hub id"})
    further: str = field(default="", metadata={"help": "more corpora of songs, separated by commas"})
    records: str = field(default="", metadata={"help": "folder of audio files, to learn from as well"})
    teacher: str = field(default="", metadata={"help": "an EnCodec whose codebooks and codes are kept"})
    model: str = field(default="", metadata={"help": "what it plays to the voices is judged as well"})
    played_songs: int = 60
    played_seconds: float = 12.0
    figures: bool = field(default=True, metadata={"help": "measure it on the test songs at the end"})


def load_or_create(arguments: SpectralCodecArguments, teacher: EncodecModel | None) -> HAFMSpectralModel:
    """The codec that is named, in float32, or a new one with the teacher's rates and codebooks."""
    if arguments.codec:
        codec: HAFMSpectralModel = HAFMSpectralModel.from_pretrained(arguments.codec, dtype=torch.float32)
        return codec
    sizes = {name: getattr(arguments, name) for name in ("encoder_width", "encoder_layers", "decoder_width")}
    sizes |= {name: getattr(arguments, name) for name in ("decoder_layers", "codebook_dim", "hop_length")}
    sizes |= {"num_codebooks": arguments.num_codebooks, "window_length": 4 * arguments.hop_length}
    if teacher is not None:
        theirs = teacher.config
        sizes |= {"sampling_rate": theirs.sampling_rate, "hop_length": theirs.hop_length}
        sizes |= {"window_length": 4 * theirs.hop_length, "codebook_dim": theirs.codebook_dim}
        sizes |= {"num_codebooks": theirs.num_quantizers, "codebook_size": theirs.codebook_size}
    return HAFMSpectralModel(HAFMSpectralConfig(**sizes))


def read_records(folder: str, sampling_rate: int, held_out: bool = False) -> list[Song]:
    """The records below a folder, mono; every eighth is held out for tests."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix in (".flac", ".ogg", ".wav"))
    chosen = [path for index, path in enumerate(paths) if (index % 8 == 7) == held_out] if folder else []
    sounds = [read_mono(path, sampling_rate) for path in chosen]
    return [Song(path.stem, sound, sound, {}) for path, sound in zip(chosen, sounds, strict=True)]


def played(arguments: SpectralCodecArguments, pool: SongPool, kept: Path) -> list[torch.Tensor]:
    """Codes int64 [Q, T] of what a model plays to the voices of the songs, stored in `kept`; none without a model."""
    if not arguments.model:
        return []
    if kept.exists():
        return list(load_state(kept)["codes"])
    model = HAFMForVocalAccompaniment.from_pretrained(arguments.model)
    size = int(arguments.played_seconds * pool.sampling_rate)
    codes = []
    for seed, song in enumerate(pool.songs[: arguments.played_songs]):
        voice = torch.from_numpy(song.vocal[:size]).float() / PCM_SCALE
        codes += model.generate(voice[None], pool.sampling_rate, seed=seed).codes
    save_state(kept, {"codes": codes})
    return codes


def main() -> None:
    """Trains, checkpoints and evaluates a spectral codec."""
    words = parse_dataclasses((SpectralCodecArguments, SpectralTrainingArguments, SongRunArguments))
    model, arguments, run = words
    torch.manual_seed(arguments.seed)
    teacher = EncodecModel.from_pretrained(model.teacher, dtype=torch.float32) if model.teacher else None
    codec = load_or_create(model, teacher).train()
    pool = run.songs("train", codec.config.sampling_rate)
    for folder in filter(None, model.further.split(",")):
        songs = replace(run, corpus=folder).songs("train", codec.config.sampling_rate).songs
        # what a teacher knows of a song is kept by its name, and corpora may share names
        pool.songs += [replace(song, name=f"{folder}/{song.name}") for song in songs]
    pool.require((arguments.crop_frames + 1) * codec.config.hop_length / codec.config.sampling_rate)
    kept = None if teacher is None else Teacher(teacher)
    records = read_records(model.records, codec.config.sampling_rate)
    trainer = SpectralTrainer(codec, pool, arguments, kept, played(model, pool, Path(run.out) / "played.pt"), records)
    if not resume(trainer, run):
        trainer.start(fresh=not model.codec)
    train_on_songs(trainer, arguments.steps, run, lambda out: trainer.averaged().save_pretrained(out / "codec"))
    trainer.settle(min(300, arguments.steps)).save_pretrained(Path(run.out) / "codec")
    held_out = run.songs("test", codec.config.sampling_rate, max_hours=0.5, stems=True) if model.figures else None
    if held_out and held_out.songs:
        figures = evaluate_codec(trainer.average, held_out)
        Path(run.out, "figures.json").write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    run_recipe(main)
