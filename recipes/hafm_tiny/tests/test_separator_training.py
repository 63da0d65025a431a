# SPDX-License-Identifier: Apache-2.0
"""Training a separator on short songs whose stems are in different registers."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import EncodecModel

from hafm_hf import HAFMSeparatorModel
from hafm_hf.audio import resample
from hafm_hf.lead_sheet.vocabulary import STEMS
from hafm_hf.tokenizers.codecs import as_codec
from hafm_tiny.separator import SeparatorArguments, SeparatorTrainer, coded, separator_scores
from hafm_tiny.song_pool import SongPool
from programs import RECIPES, run_program
from synthetic_songs import tone
from tiny_models import tiny_codec, tiny_separator, tiny_spectral_codec

RECIPE = RECIPES / "train_separator.py"
RATE = 8_000
SIZES = {"sampling_rate": RATE, "n_fft": 160, "hop_length": 40}


def write_band(folder: Path, seconds: float, seed: int) -> None:
    """Writes a song at RATE with low notes as bass, higher ones as chords, the highest as pads, and noise as drums.

    Two notes of each stem a second, of 0.45 s; the drums' bursts of noise last 0.05 s. The vocal is silent.
    """
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    stems = {name: np.zeros_like(time) for name in ("drums", "bass", "chords", "pads")}
    for half in range(int(2 * seconds)):
        inside = (time >= half / 2) & (time < half / 2 + 0.45)
        stems["bass"][inside] = 0.2 * tone(int(rng.integers(33, 45)), time[inside], 1)
        stems["chords"][inside] = 0.1 * tone(int(rng.integers(57, 69)), time[inside], 1)
        stems["pads"][inside] = 0.1 * tone(int(rng.integers(84, 96)), time[inside], 1)
        inside = (time >= half / 2) & (time < half / 2 + 0.05)
        stems["drums"][inside] = 0.1 * rng.normal(size=int(inside.sum()))
    folder.mkdir(parents=True)
    for name, sound in {**stems, "instrumental": sum(stems.values()), "vocal": 0 * time}.items():
        soundfile.write(folder / f"{name}.flac", sound, RATE)
    (folder / "labels.json").write_text("{}")


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three songs with stems, two for training and one for validation."""
    root = tmp_path_factory.mktemp("bands")
    for split, seed in (("train", 0), ("train", 1), ("validation", 2)):
        write_band(root / split / f"song_{seed}", 11.0, seed)
    return root


@pytest.fixture(scope="module")
def codec() -> EncodecModel:
    """A tiny EnCodec with random weights at the songs' rate."""
    sizes = {"hidden_size": 8, "codebook_dim": 8}
    return tiny_codec(sampling_rate=RATE, upsampling_ratios=[5, 4, 2], target_bandwidths=[3.2], **sizes)


def pool(root: Path, split: str) -> SongPool:
    """The songs of a split, with their stems."""
    pool_of_split = SongPool(root, split, RATE, stems=True)
    pool_of_split.refresh()
    return pool_of_split


def test_a_trained_separator_raises_the_si_sdr_of_every_stem_by_5_db(songs: Path, codec: EncodecModel) -> None:
    model = tiny_separator(**SIZES, channels=24)
    arguments = SeparatorArguments(
        steps=120, crop_seconds=1.0, batch_size=4, coded_share=0.25, warmup_steps=10, learning_rate=5e-3, ema_decay=0.9
    )
    loss = SeparatorTrainer(model, pool(songs, "train"), as_codec(codec), arguments).train()
    scores = separator_scores(model, pool(songs, "validation").songs, as_codec(codec))
    assert loss < 0.9
    assert not model.training
    for name in STEMS:
        assert scores[f"{name}_si_sdr"] > scores[f"{name}_band_si_sdr"] + 5, scores
    kinds = ("si_sdr", "band_si_sdr", "coded_si_sdr")
    assert set(scores) == {f"{name}_{kind}" for name in STEMS for kind in kinds}


def test_a_stereo_codecs_output_is_scored_as_the_mean_of_its_channels_at_its_input_rate() -> None:
    codec = as_codec(tiny_spectral_codec(output_sampling_rate=44_100, output_audio_channels=2))
    sounds = 0.1 * np.random.default_rng(0).normal(size=(2, 7_000)).astype(np.float32)
    band = coded(codec, sounds)
    assert band.shape == (2, 7_000)
    played = codec.decode(codec.encode(torch.from_numpy(sounds)[:, None]))[1].mean(0).numpy()
    np.testing.assert_allclose(band[1], resample(played, 44_100, 24_000)[:7_000], atol=1e-4)


def test_the_recipe_trains_and_continues_a_separator(songs: Path, codec: EncodecModel, tmp_path: Path) -> None:
    codec.save_pretrained(tmp_path / "codec")
    words = ["--corpus", songs, "--codec", tmp_path / "codec", "--out", tmp_path / "run", "--steps", 2]
    words += ["--channels", 8, "--layers", 1, "--batch_size", 2, "--crop_seconds", 0.5]
    for initial in ([], ["--init_from", tmp_path / "run" / "separator"]):
        run_program([RECIPE, *words, *initial], check=True)
    config = HAFMSeparatorModel.from_pretrained(tmp_path / "run" / "separator").config
    assert (config.sampling_rate, config.hop_length) == (RATE, 40)
    assert "bass_si_sdr" in json.loads((tmp_path / "run" / "separator" / "figures.json").read_text())
    (songs / "validation").rename(songs / "test")
    # without a codec, and without validation songs
    for wrong, message in ((words[:2], "--codec"), (words, "no finished song longer than 10 s")):
        failed = run_program([RECIPE, *wrong])
        assert failed.returncode == 1
        assert message in failed.stderr.splitlines()[-1]
