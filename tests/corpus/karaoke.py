# SPDX-License-Identifier: Apache-2.0
"""Synthetic songs with the voice on the right channel, for the tests of corpus preparation."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from hafm_hf.corpus.shards import ShardOptions
from hafm_hf.corpus.stems import StemOptions
from hafm_hf.corpus.tokenizing import TokenizerOptions
from tiny_models import evenly, tiny_codec, tiny_semantic_tokenizer

RATE = 16_000


def sing(seconds: float, seed: int, level: float = 0.1) -> np.ndarray:
    """A tone with vibrato and a little noise, float32 [N] at RATE Hz, with an RMS of about `level`."""
    generator = np.random.default_rng(seed)
    times = np.arange(round(seconds * RATE)) / RATE
    pitch = 180 * 2 ** (generator.uniform(0, 1) + 0.3 * np.sin(2 * np.pi * generator.uniform(0.3, 0.9) * times))
    tone = np.sin(2 * np.pi * np.cumsum(pitch) / RATE) + 0.1 * generator.standard_normal(times.size)
    return (level * 1.4 * tone).astype(np.float32)


def karaoke(seconds: float, seed: int, voice: float = 0.1, band: float = 0.1) -> np.ndarray:
    """float32 [N, 2]: the band on the left, the voice on the right."""
    return np.stack([sing(seconds, 1000 + seed, band), sing(seconds, seed, voice)], axis=1)


def write_karaoke(folder: Path, count: int, seconds: float = 2.0) -> None:
    """Writes `count` songs of different lengths and contents, as NNN.wav."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        samples = karaoke(seconds + 0.3 * (number % 4), number)
        soundfile.write(folder / f"{number:03d}.wav", samples, RATE)


def shards(corpus: Path) -> dict[str, str]:
    """SHA-256 of every shard by its name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in corpus.glob("*.parquet")}


def save_tokenizers(folder: Path) -> dict[str, Any]:
    """Saves tiny tokenizers with random weights, and returns the options that name them."""
    tokenizer = tiny_semantic_tokenizer()
    features = tokenizer.extract_features(torch.from_numpy(sing(4.0, 99)))
    # a song's frames as centroids, so that tokens change along a song
    tokenizer.centroids.copy_(evenly(features))
    tokenizer.save_pretrained(folder / "semantic_tokenizer")
    tiny_codec().save_pretrained(folder / "codec")
    return {"semantic_tokenizer": str(folder / "semantic_tokenizer"), "codec": str(folder / "codec")}


def karaoke_options(folder: Path, corpus: str, tokenizers: dict[str, Any], **more: float) -> ShardOptions:
    """Options that prepare the karaoke in FOLDER/songs."""
    named = {"audio": str(folder / "songs"), "corpus": str(folder / corpus)}
    tools = {"stems": StemOptions(vocal_channel="right"), "tokenizer": TokenizerOptions(**tokenizers)}
    return ShardOptions(**named, **tools, **more)  # type: ignore[arg-type]


def save_embedder(folder: Path, hidden_size: int) -> None:
    """Saves a one-layer wav2vec 2.0 with random weights, which embeds audio at 50 frames per second."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    sizes = {"hidden_size": hidden_size, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 8}
    convolutions = {"conv_dim": (8, 8), "conv_stride": (160, 2), "conv_kernel": (400, 2), "num_feat_extract_layers": 2}
    positions = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
    Wav2Vec2Model(Wav2Vec2Config(**sizes, **convolutions, **positions)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)


def save_demucs(folder: Path) -> Path:
    """Saves a demucs model with a few thousand random weights as `tiny`; skips if demucs is missing."""
    pytest.importorskip("demucs")
    from demucs.demucs import Demucs

    torch.manual_seed(0)
    options = {"sources": ["drums", "vocals"], "channels": 4, "depth": 2, "lstm_layers": 0, "dconv_mode": 0}
    model = Demucs(**options, samplerate=RATE, segment=1.0)
    with torch.no_grad():
        # as loud as songs are, since the filter drops quiet audio
        model.decoder[-1][-1].weight[:, :2].mul_(200.0)
        model.decoder[-1][-1].weight[:, 2:].mul_(100.0)
        model.decoder[-1][-1].bias.zero_()
    package = {"klass": Demucs, "args": (), "kwargs": {**options, "samplerate": RATE, "segment": 1.0}}
    torch.save({**package, "state": model.state_dict()}, folder / "tiny.th")
    return folder
