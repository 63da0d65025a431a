# SPDX-License-Identifier: Apache-2.0
"""Bands that are played as one and taken apart: stems that add up, stretch by stretch, and every way of asking."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import transformers
from huggingface_hub.errors import StrictDataclassClassValidationError
from typer.testing import CliRunner

from accompaniment.test_accompaniment import voice
from hafm_hf import HAFMForVocalAccompaniment, HAFMSeparatorConfig
from hafm_hf.accompaniment.modeling_separator import SeparatorStream
from hafm_hf.cli import app
from hafm_hf.lead_sheet.vocabulary import STEMS
from tiny_models import tiny_band, tiny_composite, tiny_separator
from vocals import CODEC_RATE, file_bytes

NAMES = list(STEMS[1:])


@pytest.fixture(scope="module")
def model() -> HAFMForVocalAccompaniment:
    """Its windows are short enough that a stream has several chunks."""
    return tiny_band("delay", plain=True, separator=tiny_separator())


def noise(samples: int, channels: int = 1) -> torch.Tensor:
    return 0.1 * torch.randn(channels, samples, generator=torch.Generator().manual_seed(samples))


@pytest.mark.parametrize("samples", [1, 319, 700, 24_001])
def test_stems_differ_and_add_up_to_the_band_at_any_length(samples: int) -> None:
    band = noise(samples)
    with torch.no_grad():
        stems = tiny_separator()(band)
    assert stems.shape == (1, 4, samples)
    torch.testing.assert_close(stems.sum(1), band, atol=1e-6, rtol=0)
    assert samples < 320 or not torch.allclose(stems[:, 0], stems[:, 1], atol=1e-4)


def test_masks_look_no_further_than_the_context_to_each_side() -> None:
    model, band = tiny_separator(), noise(48_000)
    changed = band.clone()
    changed[:, 24_000] += 1.0
    with torch.no_grad():
        differs = (model(band) - model(changed)).abs().amax(1)[0] > 1e-7
    (heard,) = differs.nonzero(as_tuple=True)
    assert 24_000 - model.context <= int(heard.min()) < 24_000 < int(heard.max()) <= 24_000 + model.context
    # of which most is used: a song is not held back for nothing
    assert int(heard.max() - heard.min()) > model.context


@pytest.mark.parametrize("channels", [1, 2])
def test_stretch_by_stretch_a_band_is_taken_apart_as_a_whole(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, band = tiny_separator(), noise(60_123, channels)
    with torch.no_grad():
        whole = model(band).transpose(0, 1)
    stream, ends = SeparatorStream(model), [100, 9_000, 9_001, 40_000, 60_123]
    pieces = [
        stream.separate(band[:, start:end], last=end == ends[-1])
        for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]
    torch.testing.assert_close(torch.cat(pieces, dim=-1), whole, atol=1e-5, rtol=0)
    # what is final is handed out at once
    assert [piece.shape[-1] > 0 for piece in pieces] == [False, True, False, True, True]
    monkeypatch.setattr("hafm_hf.accompaniment.modeling_separator.STRETCH_SECONDS", 1)
    torch.testing.assert_close(model.separate(band), whole, atol=1e-5, rtol=0)


def test_the_same_band_comes_whole_and_as_its_stems(model: Any) -> None:
    vocals = [voice(0.6), voice(0.4, pitch=300)]
    whole = model.generate(vocals, CODEC_RATE, seed=1, num_samples=2)
    apart = model.generate(vocals, CODEC_RATE, seed=1, num_samples=2, stems=True)
    assert whole.stems is None and model.stems == STEMS[1:]
    for number, stems in enumerate(apart.stems):
        assert list(stems) == NAMES and torch.equal(apart.codes[number], whole.codes[number])
        torch.testing.assert_close(apart.audio[number], whole.audio[number], atol=1e-6, rtol=0)
        assert all(sound.abs().max() > 1e-4 for sound in stems.values())
    pieces = list(model.stream(vocals[0], CODEC_RATE, seed=1, stems=True))
    assert len(pieces) > 1
    torch.testing.assert_close(torch.cat(pieces, dim=1), torch.stack(list(apart.stems[0].values())), atol=1e-5, rtol=0)


def test_kept_spans_are_the_same_in_every_stem(model: Any) -> None:
    old = model.generate(voice(0.8), CODEC_RATE, seed=1, stems=True)
    new = model.generate(voice(0.8), CODEC_RATE, seed=2, instrumental=old.stems[0], keep=[(0.0, 0.4)])
    for name in NAMES:
        difference = (new.stems[0][name] - old.stems[0][name]).abs()
        assert float(difference[:9_000].max()) == 0 < float(difference[10_500:].max()), name
    together = model.generate(voice(0.8), CODEC_RATE, seed=2, instrumental=old.audio[0], keep=[(0.0, 0.4)])
    torch.testing.assert_close(together.audio[0], new.audio[0], atol=1e-5, rtol=0)


def test_a_checkpoint_keeps_its_separator_and_says_whether_bands_come_apart(tmp_path: Path) -> None:
    model = tiny_composite()
    with_part = HAFMForVocalAccompaniment.from_parts(
        **{name: getattr(model, name) for name in ("semantic_tokenizer", *model.stages, "codec")},
        separator=tiny_separator(),
    )
    with_part.config.plays_stems = True
    with_part.save_pretrained(tmp_path)
    again = HAFMForVocalAccompaniment.from_pretrained(tmp_path)
    found = again.generate(voice(0.4), CODEC_RATE, seed=1)
    assert list(found.stems[0]) == NAMES and "separator" in again.parameter_counts()
    expected = with_part.eval().generate(voice(0.4), CODEC_RATE, seed=1)
    torch.testing.assert_close(found.stems[0]["drums"], expected.stems[0]["drums"])
    assert again.generate(voice(0.4), CODEC_RATE, seed=1, stems=False).stems is None
    part = transformers.AutoModel.from_pretrained(tmp_path, subfolder="separator")
    assert isinstance(part.config, HAFMSeparatorConfig)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(StrictDataclassClassValidationError, match="separator sampling rate is 16000"):
        tiny_band(plain=True, separator=tiny_separator(sampling_rate=16_000))
    with pytest.raises(StrictDataclassClassValidationError, match="plays stems itself"):
        tiny_band(separator=tiny_separator())
    for wrong, said in (
        ({"hop_length": 999}, "hop_length is 999; it must lie between 1 and 640"),
        ({"n_fft": 1281}, "must be a multiple of hop_length"),
        ({"dropout": 1.0}, "below 1"),
        ({"num_layers": 99}, "num_layers is 99"),
    ):
        with pytest.raises(StrictDataclassClassValidationError, match=said):
            HAFMSeparatorConfig(**wrong)


def test_on_the_command_line_and_in_the_pipeline_each_stem_is_a_file_and_an_array(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "v.wav").write_bytes(file_bytes(voice(1), CODEC_RATE))
    words = ["accompany", tmp_path / "v.wav", "--model", tmp_path / "model", "--out", tmp_path, "--stems"]
    run = CliRunner().invoke(app, list(map(str, words)), env={"COLUMNS": "200"})
    assert run.exit_code == 0, run.output
    sounds = {name: soundfile.read(tmp_path / f"v_{name}.wav")[0] for name in (*NAMES, "instrumental")}
    band = sounds.pop("instrumental")
    assert np.allclose(sum(sounds.values()), band, atol=4 / 32768)
    accompany = transformers.pipeline("vocal-accompaniment", model=str(tmp_path / "model"), device="cpu")
    song = accompany(str(tmp_path / "v.wav"), seed=1, stems=True, stem_gain_db={"drums": -20.0})
    plain = accompany(str(tmp_path / "v.wav"), seed=1, stems=True)
    ratio = {name: np.abs(song["stems"][name]).sum() / np.abs(plain["stems"][name]).sum() for name in NAMES}
    assert ratio["drums"] / ratio["bass"] == pytest.approx(0.1, rel=1e-3)
