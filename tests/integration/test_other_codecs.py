# SPDX-License-Identifier: Apache-2.0
"""Codecs of other bit rates, sampling rates, channels and families, from songs to an accompanying model."""

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile
import soxr
import torch
from transformers import pipeline

from commands import hafm
from corpus.karaoke import RATE, sing
from hafm_hf import HAFMForVocalAccompaniment
from hafm_hf.accompaniment.assemble import assemble_composite
from hafm_hf.audio import fade_edges
from hafm_hf.cli.info import describe_model
from hafm_hf.corpus.prepare import PrepareOptions, ShardOptions, prepare
from hafm_hf.corpus.tokenizing import TokenizerOptions
from hafm_hf.corpus.tracks import SplitOptions
from hafm_hf.tokenizers.codecs import as_codec, load_codec
from hafm_hf.tokenizers.configuration_codec import codec_format
from hafm_hf.training.data import load_token_corpus
from integration.training_runs import train_here
from tiny_models import CODECS, CODES, tiny_semantic_tokenizer, tiny_stage
from vocals import glide

KINDS = ("24 kbps", "dac", "spectral 44.1 kHz stereo")
# codebooks of the coarse stage
COARSE = 4
# Hz, of the vocal; no codec uses it
VOCAL_RATE = 22_050


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Tokenises songs, trains a coarse and a fine stage on them for two steps, and assembles all parts.

    Returns:
        "folder" with songs, corpus, codec and model; "kind" of codec; "format", the codec's.
    """
    folder = tmp_path_factory.mktemp("codec")
    codec = CODECS[request.param]()
    form = codec_format(codec.config)
    codec.save_pretrained(folder / "codec")
    tokenizer = tiny_semantic_tokenizer()
    tokenizer.save_pretrained(folder / "semantic_tokenizer")
    for number in range(2):
        (folder / "songs" / f"{number}").mkdir(parents=True)
        band = np.stack([sing(1.6, 10 + number), sing(1.6, 20 + number)], axis=1)
        soundfile.write(folder / "songs" / f"{number}" / "vocals.wav", sing(1.6, number), RATE)
        soundfile.write(folder / "songs" / f"{number}" / "instrumental.wav", band, RATE)
    named: dict[str, Any] = {"semantic_tokenizer": str(folder / "semantic_tokenizer"), "codec": str(folder / "codec")}
    options = ShardOptions(
        audio=str(folder / "songs"),
        corpus=str(folder / "corpus"),
        tokenizer=TokenizerOptions(**named, num_codebooks=form.num_codebooks),
        min_seconds=1.0,
    )
    prepare(PrepareOptions(options, SplitOptions(validation=0.0, test=0.0), tracks_per_shard=2))
    sizes = {"crop_seconds": 0.4, "max_steps": 2, "global_batch": 2, "validation_split": "none", "save_steps": 2}
    parts = {**named, "semantic": str(folder / "semantic")}
    for stage in ("coarse", "fine"):
        books = {"coarse_codebooks": COARSE, "fine_codebooks": form.num_codebooks - COARSE}
        train_here(folder / "corpus", folder / stage, stage=stage, **books, **sizes)
        parts[stage] = str(folder / stage / "final")
    tiny_stage("semantic", window_seconds=0.4).save_pretrained(folder / "semantic")
    assemble_composite(parts, folder / "model", stage_dtype="float32")
    return {"folder": folder, "kind": request.param, "format": form}


@pytest.fixture(scope="module")
def model(made: dict[str, Any]) -> HAFMForVocalAccompaniment:
    """The assembled model, loaded."""
    return HAFMForVocalAccompaniment.from_pretrained(made["folder"] / "model")


def test_a_corpus_holds_the_codecs_codes_of_the_band(made: dict[str, Any]) -> None:
    _, info = load_token_corpus(made["folder"] / "corpus", "train", made["folder"] / "cache")
    files = str(made["folder"] / "corpus" / "*.parquet")
    form = made["format"]
    rows = datasets.load_dataset("parquet", data_files=files, split="train")
    assert len(rows) == 2
    assert (info.acoustic_frame_rate, info.num_codebooks) == (form.frame_rate, form.num_codebooks)
    codec = load_codec(made["folder"] / "codec")
    for row in rows:
        band, _ = soundfile.read(made["folder"] / "songs" / row["track"] / "instrumental.wav", dtype="float32")
        band = band if form.channels == 2 else band.mean(axis=1, keepdims=True)
        frames = round(row["duration"] * form.frame_rate)
        codes = torch.tensor(row["acoustic"])
        assert codes.shape == (form.num_codebooks, frames)
        sound = torch.from_numpy(soxr.resample(band, RATE, form.sampling_rate, quality="HQ"))
        expected = codec.encode(sound.T[None, :, : frames * form.hop_length].float())[0]
        # resampling to another length may change a frame at the end
        assert float((codes == expected[:, :frames])[:, :-2].float().mean()) > 0.99


def test_a_song_has_the_rate_codebooks_and_channels_of_its_codec(
    model: HAFMForVocalAccompaniment, made: dict[str, Any]
) -> None:
    form = made["format"]
    vocal = glide(1.0, VOCAL_RATE)
    output = model.generate(vocal, VOCAL_RATE, seed=1, num_samples=2)
    assert output.sampling_rate == model.sampling_rate == form.sampling_rate
    length = round(len(vocal) * form.sampling_rate / VOCAL_RATE)
    for audio, codes in zip(output.audio, output.codes, strict=True):
        assert audio.shape == ((length,) if form.channels == 1 else (form.channels, length))
        assert codes.shape[0] == form.num_codebooks
        assert codes.shape[1] * form.hop_length >= length
        assert len(codes.unique()) > CODES // 2
        assert float(audio.std()) > 1e-5
        torch.testing.assert_close(as_codec(model.codec).decode(codes[None], length)[0].reshape(audio.shape), audio)
    if form.channels == 2:
        assert not torch.allclose(output.audio[0][0], output.audio[0][1], atol=1e-4)
    rough = model.generate(vocal, VOCAL_RATE, seed=1, skip_fine=True)
    assert torch.equal(rough.codes[0], output.codes[0][:COARSE])


def test_the_pipeline_mixes_streams_and_keeps_all_channels(made: dict[str, Any], tmp_path: Path) -> None:
    form = made["format"]
    accompany = pipeline("vocal-accompaniment", model=str(made["folder"] / "model"))
    song = accompany(glide(1.0, VOCAL_RATE), sampling_rate=VOCAL_RATE, seed=1)
    length = round(1.0 * form.sampling_rate)
    shape = (length,) if form.channels == 1 else (length, form.channels)
    assert song["sampling_rate"] == form.sampling_rate
    assert song["audio"].shape == song["mix"].shape == shape
    assert song["vocals"].shape == (length,)
    vocals = song["vocals"] if form.channels == 1 else song["vocals"][:, None]
    # the vocal sounds at both ends, so both are faded
    mix = fade_edges(vocals + song["audio"], form.sampling_rate)
    np.testing.assert_allclose(song["mix"], mix * (np.abs(song["mix"]).max() / np.abs(mix).max()), atol=1e-6)
    chunks = list(accompany.stream(glide(1.0, VOCAL_RATE), sampling_rate=VOCAL_RATE, seed=1))
    np.testing.assert_allclose(accompany.join(chunks)["mix"], song["mix"], atol=1e-5)
    rate = 44_100
    old = 0.1 * np.random.default_rng(0).standard_normal((round(1.0 * rate), 2)).astype(np.float32)
    soundfile.write(tmp_path / "old.wav", old, rate)
    earlier: dict[str, Any] = {"instrumental": str(tmp_path / "old.wav"), "keep": [(0, 0.5)]}
    again = accompany(glide(1.0, VOCAL_RATE), sampling_rate=VOCAL_RATE, seed=2, **earlier)
    kept = again["audio"][: round(0.45 * form.sampling_rate)]
    assert again["audio"].shape == shape
    if form.channels == 2:
        # the channels differ, so neither is the mean of both
        assert np.corrcoef(kept[:, 0], kept[:, 1])[0, 1] < 0.2
    expected = old if form.channels == 2 else old.mean(axis=1)
    # root mean squares: the codec loses some of the noise, and adds nothing
    level = float(np.sqrt(np.mean(np.square(expected))))
    assert 0.3 * level < float(np.sqrt(np.mean(np.square(kept)))) < 1.1 * level


def test_info_and_accompany_follow_the_codec(made: dict[str, Any], tmp_path: Path) -> None:
    form = made["format"]
    folder = made["folder"] / "model"
    described = describe_model(str(folder))
    assert described["sampling_rate"] == form.sampling_rate
    codec = described["parts"]["codec"]
    channels = " × 2 channels" if form.channels == 2 else ""
    assert codec["rates"] == f"{form.sampling_rate} Hz{channels} → {form.frame_rate} frames/s"
    assert codec["vocabulary"] == f"up to {form.num_codebooks} × {CODES}"
    family = {"24 kbps": "EnCodec", "dac": "DAC"}.get(made["kind"], "spectral codec")
    assert codec["architecture"].startswith(family)
    soundfile.write(tmp_path / "voice.wav", glide(1.0, VOCAL_RATE), VOCAL_RATE)
    words = ("--model", folder, "--out", tmp_path / "out", "--seed", 1)
    hafm("accompany", tmp_path / "voice.wav", *words, check=True)
    for name in ("instrumental", "mix"):
        info = soundfile.info(tmp_path / "out" / f"voice_{name}.wav")
        assert (info.samplerate, info.channels) == (form.sampling_rate, form.channels)
        assert info.frames == round(1.0 * form.sampling_rate)
