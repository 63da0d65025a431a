# SPDX-License-Identifier: Apache-2.0
"""Train a spectral codec on rendered songs.

    python recipes/train_spectral_codec.py --corpus CORPUS --out RUN --steps 6000
    python recipes/train_spectral_codec.py --corpus CORPUS --further CORPUS2,CORPUS3 --records FOLDER --out RUN \
        --codec CODEC --decoder_only true --steps 350 --learning_rate 5e-4 --final_learning_rate 2e-5 \
        --warmup_steps 50 --averaging 0.995 --level_weight 0.5 --adversarial_from 1 --adversarial_ramp 300 \
        --discriminator_learning_rate 1e-3 --discriminator_share 0.5
    python recipes/train_spectral_codec.py --corpus CORPUS --records FOLDER --out RUN --codec CODEC \
        --decoder_only true --output_sampling_rate 44100 --output_audio_channels 2 --steps 1700 --batch_size 4 \
        --varied_rows 1 --learning_rate 4e-4 --final_learning_rate 2e-5 --warmup_steps 50 --averaging 0.995 \
        --stft_sizes 512,2048,8192 --mel_weight 0 --level_weight 0.25 --records_share 0.25
    python recipes/train_spectral_codec.py --corpus CORPUS --records FOLDER --out RUN --codec WIDE_CODEC \
        --decoder_only true --side_only true --steps 2000 --batch_size 14 --learning_rate 1e-3 \
        --final_learning_rate 1e-4 --averaging 0.99 --waveform_weight 0 --spectral_weight 0 --mel_weight 0 \
        --pan_weight 10 --records_share 0.1
    python recipes/train_spectral_codec.py --corpus CORPUS --records FOLDER --out RUN --codec PANNED_CODEC \
        --decoder_only true --side_only true --steps 600 --batch_size 4 --varied_rows 1 --learning_rate 4e-4 \
        --final_learning_rate 2e-5 --warmup_steps 50 --averaging 0.99 --stft_sizes 512,2048,8192 --mel_weight 0 \
        --spectral_weight 0.25 --level_weight 1 --pan_weight 12 --records_share 0.1

CORPUS is the output of recipes/build_song_corpus.py. The second command only trains the decoder of a spectral codec
further, on more corpora and on recordings in FOLDER, of which every eighth is held out for tests; codes stay the same.
The third makes the decoder play 44.1 kHz stereo of the same codes, and trains it on a corpus with stereo.flac; the
last two train its side alone, first where each frequency stands, then all of it.
RUN/state.pt is saved every few minutes and at the end, and the same command resumes from it. RUN/codec is the codec,
RUN/metrics.jsonl the log. One CPU core does about three steps per second, or one with discriminators.
"""

import copy
import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from hafm_hf import HAFMSpectralConfig, HAFMSpectralModel
from hafm_hf.training.arguments import parse_dataclasses
from hafm_tiny.codec import evaluate_codec
from hafm_tiny.song_pool import Song, read_mono, read_stereo
from hafm_tiny.song_runs import SongRunArguments, resume, train_on_songs
from hafm_tiny.spectral_codec import SpectralTrainer, SpectralTrainingArguments
from hafm_tiny.stereo_figures import evaluate_in_stereo
from hafm_tiny.wider_codec import widened
from running import check_sizes, run_recipe

SIZES = ("hop_length", "num_codebooks", "encoder_width", "encoder_layers", "decoder_width", "decoder_layers",
         "codebook_dim")  # fmt: skip
# one of so many recordings is held out for tests
RECORDS_PER_TEST = 8
# batches on which the finished decoder's running mean is estimated, unless there were fewer steps
SETTLING_BATCHES = 300


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
    output_sampling_rate: int | None = field(default=None, metadata={"help": "Hz that the decoder shall play"})
    output_audio_channels: int | None = field(default=None, metadata={"help": "channels that it shall play"})
    further: str = field(default="", metadata={"help": "more corpora of songs, separated by commas"})
    records: str = field(default="", metadata={"help": "folder of recordings to train on as well"})
    figures: bool = field(default=True, metadata={"help": "evaluate it on the test songs at the end"})


def load_or_create(arguments: SpectralCodecArguments) -> HAFMSpectralModel:
    """The codec to start from, in float32, or a new one.

    Raises:
        ValueError: the codec to start from has other sizes than the arguments say.
    """
    sizes = {name: size for name in SIZES if (size := getattr(arguments, name)) is not None}
    if arguments.codec:
        codec: HAFMSpectralModel = HAFMSpectralModel.from_pretrained(arguments.codec, dtype=torch.float32)
        check_sizes(codec.config, sizes)
        return codec
    config = HAFMSpectralConfig(**sizes)
    return HAFMSpectralModel(HAFMSpectralConfig(**sizes, window_length=4 * config.hop_length))


def wider(codec: HAFMSpectralModel, arguments: SpectralCodecArguments) -> HAFMSpectralModel:
    """The codec with a decoder of the rate and channels that the arguments ask for, or itself if it has these."""
    output = codec.config.output_format
    rate = arguments.output_sampling_rate or output.sampling_rate
    channels = arguments.output_audio_channels or output.channels
    if (rate, channels) == (output.sampling_rate, output.channels):
        return codec
    return widened(codec, rate, channels)


def read_records(
    folder: str, sampling_rate: int, held_out: bool = False, stereo_rate: int | None = None
) -> list[Song]:
    """Reads the recordings below a folder, of which every eighth is held out for tests.

    Args:
        folder: "" for none.
        sampling_rate: in Hz, of the recordings in mono.
        held_out: whether to read those for tests instead of the others.
        stereo_rate: in Hz, of the recordings in stereo; None: without these.

    Returns:
        Songs without labels, whose vocal and instrumental are the recording.

    Raises:
        ValueError: the folder has none.
    """
    if not folder:
        return []
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix in (".flac", ".ogg", ".wav"))
    chosen = []
    for number, path in enumerate(paths, start=1):
        is_for_tests = number % RECORDS_PER_TEST == 0
        if is_for_tests == held_out:
            chosen.append(path)
    if not chosen:
        raise ValueError(f"{folder} holds no recordings to train on: every eighth .flac, .ogg or .wav is for tests.")
    records = []
    for path in chosen:
        sound = read_mono(path, sampling_rate)
        stereo = None
        if stereo_rate:
            stereo = read_stereo(path, stereo_rate)
        records.append(Song(path.stem, sound, sound, {}, stereo=stereo))
    return records


def main() -> None:
    """Trains a spectral codec, saves its state, log and model in --out, and evaluates it on the test songs."""
    model, arguments, run = parse_dataclasses((SpectralCodecArguments, SpectralTrainingArguments, SongRunArguments))
    torch.manual_seed(arguments.seed)
    initial = load_or_create(model)
    # training changes the codec in place unless it is widened
    before = copy.deepcopy(initial)
    codec = wider(initial, model).to(run.device).train()
    # only the finished codec has it
    codec.config.phase_jitter = 0.0
    output = codec.config.output_format
    # a codec that plays another format than it reads is trained on songs in stereo
    stereo_rate = None
    if output != codec.config.input_format:
        stereo_rate = output.sampling_rate

    pool = run.load_songs("train", codec.config.sampling_rate, stereo_rate=stereo_rate)
    for folder in filter(None, model.further.split(",")):
        further = replace(run, corpus=folder).load_songs("train", codec.config.sampling_rate, stereo_rate=stereo_rate)
        pool.songs += further.songs
    # crops begin anywhere, not only at a frame
    pool.require((arguments.crop_frames + 1) * codec.config.hop_length / codec.config.sampling_rate)
    records = read_records(model.records, codec.config.sampling_rate, stereo_rate=stereo_rate)

    trainer = SpectralTrainer(codec, pool, arguments, records)
    if not resume(trainer, run):
        if not model.codec:
            trainer.start()
        elif codec is not initial:
            # a wider decoder has frequencies whose usual levels are not known yet
            trainer.start_wider(initial.config.output_format.num_bins)
    train_on_songs(trainer, arguments.steps, run, lambda out: trainer.averaged().save_pretrained(out / "codec"))
    finished = trainer.settle(min(SETTLING_BATCHES, arguments.steps))
    finished.config.phase_jitter = model.phase_jitter
    if output.channels == 2 and trainer.compares_sounds:
        trainer.level_side(finished)
    finished.save_pretrained(Path(run.out) / "codec")

    if not model.figures:
        return
    if stereo_rate:
        held_out = run.load_songs(
            "test", codec.config.sampling_rate, max_hours=0.5, stems=True, stereo_rate=stereo_rate
        )
        figures = evaluate_in_stereo({"before": before, "after": finished}, held_out)
        Path(run.out, "figures.json").write_text(json.dumps(figures, indent=2))
        return
    held_out = run.load_songs("test", codec.config.sampling_rate, max_hours=0.5, stems=True)
    if held_out.songs:
        # with all codebooks, half and a quarter of them, rounded up
        all_codebooks = codec.config.num_codebooks
        depths = sorted({all_codebooks, math.ceil(all_codebooks / 2), math.ceil(all_codebooks / 4)}, reverse=True)
        figures = evaluate_codec(trainer.average, held_out, tuple(depths))
        Path(run.out, "figures.json").write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    run_recipe(main)
